"""The base of the methods on finite MDPs: hyperparameters, and pure steps on a dict of tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

from torch import Tensor

from surefoot.ambiguity import Ambiguity, parse
from surefoot.envs.tabular import TabularMDP
from surefoot.envs.tabular.uncertain import UncertainMDP
from surefoot.errors import UsageError
from surefoot.hyperparameters import check

State = dict[str, Tensor]
Metrics = dict[str, Any]
Given = TypeVar("Given", bound=Ambiguity | None)


class Need(NamedTuple):
    """A requirement of a method on its MDP: how to test it, and what to do if it is not met."""

    met: Callable[[TabularMDP], bool]
    otherwise: str


NEEDS = {
    "horizon": Need(lambda mdp: mdp.horizon is not None, "needs episodes of a fixed length: set horizon=H"),
    "no horizon": Need(lambda mdp: mdp.horizon is None, "needs an infinite horizon: leave horizon out"),
    "discount": Need(lambda mdp: mdp.gamma < 1, "needs a discount: set gamma below 1"),
    "foresight": Need(lambda mdp: mdp.gamma > 0, "looks ahead: set gamma above 0"),
    "features": Need(lambda mdp: mdp.features is not None, "is a linear method: give features=[S, A, d]"),
    "rewards of pairs": Need(
        lambda mdp: mdp.reward.ndim < mdp.rows.ndim,
        "needs rewards that do not depend on the next state: give reward=mdp.expected_reward(), or "
        "rewards=expected after the name of the MDP",
    ),
    "worlds": Need(
        lambda mdp: isinstance(mdp, UncertainMDP),
        "needs the worlds that are possible: give surefoot.envs.tabular.uncertain(mdp, kernels=[W, S, A, S'])",
    ),
    "rewards of at least 0": Need(
        lambda mdp: bool((mdp.reward >= 0).all()), "needs rewards of at least 0: add a constant to all of them"
    ),
}


@dataclass(frozen=True)
class Tabular:
    """The base of every method on finite MDPs.

    A method declares its hyperparameters as fields and its requirements on an MDP, `needs`, by keys of `NEEDS`, and
    defines the steps `start`, `step`, `policy`, and for `explain` `objective` and `steps`. All of them are pure: the
    randomness of a step comes from `surefoot.seeding` streams named by seed and iteration, so a resumed run is the same
    run.
    """

    loop: ClassVar[str] = "tabular"
    default_steps: ClassVar[int] = 100
    default_env: ClassVar[str | None] = None  # a suitable built-in MDP, used if none is given
    needs: ClassVar[tuple[str, ...]] = ()
    criterion: ClassVar[str | None] = None  # of "return_mean" and the policy's value; None: the MDP's
    rectangular: ClassVar[str] = "sa"  # of its ambiguity set

    def __post_init__(self) -> None:
        check(self)
        if isinstance(text := getattr(self, "ambiguity", None), str):
            parse(text)  # raises an error for an invalid one now

    def admit(self, mdp: TabularMDP) -> None:
        """Raise `UsageError` unless the MDP meets the method's requirements."""
        for name in self.needs:
            if not NEEDS[name].met(mdp):
                fits = f" The built-in MDP {self.default_env} fits." if self.default_env else ""
                raise UsageError(
                    f"{type(self).__name__} cannot learn in {mdp.name!r}: it {NEEDS[name].otherwise}.{fits}"
                )

    def start(self, mdp: TabularMDP, seed: int) -> State:
        """The method's state before the first step, as tensors by name; no name is added later."""
        raise NotImplementedError

    def step(self, mdp: TabularMDP, state: State, seed: int, iteration: int) -> tuple[State, Metrics]:
        """The state after iteration 0, 1, …, and its metrics as numbers. Comparisons, reports and progress read
        "return_mean", the return of the policy."""
        raise NotImplementedError

    def policy(self, mdp: TabularMDP, state: State) -> Tensor:
        """The current policy: `[S, A]`, `[H, S, A]`, or a controller with memory (see `TabularAgent`)."""
        raise NotImplementedError

    def objective(self) -> str:
        """The objective as a formula."""
        raise NotImplementedError

    def steps(self) -> list[str]:
        """One iteration in words, for `explain`: one line per step."""
        raise NotImplementedError

    def algorithm(self) -> list[str]:
        """The lines of `explain`."""
        return self.steps()

    @property
    def pace(self) -> int:
        """Steps per iteration."""
        return 1

    def gradient_steps(self, total_steps: int) -> float:
        """Gradient steps that a compiler could fuse: there are none."""
        return 0.0


def as_ambiguity(given: str | Given) -> Ambiguity | Given:
    """The set of a hyperparameter `ambiguity: str | Ambiguity`, which may be given as text; None stays None."""
    return parse(given) if isinstance(given, str) else given
