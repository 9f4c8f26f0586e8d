"""The six robust MuJoCo tasks of RRLS (arXiv:2406.08406) on Gymnasium's v5 environments.

A task exposes physical parameters by name: body masses (kg), the sliding friction of the ground contact, and forces
(N) at the centre of mass of a body, in the world frame. `uncertainty(task, set)` is the box in which a policy must be
robust; the sets "1d", "2d", "3d" are those of M2TD3 (arXiv:2211.03413), "rarl" is the set of forces.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from surefoot.envs.registered import make_registered
from surefoot.errors import UsageError, nearest
from surefoot.perturbations.mujoco import kept, recompute

FRICTION_MODES = ("floor", "all_geoms")
Parameters = Mapping[str, float]
Bounds = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class UncertaintyBox:
    """Named parameters, each with inclusive bounds and a nominal value, which may lie outside them."""

    bounds: Bounds
    nominal: Parameters

    def __post_init__(self) -> None:
        for name, (low, high) in self.bounds.items():
            if not (math.isfinite(low) and math.isfinite(high) and low <= high) or name not in self.nominal:
                raise UsageError(
                    f"UncertaintyBox: {name!r} has the bounds [{low}, {high}] and the nominal value "
                    f"{self.nominal.get(name)}; it needs finite bounds, low <= high, and a nominal value."
                )

    def __len__(self) -> int:
        return len(self.bounds)

    @property
    def low(self) -> np.ndarray:
        return np.array([low for low, _ in self.bounds.values()])

    @property
    def high(self) -> np.ndarray:
        return np.array([high for _, high in self.bounds.values()])

    def named(self, values: Sequence[float] | np.ndarray) -> dict[str, float]:
        """A vector in the order of the bounds, as a dict by name."""
        return {name: float(value) for name, value in zip(self.bounds, values, strict=True)}

    def grid(self, points: int = 10, kind: str = "closed") -> Iterator[dict[str, float]]:
        """The `points ** len(self)` parameter dicts of the grid, one at a time, the last parameter varying fastest.

        `kind="closed"` includes both bounds; `"rrls"` is the grid of the published suite, low + i (high - low)/points,
        which never reaches the upper bound.
        """
        if kind not in ("closed", "rrls"):
            raise UsageError(f"grid: kind={kind!r} is not known; it must be 'closed' or 'rrls'.")
        if points < (2 if kind == "closed" else 1):
            raise UsageError(
                f"grid: points={points} is not allowed; a {kind!r} grid needs at least {2 if kind == 'closed' else 1}."
            )
        axes = [np.linspace(low, high, points, endpoint=kind == "closed") for low, high in self.bounds.values()]
        return (self.named(values) for values in itertools.product(*axes))

    def sample(self, rng: np.random.Generator) -> dict[str, float]:
        """Parameters sampled uniformly from the box."""
        return self.named(rng.uniform(self.low, self.high))

    def scaled(self, unit: Sequence[float] | np.ndarray) -> dict[str, float]:
        """The parameters at `unit` in [-1, 1]^k: -1 is the lower bound, 0 the middle, 1 the upper bound."""
        return self.named(self.low + (np.clip(unit, -1.0, 1.0) + 1.0) * (self.high - self.low) / 2.0)


@dataclass(frozen=True)
class Task:
    """One task: the names of the model's bodies 1, 2, …, the sets, nominal values of set members, pushed bodies."""

    bodies: tuple[str, ...]
    sets: Mapping[str, Bounds]
    nominal: Parameters  # in the standard v5 model
    pushed: tuple[str, ...]
    friction: bool = False
    planar: bool = True  # moves in a vertical plane, so that forces along y do nothing
    every_geom: bool = False  # whether the suite itself sets the friction of all geoms, not only the floor's
    published: Parameters = field(default_factory=dict)  # if the published package's defaults differ


def _sets(*bounds: Bounds) -> dict[str, Bounds]:
    return {f"{k}d": b for k, b in enumerate(bounds, start=1)}


def _legs(*legs: str) -> tuple[str, ...]:
    return tuple(leg + part for leg in legs for part in ("leg", "aux", "ankle"))


