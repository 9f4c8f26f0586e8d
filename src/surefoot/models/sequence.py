"""A policy of several members, each trained in a world of its own: in every step that member acts whose critic values
its own action lowest, among those whose world the present one looks like.

    j* = argmin_j Q_j(s_t, π_j(s_t))  over members j with  ‖T_j(s_{t−1}, a_{t−1}) − s_t‖₁ ≤ ρ_j;    a_t = π_{j*}(s_t)

Where there is no such member, a default policy acts; in the first step of an episode, of which nothing is known, all
members may. From IWOCS (arXiv:2410.06212).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import gymnasium as gym
import torch
from torch import Tensor, nn

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.models.actors import Actor, ActorNetwork, CriticNetwork, action_size
from surefoot.models.networks import Observation
from surefoot.models.scores import Dynamics, state_size

MOST = 100  # members
ABSENT = -1.0  # the reach of a member that is not there yet: no error is that small


def member_actor(network: ActorNetwork) -> ActorNetwork:
    """The architecture of one member's policy, whose mode it plays."""
    return ActorNetwork("gaussian", network.hidden, network.activation, network.cnn)


class Member(nn.Module):
    """A policy, critics of rewards alone, and a model of the world in which they were trained."""

    def __init__(self, network: SequenceNetwork, observation_space: gym.Space, action_space: gym.Space) -> None:
        super().__init__()
        spaces = observation_space, action_space
        self.actor = member_actor(network).make(*spaces)
        judge = CriticNetwork(network.hidden, network.activation, network.cnn)
        self.critics = nn.ModuleList(judge.make(*spaces) for _ in range(network.critics))
        self.model = network.model(*spaces)

    def action(self, observation: Tensor) -> Tensor:
        """Its likeliest action in [−1, 1]."""
        return mode(self.actor, observation)

    def value(self, observation: Tensor, action: Tensor) -> Tensor:
        """The lowest of its critics' values `[...]`."""
        return torch.stack([critic(observation, action) for critic in self.critics]).amin(0)


def mode(actor: Actor, observation: Tensor) -> Tensor:
    """The likeliest action of a squashed Gaussian, in [−1, 1]."""
    return actor.params(observation).chunk(2, -1)[0].tanh()


class LowestActor(Actor):
    """The members and the default policy. Its memory is the observation before and its own action then."""

    def __init__(self, network: SequenceNetwork, observation_space: gym.Space, action_space: gym.Space) -> None:
        nn.Module.__init__(self)
        self.network, self.distribution, self.masked = network, network.distribution(action_space), False
        self.parts = (state_size(observation_space), action_size(action_space))
        self.core_state = sum(self.parts)
        self.default = member_actor(network).make(observation_space, action_space)
        each = (Member(network, observation_space, action_space) for _ in range(network.members))
        self.members = nn.ModuleList(each)
        self.reach = nn.Parameter(torch.full((network.members,), ABSENT))  # ρ_j

    def offers(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """The members' own actions `[members, batch, dim]` and the values `[members, batch]` that they give them."""
        actions = torch.stack([member.action(observation) for member in self.members])  # type: ignore[operator]
        values = [m.value(observation, a) for m, a in zip(self.members, actions, strict=True)]  # type: ignore[operator]
        return actions, torch.stack(values)

    def errors(self, before: Tensor, action: Tensor, now: Tensor) -> Tensor:
        """How far each model's prediction of an observation was off, `[members, batch]`."""
        return torch.stack([(m.model(before, action) - now).abs().sum(-1) for m in self.members])  # type: ignore

    def chosen(self, observation: Tensor, usable: Tensor) -> Tensor:
        """The action `[batch, dim]` of the usable member with the lowest value, or else the default policy's."""
        actions, values = self.offers(observation)
        best = torch.where(usable, values, torch.inf).argmin(0)
        action = actions.gather(0, best[None, :, None].expand(1, *actions.shape[1:])).squeeze(0)
        return torch.where(usable.any(0).unsqueeze(-1), action, mode(self.default, observation))

    def there(self, observation: Tensor) -> Tensor:
        """Which members there are, for each observation of a batch: `[members, batch]`."""
        return (self.reach > ABSENT).unsqueeze(-1).expand(-1, len(observation))

    def policy(
        self, observation: Observation, state: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Without a state, for first steps; with one `[batch, size]`, for one step `[1, batch, ...]`."""
        if state is None or starts is None:
            return self.params(observation), None
        assert isinstance(observation, Tensor)
        now = observation[0].flatten(1)
        before, action = state.split(self.parts, -1)
        close = self.errors(before, action, now) <= self.reach.unsqueeze(-1)
        chosen = self.chosen(now, torch.where(starts[0], self.there(now), close))
        return chosen.unsqueeze(0), torch.cat([now, chosen], -1)

    def params(self, observation: Observation) -> Tensor:
        assert isinstance(observation, Tensor)
        return self.chosen(observation, self.there(observation))

    def value(self, observation: Tensor) -> Tensor:
        """min_j Q_j(s, π_j(s)) `[batch]` over the members there are."""
        return torch.where(self.there(observation), self.offers(observation)[1], torch.inf).amin(0)


@dataclass(frozen=True)
class SequenceNetwork(ActorNetwork):
    """The architecture of a policy of several members."""

    members: int = hyperparameter(3, low=1, high=MOST, help="Number of members.")
    critics: int = hyperparameter(2, low=1, high=MOST, help="Critics of each.")

    def __post_init__(self) -> None:
        super().__post_init__()
        changed = [f.name for f in fields(ActorNetwork) if f.name not in ("hidden", "activation", "cnn")]
        if wrong := [name for name in changed if getattr(self, name) != getattr(ActorNetwork(), name)]:
            raise UsageError(f"{wrong[0]}={getattr(self, wrong[0])!r} has no effect on a policy of several members.")

    def model(self, observation_space: gym.Space, action_space: gym.Space) -> Dynamics:
        """A freshly initialised model of the next state."""
        state = state_size(observation_space)
        return Dynamics(state + action_size(action_space), state, self.hidden, self.activation, bounded=False)

    def make(self, observation_space: gym.Space, action_space: gym.Space) -> LowestActor:
        return LowestActor(self, observation_space, action_space)
