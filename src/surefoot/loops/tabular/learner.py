"""One run of a method on a finite MDP, for one seed or several; an iteration is one step of the method.

`surefoot train SLUG --env ENV --steps ITERATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surefoot.envs.names import check_named
from surefoot.envs.tabular import TabularEnv, TabularMDP
from surefoot.envs.tabular.resolve import digest, resolved
from surefoot.errors import UsageError
from surefoot.loops.common.kinds import Loop
from surefoot.loops.tabular.method import Metrics, State, Tabular
from surefoot.models.tabular_agent import TabularAgent, check_policy


class TabularLearner:
    """The states of one run of a method on an MDP, one a seed; `iterate()` advances each by one step."""

    def __init__(self, method: Tabular, mdp: TabularMDP, seeds: Sequence[int]) -> None:
        method.admit(mdp)
        self.method, self.mdp, self.seeds, self.iteration = method, mdp, list(seeds), 0
        self.states = [method.start(mdp, seed) for seed in self.seeds]

    @property
    def steps(self) -> int:
        """Iterations so far."""
        return self.iteration

    def iterate(self) -> list[Metrics]:
        """One iteration of every seed; one row of metrics a seed."""
        pairs = zip(self.states, self.seeds, strict=True)
        results = [self.method.step(self.mdp, state, seed, self.iteration) for state, seed in pairs]
        self.states = [state for state, _ in results]
        self.iteration += 1
        return [{name: float(x) for name, x in metrics.items()} for _, metrics in results]

    def state(self) -> State:
        """The tensors of all seeds by name."""
        pairs = zip(self.seeds, self.states, strict=True)
        return {f"{seed}/{name}": x.detach().clone() for seed, state in pairs for name, x in state.items()}

    def load(self, state: Mapping[str, Tensor], iteration: int, logged: int) -> None:
        """Take over a saved state.

        Raises:
            UsageError: tensors are missing, unknown, or of another kind.
        """
        mine = {name: (x.dtype, x.ndim) for name, x in self.state().items()}
        other = {name: (x.dtype, x.ndim) for name, x in state.items()}
        if wrong := sorted(name for name in mine.keys() | other.keys() if mine.get(name) != other.get(name)):
            raise UsageError(
                f"the checkpoint does not fit this method or number of seeds: {', '.join(wrong)} differ. Resume with "
                "the configuration that the run's config.json holds."
            )
        self.states = [{n: state[f"{seed}/{n}"].clone() for n in mine} for seed, mine in zip(self.seeds, self.states)]
        self.iteration = iteration

    def lost(self) -> list[int]:
        """The seeds whose state holds something that is not a number."""
        pairs = zip(self.seeds, self.states, strict=True)
        return [seed for seed, state in pairs if any(bool(torch.isnan(x).any()) for x in state.values())]

    def flush(self) -> int:
        """Nothing is logged besides the checkpoints."""
        return 0

    def close(self) -> None:
        """Nothing is held open."""

    def agent(self, index: int = 0, **facts: Any) -> TabularAgent:
        """The policy of one seed as it stands."""
        policy = check_policy(self.method.policy(self.mdp, self.states[index]))
        if self.mdp.legal is not None:
            over_actions = policy.sum(-1) if policy.ndim == 4 else policy
            if bool((over_actions * ~self.mdp.legal > 0).any()):
                raise UsageError(f"{type(self.method).__name__} takes actions that {self.mdp.name!r} does not allow.")
        return TabularAgent(policy, facts)


# --- how a run meets its MDP -----------------------------------------------------------------------------------------


def _describe(env: Any, *, fingerprint: str | None = None) -> dict[str, Any]:
    mdp = resolved(env, fingerprint)
    return {"env": env if isinstance(env, str) else mdp.name, "fingerprint": digest(mdp)}


def _learner(
    method: Tabular,
    env: Any,
    seeds: Sequence[int],
    steps: int,
    *,
    compile: str = "off",
    log: Path | None = None,
    fingerprint: str | None = None,
) -> TabularLearner:
    if compile == "on":
        raise UsageError(f"compile='on' is not allowed: {type(method).__name__} has no gradient step to compile.")
    return TabularLearner(method, resolved(env, fingerprint), seeds)


def _single(env: Any, *, fingerprint: str | None = None) -> Callable[..., Any]:
    return partial(TabularEnv, resolved(env, fingerprint))


def _check_recorded(env: Any, **_: Any) -> None:
    """Names of the zoo and files are read; `gym:module:ID` would import the module."""
    if isinstance(env, str) and env.strip().startswith("gym:"):
        check_named(env.strip().removeprefix("gym:").partition(",")[0])


LOOP = Loop(
    _describe,
    _learner,
    _single,
    measured="iterations",
    place_help="A name of the zoo with its numbers, a .npz or .csv file, or gym:ID.",
    check_recorded=_check_recorded,
)
