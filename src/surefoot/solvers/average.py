"""The long-run average reward per step: damped sweeps, and diagnosis when they do not converge.

In the limit a sweep adds the gain to every value, if all states have the same gain. Sweeps are damped,
v + τ·(T v − v), so that they also converge for periodic chains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot.envs.tabular import Kernel
from surefoot.errors import UsageError
from surefoot.solvers.fixed_point import Stop, Sweep, bounds, iterate
from surefoot.solvers.pairs import Chain, Choice

DAMPING = 0.8  # damping τ
PATIENCE = 50  # sweeps between checks for several recurrent classes
NONE = 1e-9  # probabilities below this count as 0


class RecurrentClass(NamedTuple):
    """A recurrent class of states, and its average reward."""

    states: list[int]
    gain: float


def settle(
    backup: Callable[[Tensor], tuple[Tensor, Choice]],
    chain: Callable[[Sweep], Chain],
    kernel: Callable[[Tensor, Tensor], Kernel],
    start: Tensor,
    stop: Stop,
    steps: int,
    allowed: Tensor,
) -> Sweep:
    """Sweeps until the bounds on the gain are within the tolerance.

    kernel: (values, policy) -> the kernel that is worst for it. allowed: `[S, A]`, the actions that a policy may take.
    Raises `UsageError` if states differ in their gain.
    """

    def damped(values: Tensor) -> tuple[Tensor, Choice]:
        after, choose = backup(values)
        return torch.lerp(values, after, DAMPING), choose

    def damped_chain(sweep: Sweep) -> Chain:
        step = chain(sweep)
        return lambda x: torch.lerp(x, step(x), DAMPING)

    def gain(change: Tensor, gamma: float) -> tuple[float, float]:
        return bounds(change / DAMPING, gamma)

    last = [torch.inf]

    def watch(sweep: Sweep) -> None:
        if sweep.iteration % PATIENCE == 0:
            if sweep.gap > 0.5 * last[0]:
                check_one_gain(sweep, kernel(sweep.before, sweep.policy), allowed)
            last[0] = sweep.gap

    return iterate(damped, start, 1.0, stop, damped_chain, steps, gain, watch)


def check_one_gain(sweep: Sweep, kernel: Kernel, allowed: Tensor) -> None:
    """Raise `UsageError` if the policy of a sweep has several recurrent classes with different gains that no better
    policy could join."""
    if len(recurrent_classes(kernel, allowed.double())) == 1:
        return
    change = (sweep.after - sweep.before) / DAMPING
    classes = []
    for states in recurrent_classes(kernel, sweep.policy):
        least, most = change[states].aminmax()
        classes.append((RecurrentClass(states, float(least + most) / 2), float(most - least)))
    gains = [one.gain for one, _ in classes]
    if max(gains) - min(gains) > 100 * max(spread for _, spread in classes) + 1e-12:
        named = "; ".join(f"{listed(one.states)} with {one.gain:.6g}" for one, _ in classes[:4])
        more = f" and {len(classes) - 4} more" if len(classes) > 4 else ""
        raise UsageError(
            f"average reward: no single gain exists, because the policy has {len(classes)} recurrent classes: "
            f"{named}{more}. Solve each class as a separate MDP, let every state return to one of them with a small "
            "probability, use a smaller set, or use criterion='discounted' with gamma near 1."
        )


def recurrent_classes(kernel: Kernel, policy: Tensor) -> list[list[int]]:
    """The closed classes of the chain of a policy `[S, A]`, each the sorted list of its states."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    probability = kernel if isinstance(kernel, Tensor) else kernel.probability
    where = ((probability * policy.unsqueeze(-1)) > NONE).nonzero(as_tuple=True)
    to = where[-1] if isinstance(kernel, Tensor) else kernel.state[where]
    here, there = where[0].cpu().numpy(), to.cpu().numpy()
    graph = coo_array((np.ones(len(here)), (here, there)), shape=(len(policy), len(policy)))
    _, component = connected_components(graph, connection="strong")
    leaving = np.unique(component[here][component[here] != component[there]])
    closed = np.setdiff1d(component, leaving)
    return [np.flatnonzero(component == one).tolist() for one in closed]


def listed(states: list[int]) -> str:
    """A short list of states as text."""
    return "{" + ", ".join(map(str, states[:6])) + (f", … {len(states)} states" if len(states) > 6 else "") + "}"
