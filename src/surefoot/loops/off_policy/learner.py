"""One run of an off-policy method, for one seed or several at once: acting, and a replay of what was done.

The replay buffer is not in a checkpoint: a resumed run takes the logged actions in the environments again, which fills
the buffer anew, to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor
from torch.utils._pytree import tree_map

from surefoot.data.replay import Replay, joined
from surefoot.loops.common.collect import Arrays, Collector, Episodes, Rollout, map_arrays, tensors
from surefoot.loops.common.env_options import environment_loop
from surefoot.loops.common.schedule import scheduled
from surefoot.loops.common.staging import staged
from surefoot.loops.networks.learner import NetworkLearner
from surefoot.loops.networks.machine import Means
from surefoot.loops.networks.nets import Batch, Weights
from surefoot.loops.off_policy.method import OffPolicy
from surefoot.models.functional import over_seeds
from surefoot.models.observations import normalize_observation
from surefoot.models.recurrence import histories
from surefoot.seeding import numpy_stream, torch_stream


class Learner(NetworkLearner):
    """Networks, replay and environments of a run; `iterate()` advances it by `method.pace` steps."""

    method: OffPolicy
    fresh: Callable[[Sequence[int]], VectorEnv]  # more environments like those it trains in, one a seed

    def __init__(
        self,
        method: OffPolicy,
        envs: VectorEnv,
        seeds: Sequence[int],
        total_steps: int,
        *,
        log: Path | None = None,
        compile: str = "off",
        device: str = "cpu",
    ) -> None:
        spaces = envs.single_observation_space, envs.single_action_space
        super().__init__(method, *spaces, seeds, total_steps, compile=compile, device=device)
        folder = None if log is None else log.parent
        sizes = {"prioritized": method.prioritized, "folder": folder}
        self.replay = Replay(method.buffer_size, self.num_seeds, method.num_envs, **sizes)  # type: ignore[arg-type]
        self.episodes = Episodes(self.num_seeds, method.num_envs)
        drawn = self._explored(method.num_envs, torch.Generator())
        self.noise = {k: np.zeros((self.num_seeds, *x.shape), np.float32) for k, x in drawn.items()}
        width: Any = 0 if method.core is None else self.actor.flat.module.core_state
        self.core_state = torch.zeros(self.num_seeds, method.num_envs, width)
        self._policy: Any = None
        self.collector = Collector(envs, log)

    def _explored(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The random numbers of so many actions in training."""
        drawn = self.method.exploration(count, self.action_space, generator)
        return drawn | self.method.perception(self.observation_space, count, generator)

    @property
    def steps(self) -> int:
        """Environment steps per seed so far, including the steps in which an environment only resets itself."""
        return self.collector.logged * self.method.num_envs

    @property
    def since(self) -> int:
        """Environment steps per seed from whose transitions it learns: all, unless the method has begun anew."""
        return self.steps - self.method.begun(self.iteration) * self.method.pace

    @property
    def finished(self) -> bool:
        """Whether nothing is left to learn."""
        return self.method.finished(self)

    # --- one iteration -----------------------------------------------------------------------------------------------

    def iterate(self) -> list[dict[str, float]]:
        """Act and learn for `method.pace` steps; returns one row of metrics per seed."""
        method, means, seen = self.method, Means(), list[Arrays]()
        act = self._acting()

        def keep(*step: Any) -> None:
            """Keep a step, and learn where it is the last of a round."""
            self._keep(*step)
            if self.moments:
                seen.append(step[-1])
            if self.collector.logged % method.train_every:
                return
            self._observed(seen)
            seen.clear()
            if self.since >= method.learning_starts:
                for _ in range(method.updates_per_round):
                    means.add(self.update())

        rollout = self.collector.collect(method.rounds * method.train_every, act, keep)
        return self.ended(self._episodes(rollout), means)

    def _episodes(self, rollout: Rollout) -> list[dict[str, float]]:
        """The returns of the episodes that ended, one row a seed."""
        parts = (rollout.reward, rollout.terminated, rollout.truncated, rollout.valid)
        each = (self.num_seeds, self.method.num_envs)
        reward, terminated, truncated, valid = (x.unflatten(1, each) for x in parts)
        return self.episodes.add(reward, terminated | truncated, truncated, valid)

    def _observed(self, seen: Sequence[Arrays]) -> None:
        """Take the observations of a round into the normaliser."""
        for key, moments in self.moments.items():
            arrays = [x[key] if isinstance(x, dict) else x for x in seen]
            each = torch.from_numpy(np.stack(arrays)).to(self.device).unflatten(1, (self.num_seeds, -1))
            rows = each.transpose(0, 1).flatten(1, 2).flatten(2)
            self.moments[key] = moments.update(rows, torch.ones(rows.shape[:2], dtype=torch.bool, device=self.device))

    def _draw(self) -> None:
        """The random streams and numbers of an iteration, which depend on its number alone."""
        method, space = self.method, self.action_space
        count, shape = method.rounds * method.train_every * method.num_envs, space.shape or ()
        self._replay_streams = [numpy_stream(s, "replay", self.iteration) for s in self.seeds]
        self._noise_streams = [torch_stream(s, "losses", self.iteration) for s in self.seeds]
        streams = [torch_stream(s, "actions", self.iteration) for s in self.seeds]
        each = [{name: x[i].cpu() for name, x in self.weights.items()} for i in range(self.num_seeds)]
        drawn = [
            method.drawn(own, count, space, g) | method.perception(self.observation_space, count, g)
            for own, g in zip(each, streams, strict=True)
        ]
        first = [numpy_stream(s, "random actions", self.iteration) for s in self.seeds]
        steps = method.rounds * method.train_every, method.num_envs
        self._exploration = {
            k: torch.stack([x[k] for x in drawn], 1).unflatten(0, steps).transpose(1, 2).numpy() for k in drawn[0]
        }
        self._random = np.stack([method.random_action(space, count, g).reshape(*steps, *shape) for g in first])

    def _acting(self) -> Callable[[int, Arrays, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """What acts in an iteration, with the weights as they are at the beginning of every round."""
        method = self.method
        self._draw()
        prepared = None

        def act(t: int, observation: Arrays, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            nonlocal prepared
            if t % method.train_every == 0:
                prepared = None
            if self.steps < method.learning_starts:
                action = self._random[:, t].reshape(-1, *(self.action_space.shape or ()))
                return action, action
            drawn = {k: x[t] for k, x in self._exploration.items()}
            self.noise = method.remembered(drawn, self.noise, starts.reshape(self.num_seeds, method.num_envs))
            if prepared is None:
                prepared = self._prepared(observation)
            remembered = self._remembered(starts)
            action, *after = self._policy[1](prepared, observation, self.noise, *remembered)
            self.core_state = torch.from_numpy(after[0]) if after else self.core_state
            return action, action

        return act

    def _remembered(self, starts: np.ndarray) -> tuple[np.ndarray, ...]:
        """Where episodes begin, and the memory, for networks that have one."""
        if self.method.core is None:
            return ()
        return starts.reshape(self.num_seeds, self.method.num_envs), self.core_state.numpy()

    def _prepared(self, observation: Arrays) -> Any:
        """What a step of the policy needs of the weights as they are."""
        vectors = {name: self.weights[name].cpu() for name in (self.method.actor, *self.method.others)}
        scales = {key: (mean.cpu(), inverse.cpu()) for key, (mean, inverse) in self.scales().items()}
        early = vectors, scales, self._progress()
        if self._policy is None:
            memory = map(torch.from_numpy, self._remembered(np.ones(self.core_state.shape[:2], bool)))
            self._policy = staged(self._policy_step, early, (tensors(observation), tensors(self.noise), *memory))
        return self._policy[0](early)

    def _keep(self, observation: Arrays, action: np.ndarray, reward: np.ndarray, terminated: np.ndarray,
              truncated: np.ndarray, valid: np.ndarray, following: Arrays) -> None:  # fmt: skip
        fields = {"action": action, "reward": reward.astype(np.float32), "terminated": terminated}
        self.replay.add(observation, following, **fields, truncated=truncated, valid=valid)

    def _share(self) -> float:
        """The share of the run that is over."""
        return min(1.0, self.steps / max(1, self.total_steps))

    def _progress(self) -> Tensor:
        return torch.full((self.num_seeds,), self._share())

    def _policy_step(self, early: Any, late: Any) -> tuple[Tensor, ...]:
        """One step of all that act: the actions that the environments take, and the new memory if there is one."""
        (vectors, scales, progress), (observation, noise, *remembered) = early, late

        def step(vectors: Any, scales: Any, progress: Tensor, x: Any, noise: dict[str, Tensor], *memory: Tensor) -> Any:
            w = Weights(self.functions, vectors, {}, {})
            x, after = normalize_observation(x, scales), ()
            if memory:
                starts, state = memory
                x, *after = w(self.method.actor, x, "advanced", state, starts)
            return self.distribution.to_env(self.method.play(w, x, noise, progress)), *after

        each = tree_map(lambda x: x.unflatten(0, (self.num_seeds, self.method.num_envs)), observation)
        action, *after = over_seeds(step, self.num_seeds)(vectors, scales, progress, each, noise, *remembered)
        return action.flatten(0, 1), *after

    # --- learning ----------------------------------------------------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """One gradient step of all networks that are due, and of the targets; metrics `[seeds]` by name."""
        batch, places = self.batch()
        metrics = self.step(batch)
        errors = metrics.pop("td_errors", None)
        if places is not None and errors is not None:
            for seed, index in enumerate(places):
                self.replay.update_priorities(seed, index, errors[seed].cpu().numpy())
        return metrics

    def batch(self) -> tuple[Batch, list[Any] | None]:
        """A batch of every seed, `[seeds, size, ...]`, and where it comes from if that is needed for priorities."""
        method, size = self.method, self.method.batch_size
        if method.core is not None:
            return self._sequences(), None
        places, weights = [], []
        beta = method.beta + (1 - method.beta) * self._share() if method.prioritized else 0.0
        for seed, generator in enumerate(self._replay_streams):
            if method.prioritized:
                index, weight = self.replay.sample_prioritized(seed, size, generator, beta)
                weights.append(weight)
            else:
                index = self.replay.sample(seed, size, generator, self.since)
            places.append(index)
        arrays = joined([self.replay.take(index, method.gamma, method.n_step) for index in places])
        if method.prioritized:
            arrays["weight"] = np.stack(weights)
        return self.completed(self._here(arrays), self._noise_streams), places if method.prioritized else None

    def _sequences(self) -> Batch:
        """The same for networks that remember: the steps of replayed sequences, with what came before them."""
        method = self.method
        spans = method.burn_in, method.sequence_length
        count = method.batch_size // method.sequence_length
        arrays = []
        for seed, generator in enumerate(self._replay_streams):
            index = self.replay.sample_sequences(seed, count, sum(spans), generator, self.since)
            arrays.append(self.replay.take_sequences(index, method.gamma, *spans))
        taken = self._here(joined(arrays))
        starts = taken.pop("starts")
        return histories(self.completed(taken, self._noise_streams), starts, method.burn_in)

    def _here(self, arrays: Mapping[str, Arrays]) -> Batch:
        """Arrays as tensors on the learner's device."""
        return {name: map_arrays(lambda x: torch.from_numpy(x).to(self.device), x) for name, x in arrays.items()}

    def rate(self) -> float | None:
        method = self.method
        if method.anneal == "none" and not method.warmup:
            return None
        since, pace = self.steps - method.learning_starts, method.train_every * method.num_envs
        risen = scheduled(1.0, "none", method.warmup, max(0, since), pace, self.total_steps)
        return scheduled(risen, method.anneal, 0, self.steps, pace, self.total_steps)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything but the environments, the replay buffer and the counters, as tensors by name."""
        parts: dict[str, Tensor] = {
            **{f"priorities/{i}": torch.from_numpy(p.state()) for i, p in enumerate(self.replay.priorities)},
            **{f"noise/{k}": torch.from_numpy(x) for k, x in self.noise.items()},
            "replay/sums": self.collector.seen.sums(),
            **self.episodes.state(),
            **({} if self.method.core is None else {"core_state": self.core_state}),
        }
        return super().state() | {name: x.detach().cpu().contiguous().clone() for name, x in parts.items()}

    def load(self, state: Mapping[str, Tensor], iteration: int, logged: int) -> None:
        """Load a saved state, and replay the environments to their state at that time, which fills the buffer.

        Raises:
            UsageError: tensors are missing, unknown, or of another type or shape.
        """
        super().load(state, iteration, logged)
        self.noise = {k: state[f"noise/{k}"].numpy().copy() for k in self.noise}
        self.episodes.load(state)
        self.core_state = state.get("core_state", self.core_state).clone()
        self.collector.replay(logged, state["replay/sums"], self._keep)
        for seed, priorities in enumerate(self.replay.priorities):
            priorities.load(state[f"priorities/{seed}"].numpy())

    def flush(self) -> int:
        """Flush the log of actions to disk, and return the number of steps in it."""
        return self.collector.flush()

    def close(self) -> None:
        """Close environments and log."""
        self.collector.close()


LOOP = environment_loop(Learner, lambda method, env, **options: method.training_env(env, **options))