TASKS: dict[str, Task] = {
    "Ant-v5": Task(
        bodies=("torso", *_legs("frontleft", "frontright", "backleft", "backright")),
        sets=_sets(
            {"torsomass": (0.1, 3.0)},
            {"torsomass": (0.1, 3.0), "frontleftlegmass": (0.01, 3.0)},
            {"torsomass": (0.1, 3.0), "frontleftlegmass": (0.01, 3.0), "frontrightlegmass": (0.01, 3.0)},
        ),
        nominal={"torsomass": 0.327249, "frontleftlegmass": 0.039158, "frontrightlegmass": 0.039158},
        planar=False,
        pushed=("torso", "frontleftleg", "frontrightleg"),
    ),
    "HalfCheetah-v5": Task(
        bodies=("torso", "backthigh", "backshin", "backfoot", "frontthigh", "frontshin", "frontfoot"),
        sets=_sets(
            {"worldfriction": (0.1, 3.0)},
            {"worldfriction": (0.1, 4.0), "torsomass": (0.1, 7.0)},
            {"worldfriction": (0.1, 4.0), "torsomass": (0.1, 7.0), "backthighmass": (0.1, 3.0)},
        ),
        nominal={"worldfriction": 0.4, "torsomass": 6.250209, "backthighmass": 1.543515},
        pushed=("torso", "backfoot", "frontfoot"),
        friction=True,
        every_geom=True,
    ),
    "Hopper-v5": Task(
        bodies=("torso", "thigh", "leg", "foot"),
        sets=_sets(
            {"worldfriction": (0.1, 3.0)},
            {"worldfriction": (0.1, 3.0), "torsomass": (0.1, 3.0)},
            {"worldfriction": (0.1, 3.0), "torsomass": (0.1, 3.0), "thighmass": (0.1, 4.0)},
        ),
        nominal={"worldfriction": 1.0, "torsomass": 3.665191, "thighmass": 4.057891},
        pushed=("foot",),
        friction=True,
        published={"worldfriction": 0.7},
    ),
    "HumanoidStandup-v5": Task(
        bodies=("torso", "lowerwaist", "pelvis", "rightthigh", "rightshin", "rightfoot", "leftthigh", "leftshin")
        + ("leftfoot", "rightupperarm", "rightlowerarm", "leftupperarm", "leftlowerarm"),
        sets=_sets(
            {"torsomass": (0.1, 16.0)},
            {"torsomass": (0.1, 16.0), "rightfootmass": (0.1, 8.0)},
            {"torsomass": (0.1, 16.0), "leftthighmass": (0.1, 5.0), "rightfootmass": (0.1, 8.0)},
        ),
        nominal={"torsomass": 8.907462, "rightfootmass": 1.767146, "leftthighmass": 4.751751},
        planar=False,
        pushed=("torso", "rightthigh", "leftfoot"),
    ),
    "InvertedPendulum-v5": Task(
        bodies=("cart", "pole"),
        sets=_sets({"polemass": (1.0, 31.0)}, {"polemass": (1.0, 31.0), "cartmass": (1.0, 11.0)}),
        nominal={"polemass": 5.018592, "cartmass": 10.471976},
        pushed=("pole",),
        published={"polemass": 10.471976, "cartmass": 5.018592},
    ),
    "Walker2d-v5": Task(
        bodies=("torso", "thigh", "leg", "foot", "leftthigh", "leftleg", "leftfoot"),
        sets=_sets(
            {"worldfriction": (0.1, 4.0)},
            {"worldfriction": (0.1, 4.0), "torsomass": (0.1, 5.0)},
            {"worldfriction": (0.1, 4.0), "torsomass": (0.1, 5.0), "thighmass": (0.1, 6.0)},
        ),
        nominal={"worldfriction": 0.7, "torsomass": 3.665191, "thighmass": 4.057891},
        pushed=("leg", "leftfoot"),
        friction=True,
    ),
}


def _task(env_id: str) -> Task:
    name = env_id.removeprefix("rrls/")
    if name not in TASKS:
        raise UsageError(f"{env_id!r} is not one of the six RRLS tasks. {nearest(name, TASKS)}")
    return TASKS[name]


