"""Actors and critics of off-policy methods: networks of one policy or of action values, initialised as torch does.

A critic of continuous actions takes them scaled to [−1, 1], whatever the environment's box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from surefoot.errors import UsageError
from surefoot.hyperparameters import check, hyperparameter
from surefoot.models.distributions import (
    IMPOSSIBLE,
    BoundedGaussian,
    Categorical,
    Deterministic,
    Greedy,
    SquashedGaussian,
    for_space,
)
from surefoot.models.mixtures import SquashedMixture
from surefoot.models.networks import ACTIVATIONS, CORES, WIDEST, Encoder, Observation, check_mask
from surefoot.models.recurrence import Recalled, Remembering, encoder, present
from surefoot.models.spaces import MASK_KEY

LOG_STD = (-20.0, 2.0)  # limits of the log standard deviation of a Gaussian
LOWEST_OF_MIXTURES = -5.0  # the floor of their log standard deviations: a component that collapses says nothing
KINDS = ("deterministic", "gaussian", "bounded", "mixture", "categorical", "values")


def layers(
    inputs: int, hidden: Sequence[int], activation: str, outputs: int, bound: float | None = None
) -> nn.Sequential:
    """Linear layers with torch's own initialisation, U(±1/√inputs), and the activation between them; that of the last
    is U(±bound) if given."""
    made: list[nn.Module] = []
    for size in hidden:
        made += [nn.Linear(inputs, size), ACTIVATIONS[activation]()]
        inputs = size
    last = nn.Linear(inputs, outputs)
    if bound is not None:
        for parameter in last.parameters():
            nn.init.uniform_(parameter, -bound, bound)
    return nn.Sequential(*made, last)


class ActionValue(nn.Module):
    """Q(s, a) for actions in [−1, 1], which enter at the hidden layer number `enters`: together with the observation
    at the first."""

    def __init__(
        self,
        observation_space: gym.Space,
        actions: int,
        hidden: Sequence[int],
        activation: str,
        cnn: str,
        enters: int = 1,
        output_bound: float | None = None,
        core: str | None = None,
        core_size: int = 64,
    ) -> None:
        super().__init__()
        self.encoder = encoder(observation_space, activation, cnn, core, core_size)
        width, before = self.encoder.features, list[nn.Module]()
        for size in hidden[: enters - 1]:
            before += [nn.Linear(width, size), ACTIVATIONS[activation]()]
            width = size
        self.first = nn.Sequential(*before)
        self.layers = layers(width + actions, hidden[enters - 1 :], activation, 1, output_bound)

    def forward(self, observation: Observation, action: Tensor) -> Tensor:
        """Values `[...]` of actions `[..., dim]`."""
        features = self.first(self.encoder(observation, self.layers[-1].weight.dtype))  # type: ignore[arg-type]
        return self.layers(torch.cat([features, action], -1)).squeeze(-1)


class Actor(nn.Module):
    """From an observation to the parameters of a distribution over actions, or to the values of all actions."""

    core_state: int = 0  # numbers that it remembers from step to step

    def __init__(self, network: ActorNetwork, observation_space: gym.Space, action_space: gym.Space) -> None:
        super().__init__()
        self.network, self.distribution = network, network.distribution(action_space)
        self.masked = isinstance(observation_space, gym.spaces.Dict) and MASK_KEY in observation_space.spaces
        if self.masked:
            check_mask(observation_space.spaces[MASK_KEY].shape, self.distribution)  # type: ignore[attr-defined]
        self.encoder = encoder(observation_space, network.activation, network.cnn, network.core, network.core_size)
        self.core_state = self.encoder.state_size if isinstance(self.encoder, Remembering) else 0
        outputs = self.distribution.size * network.atoms
        if network.kind == "bounded":
            outputs = self.distribution.size // 2
            self.log_std = nn.Parameter(torch.zeros(outputs))
        self.layers = layers(self.encoder.features, network.hidden, network.activation, outputs, network.output_bound)
        if network.dueling:
            self.state_value = layers(self.encoder.features, network.hidden, network.activation, network.atoms)

    def encoded(self, observation: Observation) -> Tensor:
        """What the first linear layer gets, `[..., width]`."""
        return self.encoder(observation, self.layers[-1].weight.dtype)  # type: ignore[arg-type]

    def features(self, observation: Observation) -> Tensor:
        """What the last linear layer gets, `[..., width]`."""
        return self.layers[:-1](self.encoded(observation))

    def atoms(self, observation: Observation) -> Tensor:
        """Outputs `[..., size, atoms]`: for distributional values the atoms of every action."""
        encoded = self.encoded(observation)
        out = self.layers(encoded).unflatten(-1, (self.distribution.size, self.network.atoms))
        if self.network.dueling:
            out = self.state_value(encoded).unsqueeze(-2) + out - out.mean(-2, keepdim=True)
        if self.masked and self.network.support is None:
            mask = present(observation)[MASK_KEY].unsqueeze(-1)  # type: ignore[call-overload,index]
            out = self.distribution.masked(out, mask)  # type: ignore[union-attr]
        return out

    def expectation(self, atoms: Tensor, observation: Observation) -> Tensor:
        """The values `[..., size]` of outputs `[..., size, atoms]`: their mean, or that of the distribution on the
        support whose logits they are."""
        if self.network.support is None:
            return atoms.squeeze(-1) if self.network.atoms == 1 else atoms.mean(-1)
        support = torch.linspace(*self.network.support, self.network.atoms, dtype=atoms.dtype)
        values = (atoms.softmax(-1) * support).sum(-1)
        return self.distribution.masked(values, present(observation)[MASK_KEY]) if self.masked else values  # type: ignore

    def params(self, observation: Observation) -> Tensor:
        """The distribution's parameters `[..., size]`."""
        if self.network.kind == "bounded":
            mean = torch.tanh(self.layers(self.encoded(observation)))
            return torch.cat([mean, self.log_std.clamp(*LOG_STD).expand_as(mean)], -1)
        out = self.expectation(self.atoms(observation), observation)
        if self.network.kind == "deterministic":
            return torch.tanh(out)
        if self.network.kind == "gaussian":
            mean, log_std = out.chunk(2, -1)
            return torch.cat([mean, log_std.clamp(*LOG_STD)], -1)
        if self.network.kind == "mixture":
            *rest, log_std = self.distribution.parts_of(out)  # type: ignore[union-attr]
            return torch.cat([*rest, log_std.clamp(LOWEST_OF_MIXTURES, LOG_STD[1])], -1)
        return out

    def policy(
        self, observation: Observation, state: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The distribution's parameters, as for any agent. With a core: of one step `[1, batch, ...]`, and the new
        state; without a state, of first steps."""
        if state is None or starts is None:
            return self.params(observation), None
        now = {k: x[0] for k, x in observation.items()} if isinstance(observation, dict) else observation[0]
        recalled, state = self.advanced(now, state, starts[0])
        return self.params(recalled).unsqueeze(0), state  # type: ignore[arg-type]

    def advanced(self, observation: Observation, state: Tensor, starts: Tensor) -> tuple[Recalled, Tensor]:
        """What is recalled in one step `[batch, ...]`, and the new memory `[batch, core_state]`."""
        assert isinstance(self.encoder, Remembering)
        features, state = self.encoder.advanced(observation, self.layers[-1].weight.dtype, state, starts)  # type: ignore[arg-type]
        return Recalled(observation, features), state

    def forward(self, observation: Observation, output: str = "params", *more: Tensor) -> Any:
        """One of the outputs by the name of its method."""
        return getattr(self, output)(observation, *more)


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


class ToldActor(Actor):
    """An actor of vectors that is told more numbers in training, after the observation; without them they are 0."""

    def __init__(self, network: ActorNetwork, observation_space: gym.Space, action_space: gym.Space) -> None:
        whole = gym.spaces.Box(-math.inf, math.inf, (action_size(observation_space) + network.told,))
        super().__init__(network, whole, action_space)
        self.width = action_size(whole)

    def encoded(self, observation: Observation) -> Tensor:
        assert isinstance(observation, Tensor)
        missing = self.width - observation.shape[-1]
        nothing = observation.new_zeros(*observation.shape[:-1], missing)
        return super().encoded(torch.cat([observation, nothing], -1) if missing else observation)


@dataclass(frozen=True)
class ActorNetwork:
    """The architecture of an off-policy actor."""

    kind: str = hyperparameter("deterministic", choices=KINDS, help="What the outputs are.")
    hidden: tuple[int, ...] = hyperparameter((256, 256), low=1, high=2**16, help="Sizes of the hidden layers.")
    activation: str = hyperparameter("relu", choices=tuple(ACTIVATIONS), help="Activation between linear layers.")
    cnn: str = hyperparameter("nature", choices=("nature", "impala"), help="Image encoder.")
    dueling: bool = hyperparameter(False, help="State value and advantages apart.")
    atoms: int = hyperparameter(1, low=1, high=2**16, help="Outputs per action; more than 1 for a distribution.")
    support: tuple[float, float] | None = hyperparameter(
        None, help="Range of the atoms, if the outputs are logits of a distribution on them."
    )
    output_bound: float | None = hyperparameter(None, low=0, help="Last layer initialised from U(±bound), if given.")
    remembers: bool = hyperparameter(False, help="Sees the observation before and its action then, too.")
    components: int = hyperparameter(1, low=1, high=1000, help="Components of a mixture.")
    told: int = hyperparameter(
        0, low=0, high=2**16, help="Numbers it sees beside a vector in training; later they are 0."
    )
    core: str | None = hyperparameter(None, choices=tuple(CORES), help="Recurrent core.")
    core_size: int = hyperparameter(64, low=1, high=WIDEST, help="Units of the recurrent core.")

    def __post_init__(self) -> None:
        check(self)
        if self.remembers and self.kind != "deterministic":
            raise UsageError(f"kind={self.kind!r} is not allowed with remembers=True; it must be 'deterministic'.")
        if self.core is not None and (self.remembers or self.told):
            raise UsageError(f"core={self.core!r} is not allowed for an actor that is given its past or told more.")

    def distribution(
        self, space: gym.Space
    ) -> Deterministic | SquashedGaussian | BoundedGaussian | Categorical | Greedy:
        """What the outputs parametrise, for actions of this space."""
        if self.kind in ("deterministic", "gaussian", "bounded", "mixture"):
            if not isinstance(space, gym.spaces.Box):
                raise UsageError(
                    f"this method needs continuous actions, but the action space is {space}; use dqn or sac-discrete."
                )
            made = for_space(space, squash=True)
            assert isinstance(made, SquashedGaussian)
            if self.kind == "gaussian":
                return made
            if self.kind == "mixture":
                return SquashedMixture(made.dim, made.low, made.high, self.components, shape=made.shape)
            kind = Deterministic if self.kind == "deterministic" else BoundedGaussian
            return kind(dim=made.dim, low=made.low, high=made.high, shape=made.shape)
        if not isinstance(space, gym.spaces.Discrete):
            raise UsageError(
                f"this method needs one discrete action, but the action space is {space}; use td3 or sac for "
                "continuous actions."
            )
        discrete = Greedy if self.kind == "values" else Categorical
        return discrete((int(space.n),), (int(space.start),))

    def make(self, observation_space: gym.Space, action_space: gym.Space) -> Actor:
        """A freshly initialised actor for these spaces."""
        if self.told:
            return ToldActor(self, observation_space, action_space)
        return (RememberingActor if self.remembers else Actor)(self, observation_space, action_space)


@dataclass(frozen=True)
class CriticNetwork:
    """The architecture of critics Q(s, a) of continuous actions."""

    hidden: tuple[int, ...] = hyperparameter((256, 256), low=1, high=2**16, help="Sizes of the hidden layers.")
    activation: str = hyperparameter("relu", choices=tuple(ACTIVATIONS), help="Activation between linear layers.")
    cnn: str = hyperparameter("nature", choices=("nature", "impala"), help="Image encoder.")
    enters: int = hyperparameter(1, low=1, help="Hidden layer at which the action enters.")
    output_bound: float | None = hyperparameter(None, low=0, help="Last layer initialised from U(±bound), if given.")
    core: str | None = hyperparameter(None, choices=tuple(CORES), help="Recurrent core.")
    core_size: int = hyperparameter(64, low=1, high=WIDEST, help="Units of the recurrent core.")

    def __post_init__(self) -> None:
        check(self)

    def make(self, observation_space: gym.Space, action_space: gym.Space) -> ActionValue:
        """A freshly initialised critic for these spaces."""
        rest = self.hidden, self.activation, self.cnn, self.enters, self.output_bound, self.core, self.core_size
        return ActionValue(observation_space, action_size(action_space), *rest)


class StateValue(nn.Module):
    """V(s)."""

    def __init__(self, observation_space: gym.Space, hidden: Sequence[int], activation: str, cnn: str) -> None:
        super().__init__()
        self.encoder = Encoder(observation_space, (), activation, cnn)
        self.layers = layers(self.encoder.features, hidden, activation, 1)

    def forward(self, observation: Observation) -> Tensor:
        """Values `[...]`."""
        return self.layers(self.encoder(observation, self.layers[-1].weight.dtype)).squeeze(-1)  # type: ignore[arg-type]


class Scalar(nn.Module):
    """One learned number, such as a log temperature."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))

    def forward(self) -> Tensor:
        return self.value


def epsilon_greedy_noise(count: int, space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
    """The random numbers of `epsilon_greedy` for `count` actions."""
    actions = int(space.n)  # type: ignore[attr-defined]
    return {
        "threshold": torch.rand(count, generator=generator),
        "action": torch.rand(count, actions, generator=generator),
    }


def epsilon_greedy(actor: Actor, values: Tensor, noise: dict[str, Tensor], epsilon: Tensor | float) -> Tensor:
    """The best action, or with probability ε a uniformly random one of those that the mask allows."""
    allowed = torch.where(values > IMPOSSIBLE / 2, noise["action"], -1.0)
    random = actor.distribution.mode(allowed)
    return torch.where(noise["threshold"] < epsilon, random, actor.distribution.mode(values))


def action_size(space: gym.Space) -> int:
    """Width of a continuous action as a vector."""
    return math.prod(space.shape or ())
