"""Collecting rollouts from a vector environment, and logging what is needed to replay them.

An environment's internal state can rarely be saved, but the same seeds and the same actions give the same bits. So the
collector appends every action to a log, and a resumed run replays the log to restore the state of the environments.
Every checkpoint contains checksums of the actions and of the environments' answers, so that a replay that diverges is
detected.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from surefoot.envs.entrance import check_finite, check_masks, named_figures
from surefoot.errors import UsageError
from surefoot.models.networks import Observation

WINDOW = 100  # episodes in the running mean of returns


class Rollout(NamedTuple):
    """Time-major data of all environments. The last observation is the one after the last step."""

    observation: Observation  # [time + 1, envs, ...] as the environment gave it
    action: Tensor  # [time, envs, ...] as sampled
    reward: Tensor  # [time, envs]
    terminated: Tensor  # [time, envs]
    truncated: Tensor  # [time, envs]
    valid: Tensor  # [time, envs] False where the environment only reset itself
    starts: Tensor  # [time + 1, envs] True where the observation is the first of an episode


def map_observation(function: Callable[[Tensor], Tensor], observation: Observation) -> Observation:
    """The function applied to the observation, or to every entry of a dict observation."""
    if isinstance(observation, dict):
        return {key: function(x) for key, x in observation.items()}
    return function(observation)


Arrays = np.ndarray | dict[str, np.ndarray]
"""An observation as the environments give it."""


Keep = Callable[[Arrays, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, Arrays], None]
"""Told of a step: observation, actions, rewards, terminated, truncated, valid, and the observation after it."""

SUMS = ("actions", "observations", "rewards", "ends")  # what a checkpoint has checksums of


class Seen:
    """Running checksums of the actions taken and of the observations, rewards and ends that the environments
    returned."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, str], Any] = {}

    def add(self, observation: Arrays, **others: np.ndarray) -> None:
        """Add arrays of one or several steps; the sums do not depend on how the steps are split."""
        parts = observation if isinstance(observation, dict) else {"": observation}
        named = [("observations", key, x) for key, x in parts.items()] + [(name, "", x) for name, x in others.items()]
        for name, key, array in named:
            self._parts.setdefault((name, key), hashlib.sha256()).update(np.ascontiguousarray(array).data)

    def sums(self) -> Tensor:
        """The checksums so far of `SUMS`, bytes `[4, 32]`."""
        rows = [hashlib.sha256() for _ in SUMS]
        for (name, key), part in sorted(self._parts.items(), key=lambda pair: pair[0]):
            rows[SUMS.index(name)].update(key.encode() + part.digest())
        return torch.stack([torch.frombuffer(bytearray(row.digest()), dtype=torch.uint8) for row in rows])


