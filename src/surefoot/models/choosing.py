"""Rules by which an agent of several members chooses the one that plays an episode, from the returns that it has seen.

A rule is frozen and goes into the agent's JSON; what it has learned in one deployment is a memory, an array that the
rule makes, reads and replaces: `start(members)`, `chances(memory)`, `told(memory, member, outcome)`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from surefoot.errors import UsageError, nearest
from surefoot.hyperparameters import build, check, hyperparameter

Memory = NDArray[np.float64]


class Rule(Protocol):
    """The interface of a rule."""

    name: ClassVar[str]

    def start(self, members: int) -> Memory: ...  # at the start of a deployment

    def chances(self, memory: Memory) -> Memory: ...  # the probability [members] of each for the next episode

    def told(self, memory: Memory, member: int, outcome: float) -> Memory: ...  # after an episode with this return


@dataclass(frozen=True)
class Mixture:
    """A member is drawn for every episode, always with the same probabilities: the mixed strategy of a game."""

    name: ClassVar[str] = "mixture"
    weights: tuple[float, ...] = hyperparameter((), low=0, high=1, help="Probability of each member.")

    def __post_init__(self) -> None:
        check(self)
        if not math.isclose(sum(self.weights), 1.0, abs_tol=1e-6):
            raise UsageError(f"weights={self.weights} is not allowed; the probabilities of a mixture must sum to 1.")

    def start(self, members: int) -> Memory:
        if members != len(self.weights):
            raise UsageError(f"weights={self.weights} is not allowed for {members} members; give one for each.")
        return np.array(self.weights) / sum(self.weights)

    def chances(self, memory: Memory) -> Memory:
        return memory

    def told(self, memory: Memory, member: int, outcome: float) -> Memory:
        return memory


@dataclass(frozen=True)
class BestOf:
    """Every member plays `trials` episodes, in turn; after that always the one with the highest mean return so far."""

    name: ClassVar[str] = "best"
    trials: int = hyperparameter(1, low=1, help="Episodes that every member plays before one is preferred.")

    def __post_init__(self) -> None:
        check(self)

    def start(self, members: int) -> Memory:
        return np.zeros((2, members))  # episodes, and the sum of their returns

    def chances(self, memory: Memory) -> Memory:
        count, total = memory
        fewest = int(count.argmin())
        chosen = fewest if count[fewest] < self.trials else int((total / count).argmax())
        return np.eye(len(count))[chosen]

    def told(self, memory: Memory, member: int, outcome: float) -> Memory:
        return memory + np.outer([1.0, outcome], np.eye(memory.shape[1])[member])


@dataclass(frozen=True)
class Bandit:
    """EXP3 with implicit exploration (arXiv:1506.03271), of gains, as in PROTECTED's code (arXiv:2402.12673):

        p = w / Σw        w_i ← w_i · exp(η · x / (p_i + η/2))  for the member i that played        η = rate·√(ln K /
        (K·T))

    x is the return from `low` to `high` as a number from 0 to 1. Its regret against the best of K members in T episodes
    is of the order √(T·K·ln K), whatever the attacker does.
    """

    name: ClassVar[str] = "bandit"
    low: float = hyperparameter(0.0, help="Return that counts as 0; lower ones do too.")
    high: float = hyperparameter(1.0, help="Return that counts as 1; higher ones do too.")
    rounds: int = hyperparameter(1000, low=1, help="T: episodes of a deployment.")
    rate: float = hyperparameter(5.0, above=0, help="Multiplier of the learning rate.")

    def __post_init__(self) -> None:
        check(self)
        if not self.low < self.high:
            raise UsageError(f"low={self.low:g}, high={self.high:g} is not allowed; a bandit's range needs low < high.")

    def eta(self, members: int) -> float:
        """The learning rate η; 0 for one member."""
        return self.rate * math.sqrt(math.log(members) / (members * self.rounds))

    def start(self, members: int) -> Memory:
        return np.zeros(members)  # logarithms of the weights

    def chances(self, memory: Memory) -> Memory:
        weights = np.exp(memory - memory.max())
        return weights / weights.sum()

    def told(self, memory: Memory, member: int, outcome: float) -> Memory:
        eta = self.eta(len(memory))
        gain = min(max((outcome - self.low) / (self.high - self.low), 0.0), 1.0)
        estimate = gain / (self.chances(memory)[member] + eta / 2)
        return memory + eta * estimate * np.eye(len(memory))[member]


RULES: dict[str, type] = {rule.name: rule for rule in (Mixture, BestOf, Bandit)}


def to_json(rule: Any) -> dict[str, Any]:
    """The rule as JSON holds it; `from_json` reads it back."""
    return {"name": rule.name, **dataclasses.asdict(rule)}


def from_json(given: Any) -> Any:
    """The rule that `to_json` wrote; a `UsageError` for anything else."""
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise UsageError(f"rule={given!r} is not a rule of choice; its name must be one of {', '.join(RULES)}.")
    if given["name"] not in RULES:
        raise UsageError(f"rule={given['name']!r} is not known. {nearest(given['name'], RULES)}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if k != "name"}
    return build(RULES[given["name"]], values)
