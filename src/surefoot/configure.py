"""Make a method from its name and hyperparameters, given in Python, on the command line or by a run's configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from surefoot import catalogue
from surefoot.envs.names import check_named, name_of, remembered
from surefoot.errors import UsageError, nearest
from surefoot.hyperparameters import build, declared, presets
from surefoot.loops.common import run as runs
from surefoot.loops.common.folder import short_name
from surefoot.loops.common.kinds import Loop, Method, loop
from surefoot.loops.common.train import Callback


def method_class(name: str) -> type:
    """The class of a method, by its slug or as `module:Class`; one that this process was given, if it has that name."""
    known = remembered(name) if ":" in name else None  # a class of a script or notebook cannot be imported
    return known if isinstance(known, type) else catalogue.method_class(name)


def make_method(method: str | Method, **hyperparameters: Any) -> tuple[Method, str]:
    """The method with these hyperparameters, and its slug, or `module:Class` for one outside the catalogue. A method
    instance is returned unchanged.

    `preset` names settings of another source, such as a paper's own; hyperparameters given beside it take precedence.
    """
    if isinstance(method, str):
        found = method_class(method)
        values = preset(found, hyperparameters.pop("preset", None)) | _with_parts(found, hyperparameters)
        return build(found, revived(found, values)), method
    if isinstance(method, type) or not hasattr(method, "loop"):
        wanted = f"{method.__name__}()" if isinstance(method, type) else "a method such as PPO()"
        raise UsageError(f"method={method!r} is not allowed; give the name of a method, such as 'ppo', or {wanted}.")
    if hyperparameters:
        raise UsageError(f"{sorted(hyperparameters)} must be set in the {type(method).__name__} instance itself.")
    here = [entry.slug for entry in catalogue.methods() if entry.module == type(method).__module__]
    known = [slug for slug in here if catalogue.method_class(slug) is type(method)]
    return method, known[0] if known else name_of(type(method))


def preset(method: type, name: str | None) -> dict[str, Any]:
    """The hyperparameters of a method's named preset; none without a name."""
    known = presets(method)
    if name is None:
        return {}
    if name not in known:
        there = nearest(name, known) if known else f"{method.__name__} has none."
        raise UsageError(f"preset={name!r} is unknown. {there}")
    return dict(known[name])


def _with_parts(method: type, values: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters with `objective=…` stored in the field `parts`; a method itself defines `objective()`."""
    if "objective" not in values:
        return values
    if "parts" not in {field.name for field in dataclasses.fields(method)}:
        raise UsageError(f"objective=… is not allowed: {method.__name__} is defined by its own objective.")
    return {name if name != "objective" else "parts": value for name, value in values.items()}


def revived(method: type, values: dict[str, Any]) -> dict[str, Any]:
    """Hyperparameters read from JSON: lists become tuples, and objects the type that their field is annotated with."""
    kinds = {field.name: get_args(kind) or (kind,) for field, kind in declared(method)}

    def one(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            for kind in kinds.get(name, ()):
                if hasattr(kind, "from_dict"):
                    return kind.from_dict(value)
        return tuple(value) if isinstance(value, list) else value

    return {name: one(name, value) for name, value in values.items()}


def recorded_method(run: runs.Run, config: Mapping[str, Any], given: str | Method | None, trust: bool) -> Method:
    """The method of a run that is to be resumed: the recorded one, or the `given` one, which must be the same.

    Raises:
        UsageError: they differ, or only the run's folder names a method outside the catalogue and is not trusted.
    """
    name = config["method"]
    if given is not None and not isinstance(given, str):
        runs.check_same_method(run, *make_method(given))
        return given
    if given is None and name not in {entry.slug for entry in catalogue.methods()}:
        if ":" not in name:
            raise UsageError(
                f"{run.path} was trained with {name!r}, which is not in the catalogue; give the same method again: "
                "surefoot.resume(run, method=…)."
            )
        if not trust:
            check_named(name, "method")
    if given is not None and name not in (given, short_name(given)):
        raise UsageError(f"{run.path} was started with {name!r}, not with {given!r}; leave method out.")
    return make_method(given or name, **config["hyperparameters"])[0]


# --- the other arguments of a run ------------------------------------------------------------------------------------


def kind_of(method: str | Method) -> Loop:
    """The kind of loop of a method."""
    return loop(getattr(method_class(method) if isinstance(method, str) else make_method(method)[0], "loop"))  # noqa: B009


def option_names(method: str | Method) -> list[str]:
    """The names of the options of the method's kind of loop."""
    return [field.name for field in dataclasses.fields(kind_of(method).options)]


def options_of(method: str | Method, given: dict[str, Any]) -> dict[str, Any]:
    """The options of the method's kind of loop, removed from `given`."""
    names = option_names(method)
    made = build(kind_of(method).options, {name: given.pop(name) for name in names if name in given})
    return {name: getattr(made, name) for name in names}


def place_of(method: Method, **given: Any) -> Any:
    """The environment, under whichever of its argument names it was given."""
    found = {name: x for name, x in given.items() if x is not None}
    if not found and (default := getattr(method, "default_env", None)) is not None:
        return default
    if len(found) != 1:
        wanted = loop(method.loop).env_argument
        raise UsageError(
            f"give {wanted}=…, and only that, for {type(method).__name__} to train in, not {sorted(found)}."
        )
    return next(iter(found.values()))


def given_table(method: Method, options: dict[str, Any]) -> dict[str, Any]:
    """`data`, taken out of the options where it is what the method learns from in place of an environment."""
    return {"data": options.pop("data")} if "data" in options and "data" not in option_names(method) else {}


def callback_list(callbacks: Callback | Sequence[Callback]) -> Sequence[Callback]:
    """The callbacks as a sequence; a single one may be given without a list."""
    given = [callbacks] if callable(callbacks) else callbacks
    if wrong := [one for one in given if not callable(one)]:
        raise UsageError(f"callbacks has {wrong[0]!r}, which is not callable; give functions of (learner, rows).")
    return given


def whole_steps(number: Any) -> Any:
    """The number of steps as an int where it is a whole float such as 1e6; anything else unchanged."""
    return int(number) if isinstance(number, float) and number.is_integer() else number
