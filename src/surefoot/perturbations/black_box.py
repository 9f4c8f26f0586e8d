"""Attacks on observations that need no gradients of the policy: random changes, and a search among them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.perturbations.ascent import Moves, spread, steepest
from surefoot.perturbations.attacks import Attack, Target
from surefoot.perturbations.core import register


@register
@dataclasses.dataclass(frozen=True)
class RandomAttack(Attack):
    """A random change of the same size, whatever the policy: the control of the other attacks."""

    name = "obs-random"
    draws: str = hyperparameter(
        "sign", choices=("sign", "uniform"), help="points of the boundary (linf: ±strength), or of the whole ball"
    )

    def moves(self, target: Target, see: Any, drawn: Moves, radius: Tensor, state: Any, starts: Any) -> Moves:
        points = drawn if self.draws == "uniform" else {key: steepest(x, self.law) for key, x in drawn.items()}
        return {key: spread(radius, x) * x for key, x in points.items()}


@register
@dataclasses.dataclass(frozen=True)
class SearchAttack(RandomAttack):
    """The one of several random changes that moves the policy's action most: it asks the policy for actions only, so it
    needs no gradients. Discrete actions move or they do not."""

    name = "obs-search"
    tries: int = hyperparameter(10, low=1, high=10_000, help="random changes that are tried in every step")

    def aimed(self, target: Target) -> Attack:
        if not callable(target.policy) and not callable(getattr(target.policy, "predict", None)):
            raise UsageError(f"{self} asks the policy for actions, and {target.name} has no predict; use obs-random.")
        return super().aimed(target)

    def strike(
        self,
        target: Target,
        observation: Any,
        state: Any,
        starts: np.ndarray,
        radius: Any,
        rngs: Any,
        last: dict[str, np.ndarray] | None = None,
        **more: Any,
    ) -> Any:
        discrete, before = not isinstance(target.action_space, spaces.Box), target.act(observation, state, starts)
        best, most, kept = observation, np.full(len(before), -1.0), {**(last or {})}
        for _ in range(self.tries):
            changes = None if last is None else {key: x.copy() for key, x in last.items()}
            seen = super().strike(target, observation, state, starts, radius, rngs, changes, **more)
            after = target.act(seen, state, starts)
            moved = (after != before) if discrete else (after.astype(np.float64) - before) ** 2
            far = (total := moved.reshape(len(before), -1).sum(1)) > most
            most = np.where(far, total, most)
            entries = best if isinstance(best, dict) else {"": best}
            chosen = {k: _rows(far, seen[k] if isinstance(best, dict) else seen, x) for k, x in entries.items()}
            best = chosen if isinstance(best, dict) else chosen[""]
            kept = {key: _rows(far, x, kept[key]) for key, x in (changes or {}).items()}
        if last is not None:
            last.update(kept)
        return best


def _rows(choice: np.ndarray, some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The rows of `some` where chosen, and of `others` elsewhere."""
    return np.where(choice.reshape(-1, *[1] * (some.ndim - 1)), some, others)
