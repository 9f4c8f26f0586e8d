"""Action distributions as pure functions on one parameter tensor `[..., size]`.

A distribution is a frozen dataclass that interprets its parameters. Sampling takes its randomness as an argument, so a
rollout draws all its noise at once and a stored action can be reproduced. Actions are stored as sampled; `to_env`
converts them to what the environment receives.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from functools import cache

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.objectives.divergences import categorical_kl, gaussian_kl

IMPOSSIBLE = -1e8  # the logit of a masked action: its probability is exactly 0 and every gradient stays finite


@dataclass(frozen=True)
class Gaussian:
    """Diagonal Gaussian over `dim` actions; parameters are the means, then the log standard deviations.

    Actions are stored as vectors; the environment receives them in its `shape`, if that differs.
    """

    dim: int
    shape: tuple[int, ...] | None = field(default=None, kw_only=True)

    @property
    def size(self) -> int:
        return 2 * self.dim

    def split(self, params: Float[Tensor, "... size"]) -> tuple[Float[Tensor, "... dim"], Float[Tensor, "... dim"]]:
        """Means and log standard deviations."""
        mean, log_std = params.split(self.dim, -1)
        return mean, log_std

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Randomness for `shape` actions."""
        return torch.randn(*shape, self.dim, generator=generator)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = self.split(params)
        return mean + log_std.exp() * noise

    def mode(self, params: Tensor) -> Tensor:
        return self.split(params)[0]

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        mean, log_std = self.split(params)
        standard = (action - mean) * torch.exp(-log_std)
        return (-0.5 * standard**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, params: Tensor) -> Tensor:
        return (self.split(params)[1] + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """KL(p ‖ q) for every state."""
        return gaussian_kl(*self.split(p), *self.split(q))

    def to_env(self, action: Tensor) -> Tensor:
        """The action itself, in the environment's shape; the environment clips it to its box."""
        return action if self.shape is None else action.reshape(*action.shape[:-1], *self.shape)


@cache
def _gauss_hermite(nodes: int = 16) -> tuple[list[float], list[float]]:
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    return x.tolist(), (w / w.sum()).tolist()


def log_tanh_slope(x: Tensor) -> Tensor:
    """log(1 − tanh²x), without cancellation."""
    return 2 * (math.log(2) - x - torch.nn.functional.softplus(-2 * x))


@dataclass(frozen=True)
class SquashedGaussian(Gaussian):
    """A Gaussian through tanh into the box [low, high]. The stored action is the value before the tanh."""

    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Log density of the action inside (−1, 1), that is, before it is scaled to the box."""
        return super().log_prob(params, action) - log_tanh_slope(action).sum(-1)

    def entropy(self, params: Tensor) -> Tensor:
        """Entropy of the squashed action in (−1, 1); the expected log slope by Gauss–Hermite quadrature."""
        mean, log_std = self.split(params)
        nodes, weights = _gauss_hermite()
        slope = sum(w * log_tanh_slope(mean + log_std.exp() * x) for x, w in zip(nodes, weights, strict=True))
        assert isinstance(slope, Tensor)
        return super().entropy(params) + slope.sum(-1)

    def to_env(self, action: Tensor) -> Tensor:
        return into_box(torch.tanh(action), self.low, self.high, self.shape)


@dataclass(frozen=True)
class BoundedGaussian(Gaussian):
    """A Gaussian around a mean in [−1, 1], whose samples are clipped to that, in the box [low, high].

    Unlike through a tanh, actions at the bounds have a finite density: that of the Gaussian before it is clipped.
    """

    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        return super().sample(params, noise).clamp(-1, 1)

    def to_env(self, action: Tensor) -> Tensor:
        return into_box(action, self.low, self.high, self.shape)


@dataclass(frozen=True)
class MultiDiscrete:
    """Independent categorical choices; parameters are their concatenated logits."""

    choices: tuple[int, ...]
    start: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return sum(self.choices)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Gumbel noise: the most likely choice after adding it to the logits is a sample."""
        uniform = torch.rand(*shape, self.size, generator=generator).clamp_(min=1e-30)
        return -torch.log(-torch.log(uniform))

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        return self.mode(params + noise)

    def mode(self, params: Tensor) -> Tensor:
        return torch.stack([logits.argmax(-1) for logits in params.split(self.choices, -1)], -1)

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        parts = zip(params.split(self.choices, -1), action.unbind(-1), strict=True)
        return torch.stack([lg.log_softmax(-1).gather(-1, a.unsqueeze(-1)).squeeze(-1) for lg, a in parts]).sum(0)

    def entropy(self, params: Tensor) -> Tensor:
        logs = [logits.log_softmax(-1) for logits in params.split(self.choices, -1)]
        return torch.stack([-(log.exp() * log).sum(-1) for log in logs]).sum(0)

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """KL(p ‖ q) for every state."""
        parts = zip(p.split(self.choices, -1), q.split(self.choices, -1), strict=True)
        return torch.stack([categorical_kl(a, b) for a, b in parts]).sum(0)

    def masked(self, params: Tensor, mask: Tensor) -> Tensor:
        """Logits with forbidden choices (mask False) made impossible."""
        return torch.where(mask.bool(), params, params.new_tensor(IMPOSSIBLE))

    def to_env(self, action: Tensor) -> Tensor:
        return action + torch.tensor(self.start) if any(self.start) else action


@dataclass(frozen=True)
class Categorical(MultiDiscrete):
    """One choice of n; its actions have no last axis."""

    def mode(self, params: Tensor) -> Tensor:
        return params.argmax(-1)

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        return super().log_prob(params, action.unsqueeze(-1))

    def to_env(self, action: Tensor) -> Tensor:
        return action + self.start[0] if any(self.start) else action


@dataclass(frozen=True)
class Greedy(Categorical):
    """The choice with the highest value; parameters are the values of all choices."""

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        return self.mode(params)


@dataclass(frozen=True)
class Deterministic:
    """One action in [−1, 1], scaled to the box [low, high]; its parameters are the action itself."""

    dim: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    shape: tuple[int, ...] | None = field(default=None, kw_only=True)

    @property
    def size(self) -> int:
        return self.dim

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Randomness for `shape` actions: none."""
        return torch.zeros(*shape, 0)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        return params

    def mode(self, params: Tensor) -> Tensor:
        return params

    def to_env(self, action: Tensor) -> Tensor:
        """The action in the environment's box and shape."""
        return into_box(action, self.low, self.high, self.shape)


Distribution = Gaussian | MultiDiscrete


def into_box(
    action: Tensor, low: tuple[float, ...], high: tuple[float, ...], shape: tuple[int, ...] | None = None
) -> Tensor:
    """Actions in [−1, 1] scaled to a box, exactly at both ends, so never outside."""
    inside = torch.lerp(action.new_tensor(low), action.new_tensor(high), (action + 1) / 2)
    return inside if shape is None else inside.reshape(*inside.shape[:-1], *shape)


def from_box(action: Tensor, low: tuple[float, ...], high: tuple[float, ...]) -> Tensor:
    """Actions of a box `[..., dim]` scaled to [−1, 1]."""
    if set(low) == {-1.0} and set(high) == {1.0}:
        return action
    a, b = action.new_tensor(low), action.new_tensor(high)
    return 2 * (action - a) / (b - a) - 1


def for_space(space: gym.Space, squash: bool = False) -> Distribution:
    """The distribution that fits a Gymnasium action space.

    Raises:
        UsageError: no distribution here fits the space, or `squash` is set for an unbounded or discrete one.
    """
    if isinstance(space, gym.spaces.Box):
        dim, shape = math.prod(space.shape), None if len(space.shape) == 1 else space.shape
        if not squash:
            return Gaussian(dim, shape=shape)
        if not space.is_bounded():
            raise UsageError(f"squash=True needs a bounded action space, but this one is {space}; use squash=False.")
        return SquashedGaussian(dim, tuple(space.low.ravel().tolist()), tuple(space.high.ravel().tolist()), shape=shape)
    if squash:
        raise UsageError(f"squash=True is for continuous actions, but the action space is {space}; use squash=False.")
    if isinstance(space, gym.spaces.Discrete):
        return Categorical((int(space.n),), (int(space.start),))
    if isinstance(space, gym.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return MultiDiscrete(tuple(int(n) for n in space.nvec), tuple(int(s) for s in space.start))
    if isinstance(space, gym.spaces.MultiBinary) and len(space.shape) == 1:
        return MultiDiscrete((2,) * space.shape[0])
    raise UsageError(f"action space {space} is not supported; use Box, Discrete, MultiDiscrete or MultiBinary (1-D).")


REACH = 10.0  # standard deviations that samples hardly ever exceed


def check_reach(space: gym.Space, squash: bool, log_std: float) -> None:
    """Warn if the initial policy, a Gaussian around 0, does not reach most of a bounded action space."""
    if squash or not isinstance(space, gym.spaces.Box) or not space.is_bounded():
        return
    farthest = float(np.maximum(np.abs(space.low), np.abs(space.high)).max())
    if farthest > REACH * (deviation := math.exp(log_std)):
        warnings.warn(
            f"actions of {space} reach up to {farthest:g}, but the initial policy acts around 0 with a standard "
            f"deviation of {deviation:g}, so most of them are never tried. Use squash=True, which covers the whole "
            "box, or rescale the actions in the environment (gymnasium.wrappers.RescaleAction).",
            stacklevel=3,
        )
