"""Refusing hyperparameters that have no effect on a method's objective."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from surefoot.errors import UsageError
from surefoot.hyperparameters import check_effects
from surefoot.objectives.part import Part


def check_objective(method: Any) -> None:
    """Raise `UsageError` if a hyperparameter given with an on-policy method's objective would have no effect.

    A given objective (`parts`) must be the one that the method optimises, hyperparameters that only the method's own
    objective reads cannot be given with it, and every discount factor in the objective must be that of the run.
    """
    name, objective = type(method).__name__, method.objective()
    check_effects(method)
    if method.parts is not None:
        if objective is not method.parts:
            raise UsageError(
                f"{name}: objective={str(method.parts)!r} is not allowed; {name} is defined by its own "
                "objective. Use a method that accepts any objective, such as ppo."
            )
        for field, value in _without_effect(method):
            raise UsageError(
                f"{name}: {field}={value!r} has no effect when an objective is given; leave it out, and set it in "
                "the objective."
            )
    for part in _within(objective.advantage):
        gamma = getattr(part, "gamma", method.gamma)
        if gamma != method.gamma:
            raise UsageError(
                f"{name}: gamma={method.gamma:g} is not the discount factor of the objective's advantage {part}; use "
                f"the same, such as {type(part).__name__}(gamma={method.gamma:g}) in the objective."
            )


def _without_effect(method: Any) -> Iterator[tuple[str, Any]]:
    """The hyperparameters, not at their defaults, that change the method's own objective and nothing else."""
    own = dataclasses.replace(method, parts=None)
    for field in dataclasses.fields(method):
        value, shared = getattr(method, field.name), field.name in ("gamma", "lam")  # the critic's target uses them too
        if field.name == "parts" or shared or value == field.default:
            continue
        try:
            other = dataclasses.replace(own, **{field.name: field.default}).objective()
        except UsageError:  # its default is not valid with the other values
            continue
        if other != own.objective():
            yield field.name, value


def _within(part: Part) -> Iterator[Part]:
    """The part, and all parts that it contains."""
    yield part
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, Part):
                yield from _within(inner)
