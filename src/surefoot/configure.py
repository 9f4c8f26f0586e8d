"""A method from its name and its hyperparameters, as Python, the command line and a run's configuration give them."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

from surefoot import catalogue
from surefoot.errors import UsageError
from surefoot.hyperparameters import build, declared
from surefoot.loops.common.kinds import Method


def make_method(method: str | Method, **hyperparameters: Any) -> tuple[Method, str]:
    """The method with these hyperparameters, and its slug. A method given as an instance is taken as it is."""
    if isinstance(method, str):
        found = catalogue.method_class(method)
        return build(found, revived(found, _with_parts(found, hyperparameters))), method
    if isinstance(method, type) or not hasattr(method, "loop"):
        wanted = f"{method.__name__}()" if isinstance(method, type) else "a method such as PPO()"
        raise UsageError(f"method={method!r} is not allowed; give the name of a method, such as 'ppo', or {wanted}.")
    if hyperparameters:
        raise UsageError(f"{sorted(hyperparameters)} come beside a ready {type(method).__name__}; put them into it.")
    here = [entry.slug for entry in catalogue.methods() if entry.module == type(method).__module__]
    known = [slug for slug in here if catalogue.method_class(slug) is type(method)]
    return method, known[0] if known else type(method).__name__.lower()


def _with_parts(method: type, values: dict[str, Any]) -> dict[str, Any]:
    """`objective=…` as the field that holds it, `parts`: `objective()` is what a method defines."""
    if "objective" not in values:
        return values
    if "parts" not in {field.name for field in dataclasses.fields(method)}:
        raise UsageError(f"objective=… is not allowed: {method.__name__} is defined by an objective of its own.")
    return {name if name != "objective" else "parts": value for name, value in values.items()}


def revived(method: type, values: dict[str, Any]) -> dict[str, Any]:
    """Hyperparameters from JSON: its lists are tuples, its objects what the annotation of their field says."""
    kinds = {field.name: get_args(kind) or (kind,) for field, kind in declared(method)}

    def one(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            for kind in kinds.get(name, ()):
                if hasattr(kind, "from_dict"):
                    return kind.from_dict(value)
        return tuple(value) if isinstance(value, list) else value

    return {name: one(name, value) for name, value in values.items()}
