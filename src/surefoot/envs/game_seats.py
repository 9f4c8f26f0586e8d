"""Seats at the game over parameters: the adversary's, against a frozen policy, and fixed schedules in its place.

Both are ordinary environments, so that an adversary is trained by any method (`surefoot.train("td3", env=…)`), and a
policy is evaluated under a schedule like anywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from surefoot.envs.parameter_game import ParameterGame
from surefoot.errors import UsageError
from surefoot.seeding import numpy_stream

Act = Callable[[dict[str, Any], bool], np.ndarray]
"""The frozen policy: its action for an observation of the game; the flag says that an episode begins."""
HORIZON = 1000  # steps of a ramp


class AdversarySeat(gymnasium.Wrapper):
    """The game as an adversary sees it: observation `[ψ, s, a]` with the frozen policy's next action a; its
    action is the move, its reward the policy's negated (the time-coupled worst case of arXiv:2406.08395)."""

    def __init__(self, game: ParameterGame, act: Act) -> None:
        super().__init__(game)
        k, self.act = len(game.box), act
        size = sum(game.observation_space[name].shape[0] for name in ("parameters", "state"))  # type: ignore[index]
        self.action_space = spaces.Box(-1.0, 1.0, (k,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (size + len(game.low),), np.float32)

    def _seen(self, observation: dict[str, Any], first: bool) -> np.ndarray:
        self.action = np.asarray(self.act(observation, first), np.float32)
        parts = (observation["parameters"], observation["state"], self.action)
        return np.concatenate(parts).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._seen(observation, True), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        joint = np.concatenate([self.action, np.asarray(action, np.float32)])
        observation, reward, terminated, truncated, info = self.env.step(joint)
        return self._seen(observation, False), -reward, terminated, truncated, info  # type: ignore[operator]


def agent_of(policy: Any, oracle: bool = False) -> Act:
    """The frozen policy of an agent with `predict`, with its memory; an oracle also sees the parameters."""
    state: Any = None

    def act(observation: dict[str, Any], first: bool) -> np.ndarray:
        nonlocal state
        seen = observation["state"]
        if oracle:
            seen = np.concatenate([seen, observation["parameters"]])
        action, state = policy.predict(
            np.asarray(seen, np.float32)[None], state=None if first else state, episode_start=np.array([first]),
            deterministic=True,
        )  # fmt: skip
        return action[0]

    return act


# --- schedules -------------------------------------------------------------------------------------------------------


def ramp(shape: str, steps: int = HORIZON) -> np.ndarray:
    """From 0 to 1 in `steps` places: linear x, exponential (10^x − 1)/9, logarithmic ln(1 + 9x)/ln 10."""
    x = np.linspace(0.0, 1.0, steps)
    shapes = {"linear": x, "exponential": np.expm1(x * math.log(10)) / 9, "logarithmic": np.log1p(9 * x) / math.log(10)}
    if shape not in shapes:
        raise UsageError(f"shape={shape!r} is not known; it must be one of {', '.join(shapes)}.")
    return shapes[shape]


class Scheduled(gymnasium.Wrapper):
    """A task whose parameters follow a fixed schedule instead of an adversary; observations and actions are the task's.

    `schedule="walk"`: U(−speed, speed) of the range is added at every step, clipped. `"cosine"`: (cos(π·speed·t + φ) +
    1)/2, φ uniform. `"linear"`, `"exponential"`, `"logarithmic"`: a ramp of 1000 steps from a uniform point to a corner
    of the box that is drawn. Source: arXiv:2406.08395, its fixed adversaries; there the speed of the walk is in raw
    units, and a decreasing ramp has its fast part at the other end.
    """

    SCHEDULES = ("walk", "cosine", "linear", "exponential", "logarithmic")

    def __init__(self, game: ParameterGame, schedule: str, speed: float = 0.1) -> None:
        super().__init__(game)
        if game.move != "jump" or schedule not in self.SCHEDULES or not 0 < speed <= 1:
            raise UsageError(
                f"schedule={schedule!r}, speed={speed}, move={game.move!r}: the schedule must be one of "
                f"{self.SCHEDULES}, the speed in (0, 1], and the game's move 'jump'."
            )
        self.game, self.schedule, self.speed = game, schedule, speed
        self.observation_space = game.observation_space["state"]  # type: ignore[index]
        self.action_space = spaces.Box(game.low.astype(np.float32), game.high.astype(np.float32))
        self._rng = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._rng = numpy_stream(seed, "schedule")
        k, rng = len(self.game.box), self._rng
        self.time, self.point = 0, rng.uniform(0.0, 1.0, k)
        self._start, self._end, self._phase = self.point, rng.integers(0, 2, k), rng.uniform(0.0, 2 * math.pi, k)
        self.game.set_unit(2.0 * self.point - 1.0)
        observation, info = self.env.reset(seed=seed, options=options)
        return observation["state"], info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self.schedule == "walk":
            self.point = np.clip(self.point + self._rng.uniform(-self.speed, self.speed, len(self.point)), 0.0, 1.0)
        elif self.schedule == "cosine":
            self.point = (np.cos(math.pi * self.speed * self.time + self._phase) + 1.0) / 2.0
        else:
            shape = ramp(self.schedule)
            share = np.where(
                self._end == 1, shape[min(self.time, HORIZON - 1)], 1 - shape[::-1][min(self.time, HORIZON - 1)]
            )
            self.point = self._start + share * (self._end - self._start)
        self.time += 1
        joint = np.concatenate([np.asarray(action, np.float32), 2.0 * self.point - 1.0])
        observation, *rest = self.env.step(joint.astype(np.float32))
        return observation["state"], *rest  # type: ignore[return-value]
