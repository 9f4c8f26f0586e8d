"""One run of an off-policy method, for one seed or several at once.

Weights, targets and optimisers are tensors with a leading seed axis. The replay buffer is not in a checkpoint: a
resumed run takes the logged actions in the environments again, which fills the buffer anew, to the same bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor
from torch.utils._pytree import tree_map

from surefoot.data.replay import Replay, joined
from surefoot.errors import UsageError
from surefoot.loops.common.collect import Arrays, Collector, Episodes, Rollout, tensors
from surefoot.loops.common.compile import as_set
from surefoot.loops.common.env_options import environment_loop
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.common.schedule import scheduled
from surefoot.loops.common.staging import staged
from surefoot.loops.off_policy.method import OffPolicy
from surefoot.loops.off_policy.nets import Batch, Function, Weights, gradient_step
from surefoot.models.actors import ActorNetwork
from surefoot.models.agent import Agent, normalize_observation, normalized_keys, normalized_shapes
from surefoot.models.companions import Companion
from surefoot.models.device import computing_on
from surefoot.models.distributions import Deterministic, SquashedGaussian, from_box
from surefoot.models.functional import initial, over_seeds
from surefoot.models.normalizers import Moments
from surefoot.seeding import numpy_stream, torch_stream


class Learner:
    """Networks, replay and environments of a run; `iterate()` advances it by `method.pace` steps."""

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
        self.device = torch.device(device)
        self.method, self.seeds, self.num_seeds, self.total_steps = method, list(seeds), len(seeds), total_steps
        self.observation_space, self.action_space = envs.single_observation_space, envs.single_action_space
        self.network = method.actor_network()
        self.nets = method.networks(self.observation_space, self.action_space)
        self.functions = {name: Function(net) for name, net in self.nets.items()}
        self.actor = self.functions[method.actor]
        self.distribution = self.network.distribution(self.action_space)
        self.weights = {name: self._initial(name).to(self.device) for name in self.nets}
        self.targets = {n: self.weights[n].clone() for n, net in self.nets.items() if net.target_rate is not None}
        with computing_on(self.device):
            self.adams = {n: Adam.start(self.weights[n]) for n, net in self.nets.items() if net.loss is not None}
            self.moments = {
                key: Moments.start(self.num_seeds, width)
                for key, width in normalized_keys(self.observation_space).items()
                if method.normalize_observations
            }
        folder = None if log is None else log.parent
        sizes = {"prioritized": method.prioritized, "folder": folder}
        self.replay = Replay(method.buffer_size, self.num_seeds, method.num_envs, **sizes)  # type: ignore[arg-type]
        self.episodes = Episodes(self.num_seeds, method.num_envs)
        self.iteration, self.updates, self.compile = 0, 0, compile
        drawn = self._explored(method.num_envs, torch.Generator())
        self.noise = {k: np.zeros((self.num_seeds, *x.shape), np.float32) for k, x in drawn.items()}
        self._steps: dict[tuple[str, ...], Any] = {}
        self._policy: Any = None
        self.collector = Collector(envs, log)

    def _explored(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The random numbers of so many actions in training."""
        drawn = self.method.exploration(count, self.action_space, generator)
        return drawn | self.method.perception(self.observation_space, count, generator)

    def _initial(self, name: str) -> Tensor:
        net = self.nets[name]
        streams = [[torch_stream(s, f"weights {name}", copy) for copy in range(net.copies)] for s in self.seeds]
        return torch.stack([torch.cat([initial(net.make, g) for g in each]) for each in streams])

    @property
    def steps(self) -> int:
        """Environment steps per seed so far, including the steps in which an environment only resets itself."""
        return self.collector.logged * self.method.num_envs

    # --- one iteration -----------------------------------------------------------------------------------------------

    def iterate(self) -> list[dict[str, float]]:
        """Act and learn for `method.pace` steps; returns one row of metrics per seed."""
        method, means = self.method, Means()
        self._draw()
        rollouts = []
        for round_ in range(method.rounds):
            rollouts.append(self._collect(round_))
            if self.steps >= method.learning_starts:
                for _ in range(method.updates_per_round):
                    means.add(self.update())
        self.iteration += 1
        rows = self._episodes(rollouts)
        with torch.no_grad():
            metrics = means.values() | method.after_iteration(self)
        for name, values in metrics.items():
            for row, value in zip(rows, values.tolist(), strict=True):
                row[name] = value
        for row in rows:
            row["updates"] = self.updates
        return rows

    def _episodes(self, rollouts: Sequence[Rollout]) -> list[dict[str, float]]:
        """The returns of the episodes that ended, one row a seed."""
        parts = [
            torch.cat([getattr(r, name) for r in rollouts]).unflatten(1, (self.num_seeds, self.method.num_envs))
            for name in ("reward", "terminated", "truncated", "valid")
        ]
        reward, terminated, truncated, valid = parts
        return self.episodes.add(reward, terminated | truncated, truncated, valid)

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
            k: torch.stack([x[k] for x in drawn], 1).unflatten(0, steps).transpose(1, 2) for k in drawn[0]
        }
        self._random = np.stack([method.random_action(space, count, g).reshape(*steps, *shape) for g in first])

    def _collect(self, round_: int) -> Rollout:
        """Act for `train_every` steps and keep the transitions."""
        method = self.method
        acting = {name: self.weights[name] for name in (method.actor, *method.others)}
        early = tree_map(Tensor.cpu, (acting, self.scales(), self._progress()))
        first = round_ * method.train_every
        if self._policy is None:
            late = tensors(self.collector.observation), {k: x[0] for k, x in self._exploration.items()}
            self._policy = staged(self._policy_step, early, late)
        prepare, run = self._policy
        prepared = None

        def act(t: int, observation: Arrays, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            nonlocal prepared
            if self.steps + t * method.num_envs < method.learning_starts:
                action = self._random[:, first + t].reshape(-1, *(self.action_space.shape or ()))
                return action, action
            if prepared is None:
                prepared = prepare(early)
            drawn = {k: x[first + t].numpy() for k, x in self._exploration.items()}
            self.noise = method.remembered(drawn, self.noise, starts.reshape(self.num_seeds, method.num_envs))
            (action,) = run(prepared, observation, self.noise)
            return action, action

        rollout = self.collector.collect(method.train_every, act, self._keep)
        for key, moments in self.moments.items():
            seen = rollout.observation[key] if isinstance(rollout.observation, dict) else rollout.observation
            each = seen[1:].to(self.device).unflatten(1, (self.num_seeds, -1)).transpose(0, 1).flatten(1, 2)
            everything = torch.ones(each.shape[:2], dtype=torch.bool, device=self.device)
            self.moments[key] = moments.update(each.flatten(2), everything)
        return rollout

    def _keep(self, observation: Arrays, action: np.ndarray, reward: np.ndarray, terminated: np.ndarray,
              truncated: np.ndarray, valid: np.ndarray, following: Arrays) -> None:  # fmt: skip
        fields = {"action": action, "reward": reward.astype(np.float32), "terminated": terminated}
        self.replay.add(observation, following, **fields, truncated=truncated, valid=valid)

    def _progress(self) -> Tensor:
        return torch.full((self.num_seeds,), min(1.0, self.steps / max(1, self.total_steps)))

    def _policy_step(self, early: Any, late: Any) -> tuple[Tensor]:
        """One step of all that act: the actions that the environments take."""
        (vectors, scales, progress), (observation, noise) = early, late

        def step(vectors: Any, scales: Any, progress: Tensor, x: Any, noise: dict[str, Tensor]) -> Tensor:
            w = Weights(self.functions, vectors, {}, {})
            return self.distribution.to_env(self.method.play(w, normalize_observation(x, scales), noise, progress))

        each = tree_map(lambda x: x.unflatten(0, (self.num_seeds, self.method.num_envs)), observation)
        action = over_seeds(step, self.num_seeds)(vectors, scales, progress, each, noise)
        return (action.flatten(0, 1),)

    def scales(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Means and inverse deviations of the normalised observation entries, `[seeds, 1, ...]`."""
        shapes = normalized_shapes(self.observation_space)
        return {k: tuple(x.view(-1, 1, *shapes[k]) for x in m.scale()) for k, m in self.moments.items()}  # type: ignore[misc]

    # --- learning ----------------------------------------------------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """One gradient step of all networks that are due, and of the targets; metrics `[seeds]` by name."""
        batch, places = self.batch()
        turn = {name: net for name, net in self.nets.items() if self.method.learns(name, self.iteration)}
        due = tuple(name for name, net in turn.items() if net.due(self.updates + 1))
        arguments = (self.weights, self.targets, self.adams, batch)
        with torch.no_grad(), computing_on(self.device):
            if due not in self._steps:
                step = over_seeds(gradient_step(self.nets, self.functions, due), self.num_seeds)
                self._steps[due] = as_set(self.compile, step, *arguments)
            self.weights, self.adams, metrics = self._steps[due](*arguments)
            self.updates += 1
            for name, target in self.targets.items():
                net = self.nets[name]
                if name in turn and self.updates % net.target_every == 0:
                    assert net.target_rate is not None
                    target.lerp_(self.weights[name], net.target_rate)
        errors = metrics.pop("td_errors", None)
        if places is not None and errors is not None:
            for seed, index in enumerate(places):
                self.replay.update_priorities(seed, index, errors[seed].cpu().numpy())
        return metrics

    def batch(self) -> tuple[Batch, list[Any] | None]:
        """A batch of every seed, `[seeds, size, ...]`, and where it comes from if that is needed for priorities."""
        method, size = self.method, self.method.batch_size
        places, weights = [], []
        beta = method.beta + (1 - method.beta) * float(self._progress()[0])
        for seed, generator in enumerate(self._replay_streams):
            if method.prioritized:
                index, weight = self.replay.sample_prioritized(seed, size, generator, beta)
                weights.append(weight)
            else:
                index = self.replay.sample(seed, size, generator)
            places.append(index)
        arrays = joined([self.replay.take(index, method.gamma, method.n_step) for index in places])
        batch: Batch = tree_map(lambda x: torch.from_numpy(x).to(self.device), arrays)
        if method.prioritized:
            batch["weight"] = torch.from_numpy(np.stack(weights)).to(self.device)
        else:
            batch["weight"] = self._ones()
        if isinstance(self.distribution, Deterministic | SquashedGaussian):
            batch["action"] = from_box(batch["action"].flatten(2), self.distribution.low, self.distribution.high)
        elif self.distribution.start[0]:
            batch["action"] = batch["action"] - self.distribution.start[0]
        if self.moments:
            scales = self.scales()
            for key in ("observation", "next_observation"):
                batch[key] = normalize_observation(batch[key], scales)
        if method.anneal != "none" or method.warmup:
            since, pace = self.steps - method.learning_starts, method.train_every * method.num_envs
            risen = scheduled(1.0, "none", method.warmup, max(0, since), pace, self.total_steps)
            batch["rate"] = scheduled(risen, method.anneal, 0, self.steps, pace, self.total_steps) * self._ones()[:, 0]
        drawn = [
            method.noise(size, self.action_space, g) | method.perception(self.observation_space, size, g)
            for g in self._noise_streams
        ]
        batch["noise"] = {k: torch.stack([x[k] for x in drawn]).to(self.device) for k in drawn[0]}
        return batch, places if method.prioritized else None

    def _ones(self) -> Tensor:
        if not hasattr(self, "_weight"):
            self._weight = torch.ones(self.num_seeds, self.method.batch_size, device=self.device)
        return self._weight

    # --- checkpoints and agents --------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything but the environments, the replay buffer and the counters, as tensors by name."""
        parts: dict[str, Tensor] = {
            **{f"weights/{k}": x for k, x in self.weights.items()},
            **{f"targets/{k}": x for k, x in self.targets.items()},
            **{f"adam/{k}/{part}": x for k, adam in self.adams.items() for part, x in adam._asdict().items()},
            **{f"observations/{key}/{k}": x for key, m in self.moments.items() for k, x in m._asdict().items()},
            **{f"priorities/{i}": torch.from_numpy(p.state()) for i, p in enumerate(self.replay.priorities)},
            **{f"noise/{k}": torch.from_numpy(x) for k, x in self.noise.items()},
            "updates": torch.tensor(self.updates),
            "replay/sums": self.collector.seen.sums(),
            **self.episodes.state(),
        }
        return {name: x.detach().cpu().contiguous().clone() for name, x in parts.items()}

    def load(self, state: Mapping[str, Tensor], iteration: int, logged: int) -> None:
        """Load a saved state, and replay the environments to their state at that time, which fills the buffer.

        Raises:
            UsageError: tensors are missing, unknown, or of another type or shape.
        """
        mine = self.state()
        kinds = [{name: (x.dtype, x.shape) for name, x in tensors.items()} for tensors in (mine, state)]
        wrong = sorted(name for name in mine.keys() | state.keys() if kinds[0].get(name) != kinds[1].get(name))
        wrong = [name for name in wrong if not name.startswith("priorities/")]
        if wrong:
            raise UsageError(
                f"the checkpoint does not fit this method, network or number of seeds: {', '.join(wrong)} differ. "
                "Resume with the configuration in the run's config.json."
            )
        here = {name: x.to(self.device, copy=True) for name, x in state.items()}
        self.weights = {name: here[f"weights/{name}"] for name in self.weights}
        self.targets = {name: here[f"targets/{name}"] for name in self.targets}
        self.adams = {n: Adam(*(here[f"adam/{n}/{k}"] for k in Adam._fields)) for n in self.adams}
        for key in self.moments:
            self.moments[key] = Moments(*(here[f"observations/{key}/{k}"] for k in Moments._fields))
        self.noise = {k: state[f"noise/{k}"].numpy().copy() for k in self.noise}
        self.updates, self.iteration = int(state["updates"]), iteration
        self.episodes.load(state)
        self.collector.replay(logged, state["replay/sums"], self._keep)
        for seed, priorities in enumerate(self.replay.priorities):
            priorities.load(state[f"priorities/{seed}"].numpy())

    def carried(self, agent: Agent) -> dict[str, Tensor]:
        """What an agent holds of the state of one seed: the actor, its target, and the normaliser."""
        actor, vector = self.method.actor, agent.vector[None]
        target = {f"targets/{actor}": vector} if actor in self.targets else {}
        return {f"weights/{actor}": vector, **target, **agent.moments()}

    def lost(self) -> list[int]:
        """The seeds whose weights are not finite."""
        fine = torch.stack([torch.isfinite(x).all(1) for x in self.weights.values()]).all(0)
        return [seed for seed, ok in zip(self.seeds, fine.tolist(), strict=True) if not ok]

    def flush(self) -> int:
        """Flush the log of actions to disk, and return the number of steps in it."""
        return self.collector.flush()

    def close(self) -> None:
        """Close environments and log."""
        self.collector.close()

    def agent(self, index: int = 0, **facts: Any) -> Agent:
        """The current policy of one seed."""
        spaces = self.method.agent_spaces(self.observation_space, self.action_space)
        kept = {
            name: Companion(net.kept, self.weights[name][index].cpu(), net.copies)
            for name, net in self.nets.items()
            if net.kept is not None
        }
        kept = {name: one for name, one in kept.items() if one.fits(*spaces)}
        facts |= {"smoothed": dataclasses.asdict(self.method.rule)} if self.method.rule else {}
        return self._agent(self.method.actor, self.network, spaces, index, facts, kept)

    def opponents(self, index: int = 0, **facts: Any) -> dict[str, Agent]:
        """The current policies of the other players of a game, of one seed."""
        others = self.method.opponents(self.observation_space, self.action_space)
        return {name: self._agent(name, net, spaces, index, facts, {}) for name, (net, *spaces) in others.items()}

    def _agent(
        self,
        name: str,
        network: ActorNetwork,
        spaces: Any,
        index: int,
        facts: dict[str, Any],
        kept: dict[str, Companion],
    ) -> Agent:
        facts = {**facts, "smoothing": self.method.smoothing} if self.method.smoothing else facts
        scales = {key: tuple(x[index, 0].cpu() for x in pair) for key, pair in self.scales().items()}
        return Agent(network, *spaces, self.weights[name][index].cpu(), scales, facts, kept)  # type: ignore[arg-type]


class Means:
    """The mean of every metric over the gradient steps that have it. Sums are kept, not the metrics: small tensors that
    outlive a step would lie between its large ones, and keep their memory from being used again."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, found: dict[str, Tensor]) -> None:
        """Add the metrics of a step."""
        for name, value in found.items():
            if name not in self.sums:
                self.sums[name], self.counts[name] = torch.zeros_like(value, dtype=torch.float64), 0
            self.sums[name] += value
            self.counts[name] += 1

    def values(self) -> dict[str, Tensor]:
        """The means so far."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}


LOOP = environment_loop(Learner, lambda method, env, **options: method.training_env(env, **options))
