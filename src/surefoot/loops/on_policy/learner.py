"""One run of an on-policy method, for one seed or several at once.

Everything a learner holds is a tensor with a leading seed axis, so its state is one flat dict, and a seed among many
computes what it would compute alone, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from surefoot.errors import UsageError
from surefoot.loops.common.collect import Arrays, Collector, Episodes, Rollout, map_observation, tensors
from surefoot.loops.common.compile import as_set
from surefoot.loops.common.env_options import environment_loop
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.common.schedule import scheduled
from surefoot.loops.common.staging import staged
from surefoot.loops.on_policy.method import Batch, OnPolicy, gradient_step, pick, take
from surefoot.loops.on_policy.perceiving import perception, seen
from surefoot.models.agent import Agent
from surefoot.models.device import CPU, computing_on
from surefoot.models.distributions import check_reach
from surefoot.models.functional import Model, initial, over_seeds
from surefoot.models.networks import ActorCritic, Observation
from surefoot.models.normalizers import Moments
from surefoot.models.observations import normalize_observation, normalized_keys, normalized_shapes, normalized_since
from surefoot.seeding import torch_stream

REWARD_CLIP = 10.0
Act = Callable[[int, Arrays, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(step, observations, starts) -> actions as sampled, and as the environments take them."""


class Learner:
    """Weights, optimiser, normalisers and environments of a run; `iterate()` advances it by one batch.

    `envs` holds `len(seeds) · method.num_envs` environments, those of a seed adjacent. `compile="on"` fuses the
    gradient step into native code: the same numbers up to rounding, faster once compiled. "auto" continues
    without it, with a warning, if that fails.

    Policies act on the CPU. All else is computed on `device`, to which complete rollouts are moved.

    One of several players of a game (`loops.on_policy.game`) has a `name`, from which its random streams are derived,
    `spaces` of its own, and the `collector` of the game.
    """

    def __init__(
        self,
        method: OnPolicy,
        envs: VectorEnv,
        seeds: Sequence[int],
        total_steps: int,
        *,
        log: Path | None = None,
        compile: str = "off",
        device: str = "cpu",
        name: str = "",
        spaces: tuple[gym.Space, gym.Space] | None = None,
        collector: Collector | None = None,
    ) -> None:
        self.device, self.name = torch.device(device), name
        self.method, self.seeds, self.num_seeds, self.total_steps = method, list(seeds), len(seeds), total_steps
        own = (envs.single_observation_space, envs.single_action_space) if spaces is None else spaces
        self.observation_space, self.action_space = own
        self.network = method.network()
        check_reach(self.action_space, self.network.squash, self.network.log_std_init)
        self.model = Model(self._module())
        weights = torch.stack([initial(self._module, stream) for stream in self._streams("weights")])
        self.vector = weights.to(self.device)
        one = method.extra_state(self.model)
        self.extra = {name: torch.stack([x.to(self.device)] * self.num_seeds) for name, x in one.items()}
        with computing_on(self.device):
            self.adam = Adam.start(self.vector)
            self.moments = {
                key: Moments.start(self.num_seeds, width)
                for key, width in normalized_keys(self.observation_space).items()
                if method.normalize_observations
            }
            self.reward_moments = Moments.start(self.num_seeds, 1)
            self.discounted = torch.zeros(self.num_seeds, method.num_envs)
        self.core_state = torch.zeros(self.num_seeds, method.num_envs, self.model.module.state_size)
        self.episodes = Episodes(self.num_seeds, method.num_envs)
        self.iteration = 0
        self.compile = compile
        self._policy: tuple[Callable[..., Any], Callable[..., Any]] | None = None
        self._step: Callable[..., Any] | None = None
        self._names: list[str] = []
        self.collector = Collector(envs, log) if collector is None else collector

    def _streams(self, name: str, counter: int = 0) -> list[torch.Generator]:
        name = f"{self.name} {name}" if self.name else name
        return [torch_stream(seed, name, counter) for seed in self.seeds]

    def _module(self) -> ActorCritic:
        module = self.method.module(self.network, self.observation_space, self.action_space)
        first = self.method.multipliers(module.distribution)
        module.multipliers = nn.ParameterDict({name: torch.tensor(float(x)) for name, x in first.items()})
        return module

    @property
    def steps(self) -> int:
        """Environment steps per seed so far, including the steps in which an environment only resets itself."""
        return self.collector.logged * self.method.num_envs

    @property
    def lr(self) -> float:
        """The step size of this iteration."""
        method = self.method
        return scheduled(method.learning_rate, method.anneal, method.warmup, self.steps, method.pace, self.total_steps)

    # --- one iteration -----------------------------------------------------------------------------------------------

    def iterate(self) -> list[dict[str, float]]:
        """Collect and update once; returns one row of metrics per seed."""
        with computing_on(self.device):
            self.lr_tensor = torch.tensor(self.lr)
            metrics = self.method.iterate(self)
        self.iteration += 1
        rows = [dict(row) for row in self.episode_rows]
        for name, values in metrics.items():
            for row, value in zip(rows, values.tolist(), strict=True):
                row[name] = value
        return rows

    @computing_on(CPU)
    def collect(self, vectors: Tensor, num_steps: int | None = None) -> Rollout:
        """Act with the given weights `[seeds, size]` for `num_steps` steps; the rollout `[time, seeds, envs]` is on the
        learner's device."""
        steps = num_steps or self.method.num_steps
        rollout = self.received(self.collector.collect(steps, self.acting(vectors, steps)))
        ended = rollout.terminated | rollout.truncated
        rows = self.episodes.add(rollout.reward, ended, rollout.truncated, rollout.valid)
        self.episode_rows = [row | own for row, own in zip(rows, self.collector.figures(self.num_seeds), strict=True)]
        return rollout

    def acting(self, vectors: Tensor, steps: int) -> Act:
        """The policies with these weights `[seeds, size]`, as a function that acts in the next `steps` steps."""
        envs, distribution = self.method.num_envs, self.model.distribution
        streams = self._streams("actions", self.collector.logged)
        noise = torch.stack([distribution.noise((steps, envs), g) for g in streams], 1)
        streams = self._streams("perception", self.collector.logged)
        self._perception = drawn = perception(self.method, self.observation_space, (steps + 1, envs), streams)
        self._acting, self.first_state = vectors, self.core_state.to(self.device)
        early = tree_map(Tensor.cpu, (vectors, self.scales()))
        if self._policy is None:
            anywhere = torch.ones(self.num_seeds * envs, dtype=torch.bool)
            late = tensors(seen(self.collector.observation, drawn, 0)), noise[0], anywhere, self.core_state
            self._policy = staged(self._policy_step, early, late)
        prepare, run = self._policy
        prepared, draws = prepare(early), noise.numpy()

        def act(t: int, observation: Arrays, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            before = self.core_state.numpy()
            action, executed, state = run(prepared, seen(observation, drawn, t), draws[t], starts, before)
            self.core_state = torch.from_numpy(state)
            return action, executed

        return act

    def received(self, rollout: Rollout) -> Rollout:
        """What the collector returns as `[time, seeds, envs]`, on the learner's device."""
        apart = (self.num_seeds, self.method.num_envs)
        parts = (rollout.reward, rollout.terminated, rollout.truncated, rollout.valid, rollout.starts)
        observation = map_observation(lambda x: x.unflatten(1, apart), rollout.observation)
        whole = Rollout(observation, rollout.action, *(x.unflatten(1, apart) for x in parts))
        return tree_map(lambda x: x.to(self.device), whole)

    def perceived(self, batch: Batch, epoch: int) -> Batch:
        """The batch of an update as the actor sees it in this epoch."""
        counter = self.iteration * self.method.epochs + epoch
        streams = self._streams("perception of minibatches", counter)
        drawn = perception(self.method, self.observation_space, (self.samples(batch),), streams)
        here = {key: x.to(self.device) for key, x in drawn.items()}
        return {**batch, "observation": {**batch["observation"], **here}} if here else batch

    def _per_seed(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (self.num_seeds, self.method.num_envs))

    def _policy_step(self, early: Any, late: Any) -> tuple[Tensor, Tensor, Tensor]:
        """One step of all policies: actions as sampled, as the environments take them, and the new core states."""
        distribution, recurrent = self.model.distribution, bool(self.core_state.shape[-1])
        (vectors, scales), (observation, noise, starts, states) = early, late

        def step(vector: Tensor, scales: Any, x: Observation, noise: Tensor, start: Tensor, state: Tensor) -> Any:
            x = normalize_observation(x, scales)
            if recurrent:
                x, start = map_observation(lambda part: part[None], x), start[None]
            params, _, new = self.model(vector, x, state, start) if recurrent else self.model(vector, x)
            action = distribution.sample(params[0] if recurrent else params, noise)
            return action, distribution.to_env(action), new if recurrent else state

        observations, starts = map_observation(self._per_seed, observation), self._per_seed(starts)
        each = over_seeds(step, self.num_seeds)
        action, executed, states = each(vectors, scales, observations, noise, starts, states)
        return action, executed.flatten(0, 1), states

    def scales(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Means and inverse deviations of the normalised observation entries, `[seeds, 1, ...]`."""
        shapes = normalized_shapes(self.observation_space)
        return {k: tuple(x.view(-1, 1, *shapes[k]) for x in m.scale()) for k, m in self.moments.items()}  # type: ignore[misc]

    def estimate(self, rollout: Rollout) -> Batch:
        """The batch of an update: one pass of the acting weights over all observations, advantages and targets.

        Log-probabilities and distribution parameters are those of the acting weights, on the observations as they were
        normalised while acting. Afterwards the normalisers are updated with the rollout, for the next one.
        """
        method, distribution = self.method, self.model.distribution
        observation = map_observation(lambda x: x.transpose(0, 1), rollout.observation)  # [seeds, time + 1, envs, ...]
        scales = {key: tuple(x.unsqueeze(1) for x in scale) for key, scale in self.scales().items()}
        normal = normalize_observation(observation, scales)  # type: ignore[arg-type]
        if self._perception:
            entries = normal if isinstance(normal, dict) else {"": normal}
            normal = {**entries, **{key: x.to(self.device) for key, x in self._perception.items()}}
        batch: Batch = {"observation": normal}
        if self.core_state.shape[-1]:
            batch |= {"starts": rollout.starts.transpose(0, 1), "state": self.first_state}
        with torch.no_grad():
            params, value = over_seeds(self.model.evaluate, self.num_seeds)(self._acting, batch)
        reward = self._scaled_reward(rollout)
        signals = {
            "values": value[:, :-1].transpose(0, 1),
            "next_values": value[:, 1:].transpose(0, 1),
            "terminated": rollout.terminated,
            "truncated": rollout.truncated,
            "valid": rollout.valid,
        }
        advantage, target = method.estimates(reward, **signals)
        batch |= {
            "action": rollout.action.transpose(0, 1),
            "old_params": params[:, :-1],
            "old_log_prob": distribution.log_prob(params[:, :-1], rollout.action.transpose(0, 1)),
            "old_value": value[:, :-1],
            "advantage": advantage.transpose(0, 1),
            "target": target.transpose(0, 1) + value[:, :-1],
            "valid": rollout.valid.transpose(0, 1),
        }
        batch["observation"] = map_observation(lambda x: x[:, :-1], batch["observation"])
        if "starts" in batch:
            batch["starts"] = batch["starts"][:, :-1]
        self._observe(map_observation(lambda x: x[:, :-1], observation))
        if "state" in batch:
            return batch
        return {k: map_observation(lambda x: x.flatten(1, 2), part) for k, part in batch.items()}

    def _scaled_reward(self, rollout: Rollout) -> Tensor:
        """Rewards divided by the running deviation of the discounted return, within ±10; raw if that is switched
        off."""
        if not self.method.normalize_rewards:
            return rollout.reward
        goes_on = (~(rollout.terminated | rollout.truncated)).float()
        running, returns = self.discounted, []
        for reward, on in zip(rollout.reward.unbind(0), goes_on.unbind(0), strict=True):
            running = torch.add(reward, running, alpha=self.method.gamma)
            returns.append(running)
            running = running * on
        self.discounted = running
        seen = torch.stack(returns, 1).flatten(1).unsqueeze(-1)
        self.reward_moments = self.reward_moments.update(seen, rollout.valid.transpose(0, 1).flatten(1))
        _, inverse_std = self.reward_moments.scale()
        return (rollout.reward * inverse_std).clamp(-REWARD_CLIP, REWARD_CLIP)

    def _observe(self, observation: Observation) -> None:
        """Update the running moments with the raw observations `[seeds, time, envs, ...]`."""
        for key, moments in self.moments.items():
            data = (observation[key] if isinstance(observation, dict) else observation).flatten(1, 2)
            data = data.reshape(*data.shape[:2], -1)
            self.moments[key] = moments.update(data, torch.ones(data.shape[:2], dtype=torch.bool))

    # --- for methods -------------------------------------------------------------------------------------------------

    def samples(self, batch: Batch) -> int:
        """The number of samples in a batch: steps, or whole sequences for a recurrent network."""
        return batch["valid"].shape[2 if "state" in batch else 1]

    def metric_names(self, batch: Batch) -> list[str]:
        """The names of a gradient step's metrics, found once by evaluating the loss on one sample."""
        if not self._names:
            extra = {name: x[0] for name, x in self.extra.items()}
            with torch.no_grad():
                one = take(pick(batch, 0), torch.zeros(1, dtype=torch.int64))
                _, metrics = self.method.loss(self.model, self.vector[0], one, extra)
            self._names = [*metrics, "grad_norm"]
        return self._names

    def gradient_step(self, active: Tensor, batch: Batch, index: Tensor) -> Tensor:
        """One Adam step of every active seed on the samples `index [seeds, size]` of the batch: changes the weights and
        the optimiser, returns metrics `[seeds, names]`."""
        # A compiled step recognises its arguments by identity, and the entries of `extra` may change between steps.
        arguments = (self.vector, self.adam, active, index, {**self.extra}, batch, self.lr_tensor)
        with torch.no_grad():
            if self._step is None:
                step = over_seeds(gradient_step(self.method, self.model, tuple(self._names)), self.num_seeds, shared=1)
                self._step = as_set(self.compile, step, *arguments)
            self.vector, self.adam, metrics = self._step(*arguments)
        return metrics

    def explained_variance(self, batch: Batch) -> Tensor:
        """1 − Var(G − V)/Var(G) over the valid samples of each seed: 1 is a perfect critic, 0 a constant one."""
        weight = batch["valid"].flatten(1).float()
        weight = weight / weight.sum(1, keepdim=True)

        def variance(x: Tensor) -> Tensor:
            return (weight * (x - (weight * x).sum(1, keepdim=True)) ** 2).sum(1)

        target = batch["target"].flatten(1)
        return 1 - variance(target - batch["old_value"].flatten(1)) / variance(target).clamp(min=1e-8)

    # --- checkpoints and agents --------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything but the environments and the counters, as tensors by name."""
        parts: dict[str, Tensor] = {
            "weights": self.vector,
            **{f"adam/{k}": x for k, x in self.adam._asdict().items()},
            **{f"extra/{k}": x for k, x in self.extra.items()},
            **{f"observations/{key}/{k}": x for key, m in self.moments.items() for k, x in m._asdict().items()},
            **{f"rewards/{k}": x for k, x in self.reward_moments._asdict().items()},
            "rewards/discounted": self.discounted,
            "core_state": self.core_state,
            "replay/sums": self.collector.seen.sums(),
            **self.episodes.state(),
        }
        return {name: x.detach().cpu().contiguous().clone() for name, x in parts.items()}

    def load(self, state: Mapping[str, Tensor], iteration: int, logged: int) -> None:
        """Load a saved state and replay the environments to their state at that time.

        Raises:
            UsageError: tensors are missing, unknown, or of another type or shape.
        """
        self.restore(state, iteration)
        self.collector.replay(logged, state.get("replay/sums"))

    def restore(self, state: Mapping[str, Tensor], iteration: int) -> None:
        """Load a saved state, but for the environments. Raises `UsageError` as `load`."""
        for key in normalized_since(self.observation_space):  # missing in a run of an older version
            if f"observations/{key}/mean" not in state:
                self.moments.pop(key, None)
        mine = self.state()
        kinds = [{name: (x.dtype, x.shape) for name, x in tensors.items()} for tensors in (mine, state)]
        wrong = sorted(name for name in mine.keys() | state.keys() if kinds[0].get(name) != kinds[1].get(name))
        wrong = [name for name in wrong if name != "replay/sums"]
        if wrong:
            raise UsageError(
                f"the checkpoint does not fit this method, network or number of seeds: {', '.join(wrong)} differ. "
                "Resume with the configuration in the run's config.json."
            )
        here = {name: x.to(self.device, copy=True) for name, x in state.items()}
        self.vector = here["weights"]
        self.adam = Adam(*(here[f"adam/{k}"] for k in Adam._fields))
        self.extra = {k: here[f"extra/{k}"] for k in self.extra}
        for key in self.moments:
            self.moments[key] = Moments(*(here[f"observations/{key}/{k}"] for k in Moments._fields))
        self.reward_moments = Moments(*(here[f"rewards/{k}"] for k in Moments._fields))
        self.discounted, self.core_state = here["rewards/discounted"], state["core_state"].clone()
        self.episodes.load(state)
        self.iteration = iteration

    def carried(self, agent: Agent) -> dict[str, Tensor]:
        """What an agent holds of the state of one seed: actor, critic and normaliser."""
        weights = self.vector[:1].cpu().clone()
        weights[:, self._acts()] = agent.vector
        return {"weights": weights, **agent.moments()}

    def _acts(self) -> Tensor:
        """Which weights an agent has: all but the multipliers."""
        return self.model.mask(lambda name: not name.startswith("multipliers."))

    def lost(self) -> list[int]:
        """The seeds whose weights are not finite."""
        return [seed for seed, v in zip(self.seeds, self.vector, strict=True) if not torch.isfinite(v).all()]

    def flush(self) -> int:
        """Flush the log of actions to disk, and return the number of steps in it."""
        return self.collector.flush()

    def close(self) -> None:
        """Close environments and log."""
        self.collector.close()

    def agent(self, index: int = 0, **facts: Any) -> Agent:
        """The current policy of one seed."""
        facts |= {"smoothing": self.method.smoothing} if self.method.smoothing else {}
        facts |= {"smoothed": {**vars(self.method.rule)}} if self.method.rule else {}
        scales = {key: tuple(x[index, 0].cpu() for x in pair) for key, pair in self.scales().items()}
        vector = self.vector[index].cpu()[self._acts()]
        return Agent(self.network, self.observation_space, self.action_space, vector, scales, facts)  # type: ignore[arg-type]


LOOP = environment_loop(Learner)
