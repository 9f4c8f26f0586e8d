"""What holds in the world: physical parameters of a simulator, and forces on its bodies.

An environment with `get_params() -> dict` and `set_params(**values)` (a robust MuJoCo task) is changed through them,
any other through its numeric attributes: `length` of CartPole, `g`, `m`, `l` of Pendulum.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

from surefoot.errors import UsageError, nearest
from surefoot.hyperparameters import hyperparameter
from surefoot.perturbations.core import Cell, Graded, Perturbation, register
from surefoot.perturbations.interval import Interval, number

# Attributes that an environment computes once from others and would otherwise keep at their old values.
DERIVED: dict[str, dict[str, Callable[[Any], float]]] = {
    "CartPoleEnv": {
        "total_mass": lambda env: env.masspole + env.masscart,
        "polemass_length": lambda env: env.masspole * env.length,
    },
}


def _derived(env: gymnasium.Env) -> dict[str, Callable[[Any], float]]:
    return {k: v for cls in type(env.unwrapped).__mro__ for k, v in DERIVED.get(cls.__name__, {}).items()}


def parameters(env: gymnasium.Env) -> dict[str, float]:
    """The parameters of `env` that can be set, with their present values."""
    if env.has_wrapper_attr("set_params"):
        return dict(env.get_wrapper_attr("get_params")())
    inner = env.unwrapped
    found: dict[str, Any] = {}
    for layer in (*map(vars, reversed(type(inner).__mro__)), vars(inner)):
        found.update(layer)
    hidden = _derived(env)
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, numbers.Real) and not isinstance(value, bool) and name[0] != "_" and name not in hidden
    }


def set_parameters(env: gymnasium.Env, values: Mapping[str, float]) -> None:
    """Set parameters that `parameters(env)` lists, and what the environment derived from them.

    An attribute that is a whole number stays one (the value is rounded): the environment may count with it.
    """
    if env.has_wrapper_attr("set_params"):
        env.get_wrapper_attr("set_params")(**values)
        return
    for name, value in values.items():
        setattr(env.unwrapped, name, round(value) if _whole(env, name) else value)
    for name, rule in _derived(env).items():
        setattr(env.unwrapped, name, rule(env.unwrapped))


def _whole(env: gymnasium.Env, name: str) -> bool:
    return isinstance(getattr(env.unwrapped, name, None), numbers.Integral)


def _simulator_arrays(inner: gymnasium.Env) -> list[np.ndarray]:
    """What `set_params` of a MuJoCo task writes to: one name may stand for many entries, so all are kept."""
    model: Any = getattr(inner, "model", None)
    data: Any = getattr(inner, "data", None)
    if not hasattr(model, "body_mass") or not hasattr(data, "xfrc_applied"):
        return []
    return [model.body_mass, model.geom_friction, data.xfrc_applied]


@register
@dataclasses.dataclass(frozen=True)
class Parameters(Perturbation):
    """Named parameters at fixed values or, for a range, at a value drawn uniformly per episode and held through it.

    The grid of a range is a sweep of fixed values; a fixed value has no neutral one to be swept from and stays.
    """

    values: tuple[tuple[str, float | Interval], ...]
    whole: tuple[str, ...] = dataclasses.field(default=(), compare=False)  # those of which there are whole numbers only
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
            return [(name, x) for x in (sorted({float(round(x)) for x in found}) if name in self.whole else found)]

        axes = [axis(name, value) for name, value in self.values]
        return [Cell(Parameters(combination), combination) for combination in itertools.product(*axes)]

    def check_env(self, env: gymnasium.Env) -> None:
        known = parameters(env)
        for name, value in self.values:
            if name not in known:
                raise UsageError(f"{self}: {env.unwrapped} has no parameter {name!r}. {nearest(name, known)}")
            ends = (value.low, value.high) if isinstance(value, Interval) else (value,)
            if _whole(env, name) and any(end != round(end) for end in ends):
                raise UsageError(
                    f"{self}: {name} is a whole number in {env.unwrapped}, so {name}={value} would be rounded; give"
                    " whole numbers, or make it a float in the environment."
                )

    def fitted(self, env: gymnasium.Env) -> Perturbation:
        return dataclasses.replace(self, whole=tuple(name for name, _ in self.values if _whole(env, name)))

    def snapshot(self, env: gymnasium.Env) -> Callable[[], None]:
        inner, attributes = env.unwrapped, {name for name, _ in self.values} | set(_derived(env))
        if env.has_wrapper_attr("set_params"):
            nominal = {name: parameters(env)[name] for name, _ in self.values}
            arrays = _simulator_arrays(inner)
            copies = [array.copy() for array in arrays]

            def put_back() -> None:
                set_parameters(env, nominal)
                for array, copied in zip(arrays, copies):
                    array[:] = copied

            return put_back
        own = {name: vars(inner)[name] for name in attributes if name in vars(inner)}

        def undo() -> None:
            for name in attributes - own.keys():
                vars(inner).pop(name, None)  # a class attribute that an instance attribute had hidden
            vars(inner).update(own)

        return undo

    def before_reset(self, env: gymnasium.Env) -> None:
        set_parameters(env, {k: v for k, v in self.values if not isinstance(v, Interval)})

    def after_reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        if env.has_wrapper_attr("set_params"):
            self.before_reset(env)  # MuJoCo clears forces at every reset


AXES = ("x", "-x", "y", "-y", "z", "-z", "xy", "xz", "yz", "xyz")


@register
@dataclasses.dataclass(frozen=True)
class Force(Graded):
    """A force of `strength` newtons on a body of a MuJoCo model, constant through an episode.

    `along` one axis it is fixed; along several its direction is drawn uniformly per episode. In planar tasks a force
    along y does nothing, hence the default.
    """

    name = "force"
    channel = "dynamics"
    strength: float | Interval = hyperparameter(1.0, low=0, help="newtons")
    body: str = hyperparameter("torso", help="the body it acts on, at its centre of mass")
    along: str = hyperparameter("xz", choices=AXES, help="world axes; several mean a random direction in their span")

    def check_env(self, env: gymnasium.Env) -> None:
        model: Any = getattr(env.unwrapped, "model", None)
        if not hasattr(model, "nbody"):
            raise UsageError(f"{self} needs a MuJoCo environment; {env.unwrapped} has no MuJoCo model.")
        bodies = [model.body(i).name for i in range(1, model.nbody)]
        if self.body not in bodies:
            raise UsageError(f"{self}: the model has no body {self.body!r}. {nearest(str(self.body), bodies)}")

    def snapshot(self, env: gymnasium.Env) -> Callable[[], None]:
        data = env.get_wrapper_attr("data")
        before = data.xfrc_applied.copy()

        def undo() -> None:
            data.xfrc_applied[:] = before

        return undo

    def after_reset(self, env: gymnasium.Env, rng: np.random.Generator) -> None:
        axes = self.along.lstrip("-")
        direction = np.zeros(3)
        drawn = rng.standard_normal(len(axes)) if len(axes) > 1 else np.array([-1.0 if self.along[0] == "-" else 1.0])
        direction[["xyz".index(a) for a in axes]] = drawn / np.linalg.norm(drawn)
        inner: Any = env.unwrapped
        inner.data.xfrc_applied[inner.model.body(self.body).id, :3] += self.fixed * direction
