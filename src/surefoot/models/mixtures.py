"""Mixtures of Gaussians before a tanh: what behaviour of several kinds is cloned by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from surefoot.models.distributions import Gaussian, SquashedGaussian, log_tanh_slope
from surefoot.objectives.improvement import Mixture

INSIDE = 1e-6  # actions at ±1 count as this far inside


@dataclass(frozen=True)
class SquashedMixture(SquashedGaussian):
    """Several Gaussians through tanh into the box [low, high]. Parameters are n logits, n means, then n log standard
    deviations; the stored action is the value before the tanh."""

    components: int = 1

    @property
    def size(self) -> int:
        return self.components * (1 + 2 * self.dim)

    def parts_of(self, params: Tensor) -> tuple[Tensor, ...]:
        """Logits `[..., n]`, means and log standard deviations `[..., n·dim]`."""
        return params.split([self.components, *[self.components * self.dim] * 2], -1)

    def parts(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights `[..., n]`, means and log standard deviations `[..., n, dim]`."""
        shape = self.components, self.dim
        logits, means, log_stds = self.parts_of(params)
        return logits.log_softmax(-1), means.unflatten(-1, shape), log_stds.unflatten(-1, shape)

    def mixture(self, params: Tensor) -> Mixture:
        """The mixture before the tanh."""
        log_weights, means, log_stds = self.parts(params)
        return Mixture(log_weights, means, (2 * log_stds).exp())

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Normal numbers `[..., dim]`, and after them one uniform number that chooses the component."""
        normal = torch.randn(*shape, self.dim, generator=generator)
        return torch.cat([normal, torch.rand(*shape, 1, generator=generator)], -1)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        log_weights, means, log_stds = self.parts(params)
        below = (log_weights.exp().cumsum(-1) < noise[..., -1:]).sum(-1).clamp(max=self.components - 1)
        return _of(means, below) + _of(log_stds, below).exp() * noise[..., :-1]

    def mode(self, params: Tensor) -> Tensor:
        """The mean of the component with the highest weighted peak, before the tanh."""
        mixture = self.mixture(params)
        return _of(mixture.means, mixture.peaks().argmax(-1))

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Log density of the action inside (−1, 1), that is, before it is scaled to the box."""
        log_weights, means, log_stds = self.parts(params)
        each = Gaussian(self.dim).log_prob(torch.cat([means, log_stds], -1), action.unsqueeze(-2))
        return (log_weights + each).logsumexp(-1) - log_tanh_slope(action).sum(-1)

    def entropy(self, params: Tensor) -> Tensor:
        """An upper bound: the entropy of the choice of a component, and the mean of theirs."""
        log_weights, means, log_stds = self.parts(params)
        each = SquashedGaussian(self.dim).entropy(torch.cat([means, log_stds], -1))
        return (log_weights.exp() * (each - log_weights)).sum(-1)

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """An upper bound of KL(p ‖ q) for every state, by the chain rule with components in their order."""
        (weights, *one), (others, *two) = self.parts(p), self.parts(q)
        each = Gaussian(self.dim).kl(torch.cat(one, -1), torch.cat(two, -1))
        return (weights.exp() * (weights - others + each)).sum(-1)


def before_tanh(action: Tensor) -> Tensor:
    """atanh of actions in [−1, 1], those at the ends taken as just inside."""
    return torch.atanh(action.clamp(-1 + INSIDE, 1 - INSIDE))


def _of(values: Tensor, index: Tensor) -> Tensor:
    """Of `[..., n, dim]` the entry of an index `[...]`, by one-hot weights, which may be traced and mapped."""
    return (values * F.one_hot(index, values.shape[-2]).to(values.dtype).unsqueeze(-1)).sum(-2)
