"""A game over perturbations as each side knows it: a vector environment in which the other side plays by itself.

    p_t = clip(p_{t−1} + rate·ε·u_t, ±ε),  u_t ∈ [−1, 1]^n is the adversary's action,  p = 0 before an episode
    observation: the agent sees s_t + p_t in units of its normaliser      action: a_t + p_t is executed, in half-ranges

The adversary sees `[s_t, p_{t−1}]`, the state as the agent normalises it; in a game over actions also a_t. Who plays
the other side is drawn at the start of every episode and stays. Opponents take their most likely actions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from surefoot.errors import UsageError
from surefoot.models.normalizers import CLIP
from surefoot.perturbations.drift import drifted
from surefoot.seeding import numpy_stream

Opponents = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""The other side: from what it sees in every row, and which of its members plays there, their actions."""


class Threat(NamedTuple):
    """What an adversary may do."""

    channel: str  # "observation" or "action"
    budget: float
    rate: float
    labelled: bool = False  # whether its observations end with the place of the agent that it plays

    def check(self, envs: VectorEnv) -> None:
        """Raise `UsageError` for an environment that it cannot act on."""
        seen, action = envs.single_observation_space, envs.single_action_space
        if not isinstance(seen, gym.spaces.Box) or len(seen.shape) != 1:
            raise UsageError(f"An adversary needs observations that are one vector; this environment has {seen}.")
        if self.channel == "action" and not (isinstance(action, gym.spaces.Box) and action.is_bounded()):
            raise UsageError(
                f"channel='action' perturbs actions in a bounded Box; this environment has {action}. Use "
                "channel='observation'."
            )

    def size(self, envs: VectorEnv) -> int:
        """The number of components that are perturbed."""
        space = envs.single_observation_space if self.channel == "observation" else envs.single_action_space
        return int(np.prod(space.shape))  # type: ignore[arg-type]


class Seat(VectorEnv):
    """What both sides share: the environments, the perturbation in force, and who plays the other side in every row."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, envs: VectorEnv, threat: Threat, seen: gym.Space, action: gym.Space) -> None:
        self.envs, self.threat, self.num_envs = envs, threat, envs.num_envs
        self.single_observation_space, self.single_action_space = seen, action
        self.observation_space, self.action_space = batch_space(seen, self.num_envs), batch_space(action, self.num_envs)
        states = envs.single_observation_space.shape or ()
        self.mean, self.deviation = np.zeros((self.num_envs, *states)), np.ones((self.num_envs, *states))
        self.seeds: list[int] = [0] * self.num_envs  # of the next rollout's environments
        self.opponents: Opponents | None = None
        self.chances = np.ones((self.num_envs, 1))  # [rows, members] of the other side

    def face(self, opponents: Opponents | None, chances: np.ndarray) -> None:
        """Who plays the other side from the next rollout on; with nobody, nothing is perturbed."""
        self.opponents, self.chances = opponents, chances

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin fresh episodes, by the `seeds`."""
        self._draws = [numpy_stream(one, "opponent") for one in self.seeds]
        self.shift = np.zeros((self.num_envs, self.threat.size(self.envs)))
        self.member, self._ended = np.zeros(self.num_envs, int), np.zeros(self.num_envs, bool)
        state, info = self.envs.reset(seed=self.seeds, options=options)
        self._begin(np.arange(self.num_envs))
        return self._present(state), info

    def _begin(self, rows: np.ndarray) -> None:
        self.shift[rows] = 0.0
        for row in rows:
            self.member[row] = self._draws[row].choice(self.chances.shape[1], p=self.chances[row])

    def advance(self, action: np.ndarray) -> tuple[np.ndarray, Any, Any, Any, dict[str, Any]]:
        """One step of the environments with the agent's actions, which an adversary of actions perturbs."""
        if self.threat.channel == "action":
            space: Any = self.envs.single_action_space
            half = (space.high.astype(np.float64) - space.low) / 2
            shift = half * self.shift.reshape(action.shape)
            action = (np.clip(action, space.low, space.high) + shift).clip(space.low, space.high).astype(space.dtype)
        state, reward, terminated, truncated, info = self.envs.step(action)
        fresh = np.flatnonzero(self._ended)
        self._begin(fresh)
        self._ended = terminated | truncated
        return self._present(state), reward, terminated, truncated, info  # type: ignore[return-value]

    def move(self, command: np.ndarray) -> None:
        """The perturbation after the adversary's commands."""
        self.shift = drifted(self.shift, command.reshape(self.shift.shape), self.threat.budget, self.threat.rate)

    def perturbed(self) -> np.ndarray:
        """The state as the agent sees it."""
        return (self.state + self.deviation * self.shift).astype(np.float32)

    def told(self, action: np.ndarray | None) -> np.ndarray:
        """What the adversary sees."""
        parts = [((self.state - self.mean) / self.deviation).clip(-CLIP, CLIP), self.shift]
        if action is not None:
            space: Any = self.envs.single_action_space
            parts += [np.clip(action, space.low, space.high).reshape(self.num_envs, -1)]
        parts += [self.member[:, None]] if self.threat.labelled else []
        return np.concatenate(parts, 1).astype(np.float32)

    def _present(self, state: Any) -> np.ndarray:
        """The observation for the learning side of a new state."""
        raise NotImplementedError

    def close_extras(self, **kwargs: Any) -> None:
        self.envs.close()


class AgentSeat(Seat):
    """The agent's side."""

    def __init__(self, envs: VectorEnv, threat: Threat) -> None:
        threat.check(envs)
        super().__init__(envs, threat, envs.single_observation_space, envs.single_action_space)

    def _present(self, state: Any) -> np.ndarray:
        self.state = state
        if self.threat.channel == "action" or self.opponents is None:
            return state
        self.move(self.opponents(self.told(None), self.member))
        return self.perturbed()

    def step(self, actions: Any) -> Any:
        if self.threat.channel == "action" and self.opponents is not None:
            self.move(self.opponents(self.told(actions), self.member))
        return self.advance(actions)


class AdversarySeat(Seat):
    """The adversary's side: its reward is the agent's, negated."""

    def __init__(self, envs: VectorEnv, threat: Threat) -> None:
        own = threat.size(envs)
        seen = int(np.prod(envs.single_observation_space.shape)) + own + int(threat.labelled)  # type: ignore[arg-type]
        seen += own if threat.channel == "action" else 0
        space = gym.spaces.Box(-np.inf, np.inf, (seen,), np.float32)
        super().__init__(envs, threat, space, gym.spaces.Box(-1.0, 1.0, (own,), np.float32))
        self._action: np.ndarray | None = None
        self.face(self._idle, self.chances)

    def _idle(self, observation: np.ndarray, member: np.ndarray) -> np.ndarray:
        """An agent that does nothing, until there is one."""
        space: Any = self.envs.single_action_space
        return np.zeros((self.num_envs, *space.shape), space.dtype)

    def _present(self, state: Any) -> np.ndarray:
        self.state = state
        if self.threat.channel == "action":
            assert self.opponents is not None
            self._action = self.opponents(state, self.member)
        return self.told(self._action)

    def step(self, actions: Any) -> Any:
        self.move(np.asarray(actions))
        assert self.opponents is not None
        action = self.opponents(self.perturbed(), self.member) if self._action is None else self._action
        seen, reward, terminated, truncated, info = self.advance(action)
        return seen, -reward, terminated, truncated, info
