"""Networks: encoders for every observation space, recurrent cores, and the actor-critic made of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surefoot.errors import UsageError
from surefoot.hyperparameters import check, hyperparameter
from surefoot.models.distributions import Distribution, Gaussian, MultiDiscrete, SquashedGaussian, for_space
from surefoot.models.layers import ACTIVATIONS, CORES, Stacked, mlp, orthogonal
from surefoot.models.spaces import MASK_KEY

Observation = Tensor | dict[str, Tensor]
WIDEST = 2**16  # units per layer
MOST_STEPS = 1000  # steps of an episode with networks of their own
OVER_TIME = ("hidden", "critic_hidden", "activation", "log_std_init")  # what describes such networks


class NatureCNN(nn.Module):
    """The three convolutions of the DQN paper and one linear layer of 512 (images `[..., channels, height, width]`)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            orthogonal(nn.Conv2d(shape[0], 32, 8, stride=4)),
            nn.ReLU(),
            orthogonal(nn.Conv2d(32, 64, 4, stride=2)),
            nn.ReLU(),
            orthogonal(nn.Conv2d(64, 64, 3)),
            nn.ReLU(),
            nn.Flatten(),
        )
        if min(shape[1:]) < 36:
            raise UsageError(f"cnn='nature' needs images of at least 36×36, got {shape[1:]}; use cnn='impala'.")
        inputs = 64 * math.prod(((n - 8) // 4 + 1 - 4) // 2 + 1 - 2 for n in shape[1:])  # outputs of the convolutions
        self.linear = orthogonal(nn.Linear(inputs, 512))
        self.features = 512

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.linear(self.convolutions(x)))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = orthogonal(nn.Conv2d(channels, channels, 3, padding=1))
        self.second = orthogonal(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class ImpalaCNN(nn.Module):
    """The residual network of IMPALA (arXiv:1802.01561): three stages of 16, 32, 32 channels, then 256 units."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = shape[0]
        for out in (16, 32, 32):
            layers += [orthogonal(nn.Conv2d(channels, out, 3, padding=1)), nn.MaxPool2d(3, 2, 1)]
            layers += [_Residual(out), _Residual(out)]
            channels = out
        self.convolutions = nn.Sequential(*layers, nn.ReLU(), nn.Flatten())
        inputs = channels * math.prod(math.ceil(n / 8) for n in shape[1:])  # each of three stages halves, rounding up
        self.linear = orthogonal(nn.Linear(inputs, 256))
        self.features = 256

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.linear(self.convolutions(x)))


class Encoder(nn.Module):
    """From an observation of the given space to a feature vector; dict observations are encoded key by key and joined.

    Images (three axes, channels first or last) go through a convolutional network, vectors and one-hot coded
    discrete observations through an MLP. The key `action_mask` is not an input. `dtype` is that of the weights.
    """

    def __init__(self, space: gym.Space, hidden: Sequence[int], activation: str, cnn: str) -> None:
        super().__init__()
        spaces = space.spaces if isinstance(space, gym.spaces.Dict) else {"": space}
        self.spaces = {key: s for key, s in spaces.items() if key != MASK_KEY}
        if not self.spaces:
            raise UsageError(f"observation space {space} has no entry besides {MASK_KEY!r}; add an observation to it.")
        self.images = nn.ModuleDict()
        width = 0
        for key, s in self.spaces.items():
            if is_image(s):
                encoder = {"nature": NatureCNN, "impala": ImpalaCNN}[cnn](_channels_first(s.shape))  # type: ignore[arg-type]
                self.images[_part(key)], width = encoder, width + encoder.features
            else:
                width += flat_size(s)
        plain_image = len(self.images) == len(self.spaces) == 1
        self.mlp = nn.Sequential() if plain_image else mlp(width, hidden, activation)  # type: ignore[arg-type]
        self.features = width if plain_image or not hidden else hidden[-1]

    def forward(self, observation: Observation, dtype: torch.dtype) -> Tensor:
        parts = observation if isinstance(observation, dict) else {"": observation}
        features = [self._encode(key, s, parts[key], dtype) for key, s in self.spaces.items()]
        return self.mlp(features[0] if len(features) == 1 else torch.cat(features, -1))

    def _encode(self, key: str, space: gym.Space, x: Tensor, dtype: torch.dtype) -> Tensor:
        if is_image(space):
            x = x if _is_channels_first(space.shape) else x.movedim(-1, -3)  # type: ignore[arg-type]
            images = x.reshape(-1, *x.shape[-3:]).to(dtype) / 255.0
            return self.images[_part(key)](images).reshape(*x.shape[:-3], -1)
        if isinstance(space, gym.spaces.Discrete):
            return one_hot(x - int(space.start), int(space.n)).to(dtype)
        if isinstance(space, gym.spaces.MultiDiscrete):
            parts = zip(x.unbind(-1), space.nvec, space.start, strict=True)
            parts = [one_hot(c - int(start), int(n)) for c, n, start in parts]
            return torch.cat(parts, -1).to(dtype)
        return x.reshape(*x.shape[: x.dim() - len(space.shape or ())], flat_size(space)).to(dtype)


def _part(key: str) -> str:
    """The name of an image's encoder; torch forbids dots in it."""
    return f"image_{key}".replace(".", "·")


def one_hot(x: Tensor, n: int) -> Tensor:
    """True at the index `x`, along a new last axis of length `n`. Unlike torch's, it does not inspect the values, so it
    can be traced."""
    return x.unsqueeze(-1) == torch.arange(n)


def is_image(space: gym.Space) -> bool:
    """Whether a space is a Box of bytes with three axes."""
    return isinstance(space, gym.spaces.Box) and len(space.shape) == 3 and space.dtype == "uint8"


def _is_channels_first(shape: tuple[int, ...]) -> bool:
    return shape[0] < shape[-1]


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if _is_channels_first(shape) else (shape[2], shape[0], shape[1])


def flat_size(space: gym.Space) -> int:
    """Width of a non-image observation as a vector."""
    if isinstance(space, gym.spaces.Discrete):
        return int(space.n)
    if isinstance(space, gym.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return int(sum(space.nvec))
    if isinstance(space, gym.spaces.Box) and space.dtype == "uint8" and len(space.shape) > 3:
        raise UsageError(
            f"byte observations with {len(space.shape)} axes {space.shape} are not supported as images; make them "
            "[channels, height, width], as the wrapper frame_stack does."
        )
    if isinstance(space, gym.spaces.Box | gym.spaces.MultiBinary):
        return math.prod(space.shape)
    raise UsageError(
        f"observation space {space} is not supported; use Box, Discrete, MultiDiscrete (1-D), MultiBinary or a Dict of "
        "them, or wrappers=['flatten'], which turns the whole observation into one vector."
    )


class Head(nn.Module):
    """One side of an actor-critic: encoder, optional recurrent core, linear output; for a Gaussian, its log std too."""

    def __init__(
        self, encoder: Encoder, core: nn.Module | None, outputs: int, gain: float, log_std: Tensor | None
    ) -> None:
        super().__init__()
        self.encoder, self.core = encoder, core
        features = encoder.features if core is None else core.features
        self.output = orthogonal(nn.Linear(features, outputs), gain)  # type: ignore[arg-type]
        self.log_std = None if log_std is None else nn.Parameter(log_std)

    def forward(
        self, observation: Observation, state: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs and new core state. With a core, observations are `[time, batch, ...]` and `starts` marks the steps
        before which the state is reset; without one, any leading axes are allowed."""
        if self.core is not None:
            assert state is not None and starts is not None
            x, state = self._unroll(observation, state, starts)
        else:
            x = self.encoder(observation, self.output.weight.dtype)
        x = self.output(x)
        return (x if self.log_std is None else torch.cat([x, self.log_std.expand_as(x)], -1)), state

    def _unroll(self, observation: Observation, state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        outputs = []
        features = self.encoder(observation, self.output.weight.dtype)
        for x, start in zip(features.unbind(0), starts.unbind(0), strict=True):
            assert self.core is not None
            output, state = self.core(x, torch.where(start.unsqueeze(-1), torch.zeros_like(state), state))
            outputs.append(output)
        return torch.stack(outputs), state


def check_mask(shape: tuple[int, ...] | None, distribution: Any) -> None:
    """Raise `UsageError` where a mask of this shape does not fit the distribution."""
    if not isinstance(distribution, MultiDiscrete):
        raise UsageError(f"observations carry {MASK_KEY!r}, but masks need discrete actions, not {distribution}.")
    if shape != (distribution.size,):
        raise UsageError(
            f"observations carry {MASK_KEY!r} of the shape {shape}, but {distribution} needs ({distribution.size},): "
            "one entry per action, concatenated over the parts of the action space."
        )


class ActorCritic(nn.Module):
    """Actor and critic side by side; with `shared=True` one encoder (and core) serves both.

    The recurrent state is the concatenation of the actor's and the critic's, `[batch, state_size]`.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        distribution: Distribution,
        *,
        hidden: Sequence[int] = (64, 64),
        critic_hidden: Sequence[int] | None = None,
        activation: str = "tanh",
        cnn: str = "nature",
        core: str | None = None,
        core_size: int = 64,
        shared: bool = False,
        log_std_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.distribution, self.shared = distribution, shared
        self.masked = isinstance(observation_space, gym.spaces.Dict) and MASK_KEY in observation_space.spaces
        if self.masked:
            check_mask(observation_space.spaces[MASK_KEY].shape, distribution)  # type: ignore[attr-defined]
        gaussian = isinstance(distribution, Gaussian)
        outputs = distribution.dim if gaussian else distribution.size
        log_std = torch.full((distribution.dim,), float(log_std_init)) if gaussian else None

        def side(widths: Sequence[int]) -> tuple[Encoder, nn.Module | None]:
            encoder = Encoder(observation_space, widths, activation, cnn)
            return encoder, None if core is None else CORES[core](encoder.features, core_size)

        body, own = side(hidden), hidden if critic_hidden is None else critic_hidden
        self.actor = Head(*body, outputs, 0.01, log_std)
        self.critic = Head(*(body if shared else side(own)), 1, 1.0, None)
        self.core_state = 0 if core is None else int(body[1].state_size)  # type: ignore[union-attr,arg-type]

    @property
    def state_size(self) -> int:
        """Width of the recurrent state of actor and critic together; 0 without a core."""
        return 2 * self.core_state

    def policy(
        self, observation: Observation, state: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Distribution parameters, and the actor's half of the new state."""
        params, state = self.actor(observation, state, starts)
        if self.masked:
            params = self.distribution.masked(params, observation[MASK_KEY])  # type: ignore[union-attr,call-overload,index]
        return params, state

    def forward(
        self, observation: Observation, state: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Distribution parameters `[..., size]`, values `[...]`, and the new state."""
        actor_state, critic_state = (None, None) if state is None else state.chunk(2, -1)
        params, actor_state = self.policy(observation, actor_state, starts)
        values, critic_state = self.critic(observation, critic_state, starts)
        if actor_state is not None and critic_state is not None:
            state = torch.cat([actor_state, critic_state], -1)
        return params, values.squeeze(-1), state

    def value(self, observation: Observation) -> Tensor:
        """Values `[...]` of observations, for networks without a core."""
        return self.critic(observation)[0].squeeze(-1)


class PolicyOverTime(nn.Module):
    """The policies of all steps, side by side: π_h for the number h that is the observation's last entry."""

    def __init__(self, steps: int, inputs: int, hidden: Sequence[int], activation: str, dim: int, log_std: float):
        super().__init__()
        self.net = Stacked(steps, (inputs, *hidden, dim), activation, 0.01)
        self.log_std = nn.Parameter(torch.full((steps, dim), float(log_std)))

    def forward(self, observation: Tensor, *_: Any) -> tuple[Tensor, None]:
        """Means, then log standard deviations, `[..., 2·dim]`; there is no state."""
        which = one_hot(self.net.step(observation), self.net.steps).to(observation.dtype)
        return torch.cat([self.net.chosen(observation[..., :-1], which), which @ self.log_std], -1), None


class ActorCriticOverTime(ActorCritic):
    """Networks of their own for every step of an episode of fixed length: policies π_h(a|s) of continuous actions, and
    critics f_h(s, a) of actions in the environment's units.

    The number h = 0, 1, … of the step is the last entry of the observation (as the wrapper `time_aware:normalize=false`
    appends it), which only chooses among the networks; the upper bound of its space is the length H of an episode. The
    value of an observation is f_h(s, a) for the most likely action.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        distribution: Distribution,
        *,
        hidden: Sequence[int] = (64, 64),
        critic_hidden: Sequence[int] | None = None,
        activation: str = "tanh",
        log_std_init: float = 0.0,
    ) -> None:
        nn.Module.__init__(self)
        self.distribution, self.shared, self.masked, self.core_state = distribution, False, False, 0
        steps, inputs = horizon_of(observation_space), observation_space.shape[0] - 1  # type: ignore[index]
        if not isinstance(distribution, Gaussian) or isinstance(distribution, SquashedGaussian):
            raise UsageError(
                f"networks for every step need continuous actions that are not squashed, not {distribution}."
            )
        own = hidden if critic_hidden is None else critic_hidden
        self.actor = PolicyOverTime(steps, inputs, hidden, activation, distribution.dim, log_std_init)  # type: ignore[assignment]
        self.critic = Stacked(steps, (inputs + distribution.dim, *own, 1), activation, 1.0)  # type: ignore[assignment]

    def value(self, observation: Observation) -> Tensor:
        return self.forward(observation)[1]

    def forward(
        self, observation: Observation, state: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor, None]:
        assert isinstance(observation, Tensor)
        params, critic = self.actor(observation)[0], self.critic
        which = one_hot(critic.step(observation), critic.steps).to(observation.dtype)  # type: ignore[operator,arg-type]
        judged = torch.cat([observation[..., :-1], self.distribution.mode(params)], -1)
        return params, critic.chosen(judged, which).squeeze(-1), None


def horizon_of(space: gym.Space) -> int:
    """The length of an episode: the upper bound of the last entry of the observations.

    Raises:
        UsageError: they are no vectors that end with the number of the step.
    """
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and space.shape[0] > 1:
        low, high = float(space.low[-1]), float(space.high[-1])
        if low == 0 and 1 <= high <= MOST_STEPS and high == int(high):
            return int(high)
    raise UsageError(
        f"networks for every step need observations that end with the number of the step, 0 to H ≤ {MOST_STEPS}, not "
        f"{space}. Give wrappers=['time_aware:normalize=false'] (--wrappers), which appends it where the environment "
        "has a time limit."
    )


@dataclass(frozen=True)
class Network:
    """The architecture of an actor-critic."""

    hidden: tuple[int, ...] = hyperparameter((64, 64), low=1, high=WIDEST, help="Sizes of the hidden layers.")
    critic_hidden: tuple[int, ...] | None = hyperparameter(
        None, low=1, high=WIDEST, help="Critic's hidden sizes, if different."
    )
    activation: str = hyperparameter("tanh", choices=tuple(ACTIVATIONS), help="Activation between linear layers.")
    cnn: str = hyperparameter("nature", choices=("nature", "impala"), help="Image encoder.")
    core: str | None = hyperparameter(None, choices=tuple(CORES), help="Recurrent core.")
    core_size: int = hyperparameter(64, low=1, high=WIDEST, help="Units of the recurrent core.")
    shared: bool = hyperparameter(False, help="Share one encoder between actor and critic.")
    log_std_init: float = hyperparameter(0.0, help="Initial log standard deviation of a Gaussian policy.")
    squash: bool = hyperparameter(False, help="Squash a Gaussian policy's actions into the action box by tanh.")
    over_time: bool = hyperparameter(False, help="Networks of their own for every step of an episode.")

    def __post_init__(self) -> None:
        check(self)

    def make(
        self, observation_space: gym.Space, action_space: gym.Space, kind: type[ActorCritic] = ActorCritic
    ) -> ActorCritic:
        """A freshly initialised actor-critic for these spaces."""
        names = OVER_TIME if self.over_time else {f.name for f in dataclasses.fields(self)} - {"squash", "over_time"}
        made = ActorCriticOverTime if self.over_time else kind
        settings = {name: getattr(self, name) for name in names}
        return made(observation_space, for_space(action_space, self.squash), **settings)
