"""Perturbations in the hands of a learned adversary: `force:3,adversary=RUN/adversary`.

The adversary is the folder of an agent that sees what the environment returns and moves in [−1, 1]^k. It is trained
like any agent: in the environment that `surefoot.evaluate.adversary` makes of a frozen policy, or together with the
policy (`surefoot train rarl`). A sweep of strengths keeps the adversary and changes the strength.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import gymnasium
import numpy as np

from surefoot.errors import UsageError
from surefoot.perturbations.core import Cell, Control, Perturbation, PerturbedEnv
from surefoot.perturbations.learned import loaded


@dataclasses.dataclass(frozen=True)
class Driven(Perturbation):
    """A perturbation whose random choices are an adversary's: its most likely move at every observation."""

    inner: Perturbation
    adversary: str
    channel: ClassVar[str] = "driven"

    @property
    def name(self) -> str:  # type: ignore[override]
        """That of the perturbation."""
        return self.inner.name

    @property
    def channels(self) -> frozenset[str]:
        return self.inner.channels

    @property
    def identity(self) -> bool:
        return self.inner.identity

    def __str__(self) -> str:
        return f"{self.inner},adversary={self.adversary}"

    def draw(self, rng: np.random.Generator) -> Perturbation:
        return dataclasses.replace(self, inner=self.inner if undrawn(self.inner) else self.inner.draw(rng))

    def grid(self, points: int = 10, grid: str = "closed") -> list[Cell]:
        """That of the strengths; of a box of parameters, in all of which the adversary moves, the one cell."""
        if undrawn(self.inner):
            return [Cell(self, (("adversary", 1.0),))]
        return [
            Cell(dataclasses.replace(self, inner=c.perturbation), c.coordinates) for c in self.inner.grid(points, grid)
        ]

    def fitted(self, env: gymnasium.Env) -> Perturbation:
        return dataclasses.replace(self, inner=self.inner.fitted(env))

    def wrap(self, env: gymnasium.Env, seed: int = 0) -> gymnasium.Env:
        return DrivenEnv(env, self, seed)

    def control(self, env: gymnasium.Env) -> Control:
        return self.inner.control(env)

    def check_env(self, env: gymnasium.Env) -> None:
        """Raise `UsageError` unless the adversary fits this environment and its control."""
        size, agent = self.control(env).size, loaded(self.adversary)
        theirs = (agent.observation_space.shape, agent.action_space.shape)
        ours = (env.observation_space.shape, (size,))
        if theirs != ours or getattr(agent.module, "core_state", 0):
            raise UsageError(
                f"{self}: the adversary sees observations of shape {theirs[0]} and moves in {theirs[1]} dimensions; "
                "here "
                f"they are {ours[0]} and {ours[1]} (and it must have no memory). It was trained in another "
                "environment or "
                "for another perturbation."
            )


def undrawn(perturbation: Perturbation) -> bool:
    """Whether a perturbation has no strength, so that all of its ranges are the adversary's."""
    return not hasattr(perturbation, "strength")


class DrivenEnv(PerturbedEnv):
    """An environment in which an adversary moves before every step."""

    current: Driven
    perturbation: Driven  # type: ignore[assignment]
    _control = Control(0, lambda action, move, rng: action)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._observation, info = super().reset(seed=seed, options=options)
        self._control = self.current.inner.control(self.env)
        return self._observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if not self.current.identity:
            move, _ = loaded(self.current.adversary).predict(np.asarray(self._observation)[None], deterministic=True)
            action = self._control.act(action, move[0], self._rng)
        found = super().step(action)
        self._observation = found[0]
        return found

    def restore(self) -> None:
        self._control.undo()
        self._control = DrivenEnv._control
        super().restore()
