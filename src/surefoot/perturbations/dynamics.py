"""Perturbations of dynamics: physical parameters of a simulator, and forces on its bodies."""

from __future__ import annotations

import dataclasses
import itertools
import math
import numbers
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from surefoot.errors import UsageError, nearest
from surefoot.hyperparameters import hyperparameter
from surefoot.perturbations.core import Cell, Control, Graded, Hold, Perturbation, nearest_whole, register
from surefoot.perturbations.interval import Interval, number
from surefoot.perturbations.mujoco import FACTORS, Model, simulator
from surefoot.perturbations.parameters import Constructor, parameters, places, set_parameters, whole


@register
@dataclasses.dataclass(frozen=True)
class Parameters(Perturbation):
    """Named parameters at fixed values or, for a range, at a value drawn uniformly per episode.

    `surefoot.perturbations.parameters` describes where they are found. They are read back after every reset: a value
    that the environment has not kept is a `UsageError`, since nothing would be perturbed.

    The grid of a range is a sweep of fixed values; a fixed value has no neutral value, so it is not swept.
    """

    values: tuple[tuple[str, float | Interval], ...]
    whole: tuple[str, ...] = dataclasses.field(default=(), compare=False)  # parameters that take whole numbers only
    name = "param"
    channel = "dynamics"

    def __post_init__(self) -> None:
        names = [name for name, _ in self.values]
        if not names or len(set(names)) < len(names):
            raise UsageError(
                f"param: {names} is not allowed; name at least one parameter, each once: param:length=0.5..2."
            )
        for name, value in self.values:
            if not isinstance(value, Interval) and not (isinstance(value, numbers.Real) and math.isfinite(value)):
                raise UsageError(f"param: {name}={value!r} is not allowed; it must be a number or a range low..high.")

    @classmethod
    def of(cls, box: Mapping[str, float | tuple[float, float]]) -> Parameters:
        """From a mapping of names to values or `(low, high)` pairs."""
        return cls(tuple((k, Interval(*v) if isinstance(v, tuple) else v) for k, v in box.items()))

    def __str__(self) -> str:
        return "param:" + ",".join(f"{k}={v if isinstance(v, Interval) else number(v)}" for k, v in self.values)

    def joined(self, other: Perturbation) -> Perturbation | None:
        return Parameters(self.values + other.values) if isinstance(other, Parameters) else None

    def draw(self, rng: np.random.Generator) -> Perturbation:
        def drawn(name: str, value: float | Interval) -> float:
            if not isinstance(value, Interval):
                return value
            if name in self.whole:
                return float(rng.integers(int(value.low), int(value.high), endpoint=True))
            return float(rng.uniform(value.low, value.high))

        return Parameters(tuple((name, drawn(name, value)) for name, value in self.values))

    def grid(self, points: int = 10, grid: str = "closed") -> list[Cell]:
        def axis(name: str, value: float | Interval) -> list[tuple[str, float]]:
            found = value.values(points, grid) if isinstance(value, Interval) else [float(value)]
            return [
                (name, x) for x in (sorted({float(nearest_whole(x)) for x in found}) if name in self.whole else found)
            ]

        axes = [axis(name, value) for name, value in self.values]
        return [Cell(Parameters(combination), combination) for combination in itertools.product(*axes)]

    def check_env(self, env: gymnasium.Env) -> None:
        known = places(env, [name for name, _ in self.values])
        for name, value in self.values:
            if name not in known:
                raise UsageError(f"{self}: {env.unwrapped} has no parameter {name!r}. {nearest(name, parameters(env))}")
            ends = (value.low, value.high) if isinstance(value, Interval) else (value,)
            if known[name].whole(name) and any(end != round(end) for end in ends):
                raise UsageError(
                    f"{self}: {name} is a whole number in {env.unwrapped}, so {name}={value} would be rounded; give"
                    " whole numbers, or make it a float in the environment."
                )

    def fitted(self, env: gymnasium.Env) -> Perturbation:
        return dataclasses.replace(self, whole=tuple(name for name, _ in self.values if whole(env, name)))

    def hold(self, env: gymnasium.Env, rng: np.random.Generator) -> Hold:
        values = {k: v for k, v in self.values if not isinstance(v, Interval)}
        setting = set_parameters(env, values)

        def after() -> None:
            if env.has_wrapper_attr("set_params"):  # MuJoCo clears forces at every reset
                own = env.get_wrapper_attr("get_params")()
                env.get_wrapper_attr("set_params")(**{name: x for name, x in values.items() if name in own})
            if lost := setting.lost():
                raise UsageError(
                    f"{self}: {env.unwrapped} does not keep {', '.join(lost)}: its reset, a wrapper or another "
                    "perturbation sets another value, so nothing would be perturbed. Let its constructor take the "
                    "value, or perturb something else."
                )

        return Hold(after, setting.undo)

    def control(self, env: gymnasium.Env) -> Control:
        """The adversary sets every ranged parameter before every step, −1 being its lower bound and 1 its upper one."""
        self.check_env(env)
        ranges = {name: span for name, span in self.values if isinstance(span, Interval) and span.low < span.high}
        where = places(env, [name for name, _ in self.values])
        once = [n for n, p in where.items() if isinstance(p, Constructor) or (isinstance(p, Model) and n in FACTORS)]
        if len(ranges) < len(self.values) or once:
            raise UsageError(
                f"{self}: an adversary needs a range of every parameter, and parameters that can be set in an "
                "episode, not "
                f"{', '.join(once) or 'fixed values'}."
            )
        parts = [(place, [n for n in where if where[n] is place]) for place in dict.fromkeys(where.values())]
        kept = [place.keep(names) for place, names in parts]

        def act(action: Any, move: np.ndarray, rng: np.random.Generator) -> Any:
            share = dict(zip(ranges, (np.clip(np.asarray(move, np.float64), -1.0, 1.0) + 1.0) / 2.0))
            for place, names in parts:
                place.put({n: float(ranges[n].low * (1 - share[n]) + ranges[n].high * share[n]) for n in names})
            return action

        def undo() -> None:
            for put_back in kept:
                put_back()

        return Control(len(ranges), act, undo)