def uncertainty(env_id: str, set: str = "2d", *, force_axes: str = "xy", force: float = 3.0) -> UncertaintyBox:
    """The uncertainty set of a task: `"1d"`, `"2d"`, `"3d"` (masses and friction) or `"rarl"` (forces up to `force` N).

    `force_axes="xy"` is the published set; in the planar tasks (all but Ant and HumanoidStandup) y changes nothing,
    and `"xz"`, the axes of the original RARL, makes every component count.
    """
    task = _task(env_id)
    if set == "rarl":
        if force_axes not in ("xy", "xz") or not force > 0:
            raise UsageError(f"force_axes={force_axes!r}, force={force}: allowed are 'xy' or 'xz', and force above 0.")
        names = [f"{body}force_{axis}" for body in task.pushed for axis in force_axes]
        return UncertaintyBox(dict.fromkeys(names, (-float(force), float(force))), dict.fromkeys(names, 0.0))
    if set not in task.sets:
        raise UsageError(f"set={set!r} is not a set of {env_id}; it must be one of {[*task.sets, 'rarl']}.")
    return UncertaintyBox(task.sets[set], {name: task.nominal[name] for name in task.sets[set]})


def named_bounds(env_id: str, text: str = "2d") -> Bounds:
    """The bounds of a set by its text: `"2d"`, `"2d,friction_mode=all_geoms"`, `"rarl,force_axes=xz"`.

    `friction_mode=all_geoms` replaces `worldfriction` by `allfriction`. `force_axes` is `xy` or `xz`; by default,
    forces along y, which have no effect in planar tasks, are omitted there.
    """
    name, *given = [part.strip() for part in text.split(",")] if text.strip() else ["2d"]
    options = {key.strip(): value.strip() for key, _, value in (part.partition("=") for part in given)}
    allowed = {"force_axes": ("xy", "xz")} if name == "rarl" else {"friction_mode": FRICTION_MODES}
    for option, value in options.items():
        if value not in allowed.get(option, ()):
            words = ", ".join(f"{key}={'|'.join(values)}" for key, values in allowed.items())
            raise UsageError(f"rrls:{text}: {option}={value} is not allowed; rrls:{name} takes {words}.")
    bounds = dict(uncertainty(env_id, name, force_axes=options.get("force_axes", "xy")).bounds)
    if name == "rarl" and "force_axes" not in options and _task(env_id).planar:
        return {name: ends for name, ends in bounds.items() if not name.endswith("force_y")}
    if options.get("friction_mode") == "all_geoms":
        if not _task(env_id).friction:
            raise UsageError(f"rrls:{text}: {env_id} has no friction parameter; leave friction_mode out.")
        return {name.replace("worldfriction", "allfriction"): ends for name, ends in bounds.items()}
    return bounds


