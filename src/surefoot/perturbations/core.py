"""The base of perturbations: a frozen, printable value that wraps an environment, alters a batch, and spans a grid.

Laws for all perturbations: the neutral strength changes nothing, to the bit; the same seed gives the same bits;
`unwrap` and `close` leave the environment as if it had never been perturbed; changes stay within the strength; `a + b`
is a perturbation; `parse(str(p)) == p`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import gymnasium
import numpy as np
import torch

from surefoot.errors import UsageError
from surefoot.hyperparameters import check
from surefoot.perturbations.interval import Interval, number
from surefoot.seeding import check_seed, numpy_stream

REGISTRY: dict[str, type[Perturbation]] = {}
P = TypeVar("P", bound="type[Perturbation]")


def register(cls: P) -> P:
    """Make a class known to `parse` by its `name`; use as a decorator."""
    if REGISTRY.setdefault(cls.name, cls) is not cls:
        raise UsageError(
            f"A perturbation named {cls.name!r} exists already ({REGISTRY[cls.name]}); choose another name."
        )
    return cls


@dataclasses.dataclass(frozen=True)
class Cell:
    """One point of a grid: a perturbation of fixed strength, and its coordinates."""

    perturbation: Perturbation
    coordinates: tuple[tuple[str, float], ...]

    @property
    def label(self) -> str:
        return ", ".join(f"{name}={value:g}" for name, value in self.coordinates)


class Hold(NamedTuple):
    """Further changes of a perturbation to the inside of an environment for an episode."""

    after: Callable[[], None] = lambda: None  # called after the reset
    undo: Callable[[], None] = lambda: None  # called when the episode is over


class Control(NamedTuple):
    """An adversary's control over an environment through a perturbation: it chooses what that would draw at random.

    Moves are vectors in [−1, 1]^size; `act` clips them, so that the strength is never exceeded.
    """

    size: int
    act: Callable[[Any, np.ndarray, np.random.Generator], Any]  # (action, move, rng) -> the action to execute
    undo: Callable[[], None] = lambda: None  # called when the episode is over


def nearest_whole(value: float) -> int:
    """The nearest whole number, halves upwards."""
    return math.floor(value + 0.5)


class Perturbation:
    """Base of all perturbations. A subclass is a frozen dataclass with a `name`, a `channel` and the hooks it needs."""

    name: ClassVar[str]
    channel: ClassVar[str]  # "observation", "action", "timing", "reward", "dynamics" or "attack"

    @property
    def channels(self) -> frozenset[str]:
        """The channels that are perturbed."""
        return frozenset({self.channel})

    @property
    def identity(self) -> bool:
        """Whether the perturbation changes nothing."""
        return False

    def __add__(self, other: Perturbation) -> Perturbation:
        return Composition((*_parts(self), *_parts(other)))

    def joined(self, other: Perturbation) -> Perturbation | None:
        """This and another perturbation as one, if they act on the same thing and would undo each other; else None."""
        return None

    def draw(self, rng: np.random.Generator) -> Perturbation:
        """The perturbation of one episode: ranges replaced by values."""
        return self

    def wrap(self, env: gymnasium.Env, seed: int = 0) -> gymnasium.Env:
        """`env` under this perturbation. `reset(seed=s)` seeds both, a reset without a seed continues from there."""
        return PerturbedEnv(env, self, seed)

    def on_batch(self, array: Any, rng: np.random.Generator) -> Any:
        """The perturbed copy of a NumPy array or tensor `[batch, ...]`; a tensor comes back detached, on its device."""
        raise UsageError(
            f"{self} acts on an environment over time, not on a batch of data; use perturbation.wrap(env)."
        )

    def grid(self, points: int = 10, grid: str = "closed") -> list[Cell]:
        """The sweep: a Cartesian product of `points` values per dimension."""
        raise NotImplementedError

    def check_env(self, env: gymnasium.Env) -> None:
        """Raise `UsageError` if this perturbation does not fit `env`."""

    def fitted(self, env: gymnasium.Env) -> Perturbation:
        """The same for this environment, which may support only some values of a range."""
        return self

    def hold(self, env: gymnasium.Env, rng: np.random.Generator) -> Hold:
        """Change the inside of `env` before an episode starts."""
        return Hold()

    def observe(self, observation: Any, space: gymnasium.Space, rng: np.random.Generator, memory: list[Any]) -> Any:
        """The observation for the policy. `memory` is this perturbation's own and empty when an episode starts."""
        return observation

    def act(self, action: Any, space: gymnasium.Space, rng: np.random.Generator, memory: list[Any]) -> Any:
        """The action to execute."""
        return action

    def further(self, rng: np.random.Generator) -> int:
        """For how many further steps of the environment the action is held before the policy acts again."""
        return 0

    def pay(self, reward: Any, rng: np.random.Generator) -> Any:
        """The reward to return."""
        return reward

    def control(self, env: gymnasium.Env) -> Control:
        """An adversary's control over `env`, if it can choose what this perturbation draws.

        Raises:
            UsageError: it cannot, or not in this environment.
        """
        raise UsageError(
            f"{self} leaves an adversary nothing to choose; it can have control through force:3, "
            "action-noise:0.1,law=linf, action-mix:0.1, action-random:0.1, rrls:2d or param:name=low..high."
        )


