"""The average reward of a step in the long run: damped sweeps, and what it means when they do not settle.

A sweep adds the gain to every value in the end, if there is one gain for all states. Each goes only part of the way,
v + τ·(T v − v), so that a chain with a period settles too.
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

DAMPING = 0.8  # τ
PATIENCE = 50  # sweeps between two looks at what keeps the bounds apart
NONE = 1e-9  # a probability that leads nowhere


class RecurrentClass(NamedTuple):
    """States that reach each other and nothing else, and the average reward there."""

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
    Raises `UsageError` where states differ in their gain.
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
    """Raise `UsageError` where the policy of a sweep has several recurrent classes that differ in their gain, and no
    better policy could join them."""
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
            f"average reward: no single gain exists, because the policy has {len(classes)} recurrent classes of states "
            f"that never leave themselves: {named}{more}. Solve each class as an MDP of its own, let every state come "
            "back to one of them with a small probability, use a smaller set, or take criterion='discounted' with "
            "gamma near 1."
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
    """Some states in words."""
    return "{" + ", ".join(map(str, states[:6])) + (f", … {len(states)} states" if len(states) > 6 else "") + "}"
