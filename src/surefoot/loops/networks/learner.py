"""The networks of a run, for one seed or several at once: their gradient step, checkpoints and agents.

Weights, targets and optimisers are tensors with a leading seed axis. Where batches come from is up to the learners that
extend this: a replay of what was done, or a data set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.loops.common.compile import as_set
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.networks.method import Networked
from surefoot.loops.networks.nets import Batch, Function, gradient_step
from surefoot.models.acting import to_json
from surefoot.models.actors import ActorNetwork
from surefoot.models.agent import Agent
from surefoot.models.companions import Companion
from surefoot.models.device import computing_on
from surefoot.models.distributions import BoundedGaussian, Deterministic, SquashedGaussian, from_box
from surefoot.models.functional import initial, over_seeds
from surefoot.models.normalizers import Moments
from surefoot.models.observations import normalize_observation, normalized_keys, normalized_shapes
from surefoot.seeding import torch_stream


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


class NetworkLearner:
    """The named networks of a method, their targets and optimisers, and the normaliser of observations."""

    def __init__(
        self,
        method: Networked,
        observation_space: gym.Space,
        action_space: gym.Space,
        seeds: Sequence[int],
        total_steps: int,
        *,
        compile: str = "off",
        device: str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.method, self.seeds, self.num_seeds, self.total_steps = method, list(seeds), len(seeds), total_steps
        self.observation_space, self.action_space = observation_space, action_space
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
            self._ones = torch.ones(self.num_seeds, method.batch_size)
        self.iteration, self.updates, self.compile = 0, 0, compile
        self._steps: dict[tuple[str, ...], Any] = {}

    def _initial(self, name: str) -> Tensor:
        net = self.nets[name]
        streams = [[torch_stream(s, f"weights {name}", copy) for copy in range(net.copies)] for s in self.seeds]
        return torch.stack([torch.cat([initial(net.make, g) for g in each]) for each in streams])

    def scales(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Means and inverse deviations of the normalised observation entries, `[seeds, 1, ...]`."""
        shapes = normalized_shapes(self.observation_space)
        return {k: tuple(x.view(-1, 1, *shapes[k]) for x in m.scale()) for k, m in self.moments.items()}  # type: ignore[misc]

    # --- learning ----------------------------------------------------------------------------------------------------

    def due(self) -> tuple[str, ...]:
        """The networks that the next gradient step changes."""
        nets = self.nets.items()
        return tuple(n for n, net in nets if self.method.learns(n, self.iteration) and net.due(self.updates + 1))

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step of all networks that are due, and of the targets; metrics `[seeds, ...]` by name."""
        due, arguments = self.due(), (self.weights, self.targets, self.adams, batch)
        with torch.no_grad(), computing_on(self.device):
            if due not in self._steps:
                step = over_seeds(gradient_step(self.nets, self.functions, due), self.num_seeds)
                self._steps[due] = as_set(self.compile, step, *arguments)
            self.weights, self.adams, metrics = self._steps[due](*arguments)
            self.updates += 1
            for name, target in self.targets.items():
                net = self.nets[name]
                if self.method.learns(name, self.iteration) and self.updates % net.target_every == 0:
                    assert net.target_rate is not None
                    target.lerp_(self.weights[name], net.target_rate)
        return metrics

    def completed(self, batch: Batch, streams: Sequence[torch.Generator]) -> Batch:
        """What losses see of transitions `[seeds, size, ...]`: actions in [−1, 1], normalised observations, weights,
        the factor of the learning rates, and the random numbers of each seed's stream."""
        method, distribution = self.method, self.distribution
        batch = {"weight": self._ones, **batch}
        if isinstance(distribution, Deterministic | SquashedGaussian | BoundedGaussian):
            batch["action"] = from_box(batch["action"].flatten(2), distribution.low, distribution.high)
        elif distribution.start[0]:
            batch["action"] = batch["action"] - distribution.start[0]
        if self.moments:
            scales = self.scales()
            for key in ("observation", "next_observation"):
                batch[key] = normalize_observation(batch[key], scales)
        if (factor := self.rate()) is not None:
            batch["rate"] = factor * self._ones[:, 0]
        drawn = [
            method.noise(method.batch_size, self.action_space, g)
            | method.perception(self.observation_space, method.batch_size, g)
            for g in streams
        ]
        batch["noise"] = {k: torch.stack([x[k] for x in drawn]).to(self.device) for k in drawn[0]}
        return batch

    def output(self, name: str, *inputs: Any) -> Any:
        """What a network makes of inputs `[seeds, ...]` with each seed's weights, without a gradient."""
        with torch.no_grad(), computing_on(self.device):
            return over_seeds(self.functions[name], self.num_seeds)(self.weights[name], *inputs)

    def rate(self) -> float | None:
        """The factor of all learning rates now; None if they are constant."""
        raise NotImplementedError

    def ended(self, rows: list[dict[str, float]], means: Means) -> list[dict[str, float]]:
        """Count an iteration, and add its metrics to its rows, one a seed."""
        self.iteration += 1
        with torch.no_grad():
            metrics = means.values() | self.method.after_iteration(self)
        for name, values in metrics.items():
            for row, value in zip(rows, values.tolist(), strict=True):
                row[name] = value
        for row in rows:
            row["updates"] = self.updates
        return rows

    # --- checkpoints and agents --------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """The networks, targets, optimisers and normalisers as tensors by name."""
        parts: dict[str, Tensor] = {
            **{f"weights/{k}": x for k, x in self.weights.items()},
            **{f"targets/{k}": x for k, x in self.targets.items()},
            **{f"adam/{k}/{part}": x for k, adam in self.adams.items() for part, x in adam._asdict().items()},
            **{f"observations/{key}/{k}": x for key, m in self.moments.items() for k, x in m._asdict().items()},
            "updates": torch.tensor(self.updates),
        }
        return {name: x.detach().cpu().contiguous().clone() for name, x in parts.items()}

    def load(self, state: Mapping[str, Tensor], iteration: int, logged: int) -> None:
        """Load a saved state.

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
        self.updates, self.iteration = int(state["updates"]), iteration

    def carried(self, agent: Agent) -> dict[str, Tensor]:
        """What an agent holds of the state of one seed: the actor, its target, and the normaliser."""
        actor, vector = self.method.actor, agent.vector[None]
        target = {f"targets/{actor}": vector} if actor in self.targets else {}
        return {f"weights/{actor}": vector, **target, **agent.moments()}

    def lost(self) -> list[int]:
        """The seeds whose weights are not finite."""
        fine = torch.stack([torch.isfinite(x).all(1) for x in self.weights.values()]).all(0)
        return [seed for seed, ok in zip(self.seeds, fine.tolist(), strict=True) if not ok]

    def agent(self, index: int = 0, **facts: Any) -> Agent:
        """The current policy of one seed."""
        spaces = self.method.agent_spaces(self.observation_space, self.action_space)
        kept = {
            name: Companion(net.kept, (self.targets if net.averaged else self.weights)[name][index].cpu(), net.copies)
            for name, net in self.nets.items()
            if net.kept is not None
        }
        kept = {name: one for name, one in kept.items() if one.fits(*spaces)}
        facts |= {"smoothed": dataclasses.asdict(self.method.rule)} if self.method.rule else {}
        facts |= {"acting": to_json(self.method.acting_rules)} if self.method.acting_rules else {}
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
