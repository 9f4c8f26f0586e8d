"""The parameters of an environment: where they are, how to set them, and whether they keep their values.

There are four places, and a name is searched in this order:

1. `get_params() -> dict` and `set_params(**values)` of the environment (a robust MuJoCo task);
2. the arguments of its constructor, if it is known how the environment was made (`envs.constructed`): it is
   constructed again, so that everything the constructor computes from them is right;
3. its MuJoCo model (`perturbations.mujoco`);
4. its numeric attributes: `length` of CartPole, `m`, `l` of Pendulum.

Attributes that `reset` and `step` assign are the environment's state, and sizes of pictures are not physics; neither is
listed, but both can be named explicitly.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import math
import numbers
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType
from typing import Any, NamedTuple, Protocol

import gymnasium

from surefoot.perturbations import mujoco

# Attributes that an environment computes once from others, which would otherwise keep their old values.
DERIVED: dict[str, dict[str, Callable[[Any], float]]] = {
    "CartPoleEnv": {
        "total_mass": lambda env: env.masspole + env.masscart,
        "polemass_length": lambda env: env.masspole * env.length,
    },
}
PICTURES = ("screen", "render", "window", "viewport", "camera", "fps")  # parts of names


class Place(Protocol):
    """One way to the parameters of an environment."""

    def __init__(self, env: gymnasium.Env) -> None: ...

    def values(self) -> dict[str, float]: ...  # the parameters by name with their present values

    def whole(self, name: str) -> bool: ...  # whether only whole numbers make sense

    def put(self, values: Mapping[str, float]) -> None: ...  # sets some

    def watch(self, names: Iterable[str]) -> Callable[[], list[str]]: ...  # which of them have changed since

    def keep(self, names: Iterable[str]) -> Callable[[], None]: ...  # a function that undoes all changes from now on


class Own:
    """`get_params` and `set_params` of the environment."""

    def __init__(self, env: gymnasium.Env) -> None:
        self._env = env
        self._known = env.has_wrapper_attr("set_params") and env.has_wrapper_attr("get_params")

    def values(self) -> dict[str, float]:
        return dict(self._env.get_wrapper_attr("get_params")()) if self._known else {}

    def whole(self, name: str) -> bool:
        return False

    def put(self, values: Mapping[str, float]) -> None:
        self._env.get_wrapper_attr("set_params")(**values)

    def watch(self, names: Iterable[str]) -> Callable[[], list[str]]:
        return _watch(self.values, names)

    def keep(self, names: Iterable[str]) -> Callable[[], None]:
        nominal, found = self.values(), mujoco.simulator(self._env)
        arrays = None if found is None else mujoco.kept(found[0])
        forces = None if found is None else found[1].xfrc_applied.copy()

        def undo() -> None:
            self.put({name: nominal[name] for name in names})
            if found is not None and arrays is not None:  # one name may stand for many entries
                arrays()
                found[1].xfrc_applied[:] = forces

        return undo


class Constructor:
    """Arguments of the constructor of an environment that can be constructed again."""

    def __init__(self, env: gymnasium.Env) -> None:
        self._env, self._known = env, env.has_wrapper_attr("remake")

    def values(self) -> dict[str, float]:
        return dict(self._env.get_wrapper_attr("arguments")) if self._known else {}

    def whole(self, name: str) -> bool:
        return isinstance(self.values()[name], numbers.Integral)

    def put(self, values: Mapping[str, float]) -> None:
        self._env.get_wrapper_attr("remake")(**{k: round(v) if self.whole(k) else v for k, v in values.items()})

    def watch(self, names: Iterable[str]) -> Callable[[], list[str]]:
        """The present value of an argument: that of the attribute of the same name, if there is one."""
        there = vars(self._env.unwrapped)
        return _watch(lambda: vars(self._env.unwrapped), [name for name in names if _number(there.get(name))])

    def keep(self, names: Iterable[str]) -> Callable[[], None]:
        before = self.values()
        return lambda: self._env.get_wrapper_attr("remake")(**before)


class Attributes:
    """Numeric attributes, of the instance or of its class."""

    def __init__(self, env: gymnasium.Env) -> None:
        self._inner = env.unwrapped
        rules = [DERIVED.get(cls.__name__, {}) for cls in type(self._inner).__mro__]
        self._derived = {name: rule for found in rules for name, rule in found.items()}

    def values(self) -> dict[str, float]:
        found: dict[str, Any] = {}
        for layer in (*map(vars, reversed(type(self._inner).__mro__)), vars(self._inner)):
            found.update(layer)
        return {k: float(v) for k, v in found.items() if _number(v) and k[0] != "_" and k not in self._derived}

    def offered(self) -> list[str]:
        """Those that are not state."""
        state = assigned(type(self._inner))
        return [name for name in self.values() if name not in state]

    def whole(self, name: str) -> bool:
        return isinstance(getattr(self._inner, name), numbers.Integral)

    def put(self, values: Mapping[str, float]) -> None:
        derived_from = {name for rule in self._derived.values() for name in rule.__code__.co_names}
        for name, value in values.items():
            if value != getattr(self._inner, name) and name not in used(type(self._inner)) | derived_from:
                warnings.warn(
                    f"param: nothing but the constructor of {type(self._inner).__name__} reads {name}, so that setting "
                    f"it afterwards may change nothing. Give the environment as a class or a factory that takes {name} "
                    "as an argument: it is then constructed again for every value.",
                    stacklevel=2,
                )
            setattr(self._inner, name, round(value) if self.whole(name) else value)
        for name, rule in self._derived.items():
            setattr(self._inner, name, rule(self._inner))

    def watch(self, names: Iterable[str]) -> Callable[[], list[str]]:
        return _watch(self.values, names)

    def keep(self, names: Iterable[str]) -> Callable[[], None]:
        inside, touched = vars(self._inner), {*names, *self._derived}
        own = {name: inside[name] for name in touched if name in inside}

        def undo() -> None:
            for name in touched - own.keys():
                inside.pop(name, None)  # a class attribute that an instance attribute had hidden
            inside.update(own)

        return undo


ORDER: tuple[type[Place], ...] = (Own, Constructor, mujoco.Model, Attributes)
SETTING: tuple[type[Place], ...] = (Constructor, mujoco.Model, Own, Attributes)  # constructors come first


def parameters(env: gymnasium.Env) -> dict[str, float]:
    """The parameters of `env` that can be set, with their present values; 1 for MuJoCo's factors."""
    attributes = Attributes(env)
    found = {name: attributes.values()[name] for name in attributes.offered()}
    for place in reversed(ORDER[:-1]):
        found |= place(env).values()
    return {name: value for name, value in found.items() if not _picture(name, found)}