class RobustMujoco(gymnasium.Wrapper):
    """A standard MuJoCo task whose masses, friction and forces can be set at reset or between steps.

    Parameters: `<body>mass` of every body, `worldfriction` and `allfriction` (that of every geom) if the task has
    friction, `<body>force_x|y|z` of the pushed bodies. Masses and friction persist until they are set again; MuJoCo
    clears forces at every reset. `info["params"]` of `reset` and `step` holds all of them.

    A mass is changed as in the suite: the body's inertia (`body_inertia`) is not rescaled, and the constants that
    MuJoCo derives from masses keep their old values: `body_subtreemass` (from which centres of mass, hence the inertias
    that Ant and HumanoidStandup observe, are computed), `body_invweight0` and `dof_invweight0` (by which contacts and
    joint limits are scaled). Inertias are unchanged in any case; `recompute=True` recomputes the derived constants
    (`mj_setConst`). `param:torso.mass=…` sets a mass in any MuJoCo environment with both rescaled.

    `friction_mode="floor"` is the suite's: on Hopper and Walker2d it sets the floor only, and MuJoCo takes the larger
    of two touching frictions, so values below the foot's own (2.0 and 1.9) have no effect. `"all_geoms"` sets every
    geom (what the suite does for HalfCheetah). `rrls_compat=True` starts from the published package's defaults, which
    swap the pendulum's two masses and give Hopper's floor 0.7, instead of the model's.
    """

    def __init__(
        self, env: gymnasium.Env, *, friction_mode: str = "floor", rrls_compat: bool = False, recompute: bool = False
    ):
        super().__init__(env)
        if friction_mode not in FRICTION_MODES:
            raise UsageError(f"friction_mode={friction_mode!r} is not known; it must be 'floor' or 'all_geoms'.")
        self.task_id = env.unwrapped.spec.id if env.unwrapped.spec else ""
        task = _task(self.task_id)
        simulator: Any = env.unwrapped
        self._model, self._data = simulator.model, simulator.data
        self._masses = {f"{body}mass": i for i, body in enumerate(task.bodies, start=1)}
        pushed = {body: task.bodies.index(body) + 1 for body in task.pushed}
        self._forces = {f"{body}force_{axis}": (i, k) for body, i in pushed.items() for k, axis in enumerate("xyz")}
        floor = slice(None) if task.every_geom or friction_mode == "all_geoms" else slice(0, 1)
        self._frictions = {"worldfriction": floor, "allfriction": slice(None)} if task.friction else {}
        self._recompute = recompute
        self._put_back = kept(self._model)
        self._published = task.published if rrls_compat else {}
        self.restore()

    @property
    def names(self) -> list[str]:
        """The names that `set_params` takes."""
        return [*self._masses, *self._frictions, *self._forces]

    def get_params(self) -> dict[str, float]:
        """The current values of all parameters."""
        mass, force = self._model.body_mass, self._data.xfrc_applied
        params = {name: float(mass[body]) for name, body in self._masses.items()}
        params |= dict.fromkeys(self._frictions, float(self._model.geom_friction[0, 0]))
        return params | {name: float(force[where]) for name, where in self._forces.items()}

    def set_params(self, **params: float | None) -> None:
        """Set the named parameters; `None` leaves one unchanged. Nothing is set unless all values are allowed."""
        given = {name: value for name, value in params.items() if value is not None}
        for name, value in given.items():
            if name not in self.names:
                raise UsageError(f"{self.task_id} has no parameter {name!r}. {nearest(name, self.names)}")
            lowest = -math.inf if name in self._forces else 0.0
            if not math.isfinite(value) or value < lowest or (value == 0 and name in self._masses):
                raise UsageError(
                    f"{name}={value!r} is not allowed: masses are above 0, friction at least 0, all values finite."
                )
        for name, value in given.items():
            if name in self._masses:
                self._model.body_mass[self._masses[name]] = value
            elif name in self._forces:
                self._data.xfrc_applied[self._forces[name]] = value
            else:
                self._model.geom_friction[self._frictions[name], 0] = value
        if self._recompute and self._masses.keys() & given.keys():
            recompute(self._model)
        self._now = self.get_params()

    def restore(self) -> None:
        """Restore the nominal task exactly: masses, friction, no forces."""
        self._put_back()
        self._data.xfrc_applied[:] = 0.0
        self.set_params(**self._published)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset after setting the parameters in `options`; forces among them act from the first step."""
        params = {name: value for name, value in (options or {}).items() if name in self.names}
        rest = {name: value for name, value in (options or {}).items() if name not in params}
        self.set_params(**params)
        observation, info = self.env.reset(seed=seed, options=rest or None)
        self.set_params(**{name: value for name, value in params.items() if name in self._forces})
        return observation, {**info, "params": self._now}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        info["params"] = self._now
        return observation, reward, terminated, truncated, info


def set_params(env: gymnasium.Env | VectorEnv, params: Parameters | Sequence[Parameters]) -> None:
    """Set parameters of a (wrapped) robust task, or of every environment in a vector environment.

    A sequence of dicts sets those of each environment in an in-process vector environment separately.
    """
    any_env: Any = env
    try:
        if not isinstance(params, Mapping):
            for single, own in zip(any_env.envs, params, strict=True):
                single.get_wrapper_attr("set_params")(**own)
        elif isinstance(env, VectorEnv):
            any_env.call("set_params", **params)
        else:
            any_env.get_wrapper_attr("set_params")(**params)
    except AttributeError as error:
        raise UsageError(
            f"{env} has no settable parameters ({error}); make a task such as 'rrls/Hopper-v5' with "
            "backend='gymnasium' (one dict for all environments also reaches those of backend='process')."
        ) from error


def make_robust(
    task: str, friction_mode: str = "floor", rrls_compat: bool = False, recompute: bool = False, **kwargs: Any
) -> gymnasium.Env:
    """The Gymnasium task inside `RobustMujoco`; the entry point of the ids `rrls/<task>`."""
    single = make_registered(task, **kwargs)
    return RobustMujoco(single, friction_mode=friction_mode, rrls_compat=rrls_compat, recompute=recompute)


def register() -> None:
    """Make `rrls/<task>` known to Gymnasium."""
    for task in TASKS:
        if f"rrls/{task}" not in gymnasium.registry:
            gymnasium.register(f"rrls/{task}", entry_point=make_robust, kwargs={"task": task}, order_enforce=False)
