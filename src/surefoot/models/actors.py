"""Actors and critics of off-policy methods: networks of one policy or of action values, initialised as torch does.

A critic of continuous actions takes them scaled to [−1, 1], whatever the environment's box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
import torch
from torch import Tensor, nn

from surefoot.errors import UsageError
from surefoot.hyperparameters import check, hyperparameter
from surefoot.models.distributions import Categorical, Deterministic, Greedy, SquashedGaussian, for_space
from surefoot.models.networks import ACTIVATIONS, Encoder, Observation, check_mask
from surefoot.models.spaces import MASK_KEY

LOG_STD = (-20.0, 2.0)  # limits of the log standard deviation of a state-dependent Gaussian
KINDS = ("deterministic", "gaussian", "categorical", "values")


def layers(inputs: int, hidden: Sequence[int], activation: str, outputs: int) -> nn.Sequential:
    """Linear layers with torch's own initialisation, the activation between them."""
    made: list[nn.Module] = []
    for size in hidden:
        made += [nn.Linear(inputs, size), ACTIVATIONS[activation]()]
        inputs = size
    return nn.Sequential(*made, nn.Linear(inputs, outputs))


class ActionValue(nn.Module):
    """Q(s, a) for actions in [−1, 1]: observation and action enter together."""

    def __init__(
        self, observation_space: gym.Space, actions: int, hidden: Sequence[int], activation: str, cnn: str
    ) -> None:
        super().__init__()
        self.encoder = Encoder(observation_space, (), activation, cnn)
        self.layers = layers(self.encoder.features + actions, hidden, activation, 1)

    def forward(self, observation: Observation, action: Tensor) -> Tensor:
        """Values `[...]` of actions `[..., dim]`."""
        features = self.encoder(observation, self.layers[-1].weight.dtype)  # type: ignore[arg-type]
        return self.layers(torch.cat([features, action], -1)).squeeze(-1)


class Actor(nn.Module):
    """From an observation to the parameters of a distribution over actions, or to the values of all actions."""

    core_state = 0  # numbers that it remembers from step to step

    def __init__(self, network: ActorNetwork, observation_space: gym.Space, action_space: gym.Space) -> None:
        super().__init__()
        self.network, self.distribution = network, network.distribution(action_space)
        self.masked = isinstance(observation_space, gym.spaces.Dict) and MASK_KEY in observation_space.spaces
        if self.masked:
            check_mask(observation_space.spaces[MASK_KEY].shape, self.distribution)  # type: ignore[attr-defined]
        self.encoder = Encoder(observation_space, (), network.activation, network.cnn)
        outputs = self.distribution.size * network.atoms
        self.layers = layers(self.encoder.features, network.hidden, network.activation, outputs)
        if network.dueling:
            self.state_value = layers(self.encoder.features, network.hidden, network.activation, network.atoms)

    def atoms(self, observation: Observation) -> Tensor:
        """Outputs `[..., size, atoms]`: for distributional values the atoms of every action."""
        features = self.encoder(observation, self.layers[-1].weight.dtype)  # type: ignore[arg-type]
        out = self.layers(features).unflatten(-1, (self.distribution.size, self.network.atoms))
        if self.network.dueling:
            out = self.state_value(features).unsqueeze(-2) + out - out.mean(-2, keepdim=True)
        return out

    def policy(
        self, observation: Observation, state: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The distribution's parameters `[..., size]`, as for any agent."""
        out = self.atoms(observation).mean(-1)
        if self.network.kind == "deterministic":
            out = torch.tanh(out)
        elif self.network.kind == "gaussian":
            mean, log_std = out.chunk(2, -1)
            out = torch.cat([mean, log_std.clamp(*LOG_STD)], -1)
        if self.masked:
            out = self.distribution.masked(out, observation[MASK_KEY])  # type: ignore[union-attr,call-overload,index]
        return out, None

    def forward(self, observation: Observation) -> Tensor:
        return self.policy(observation)[0]


class RememberingActor(Actor):
    """An actor of vectors that also sees the observation before and its own action then: `[o_{t−1}, o_t, a_{t−1}]`,
    which is `[o_0, o_0, 0]` at the start of an episode. A replayed observation is that vector, an agent's is o_t."""

    def __init__(self, network: ActorNetwork, observation_space: gym.Space, action_space: gym.Space) -> None:
        self.parts = (action_size(observation_space), action_size(action_space))
        stacked = gym.spaces.Box(-math.inf, math.inf, (2 * self.parts[0] + self.parts[1],))
        super().__init__(network, stacked, action_space)
        self.core_state = sum(self.parts)

    def policy(
        self, observation: Observation, state: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Without a state, for stacked vectors; with one `[batch, size]`, for one step `[1, batch, ...]`."""
        if state is None or starts is None:
            return super().policy(observation)
        assert isinstance(observation, Tensor)
        now, first = observation[0], starts[0].unsqueeze(-1)
        before, action = state.split(self.parts, -1)
        seen = [torch.where(first, now, before), now, torch.where(first, torch.zeros_like(action), action)]
        params = super().policy(torch.cat(seen, -1))[0]
        return params.unsqueeze(0), torch.cat([now, params], -1)


@dataclass(frozen=True)
class ActorNetwork:
    """The architecture of an off-policy actor."""

    kind: str = hyperparameter("deterministic", choices=KINDS, help="What the outputs are.")
    hidden: tuple[int, ...] = hyperparameter((256, 256), low=1, high=2**16, help="Sizes of the hidden layers.")
    activation: str = hyperparameter("relu", choices=tuple(ACTIVATIONS), help="Activation between linear layers.")
    cnn: str = hyperparameter("nature", choices=("nature", "impala"), help="Image encoder.")
    dueling: bool = hyperparameter(False, help="State value and advantages apart.")
    atoms: int = hyperparameter(1, low=1, high=2**16, help="Outputs per action; more than 1 for a distribution.")
    remembers: bool = hyperparameter(False, help="Sees the observation before and its action then, too.")

    def __post_init__(self) -> None:
        check(self)
        if self.remembers and self.kind != "deterministic":
            raise UsageError(f"kind={self.kind!r} is not allowed with remembers=True; it must be 'deterministic'.")

    def distribution(self, space: gym.Space) -> Deterministic | SquashedGaussian | Categorical | Greedy:
        """What the outputs parametrise, for actions of this space."""
        if self.kind in ("deterministic", "gaussian"):
            if not isinstance(space, gym.spaces.Box):
                raise UsageError(
                    f"this method needs continuous actions, but the action space is {space}; use dqn or sac-discrete."
                )
            made = for_space(space, squash=True)
            assert isinstance(made, SquashedGaussian)
            return made if self.kind == "gaussian" else Deterministic(made.dim, made.low, made.high, shape=made.shape)
        if not isinstance(space, gym.spaces.Discrete):
            raise UsageError(
                f"this method needs one discrete action, but the action space is {space}; use td3 or sac for "
                "continuous actions."
            )
        kind = Greedy if self.kind == "values" else Categorical
        return kind((int(space.n),), (int(space.start),))

    def make(self, observation_space: gym.Space, action_space: gym.Space) -> Actor:
        """A freshly initialised actor for these spaces."""
        return (RememberingActor if self.remembers else Actor)(self, observation_space, action_space)


class Scalar(nn.Module):
    """One learned number, such as a log temperature."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))

    def forward(self) -> Tensor:
        return self.value


def action_size(space: gym.Space) -> int:
    """Width of a continuous action as a vector."""
    return math.prod(space.shape or ())
