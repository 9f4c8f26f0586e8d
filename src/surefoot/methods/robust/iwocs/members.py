"""The SAC of a member, in a game whose parameters are the last part of the action: critics of rewards alone and a model
of the world beside it, for what the members say of each other's states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor, nn

from surefoot.envs.parameter_game import in_game
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.off_policy.game import own_actions, sizes
from surefoot.loops.off_policy.method import RECURRENCE
from surefoot.methods.control.sac import SAC
from surefoot.models.actors import CriticNetwork, action_size
from surefoot.models.sequence import MOST, SequenceNetwork, member_actor
from surefoot.objectives.bootstrap import bootstrapped, lowest

TRAINED = ("temperature", "critic", "worth", "model", "actor")


class Worlds(nn.Module):
    """The present world in [−1, 1]^k, those of all members so far `[members, k]`, how many they are, and whether the
    search is over."""

    def __init__(self, members: int, k: int) -> None:
        super().__init__()
        self.now, self.known = nn.Parameter(torch.zeros(k)), nn.Parameter(torch.zeros(members, k))
        self.count, self.over = (nn.Parameter(torch.zeros(1)) for _ in range(2))

    def forward(self) -> tuple[Tensor, Tensor]:
        """The present world, and 1 if it is that of a member, 0 if every episode draws its own."""
        return self.now, self.count.clamp(max=1.0)


@dataclass(frozen=True)
class Members(SAC):
    """SAC in a world that is given, with rewards-only critics and a model; the agent is a sequence of those trained."""

    actor: ClassVar[str] = "policy"
    others: ClassVar[tuple[str, ...]] = ("actor", "worlds")
    without_effect: ClassVar[tuple[str, ...]] = (
        *("normalize_observations", "cnn", "n_step", "prioritized", "beta", "anneal", "warmup", *RECURRENCE),
    )

    set: str = hyperparameter("rrls:2d", help="Box of parameters: rrls:1d|2d|3d, or param:name=low..high,….")
    members: int = hyperparameter(3, low=1, high=MOST, help="Members, each in a world of its own.")
    critic_learning_rate: float = hyperparameter(1e-3, above=0, help="Adam's learning rate for critics and model.")

    def training_env(self, env: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
        return in_game(env, self.set, options, move="episode")

    def agent_spaces(self, observation_space: gym.Space, action_space: gym.Space) -> tuple[gym.Space, gym.Space]:
        return observation_space["state"], own_actions(observation_space, action_space)  # type: ignore[index]

    def actor_network(self) -> SequenceNetwork:
        return SequenceNetwork(
            hidden=self.hidden, activation=self.activation, members=self.members, critics=self.critics
        )

    def make_actor(self, observation_space: gym.Space, action_space: gym.Space) -> Any:
        network = member_actor(self.actor_network())
        return lambda: network.make(observation_space, action_space)

    def critic_network(self) -> CriticNetwork:
        return CriticNetwork(self.hidden, self.activation)

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        own, k = self.agent_spaces(observation_space, action_space), sizes(observation_space)[1]
        nets, whole = super().networks(*own), self.actor_network()
        judge = replace(nets["critic"], kept=None, learning_rate=self.critic_learning_rate)
        model = replace(judge, make=lambda: whole.model(*own), loss=self.model_loss, copies=1, target_rate=None)
        trained = {**nets, "critic": judge, "worth": replace(judge, loss=self.worth_loss), "model": model}
        learned = {name: replace(trained[name], epsilon=1e-5) for name in TRAINED}
        return {
            **learned,
            "policy": Net(lambda: whole.make(*own)),
            "worlds": Net(lambda: Worlds(self.members, k)),
        }  # fmt: skip

    def own(self, w: Weights, batch: Batch) -> Batch:
        """A batch as a member learns from it; of another world's transitions, which have no weight, nothing."""
        parameters, size = batch["next_observation"]["parameters"], w.module("actor").distribution.dim
        world, fixed = w("worlds")
        here = ((parameters - world).abs().amax(-1) < 1e-4) | (fixed == 0)
        return {
            **batch,
            **{name: batch[name]["state"] for name in ("observation", "next_observation")},
            "action": batch["action"][..., :size],
            "weight": batch["weight"] * here,
            "noise": {name: x[..., :size] for name, x in batch["noise"].items()},
        }

    def temperature_loss(self, w: Weights, batch: Batch, goal: float) -> tuple[Tensor, dict[str, Tensor]]:
        return super().temperature_loss(w, self.own(w, batch), goal)

    def critic_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return super().critic_loss(w, self.own(w, batch))

    def actor_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return super().actor_loss(w, self.own(w, batch))

    def worth_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Half squared errors of the critics of rewards alone."""
        own = self.own(w, batch)
        following = self.act(w, own["next_observation"], own["noise"]["next"])[0]
        target = bootstrapped(
            own["reward"], own["discount"], lowest(w.target("worth", own["next_observation"], following))
        )
        values = w("worth", own["observation"], own["action"])
        loss = 0.5 * (own["weight"] * (values - target).reshape(-1, len(target)) ** 2).mean(-1).sum()
        return loss, {"worth_loss": loss.detach(), "worth": values.mean().detach()}

    def model_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean distance ‖T̂(s, a) − s'‖₁."""
        own = self.own(w, batch)
        errors = (w("model", own["observation"], own["action"]) - own["next_observation"]).abs().sum(-1)
        loss = (own["weight"] * errors).mean()
        return loss, {"model_error": loss.detach()}

    # --- acting ------------------------------------------------------------------------------------------------------

    def exploration(self, count: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        drawn = 2.0 * torch.rand(count, action_size(action_space), generator=generator) - 1.0
        return super().exploration(count, action_space, generator) | {"parameters": drawn}

    def play(self, w: Weights, observation: Any, noise: dict[str, Tensor], progress: Tensor) -> Tensor:
        distribution, (world, fixed) = w.module("actor").distribution, w("worlds")
        params, size = w("actor", observation["state"]), distribution.dim
        action = distribution.sample(params, noise["action"][..., :size]).tanh()
        return torch.cat([action, torch.lerp(noise["parameters"][..., size:], world, fixed)], -1)


def put(whole: Mapping[str, Tensor], prefix: str, part: Mapping[str, Tensor]) -> None:
    """Copy a network's parameters into one that contains it, under a prefix."""
    for name, x in part.items():
        whole[prefix + name].copy_(x)