class Collector:
    """A vector environment, its current observation, and its log of actions."""

    def __init__(self, envs: VectorEnv, log: Path | None = None) -> None:
        self.envs, self.log_path, self.logged = envs, log, 0
        self._log = None
        self.observation: Arrays = envs.reset()[0]
        check_finite(self.observation, np.zeros(envs.num_envs))
        self.seen = Seen()
        self.seen.add(self.observation)
        self.ended = np.zeros(envs.num_envs, bool)  # the last step ended an episode
        self.fresh = np.ones(envs.num_envs, bool)  # the current observation is the first of an episode
        self._figures: list[tuple[int, dict[str, float]]] = []  # environment and info of the episodes that ended

    def collect(
        self,
        steps: int,
        act: Callable[[int, Arrays, np.ndarray], tuple[np.ndarray, np.ndarray]],
        keep: Keep | None = None,
    ) -> Rollout:
        """Run `steps` steps; `act(t, observation, starts)` gives the action to store and the one to execute, and `keep`
        is told every step."""
        n, observation, space = self.envs.num_envs, self.observation, self.envs.single_action_space
        store: Any = map_arrays(lambda x: np.empty((steps + 1, *x.shape), x.dtype), observation)
        reward, terminated, truncated = np.empty((steps, n), np.float32), *np.empty((2, steps, n), bool)
        valid, starts = np.empty((steps, n), bool), np.empty((steps + 1, n), bool)
        actions: list[np.ndarray] = []
        executed: list[np.ndarray] = []
        self._figures = []
        for t in range(steps):
            _put(store, t, observation)
            starts[t], valid[t] = self.fresh, ~self.ended
            check_masks(observation, space, valid[t], self.logged)
            action, env_action = act(t, observation, starts[t])
            actions.append(action)
            executed.append(env_action)
            before = observation
            observation, reward[t], terminated[t], truncated[t], info = self.envs.step(env_action)
            self.logged += 1
            if keep is not None:
                keep(before, env_action, reward[t], terminated[t], truncated[t], valid[t], observation)
            self.fresh, self.ended = self.ended, terminated[t] | truncated[t]
            self._note(info)
        _put(store, steps, observation)
        starts[steps], self.observation = self.fresh, observation
        came, taken = map_arrays(lambda x: x[1:], store), np.stack(executed)
        self._append(taken)
        check_finite(came, reward, self.logged - steps)
        self.seen.add(came, actions=taken, rewards=reward, ends=np.stack([terminated, truncated], 1))
        arrays = (np.stack(actions), reward, terminated, truncated, valid, starts)
        return Rollout(tensors(store), *map(torch.from_numpy, arrays))

    def _note(self, info: Mapping[str, Any]) -> None:
        if not info:
            return
        names = [name for name in info if not name.startswith("_")]
        for env in np.flatnonzero(self.ended).tolist():
            self._figures.append((env, {name: float(info[name][env]) for name in names if info[f"_{name}"][env]}))

    def figures(self, seeds: int) -> list[dict[str, float]]:
        """The figures in the infos of the episodes that ended in the last rollout, for each of `seeds` seeds, whose
        environments are adjacent; see `named_figures`."""
        each = self.envs.num_envs // seeds
        return [named_figures([found for env, found in self._figures if env // each == seed]) for seed in range(seeds)]

    def _append(self, actions: np.ndarray) -> None:
        if self.log_path is not None:
            if self._log is None:
                self._log = open(self.log_path, "ab")  # noqa: SIM115 (it stays open for the whole run)
            self._log.write(np.ascontiguousarray(actions).tobytes())

    def flush(self) -> int:
        """Flush the log to disk and return the number of steps in it."""
        if self._log is not None:
            self._log.flush()
            os.fsync(self._log.fileno())
        return self.logged

    def replay(self, steps: int, sums: Tensor | None = None, keep: Keep | None = None) -> None:
        """Restore the environments' state after the first `steps` logged steps, and discard the rest of the log; `keep`
        is told every step.

        `sums` are the checksums `seen.sums()` at that step; without them (a run of an older version) nothing is
        compared.

        Raises:
            UsageError: the log is damaged, or the environments' answers differ from the original ones.
        """
        if self.log_path is None:
            return
        space = self.envs.single_action_space
        dtype = np.dtype(np.float32) if isinstance(space, gym.spaces.Box) else np.dtype(np.int64)
        shape = (steps, self.envs.num_envs, *(space.shape or ()))
        size = int(np.prod(shape)) * dtype.itemsize
        held = self.log_path.stat().st_size if self.log_path.exists() else 0
        if held < size:
            raise UsageError(
                f"{self.log_path} holds {held} bytes, but the checkpoint was written after {size}: the log of actions "
                "is damaged or missing. Restore the original file, or start a new run."
            )
        logged = np.memmap(self.log_path, dtype, "r", shape=shape) if steps else np.empty(shape, dtype)
        taken = Seen()
        for actions in logged if steps and sums is not None else ():
            taken.add({}, actions=actions)
        if sums is not None and (sums.shape != (len(SUMS), 32) or not torch.equal(taken.sums()[0], sums[0])):
            raise UsageError(
                f"{self.log_path} does not hold the actions of this checkpoint's first {steps} steps: its checksum "
                "differs, so the log of actions is damaged. Restore the original file, or start a new run."
            )
        observation = self.observation
        for actions in logged:
            before, valid = observation, ~self.ended
            observation, reward, terminated, truncated, _ = self.envs.step(np.array(actions))
            if keep is not None:
                keep(before, actions, np.asarray(reward, np.float32), terminated, truncated, valid, observation)
            self.fresh, self.ended = self.ended, terminated | truncated
            self.seen.add(observation, actions=actions, rewards=reward, ends=np.stack([terminated, truncated]))
        if sums is not None:
            self._compare(sums, steps)
        self.observation, self.logged = observation, steps
        if held:
            os.truncate(self.log_path, size)

    def _compare(self, sums: Tensor, steps: int) -> None:
        differ = [name for name, mine, then in zip(SUMS, self.seen.sums(), sums) if not torch.equal(mine, then)]
        if differ:
            raise UsageError(
                f"The environments answered the first {steps} steps of the run with other {' and '.join(differ)} than "
                "when it was trained, so resuming would not continue the same run. Either they are not "
                "reproducible (they draw from numpy.random or the clock, not from self.np_random, which "
                "reset(seed=…) seeds), or something has changed: their code, their package's version, the backend or "
                "the machine. Undo that change, or start a new run."
            )

    def close(self) -> None:
        """Close the environments and the log."""
        self.envs.close()
        if self._log is not None:
            self._log.close()


class Episodes:
    """Returns and lengths of finished episodes, with a window of the last 100 per seed, as tensors."""

    def __init__(self, seeds: int, envs: int) -> None:
        self.running = torch.zeros(2, seeds, envs, dtype=torch.float64)  # return and length so far
        self.window = torch.full((2, seeds, WINDOW), float("nan"), dtype=torch.float64)
        self.count = torch.zeros(seeds, dtype=torch.int64)

    def add(self, reward: Tensor, ended: Tensor, truncated: Tensor, valid: Tensor) -> list[dict[str, float]]:
        """Add raw rewards `[time, seeds, envs]`; returns one row of metrics per seed."""
        reward, ended, truncated, valid = (x.cpu() for x in (reward, ended & valid, truncated, valid))
        totals = torch.stack([reward.double() * valid, valid.double()]).cumsum(1) + self.running.unsqueeze(1)
        base = torch.zeros_like(self.running)
        finished: list[list[tuple[float, float]]] = [[] for _ in range(reward.shape[1])]
        for t, seed, env in ended.nonzero().tolist():
            value = totals[:, t, seed, env]
            finished[seed].append(tuple((value - base[:, seed, env]).tolist()))
            base[:, seed, env] = value
        self.running = totals[:, -1] - base
        rows = []
        for seed, episodes in enumerate(finished):
            for episode in episodes:
                self.window[:, seed, int(self.count[seed]) % WINDOW] = torch.tensor(episode, dtype=torch.float64)
                self.count[seed] += 1
            row: dict[str, float] = {"episodes": int(self.count[seed])}
            if episodes:
                row["return"] = float(np.mean([e[0] for e in episodes]))
                row["truncated_share"] = float(truncated[:, seed].sum()) / len(episodes)
            if self.count[seed]:
                row["return_mean"], row["length_mean"] = self.window[:, seed].nanmean(-1).tolist()
            rows.append(row)
        return rows

    def state(self) -> dict[str, Tensor]:
        return {"episodes/running": self.running, "episodes/window": self.window, "episodes/count": self.count}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.running, self.window, self.count = (state[f"episodes/{k}"].clone() for k in ("running", "window", "count"))


def map_arrays(function: Callable[[np.ndarray], Any], observation: Arrays) -> Any:
    """The function applied to the observation, or to every entry of a dict observation."""
    if isinstance(observation, dict):
        return {key: function(x) for key, x in observation.items()}
    return function(observation)


def tensors(observation: Arrays) -> Observation:
    """The observation as tensors that share its memory."""
    return map_arrays(torch.from_numpy, observation)


def _put(store: Arrays, t: int, observation: Arrays) -> None:
    if isinstance(store, dict):
        for key, x in store.items():
            x[t] = observation[key]  # type: ignore[index]
    else:
        store[t] = observation