def places(env: gymnasium.Env, names: Iterable[str]) -> dict[str, Place]:
    """The place of each name in `env`; unknown names are left out.

    Attributes that are not listed can be set too; whether they keep their values is checked after the reset.
    """
    found, missing = dict[str, Place](), set(names)
    for kind in ORDER:
        if missing:
            place = kind(env)
            here = missing & place.values().keys()
            found |= dict.fromkeys(here, place)
            missing -= here
    return found


def whole(env: gymnasium.Env, name: str) -> bool:
    """Whether a parameter is a whole number in `env`, which may count with it."""
    place = places(env, [name]).get(name)
    return place is not None and place.whole(name)


class Setting(NamedTuple):
    """Parameters that were set."""

    undo: Callable[[], None]
    lost: Callable[[], list[str]]  # the names of those whose value has changed


def set_parameters(env: gymnasium.Env, values: Mapping[str, float]) -> Setting:
    """Set parameters of `env`, and the values it derives from them.

    A parameter that is a whole number stays one (the value is rounded).
    """
    where, watches = places(env, values), []
    mine = {kind: [name for name in values if isinstance(where[name], kind)] for kind in SETTING}
    with contextlib.ExitStack() as undo:
        for kind, names in mine.items():
            if names:
                place = kind(env)  # of the environment that may have just been constructed again
                undo.callback(place.keep(names))
                place.put({name: values[name] for name in names})
                watches.append((place, names))
        lost = [place.watch(names) for place, names in watches]
        return Setting(undo.pop_all().close, lambda: [name for changed in lost for name in changed()])


def _watch(read: Callable[[], Mapping[str, Any]], names: Iterable[str]) -> Callable[[], list[str]]:
    before = {name: read()[name] for name in names}
    return lambda: [k for k, v in before.items() if not math.isclose(read().get(k, math.nan), v, rel_tol=1e-6)]


def _number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _picture(name: str, among: Iterable[str]) -> bool:
    """Whether a name is about drawing: a height is one only beside a width."""
    pair = {"width", "height"}
    return any(part in name.lower() for part in PICTURES) or (name in pair and pair <= {*among})


def _instructions(function: Any) -> Iterator[tuple[dis.Instruction, dis.Instruction | None, str]]:
    """Each instruction of a function or property and of the functions inside it, with the one before it and the name of
    the first argument."""
    code = getattr(inspect.unwrap(getattr(function, "fget", None) or function), "__code__", None)
    first, todo = code.co_varnames[0] if code is not None and code.co_argcount else "", [code]
    while todo:
        if (code := todo.pop()) is not None:
            before = None
            for instruction in dis.get_instructions(code):
                yield instruction, before, first
                before = instruction
            todo += [c for c in code.co_consts if isinstance(c, CodeType)]


@functools.cache
def used(cls: type) -> frozenset[str]:
    """The names of attributes that anything but the constructor reads, by name or as a text."""
    methods = [f for layer in cls.__mro__ for name, f in vars(layer).items() if name not in ("__init__", "__new__")]
    read = [i for f in methods if callable(f) or isinstance(f, property) for i, _, _ in _instructions(f)]
    return frozenset(i.argval for i in read if i.opname.startswith("LOAD_") and isinstance(i.argval, str))


@functools.cache
def assigned(cls: type) -> frozenset[str]:
    """The attributes that `reset` and `step` assign, themselves or through methods that they call."""
    seen, todo, found = set[str](), ["reset", "step"], set[str]()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for function in (vars(layer)[name] for layer in cls.__mro__ if name in vars(layer)):
            for i, before, itself in _instructions(function):
                if i.opname == "STORE_ATTR" and before is not None:
                    target = before.argval if isinstance(before.argval, tuple) else (before.argval,)
                    if itself in target or before.opname == "SWAP":  # self.x = …, self.x += …
                        found.add(i.argval)
                elif (
                    i.opname.startswith("LOAD_")
                    and isinstance(i.argval, str)
                    and callable(getattr(cls, i.argval, None))
                ):
                    todo.append(i.argval)
    return frozenset(found)
