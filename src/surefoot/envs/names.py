"""The meaning of an environment's name, now and when a run was made, and the names that a folder may use.

A name is an id in Gymnasium's registry, an EnvPool id, or `"module:name"`, which imports the module. The content of a
run's folder is untrusted data: it may name what is already registered here, and what the user has named in this
process, but nothing that would have to be imported.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any

import gymnasium

from surefoot.envs.backends import PoolEnv
from surefoot.envs.registered import make_registered
from surefoot.errors import UsageError, nearest

FOREIGN_MAKERS = {"GymV21Environment-v0", "GymV26Environment-v0"}  # ids that import what their arguments name
_GIVEN: dict[str, Any] = {}  # objects that the user has given in this process, by recorded name


def name_of(env: Any) -> str:
    """The name under which an environment or a function is recorded: its id, or `"module:name"`.

    The name of an object that cannot be found by name (a lambda, a local function, an instance) contains `<`.
    """
    if isinstance(env, str):
        return env
    if not hasattr(env, "__qualname__") or inspect.ismethod(env):
        return f"{type(env).__module__}:<instance of {type(env).__qualname__}>"
    return f"{env.__module__}:{env.__qualname__}"


def remember(*things: Any) -> None:
    """Register objects that the user has given (also those in lists), so that their `module:name` in a folder means
    these objects."""
    for thing in things:
        if isinstance(thing, (list, tuple)):
            remember(*thing)
        elif isinstance(thing, str) and "," in thing:
            remember(thing.split(","))
        elif ":" in (name := name_of(thing)) and "<" not in name:
            _GIVEN[name] = thing


def remembered(name: str) -> Any:
    """The object that the user has given under this name in this process; None if there is none."""
    return _GIVEN.get(name)


def imported(name: str, argument: str) -> Any:
    """The object that `"module:name"` names.

    Raises:
        UsageError: there is no such module, or no such name in it.
    """
    module, _, qualified = name.partition(":")
    try:
        return functools.reduce(getattr, qualified.split("."), importlib.import_module(module))
    except Exception as error:  # a module may raise anything when it is imported
        known = f"{type(error).__name__}: {error}"
        raise UsageError(f"{argument}={name!r} cannot be imported ({known}). {_again(name, argument)}") from error


def _again(name: str, argument: str) -> str:
    where = (
        "It was defined in a script or session, which cannot be imported elsewhere: move it into a module, or give"
        if name.startswith("__main__:")
        else "Give"
    )
    return f"{where} the object itself: {argument}=…."


def _nameless(name: str, argument: str) -> UsageError:
    return UsageError(
        f"{argument}={name!r} was recorded from something that cannot be imported by name (a lambda, a local function "
        f"or a ready environment); give that same factory again ({argument}=…), or move it to the top of a module."
    )


def check_named(name: Any, argument: str = "env") -> None:
    """Raise `UsageError` if a folder names something that would have to be imported.

    Names that Gymnasium's registry or EnvPool has at this moment, or that the user has given in this process, are
    allowed.
    """
    if not isinstance(name, str):
        raise UsageError(f"{argument}={name!r} in the files of the run is not a name; give {argument}=… again.")
    if name in _GIVEN or (argument == "env" and registered(name)):
        return
    if "<" in name:
        raise _nameless(name, argument)
    if name in FOREIGN_MAKERS or ":" in name:
        script = name.startswith("__main__:")
        again = f"{argument}=…" if script else f"{argument}={name!r} or --{argument} {name}"
        raise UsageError(
            f"{argument}={name!r} is named by the files of the run and would have to be imported and called. Code that "
            f"only a folder names is not run: give it again by {again}, or pass trust=True (--trust), which keeps its "
            f"recorded arguments, if you trust the folder.{' ' + _again(name, argument) if script else ''}"
        )
    raise _unknown(name, argument)


def registered(name: str) -> bool:
    """Whether Gymnasium or EnvPool has an environment of this name now, without importing anything."""
    return name not in FOREIGN_MAKERS and (_identity(name) in gymnasium.registry or name in pool_ids())


def same_name(env: Any, recorded: Any) -> bool:
    """Whether a given environment has the recorded name; `package:Id` equals `Id`, with a package to import."""
    name = name_of(env)
    if not isinstance(recorded, str) or (":" in name and ":" in recorded):
        return name == recorded
    return name.rpartition(":")[2] == recorded.rpartition(":")[2]


def _identity(name: str) -> str:
    """The registered id that a name means: `package:Id` needs no import if the package is already imported."""
    package, _, identity = name.rpartition(":")
    spec = gymnasium.registry.get(identity)
    return identity if package and spec is not None and _module(spec) == package.partition(".")[0] else name


def creator(env: str) -> Callable[..., gymnasium.Env]:
    """The function or class that makes the environment of this name."""
    if env in _GIVEN and callable(_GIVEN[env]):
        return _GIVEN[env]
    identity = _identity(env)
    if ":" in identity:
        if "<" in identity:
            raise _nameless(env, "env")
        module, _, identity = identity.rpartition(":")
        try:
            importlib.import_module(module)
        except Exception as error:
            raise UsageError(f"env={env!r}: the module {module!r} cannot be imported: {error!r}") from error
        if identity not in gymnasium.registry:
            return imported(env, "env")
    if identity not in gymnasium.registry:
        if identity in pool_ids():
            return functools.partial(PoolEnv, identity)
        raise _unknown(env)
    spec = copy.copy(gymnasium.spec(identity))
    spec.order_enforce = False
    return functools.partial(make_registered, spec)


def _unknown(name: str, argument: str = "env") -> UsageError:
    return UsageError(
        f"{argument}={name!r} is not a known id. {nearest(name, {*gymnasium.registry, *pool_ids()})} If a module "
        f"of yours or of a package registers or defines it, name that module: {argument}='my_env:{name}' "
        f"(--{argument} my_env:{name})."
    )


@functools.cache
def pool_ids() -> frozenset[str]:
    """The ids that EnvPool has; none where it is not installed, as on platforms without its wheels."""
    try:
        import envpool
    except ModuleNotFoundError:
        return frozenset()

    return frozenset(envpool.list_all_envs())


def same_in_pool(env_id: str) -> bool:
    """Whether EnvPool's environment of this name is the same as Gymnasium's own, or the only one of this name."""
    spec = gymnasium.registry.get(env_id)
    return spec is None or str(spec.entry_point).startswith("gymnasium.envs.")


# --- the meaning of a name when a run was made ---


def origin_of(env: Any, backend: str) -> dict[str, Any]:
    """The top-level package of the environment, and its version if it has one; empty for the backend's own, Gymnasium's
    and Surefoot's environments, whose versions every run records anyway."""
    package = "envpool" if backend == "envpool" else _package(env)
    own = package in ("gymnasium", "surefoot", None) or backend == "envpool"
    return {} if own else {"package": package, "version": _version(package)}


