"""The named networks of a run that makes an agent for environments: what they see of transitions, and the agent.

Where batches come from is up to the learners that extend this: a replay of what was done, or a data set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.loops.networks.machine import NamedNetworks
from surefoot.loops.networks.method import Networked
from surefoot.loops.networks.nets import Batch
from surefoot.models.acting import to_json
from surefoot.models.actors import ActorNetwork
from surefoot.models.agent import Agent
from surefoot.models.companions import Companion
from surefoot.models.device import computing_on
from surefoot.models.distributions import BoundedGaussian, Deterministic, SquashedGaussian, from_box
from surefoot.models.normalizers import Moments
from surefoot.models.observations import normalize_observation, normalized_keys, normalized_shapes


class NetworkLearner(NamedNetworks):
    """The named networks of a method, and the normaliser of observations."""

    method: Networked

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
        self.observation_space, self.action_space = observation_space, action_space
        nets = method.networks(observation_space, action_space)
        super().__init__(method, nets, seeds, total_steps, compile=compile, device=device)
        self.network = method.actor_network()
        self.actor = self.functions[method.actor]
        self.distribution = self.network.distribution(self.action_space)
        with computing_on(self.device):
            self.moments = {
                key: Moments.start(self.num_seeds, width)
                for key, width in normalized_keys(self.observation_space).items()
                if method.normalize_observations
            }
            self._ones = torch.ones(self.num_seeds, method.batch_size)

    def scales(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Means and inverse deviations of the normalised observation entries, `[seeds, 1, ...]`."""
        shapes = normalized_shapes(self.observation_space)
        return {k: tuple(x.view(-1, 1, *shapes[k]) for x in m.scale()) for k, m in self.moments.items()}  # type: ignore[misc]

    # --- learning ----------------------------------------------------------------------------------------------------

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
            for key in batch.keys() & {"observation", "next_observation"}:
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

    def rate(self) -> float | None:
        """The factor of all learning rates now; None if they are constant."""
        raise NotImplementedError

    # --- checkpoints and agents --------------------------------------------------------------------------------------

    def more_state(self) -> dict[str, Tensor]:
        return {f"observations/{key}/{k}": x for key, m in self.moments.items() for k, x in m._asdict().items()}

    def load_more(self, state: Mapping[str, Tensor]) -> None:
        for key in self.moments:
            self.moments[key] = Moments(*(state[f"observations/{key}/{k}"] for k in Moments._fields))

    def carried(self, agent: Agent) -> dict[str, Tensor]:
        """What an agent holds of the state of one seed: the actor, its target, and the normaliser."""
        actor, vector = self.method.actor, agent.vector[None]
        target = {f"targets/{actor}": vector} if actor in self.targets else {}
        return {f"weights/{actor}": vector, **target, **agent.moments()}

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
