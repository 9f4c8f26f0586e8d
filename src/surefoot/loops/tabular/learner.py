"""A run of a method on a finite MDP, for one or several seeds; an iteration is one step of the method.

`surefoot train SLUG --env ENV --steps ITERATIONS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from surefoot.envs.names import check_named
from surefoot.envs.tabular import TabularEnv, TabularMDP
from surefoot.envs.tabular.resolve import digest, resolved
from surefoot.errors import UsageError
from surefoot.hyperparameters import check
from surefoot.loops.common.kinds import Loop
from surefoot.loops.common.states import check_fits
from surefoot.loops.tabular.method import Metrics, State, Tabular
from surefoot.models.device import chosen_device, computing_on, device_option
from surefoot.models.tabular_agent import TabularAgent, check_policy


class TabularLearner:
    """The states of one run of a method on an MDP, one a seed; `iterate()` advances each by one step.

    The MDP and the states are on `device`, and the steps are computed there.
    """

    def __init__(self, method: Tabular, mdp: TabularMDP, seeds: Sequence[int], device: str = "cpu") -> None:
        method.admit(mdp)
        self.device = torch.device(device)
        self.method, self.mdp, self.seeds, self.iteration = method, _moved(mdp, self.device), list(seeds), 0
        with computing_on(self.device):
            self.states = [method.start(self.mdp, seed) for seed in self.seeds]

    @property
    def steps(self) -> int:
        """Iterations so far."""
        return self.iteration

    def iterate(self) -> list[Metrics]:
        """One iteration of every seed; returns one row of metrics per seed."""
        pairs = zip(self.states, self.seeds, strict=True)
        with computing_on(self.device):
            results = [self.method.step(self.mdp, state, seed, self.iteration) for state, seed in pairs]
        self.states = [state for state, _ in results]
        self.iteration += 1
        return [{name: float(x) for name, x in metrics.items()} for _, metrics in results]

    def state(self) -> State:
        """The tensors of all seeds by name."""
        pairs = zip(self.seeds, self.states, strict=True)
        return {f"{seed}/{name}": x.detach().cpu().clone() for seed, state in pairs for name, x in state.items()}

    def load(self, state: Mapping[str, Tensor], iteration: int, logged: int) -> None:
        """Load a saved state.

        Raises:
            UsageError: tensors are missing, unknown, or of another type or shape.
        """
        check_fits(self.state(), state, lambda x: (x.dtype, x.ndim))
        here = {name: x.to(self.device, copy=True) for name, x in state.items()}
        self.states = [{n: here[f"{seed}/{n}"] for n in mine} for seed, mine in zip(self.seeds, self.states)]
        self.iteration = iteration

    def lost(self) -> list[int]:
        """The seeds whose state contains NaN."""
        pairs = zip(self.seeds, self.states, strict=True)
        return [seed for seed, state in pairs if any(bool(torch.isnan(x).any()) for x in state.values())]

    def flush(self) -> int:
        """Nothing is logged besides the checkpoints."""
        return 0

    def close(self) -> None:
        """Nothing is held open."""

    def agent(self, index: int = 0, **facts: Any) -> TabularAgent:
        """The current policy of one seed."""
        with computing_on(self.device):
            policy = self.method.policy(self.mdp, self.states[index])
        policy = check_policy(policy.cpu())
        if self.mdp.legal is not None:
            over_actions = policy.sum(-1) if policy.ndim == 4 else policy
            if bool((over_actions * ~self.mdp.legal.cpu() > 0).any()):
                raise UsageError(f"{type(self.method).__name__} takes actions that {self.mdp.name!r} does not allow.")
        return TabularAgent(policy, facts)


def _moved(mdp: TabularMDP, device: torch.device) -> TabularMDP:
    """The MDP with all its tensors on a device; the same object if they are already there."""
    if mdp.rows.device == device:
        return mdp
    fields = {field.name: getattr(mdp, field.name) for field in dataclasses.fields(mdp)}
    return dataclasses.replace(mdp, **tree_map_only(Tensor, lambda x: x.to(device), fields))


# --- connecting a run and its MDP ------------------------------------------------------------------------------------


def _describe(env: Any, *, device: str = "cpu", fingerprint: str | None = None) -> dict[str, Any]:
    mdp = resolved(env, fingerprint)
    return {"env": env if isinstance(env, str) else mdp.name, "fingerprint": digest(mdp), "device": device}


def _learner(
    method: Tabular,
    env: Any,
    seeds: Sequence[int],
    steps: int,
    *,
    compile: str = "off",
    log: Path | None = None,
    device: str = "cpu",
    fingerprint: str | None = None,
) -> TabularLearner:
    device = chosen_device(device)
    if compile == "on":
        raise UsageError(f"compile='on' is not allowed: {type(method).__name__} has no gradient step to compile.")
    return TabularLearner(method, resolved(env, fingerprint), seeds, device)


def _single(env: Any, *, fingerprint: str | None = None, **_: Any) -> Callable[..., Any]:
    return partial(TabularEnv, resolved(env, fingerprint))


def _check_recorded(env: Any, **_: Any) -> None:
    """Built-in MDPs and files import nothing; `gym:module:ID` would import the module."""
    if isinstance(env, str) and env.strip().startswith("gym:"):
        check_named(env.strip().removeprefix("gym:").partition(",")[0])


@dataclass(frozen=True)
class TabularOptions:
    """The options of a run on a finite MDP besides the MDP and its method."""

    device: str = device_option("cpu")

    def __post_init__(self) -> None:
        check(self)
        chosen_device(self.device)


LOOP = Loop(
    _describe,
    _learner,
    _single,
    measured="iterations",
    env_help="A built-in MDP with its parameters (see surefoot zoo), a .npz or .csv file, or gym:ID.",
    options=TabularOptions,
    check_recorded=_check_recorded,
)
