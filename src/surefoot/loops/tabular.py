"""The loop of the methods on finite MDPs: one pure step on a dict of tensors, again and again.

`Tabular` is the base of the methods: hyperparameters and the steps. `TabularLearner` is one run of such a method, for
one seed or several. An iteration is one step of the run: `surefoot train SLUG --env ENV --steps ITERATIONS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from surefoot.ambiguity import Ambiguity, parse
from surefoot.envs.tabular import Successors, TabularEnv, TabularMDP, resolve
from surefoot.errors import UsageError
from surefoot.hyperparameters import check
from surefoot.loops.kinds import Loop
from surefoot.models.tabular_agent import TabularAgent, check_policy

State = dict[str, Tensor]
Metrics = dict[str, Any]
Given = TypeVar("Given", bound=Ambiguity | None)


class Need(NamedTuple):
    """Something that a method needs of its MDP: how it is seen, and what to do where it is missing."""

    met: Callable[[TabularMDP], bool]
    otherwise: str


NEEDS = {
    "horizon": Need(lambda mdp: mdp.horizon is not None, "needs episodes of a fixed length: set horizon=H"),
    "no horizon": Need(lambda mdp: mdp.horizon is None, "needs an MDP that goes on for ever: leave horizon out"),
    "discount": Need(lambda mdp: mdp.gamma < 1, "needs a discount: set gamma below 1"),
    "foresight": Need(lambda mdp: mdp.gamma > 0, "looks ahead: set gamma above 0"),
    "features": Need(lambda mdp: mdp.features is not None, "is a linear method: give features=[S, A, d]"),
    "rewards of pairs": Need(
        lambda mdp: mdp.reward.ndim < mdp.rows.ndim,
        "needs rewards that do not depend on the next state: give reward=mdp.expected_reward(), or "
        "rewards=expected after the name of the MDP",
    ),
    "rewards of at least 0": Need(
        lambda mdp: bool((mdp.reward >= 0).all()), "needs rewards of at least 0: add a constant to all of them"
    ),
}


@dataclass(frozen=True)
class Tabular:
    """What every method on finite MDPs has.

    A method declares its hyperparameters as fields and what it `needs` of an MDP by names of `NEEDS`, and writes the
    steps `start`, `step`, `policy`, and for `explain` `objective` and `steps`. All of them are pure: what a step draws
    comes from `surefoot.seeding` streams named by seed and iteration, so a resumed run is the same run.
    """

    loop: ClassVar[str] = "tabular"
    default_steps: ClassVar[int] = 100
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check(self)
        if isinstance(text := getattr(self, "ambiguity", None), str):
            parse(text)  # one that means nothing says so now

    def admit(self, mdp: TabularMDP) -> None:
        """Raise `UsageError` unless the MDP is of the kind that the method is for."""
        for name in self.needs:
            if not NEEDS[name].met(mdp):
                raise UsageError(f"{type(self).__name__} cannot learn in {mdp.name!r}: it {NEEDS[name].otherwise}.")

    def start(self, mdp: TabularMDP, seed: int) -> State:
        """What the method knows before the first step, as tensors by name; a name is never added later."""
        raise NotImplementedError

    def step(self, mdp: TabularMDP, state: State, seed: int, iteration: int) -> tuple[State, Metrics]:
        """The state after iteration 0, 1, …, and its metrics as numbers. Comparisons, reports and progress read
        "return_mean", the return of the policy."""
        raise NotImplementedError

    def policy(self, mdp: TabularMDP, state: State) -> Tensor:
        """The policy as it stands: `[S, A]`, `[H, S, A]`, or a controller with memory (see `TabularAgent`)."""
        raise NotImplementedError

    def objective(self) -> str:
        """What is optimised, as a formula."""
        raise NotImplementedError

    def steps(self) -> list[str]:
        """One iteration in words, for `explain`: one line a step."""
        raise NotImplementedError

    def algorithm(self) -> list[str]:
        """The lines of `explain`."""
        return self.steps()

    @property
    def pace(self) -> int:
        """Steps of one iteration."""
        return 1

    def gradient_steps(self, total_steps: int) -> float:
        """Gradient steps that a compiler could fuse: there are none."""
        return 0.0


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


# --- what methods use ------------------------------------------------------------------------------------------------


def as_ambiguity(given: str | Given) -> Ambiguity | Given:
    """The set of a hyperparameter `ambiguity: str | Ambiguity`, which the command line gives as text; None is None."""
    return parse(given) if isinstance(given, str) else given


def uniform_policy(mdp: TabularMDP) -> Tensor:
    """Every legal action of a state equally likely, `[S, A]`."""
    return mdp.allowed.double() / mdp.allowed.sum(-1, keepdim=True)


def greedy(mdp: TabularMDP, q: Tensor) -> Tensor:
    """The policy `[..., S, A]` that takes the best legal action of each state, the first of several."""
    allowed = q if mdp.legal is None else torch.where(mdp.legal, q, -torch.inf)
    return torch.nn.functional.one_hot(allowed.argmax(-1), mdp.actions).double()


# --- how a run meets its MDP -----------------------------------------------------------------------------------------


def resolved(env: Any, fingerprint: str | None = None) -> TabularMDP:
    """The MDP itself, or the one that a name of the zoo, a file or `gym:ID` stands for.

    Raises:
        UsageError: there is none of that name, or it is not the one of the fingerprint that a run has kept.
    """
    if not isinstance(env, (str, TabularMDP)):
        raise UsageError(f"env={env!r} is not allowed; give a TabularMDP, a name of the zoo, a file or gym:ID.")
    again = "If the run was given an MDP made in Python, give that one again: env=…."
    try:
        mdp = resolve(env) if isinstance(env, str) else env
    except UsageError as error:
        raise error if fingerprint is None else UsageError(f"{error} {again}") from error
    if fingerprint not in (None, digest(mdp)):
        raise UsageError(f"{mdp.name!r} is not the MDP that this run was started with. {again}")
    return mdp


def digest(mdp: TabularMDP) -> str:
    """A hash of all that an MDP holds, by which a resumed run knows that it is the same one."""
    found = hashlib.sha256()
    for one in fields(mdp):
        if one.name in ("name", "grid", "states_named", "actions_named"):  # how it is shown
            continue
        value = getattr(mdp, one.name)
        for x in value if isinstance(value, Successors) else (value,):
            tensor = isinstance(x, Tensor)
            found.update(repr((one.name, tuple(x.shape) if tensor else x)).encode())
            found.update(x.contiguous().numpy().tobytes() if tensor else b"")
    return found.hexdigest()[:16]


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


LOOP = Loop(
    _describe,
    _learner,
    _single,
    measured="iterations, return of the policy",
    place_help="A name of the zoo with its numbers, a .npz or .csv file, or gym:ID.",
)
