"""Parameters of the model of any MuJoCo environment: masses, friction, damping, gears, gravity.

    gravity                  m/s², along the model's own direction of gravity (down, if it has none)
    mass, friction, damping, gear     factors on all bodies, geoms, joints, actuators
    <body>.mass              kg
    <geom>.friction          sliding friction
    <joint>.damping          of all its degrees of freedom
    <actuator>.gear          its first component

A body's inertia changes in proportion to its mass, as if its density had changed (MuJoCo's `mj_setTotalmass` does the
same). The constants that MuJoCo derives from a model are computed anew by `mj_setConst`. Parts without a name are
named by their index: `actuator0.gear`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np

from surefoot.errors import UsageError

FACTORS = {"mass": "body_mass", "friction": "geom_friction", "damping": "dof_damping", "gear": "actuator_gear"}
WRITTEN = ("body_mass", "body_inertia", "geom_friction", "dof_damping", "actuator_gear")
DERIVED = ("body_subtreemass", "body_invweight0", "dof_M0", "dof_invweight0", "tendon_length0", "tendon_invweight0")
DERIVED += ("actuator_length0", "actuator_acc0", "cam_pos0", "cam_poscom0", "cam_mat0")
DERIVED += ("light_pos0", "light_poscom0", "light_dir0")


def simulator(env: gymnasium.Env) -> tuple[Any, Any] | None:
    """MuJoCo's model and data of an environment: its own, or those of an inner environment; None without."""
    inner = env.unwrapped
    for holder in (inner, *(held for held in vars(inner).values() if isinstance(held, gymnasium.Env))):
        model, data = getattr(holder, "model", None), getattr(holder, "data", None)
        if hasattr(model, "body_mass") and hasattr(data, "xfrc_applied"):
            return model, data
    return None


def recompute(model: Any) -> None:
    """Recompute the constants that MuJoCo derives from the model's present masses, inertias and gears."""
    import mujoco

    mujoco.mj_setConst(model, mujoco.MjData(model))  # type: ignore[attr-defined]


def kept(model: Any, names: tuple[str, ...] = WRITTEN + DERIVED) -> Callable[[], None]:
    """A function that restores these arrays of a model, and its gravity, to their present bits."""
    arrays = [getattr(model, name) for name in names if hasattr(model, name)] + [model.opt.gravity]
    copies = [array.copy() for array in arrays]

    def put_back() -> None:
        for array, copied in zip(arrays, copies, strict=True):
            array[:] = copied

    return put_back


class Model:
    """The parameters of a MuJoCo model by name."""

    def __init__(self, env: gymnasium.Env) -> None:
        found = simulator(env)
        self.model: Any = None if found is None else found[0]
        self._unscaled: dict[str, np.ndarray] = {}  # what a factor was first applied to

    def values(self) -> dict[str, float]:
        """All names with their present values; 1 for factors."""
        if self.model is None:
            return {}
        factors = {name: 1.0 for name, array in FACTORS.items() if np.any(getattr(self.model, array))}
        return {"gravity": self._gravity()[0], **factors, **{name: float(x[0]) for name, x in self._parts()}}

    def whole(self, name: str) -> bool:
        """Whether a parameter takes whole numbers only: none does."""
        return False

    def put(self, values: Mapping[str, float]) -> None:
        """Set the parameters, factors first, and recompute what MuJoCo derives from them.

        A factor multiplies the values before its first use here, however often it is set.
        """
        model = self.model
        mass, gear = model.body_mass.copy(), model.actuator_gear.copy()
        for name in sorted(values, key=lambda name: name not in FACTORS):
            _check(name, values[name])
            if name == "gravity":
                size, direction = self._gravity()
                model.opt.gravity[:] = model.opt.gravity if values[name] == size else values[name] * direction
            elif name in FACTORS:
                array = self._array(name)
                array[:] = self._unscaled.setdefault(name, array.copy()) * values[name]
            else:
                dict(self._parts())[name][:] = values[name]
        moved = model.body_mass != mass
        model.body_inertia[moved] *= (model.body_mass[moved] / mass[moved])[:, None]
        if moved.any() or np.any(model.actuator_gear != gear):
            recompute(model)

    def watch(self, names: Iterable[str]) -> Callable[[], list[str]]:
        """A function that names the parameters that have changed since this call."""
        parts = dict(self._parts())
        arrays = {name: parts[name] if name in parts else self._array(name) for name in names}
        copies = {name: array.copy() for name, array in arrays.items()}
        return lambda: [name for name, array in arrays.items() if not np.array_equal(array, copies[name])]

    def keep(self, names: Iterable[str]) -> Callable[[], None]:
        """A function that restores everything that `put` may change."""
        return kept(self.model)

    def _array(self, name: str) -> np.ndarray:
        """The arrays that gravity or a factor scales; for friction the sliding one."""
        if name == "gravity":
            return self.model.opt.gravity
        array = getattr(self.model, FACTORS[name])
        return array[:, 0] if name == "friction" else array

    def _gravity(self) -> tuple[float, np.ndarray]:
        """The size of gravity, and its direction."""
        size = float(np.linalg.norm(self.model.opt.gravity))
        return size, self.model.opt.gravity / size if size else np.array([0.0, 0.0, -1.0])

    def _parts(self) -> Iterator[tuple[str, np.ndarray]]:
        """The name of each single parameter, and the view of the array that holds it."""
        model: Any = self.model

        def called(kind: str, i: int) -> str:
            return getattr(model, kind)(i).name or f"{kind}{i}"

        for i in np.flatnonzero(model.body_mass):
            yield f"{called('body', int(i))}.mass", model.body_mass[i : i + 1]
        for i in range(model.ngeom):
            yield f"{called('geom', i)}.friction", model.geom_friction[i, :1]
        for i in range(model.njnt):
            own = slice(model.jnt_dofadr[i], model.jnt_dofadr[i + 1] if i + 1 < model.njnt else model.nv)
            yield f"{called('joint', i)}.damping", model.dof_damping[own]
        for i in range(model.nu):
            yield f"{called('actuator', i)}.gear", model.actuator_gear[i, :1]


def _check(name: str, value: float) -> None:
    kind = name.rpartition(".")[2]
    if not math.isfinite(value) or (kind == "mass" and value <= 0) or (kind in ("friction", "damping") and value < 0):
        raise UsageError(
            f"param: {name}={value!r} is not allowed: masses are above 0, friction and damping at least 0, and all of "
            "them finite."
        )
