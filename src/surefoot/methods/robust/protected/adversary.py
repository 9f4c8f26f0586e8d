"""The adversary of discovery: it makes the new agent do well where the members do badly.

    maximise  J(π, ν) − J(π^b, ν),  b the best member against ν

In one half of its environments it plays the new agent π, in the other half π^b, and the last entry of what it sees says
which: 0 or 1. Rewards are the agents' negated, so that in the first half advantages change their sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.loops.on_policy.method import Batch
from surefoot.methods.control.ppo import PPO
from surefoot.models.agent import Network
from surefoot.models.distributions import for_space
from surefoot.models.networks import ActorCritic, Observation

if TYPE_CHECKING:
    from surefoot.loops.on_policy.learner import Learner


class JudgedTwice(ActorCritic):
    """An actor that does not see the last entry of the observation, and a critic for each of its two values: the
    returns of two agents under one adversary differ."""

    def __init__(self, space: gym.spaces.Box, distribution: Any, **settings: Any) -> None:
        inner = gym.spaces.Box(space.low[:-1], space.high[:-1])
        super().__init__(inner, distribution, **settings)
        self.critic_of_member = ActorCritic(inner, distribution, **settings).critic

    def policy(self, observation: Any, state: Any = None, starts: Any = None) -> tuple[Tensor, Tensor | None]:
        return super().policy(observation[..., :-1], state, starts)

    def forward(
        self, observation: Observation, state: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        assert isinstance(observation, Tensor)
        params, _ = self.policy(observation)
        seen, member = observation[..., :-1], observation[..., -1:] > 0.5
        value = torch.where(member, self.critic_of_member(seen)[0], self.critic(seen)[0])
        return params, value.squeeze(-1), state


@dataclass(frozen=True)
class TwoCritics(Network):
    """The architecture of `JudgedTwice`."""

    def make(self, observation_space: gym.Space, action_space: gym.Space) -> ActorCritic:
        assert isinstance(observation_space, gym.spaces.Box)
        return JudgedTwice(
            observation_space,
            for_space(action_space),
            hidden=self.hidden,
            critic_hidden=self.critic_hidden,
            activation=self.activation,
            log_std_init=self.log_std_init,
        )


def signed(batch: Batch) -> Batch:
    """The batch with the advantages of what is maximised: those against the new agent negated."""
    sign = torch.where(batch["observation"][..., -1] > 0.5, 1.0, -1.0)
    return {**batch, "advantage": sign * batch["advantage"]}


@dataclass(frozen=True)
class GapAscent(PPO):
    """PPO on both halves at once; advantages are standardised over both together."""

    def network(self) -> Network:
        return TwoCritics(hidden=self.hidden, critic_hidden=self.critic_hidden, activation=self.activation,
                          log_std_init=self.log_std_init)  # fmt: skip

    def update(self, learner: Learner, batch: Batch) -> dict[str, Tensor]:
        return super().update(learner, signed(batch))