AXES = ("x", "-x", "y", "-y", "z", "-z", "xy", "xz", "yz", "xyz")


@register
@dataclasses.dataclass(frozen=True)
class Force(Graded):
    """A force of `strength` newtons on bodies of a MuJoCo model, at their centres of mass, constant through an episode.

    Along one axis its direction is fixed; along several it is drawn uniformly per episode, the same for all bodies. In
    planar tasks a force along y does nothing, hence the default. An adversary chooses every component on every body
    anew at every step, within ±`strength` (arXiv:1703.02702).
    """

    name = "force"
    channel = "dynamics"
    strength: float | Interval = hyperparameter(1.0, low=0, help="newtons")
    body: str = hyperparameter("torso", help="body on which it acts, or several: foot/foot_left")
    along: str = hyperparameter("xz", choices=AXES, help="world axes; several mean a random direction in their span")

    @property
    def bodies(self) -> list[str]:
        """The names of the bodies."""
        return str(self.body).split("/")

    @property
    def axes(self) -> list[int]:
        """The world axes along which it acts."""
        return ["xyz".index(axis) for axis in self.along.lstrip("-")]

    def check_env(self, env: gymnasium.Env) -> None:
        model = self._simulator(env)[0]
        there = [model.body(i).name for i in range(1, model.nbody)]
        for body in self.bodies:
            if body not in there:
                raise UsageError(f"{self}: the model has no body {body!r}. {nearest(body, there)}")

    def hold(self, env: gymnasium.Env, rng: np.random.Generator) -> Hold:
        (rows, data), axes = self._pushed(env), self.axes
        before, direction = data.xfrc_applied.copy(), np.zeros(3)
        drawn = rng.standard_normal(len(axes)) if len(axes) > 1 else np.array([-1.0 if self.along[0] == "-" else 1.0])
        direction[axes] = drawn / np.linalg.norm(drawn)

        def after() -> None:
            data.xfrc_applied[rows, :3] += self.fixed * direction

        def undo() -> None:
            data.xfrc_applied[:] = before

        return Hold(after, undo)

    def control(self, env: gymnasium.Env) -> Control:
        self.check_env(env)
        rows, data = self._pushed(env)
        place, before = np.ix_(rows, self.axes), data.xfrc_applied.copy()

        def act(action: Any, move: np.ndarray, rng: np.random.Generator) -> Any:
            data.xfrc_applied[place] = (self.fixed * np.clip(move, -1.0, 1.0)).reshape(len(rows), -1)
            return action

        def undo() -> None:
            data.xfrc_applied[:] = before

        return Control(len(rows) * len(self.axes), act, undo)

    def _pushed(self, env: gymnasium.Env) -> tuple[list[int], Any]:
        """The rows of `xfrc_applied` of the bodies, and MuJoCo's data."""
        model, data = self._simulator(env)
        return [model.body(body).id for body in self.bodies], data

    def _simulator(self, env: gymnasium.Env) -> tuple[Any, Any]:
        found = simulator(env)
        if found is None:
            raise UsageError(f"{self} needs a MuJoCo environment; {env.unwrapped} has no MuJoCo model.")
        return found