@dataclasses.dataclass(frozen=True)
class Graded(Perturbation):
    """A perturbation whose first field, `strength`, says how strong it is; at `neutral` it is the identity."""

    strength: float | Interval
    neutral: ClassVar[float] = 0.0
    whole: ClassVar[bool] = False  # whether strengths are whole numbers

    def __post_init__(self) -> None:
        if isinstance(self.strength, Interval):
            for end in (self.strength.low, self.strength.high):
                dataclasses.replace(self, strength=end)
            return
        numeric = isinstance(self.strength, (int, float)) and not isinstance(self.strength, bool)
        if not numeric or not math.isfinite(self.strength) or (self.whole and self.strength != int(self.strength)):
            kind = "whole number" if self.whole else "finite number"
            raise UsageError(
                f"{self.name}: strength={self.strength!r} is not allowed; it must be a {kind} or a range low..high."
            )
        check(self)

    def __str__(self) -> str:
        strength = self.strength if isinstance(self.strength, Interval) else number(self.strength)
        others = [
            f",{f.name}={getattr(self, f.name)}"
            for f in dataclasses.fields(self)
            if f.name != "strength" and getattr(self, f.name) != f.default
        ]
        return f"{self.name}:{strength}{''.join(others)}"

    @property
    def identity(self) -> bool:
        return self.strength == self.neutral

    @property
    def fixed(self) -> float:
        """The strength, once an episode has drawn it."""
        assert not isinstance(self.strength, Interval)
        return self.strength

    def draw(self, rng: np.random.Generator) -> Perturbation:
        if not isinstance(self.strength, Interval):
            return self
        low, high = self.strength.low, self.strength.high
        drawn = int(rng.integers(int(low), int(high), endpoint=True)) if self.whole else float(rng.uniform(low, high))
        return dataclasses.replace(self, strength=drawn)

    def grid(self, points: int = 10, grid: str = "closed") -> list[Cell]:
        """The sweep: from the neutral to a fixed strength, or over a range."""
        if isinstance(self.strength, Interval):
            span = self.strength
        else:
            span = Interval(*sorted((self.neutral, self.strength)))
        values = span.values(points, grid)
        if self.whole:
            values = sorted({nearest_whole(v) for v in values})
        return [Cell(dataclasses.replace(self, strength=v), ((self.name, float(v)),)) for v in values]


