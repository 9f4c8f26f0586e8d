"""Gymnasium's planar MuJoCo runners, stepped together: bit-identical to stepping one by one, in two thirds of the time.

It omits the wrappers' layers, the `info` dicts, and `mj_rnePostConstraint`, whose contact forces no runner observes.
Rewards, observations and terminations of all environments are computed at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from surefoot.envs.entrance import Observation
from surefoot.envs.vector import EnvFactory, SyncEnvs, fail

RUNNERS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
ENDLESS = {"max_episode_steps": -1}  # Gymnasium's value for an episode without a time limit


def is_runner(env: Any, kwargs: Mapping[str, Any], wrappers: Sequence[Any]) -> bool:
    """Whether environments made with these arguments of `envs.make` can be stepped together."""
    return env in RUNNERS and not wrappers and "render_mode" not in kwargs and not ENDLESS.items() <= kwargs.items()


class RunnerEnvs(SyncEnvs):
    """Runners of one kind in this process; see `is_runner`."""

    def __init__(self, factories: Sequence[EnvFactory], seeds: Sequence[int]):
        from mujoco import mj_step  # type: ignore[attr-defined]

        super().__init__(factories, seeds)
        self._advance = mj_step
        self._bare: list[Any] = [env.unwrapped for env in self.envs]
        self._time_limit = self.envs[0].get_wrapper_attr("_max_episode_steps")
        self._elapsed = np.zeros(self.num_envs, int)
        model = self._bare[0].model
        self._position, self._velocity = np.zeros((self.num_envs, model.nq)), np.zeros((self.num_envs, model.nv))
        self._simulations = [
            (model, env.data, env.data.ctrl, env.data.qpos, env.data.qvel, self._position[i], self._velocity[i])
            for i, env in enumerate(self._bare)
        ]

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        self._elapsed[:] = 0
        observations, info = super().reset(seed=seed, options=options)
        for _, _, _, qpos, _, position, _ in self._simulations:
            position[:] = qpos
        return observations, info

    def step(self, actions: Any) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        legal, ended, env = self._legal(actions), self._ended, self._bare[0]
        before, frames = self._position[:, 0].copy(), env.frame_skip
        for i, (model, data, ctrl, qpos, qvel, position, velocity) in enumerate(self._simulations):
            if ended[i]:
                try:
                    self.envs[i].reset()
                except Exception as error:
                    fail(i, "reset", error, step=self._steps)
            else:
                ctrl[:] = legal[i]
                self._advance(model, data, nstep=frames)
            position[:], velocity[:] = qpos, qvel
        self._elapsed = np.where(ended, 0, self._elapsed + 1)
        healthy = self._healthy()
        reward = env._forward_reward_weight * ((self._position[:, 0] - before) / env.dt)
        if healthy is not None:
            reward = reward + healthy * env._healthy_reward
        reward = reward - env._ctrl_cost_weight * np.sum(np.square(legal), -1)
        terminated = np.zeros(self.num_envs, bool)
        if healthy is not None and env._terminate_when_unhealthy:
            terminated = ~(healthy | ended)
        truncated = self._elapsed >= self._time_limit
        self._ended = terminated | truncated
        self._steps += 1
        reward = np.where(ended, 0, reward).astype(np.float32)
        return self._observation(healthy is not None), reward, terminated, truncated, {}

    def _healthy(self) -> np.ndarray | None:
        """Which runners are upright; None for the cheetah, which cannot fall."""
        env = self._bare[0]
        if not hasattr(env, "_healthy_z_range"):
            return None
        (low, high), (left, right) = env._healthy_z_range, env._healthy_angle_range
        z, angle = self._position[:, 1], self._position[:, 2]
        healthy = (low < z) & (z < high) & (left < angle) & (angle < right)
        if hasattr(env, "_healthy_state_range"):
            least, most = env._healthy_state_range
            state = np.concatenate((self._position[:, 2:], self._velocity), 1)
            healthy &= np.logical_and(least < state, state < most).all(1)
        return healthy

    def _observation(self, clipped: bool) -> np.ndarray:
        first = int(self._bare[0]._exclude_current_positions_from_observation)
        velocity = np.clip(self._velocity, -10, 10) if clipped else self._velocity
        return np.concatenate((self._position[:, first:], velocity), 1).astype(self.single_observation_space.dtype)