def _package(env: Any) -> str | None:
    if not isinstance(env, str):
        module = getattr(env, "__module__", None) or type(env).__module__
        return str(module).partition(".")[0]
    spec = gymnasium.registry.get(_identity(env).rpartition(":")[2])
    if spec is not None:
        return _module(spec)
    return env.partition(":")[0].partition(".")[0] if ":" in env else "envpool" if env in pool_ids() else None


def _module(spec: Any) -> str:
    """The package of a registered environment."""
    entry = spec.entry_point
    return (
        (entry if isinstance(entry, str) else str(getattr(entry, "__module__", ""))).partition(":")[0].partition(".")[0]
    )


def _version(package: str | None) -> str | None:
    if package is None:
        return None
    for name in (package, *packages_distributions().get(package, ())):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def check_recorded(env: Any, *, backend: str = "auto", origin: Any = None, **_: Any) -> None:
    """Raise `UsageError` if the environment that a folder describes must not be made from its name: it would have to be
    imported, or the name belongs to another package here. `env` is None if the user has given the environment.

    Without a recorded origin, it was the backend's own, Gymnasium's or Surefoot's, or the run is of an older version;
    an environment that only EnvPool has is then refused if another backend stepped it."""
    if env is None:
        return
    check_named(env)
    if origin is None and backend in ("gymnasium", "process") and _package(env) == "envpool":
        origin = {"package": None}
    if origin is None and backend == "envpool" and not same_in_pool(env):
        origin = {"package": "envpool"}
    check_origin(env, origin)


def import_origin(env: Any = None, *, origin: Any = None, **_: Any) -> None:
    """Import the package that a trusted folder records as its environment's origin, if the name is not registered
    yet."""
    if (
        isinstance(origin, Mapping)
        and isinstance(env, str)
        and ":" not in env
        and _package(env) != origin.get("package")
    ):
        with suppress(ImportError, ValueError, AttributeError):  # making the environment reports what is missing
            importlib.import_module(str(origin.get("package")))


def check_origin(env: Any, recorded: Any) -> None:
    """Raise `UsageError` if a recorded name means another package's environment here; warn if only the version differs.
    Either backend may step an EnvPool environment that is the same as Gymnasium's."""
    if not isinstance(recorded, Mapping) or not isinstance(env, str) or env in _GIVEN:
        return
    then, now = recorded.get("package"), _package(env)
    if (":" in env and not registered(env)) or (then == "envpool" and now == "gymnasium"):
        return
    if then != now:
        has = "that name is not registered" if now is None else f"that name belongs to {now}"
        whose = "a package that was not recorded" if then is None else f"the package {then!r}"
        cure = (
            "Register it again first, or give its class: env=…."
            if then in (None, "__main__")
            else f"Import that package first, or name it: env='{then}:{env}' (--env {then}:{env})."
        )
        raise UsageError(
            f"env={env!r} came from {whose} when the run was made; here {has}, and another environment is not used "
            f"instead. {cure}"
        )
    if recorded.get("version") != (version_now := _version(now)):
        warnings.warn(
            f"env={env!r} comes from {now} {version_now} here; the run was made with {recorded.get('version')}. "
            "Another version may behave differently.",
            stacklevel=3,
        )