class Batched(Graded):
    """A graded perturbation without memory, defined by `alter` on a NumPy batch; one step is a batch of one."""

    def alter(self, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The perturbed copy of `array [batch, ...]`."""
        raise NotImplementedError

    def on_batch(self, array: Any, rng: np.random.Generator) -> Any:
        concrete = self.draw(rng)
        if concrete.identity:
            return array
        assert isinstance(concrete, Batched)
        if isinstance(array, torch.Tensor):
            altered = concrete.alter(array.detach().cpu().numpy(), rng)
            return torch.as_tensor(altered, dtype=array.dtype, device=array.device)
        return concrete.alter(np.asarray(array), rng)


@dataclasses.dataclass(frozen=True)
class Composition(Perturbation):
    """Several perturbations at once, each with its own random stream. The last one is nearest to the policy."""

    parts: tuple[Perturbation, ...]

    def __post_init__(self) -> None:
        joined: list[Perturbation] = []
        for part in self.parts:
            for i, earlier in enumerate(joined):
                if (both := earlier.joined(part)) is not None:
                    joined[i] = both
                    break
            else:
                joined.append(part)
        object.__setattr__(self, "parts", tuple(joined))

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))

    @property
    def channels(self) -> frozenset[str]:
        return frozenset().union(*(p.channels for p in self.parts))

    @property
    def identity(self) -> bool:
        return all(p.identity for p in self.parts)

    def wrap(self, env: gymnasium.Env, seed: int = 0) -> gymnasium.Env:
        for part in self.parts:
            env = part.wrap(env, seed)
        return env

    def on_batch(self, array: Any, rng: np.random.Generator) -> Any:
        for part in self.parts:
            array = part.on_batch(array, rng)
        return array

    def check_env(self, env: gymnasium.Env) -> None:
        for part in self.parts:
            part.check_env(env)

    def fitted(self, env: gymnasium.Env) -> Perturbation:
        return Composition(tuple(part.fitted(env) for part in self.parts))

    def grid(self, points: int = 10, grid: str = "closed") -> list[Cell]:
        cells = []
        for combination in itertools.product(*(p.grid(points, grid) for p in self.parts)):
            names = [name for cell in combination for name, _ in cell.coordinates]
            unique = [n if names.count(n) == 1 else f"{n}#{1 + names[:i].count(n)}" for i, n in enumerate(names)]
            values = [value for cell in combination for _, value in cell.coordinates]
            cells.append(Cell(Composition(tuple(c.perturbation for c in combination)), tuple(zip(unique, values))))
        return cells


def _parts(perturbation: Perturbation) -> Sequence[Perturbation]:
    return perturbation.parts if isinstance(perturbation, Composition) else (perturbation,)


class PerturbedEnv(gymnasium.Wrapper):
    """An environment under one perturbation. `info["perturbation"]` of a reset describes the episode's.

    Its noise comes from a stream of the seed of the last seeded reset, the perturbation's name and the number of
    episodes since then: all strengths of one kind get the same noise, and the environment's own generator is not
    used.
    """

    def __init__(self, env: gymnasium.Env, perturbation: Perturbation, seed: int = 0):
        perturbation.check_env(env)
        super().__init__(env)
        self.perturbation = perturbation.fitted(env)
        same = sum(w.perturbation.name == perturbation.name for w in _perturbed(env))
        self._stream = f"perturbation/{perturbation.name}/{same}"
        self._seed, self._episode = check_seed(seed), -1
        self._hold = Hold()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._seed, self._episode = (self._seed, self._episode + 1) if seed is None else (seed, 0)
        self._rng, self._memory = numpy_stream(self._seed, self._stream, self._episode), []
        self.current = self.perturbation.draw(self._rng)
        self.restore()
        self._hold = self.current.hold(self.env, self._rng)
        observation, info = self.env.reset(seed=seed, options=options)
        self._hold.after()
        below = info.get("perturbation")
        info = {**info, "perturbation": f"{below} + {self.current}" if below else str(self.current)}
        return self._seen(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        action = self.current.act(action, self.env.action_space, self._rng, self._memory)
        observation, reward, terminated, truncated, info = self.env.step(action)
        for _ in range(self.current.further(self._rng)):
            if terminated or truncated:
                break
            observation, more, terminated, truncated, info = self.env.step(action)
            reward = float(reward) + float(more)
        return self._seen(observation), self.current.pay(reward, self._rng), terminated, truncated, info

    def _seen(self, observation: Any) -> Any:
        return self.current.observe(observation, self.env.observation_space, self._rng, self._memory)

    def restore(self) -> None:
        """Undo every change to the inside of the environment."""
        self._hold.undo()
        self._hold = Hold()

    def close(self) -> None:
        self.restore()
        super().close()


def _perturbed(env: gymnasium.Env) -> list[PerturbedEnv]:
    """The perturbations around `env`, outermost first."""
    found = []
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, PerturbedEnv):
            found.append(env)
        env = env.env
    return found


def unwrap(env: gymnasium.Env, inner: gymnasium.Env | None = None) -> gymnasium.Env:
    """The environment inside the outermost perturbations, or down to `inner`, restored to its original state."""
    while isinstance(env, PerturbedEnv) and env is not inner:
        env.restore()
        env = env.env
    return env
