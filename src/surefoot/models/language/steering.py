"""Directions of preference among several attributes: how a prompt asks for one, its neighbours, and the best answer.

A direction is a vector of weights of unit length, one per attribute; of two attributes it is an angle θ in degrees too,
(cos θ, sin θ). The score of an answer is its vector of rewards projected on the direction that was asked for, whatever
direction it was generated from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from surefoot.envs.language.task import messages
from surefoot.errors import UsageError
from surefoot.hyperparameters import check, hyperparameter

GRIDS = ("absolute", "relative", "cap")
STEPS = np.arange(-40, 41, 5.0)  # degrees of the grids of the paper's code
TEMPLATE = "maximize weighted rating = {weights}: {prompt}"
ROUNDING = 1e-6  # degrees

Direction = Float[np.ndarray, " attributes"]


@dataclass(frozen=True)
class Steering:
    """How the answer for a direction is chosen: `candidates` answers, each generated from a neighbouring direction."""

    candidates: int = hyperparameter(5, low=1, help="Answers to choose from, one per neighbouring direction.")
    max_angle: float = hyperparameter(30.0, low=0, high=180, help="Largest angle to a neighbour, in degrees.")
    grid: str = hyperparameter(
        "absolute",
        choices=GRIDS,
        help="Neighbours: of the angles −40° to 40°, of these steps around the target, or uniform in the cap.",
    )
    include_target: bool = hyperparameter(False, help="Whether the direction itself is always among the candidates.")
    template: str = hyperparameter(TEMPLATE, help="How a prompt asks for a direction, with {weights} and {prompt}.")

    def __post_init__(self) -> None:
        check(self)
        check_template(self.template)

    def neighbours(self, target: Direction, stream: np.random.Generator) -> Float[np.ndarray, "candidates attributes"]:
        """The directions to generate from, nearest first; fewer on a grid that has fewer within `max_angle`, which are
        then used again in their order."""
        target = unit(target)
        if self.grid == "cap":
            found = cap(target, self.max_angle, self.candidates, stream)
            found = found[np.argsort(-found @ target, kind="stable")]
        else:
            found = self._of_grid(target)
        if self.include_target:
            away = angle(found, target) > ROUNDING
            found = np.concatenate([target[None], found[away]])
        if not len(found):
            raise UsageError(
                f"max_angle={self.max_angle:g}: no direction of the {self.grid} grid is as near as that to "
                f"{describe(target)}; use a larger one, or include_target=True."
            )
        return found[np.arange(self.candidates) % min(self.candidates, len(found))]

    def _of_grid(self, target: Direction) -> Float[np.ndarray, "directions 2"]:
        if len(target) != 2:
            raise UsageError(
                f"grid={self.grid!r} is of angles between two attributes, but there are {len(target)}; use grid='cap'."
            )
        asked = float(np.degrees(np.arctan2(target[1], target[0])))
        degrees = STEPS + (asked if self.grid == "relative" else 0.0)
        grid = np.stack([of_angle(x) for x in degrees])
        away = angle(grid, target)
        near = np.argsort(np.round(away, 6), kind="stable")
        return grid[near[away[near] <= self.max_angle + ROUNDING]]

    def ask(self, prompt: Any, direction: Direction, names: Sequence[str]) -> Any:
        """The prompt that asks for a direction; of a conversation its last message."""
        said = " + ".join(f"{name}*{round(100 * x)}" for name, x in zip(names, direction, strict=True))
        if not messages(prompt):
            return self.template.format(weights=said, prompt=prompt)
        *before, last = prompt
        return [*before, {**last, "content": self.template.format(weights=said, prompt=last["content"])}]


def check_template(template: str) -> None:
    """Raise `UsageError` for a template that cannot be filled in."""
    try:
        filled = template.format(weights="1", prompt="2")
    except (KeyError, IndexError, ValueError):
        filled = ""
    if "1" not in filled or "2" not in filled or template.count("{weights}") * template.count("{prompt}") == 0:
        raise UsageError(
            f"template={template!r} is not allowed; it must have {{weights}} and {{prompt}}, and no other braces."
        )


def unit(direction: Any, attributes: int | None = None) -> Direction:
    """A direction of unit length, from weights, or from an angle in degrees between two attributes.

    Raises:
        UsageError: it is 0 or not finite, or has another number of attributes.
    """
    given = np.asarray(direction, float)
    found = of_angle(float(given)) if given.ndim == 0 else given
    length = float(np.linalg.norm(found))
    if found.ndim != 1 or not np.isfinite(length) or length == 0:
        raise UsageError(
            f"direction={direction!r} is not allowed; give an angle in degrees between two attributes, or weights that "
            "are not all 0, one per attribute."
        )
    if attributes is not None and len(found) != attributes:
        raise UsageError(
            f"direction={direction!r} is for {len(found)} attributes, but there are {attributes}; give one weight each."
        )
    return found / length


def of_angle(degrees: float) -> Direction:
    """(cos θ, sin θ)."""
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])


def angle(directions: Float[np.ndarray, "... attributes"], target: Direction) -> Float[np.ndarray, "..."]:
    """The angle of each of some unit vectors to another one, in degrees."""
    return np.degrees(np.arccos(np.clip(directions @ target, -1, 1)))


def cap(
    centre: Direction, half_angle: float, count: int, stream: np.random.Generator
) -> Float[np.ndarray, "count attributes"]:
    """Directions drawn uniformly from the cap of the sphere within an angle (degrees) of a centre."""
    size, limit = len(centre), np.radians(half_angle)
    if size == 1:
        return np.repeat(centre[None], count, 0)
    heights = np.linspace(0, limit, 4097)
    mass = np.concatenate([[0.0], np.cumsum(np.sin((heights[1:] + heights[:-1]) / 2) ** (size - 2))])
    away = np.interp(stream.random(count) * mass[-1], mass, heights) if limit else np.zeros(count)
    tangent = stream.normal(size=(count, size))
    tangent -= (tangent @ centre)[:, None] * centre
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    return np.cos(away)[:, None] * centre + np.sin(away)[:, None] * tangent


def best(
    rewards: Float[np.ndarray, "... candidates attributes"], target: Direction
) -> tuple[np.ndarray, Float[np.ndarray, "..."]]:
    """Which candidate has the highest score along the direction that was asked for, and that score."""
    scores = rewards @ unit(target, rewards.shape[-1])
    return scores.argmax(-1), scores.max(-1)


def describe(direction: Direction) -> str:
    """A direction in words: an angle, or weights."""
    if len(direction) == 2:
        return f"{np.degrees(np.arctan2(direction[1], direction[0])):.4g}°"
    return "(" + ", ".join(f"{x:.3g}" for x in direction) + ")"
