"""Make a method from its name and hyperparameters, given in Python, on the command line or by a run's configuration."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

from surefoot import catalogue
from surefoot.errors import UsageError, nearest
from surefoot.hyperparameters import build, declared, presets
from surefoot.loops.common.kinds import Method


def make_method(method: str | Method, **hyperparameters: Any) -> tuple[Method, str]:
    """The method with these hyperparameters, and its slug. A method instance is returned unchanged.

    `preset` names settings of another source, such as a paper's own; hyperparameters given beside it take precedence.
    """
    if isinstance(method, str):
        found = catalogue.method_class(method)
        values = preset(found, hyperparameters.pop("preset", None)) | _with_parts(found, hyperparameters)
        return build(found, revived(found, values)), method
    if isinstance(method, type) or not hasattr(method, "loop"):
        wanted = f"{method.__name__}()" if isinstance(method, type) else "a method such as PPO()"
        raise UsageError(f"method={method!r} is not allowed; give the name of a method, such as 'ppo', or {wanted}.")
    if hyperparameters:
        raise UsageError(f"{sorted(hyperparameters)} must be set in the {type(method).__name__} instance itself.")
    here = [entry.slug for entry in catalogue.methods() if entry.module == type(method).__module__]
    known = [slug for slug in here if catalogue.method_class(slug) is type(method)]
    return method, known[0] if known else type(method).__name__.lower()


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
