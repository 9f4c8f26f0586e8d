"""Advantages: how much better an outcome was than expected.

Every advantage takes the same keyword tensors and ignores those it does not need, so that sums and multiples compose:
`0.5 * gae() + 0.5 * monte_carlo()`. The first axis is time (`[time, ...]`) for `gae`, `n_step` and `monte_carlo`; the
last axis is the group (`[..., samples]`) for the group baselines. Nothing here is averaged over the batch axes.

`terminated` stops the bootstrap, `truncated` does not; both end the recursion. `next_values[t]` is the value of the
observation that actually followed step t (the final observation of an episode, never the one after a reset).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.objectives.part import Part


@dataclass(frozen=True)
class Advantage(Part, slot="advantage"):
    """Base of advantages; `a + b`, `a - b` and `0.5 * a` are advantages too."""

    def __call__(
        self,
        rewards: Float[Tensor, "..."],
        *,
        values: Float[Tensor, "..."] | None = None,
        next_values: Float[Tensor, "..."] | None = None,
        terminated: Bool[Tensor, "..."] | None = None,
        truncated: Bool[Tensor, "..."] | None = None,
        valid: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "..."]:
        """The advantage of every element, shaped as `rewards`, 0 where `valid` is False."""
        raise NotImplementedError

    def __add__(self, other: Advantage) -> Advantage:
        return total((self, other))

    def __sub__(self, other: Advantage) -> Advantage:
        return total((self, scaled(other, -1.0)))

    def __mul__(self, factor: float) -> Advantage:
        return scaled(self, float(factor))

    __rmul__ = __mul__


@dataclass(frozen=True)
class total(Advantage):
    """The sum of several advantages."""

    terms: tuple[Advantage, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.terms:
            raise UsageError("total: terms=() is not allowed; a sum needs at least one advantage.")

    def __call__(self, rewards: Tensor, **signals: Any) -> Tensor:
        return torch.stack([term(rewards, **signals) for term in self.terms]).sum(0)

    def __str__(self) -> str:
        return " + ".join(str(term) for term in self.terms)


@dataclass(frozen=True)
class scaled(Advantage):
    """A multiple of an advantage."""

    term: Advantage
    factor: float = 1.0

    def __call__(self, rewards: Tensor, **signals: Any) -> Tensor:
        return self.factor * self.term(rewards, **signals)

    def __str__(self) -> str:
        inner = str(self.term)
        compound = any(sign in inner for sign in (" + ", " − ", " / "))
        return f"{self.factor:g}·({inner})" if compound else f"{self.factor:g}·{inner}"


def _need(part: Advantage, **signals: Tensor | None) -> None:
    missing = [name for name, value in signals.items() if value is None]
    if missing:
        raise UsageError(
            f"advantage {type(part).__name__} needs {', '.join(missing)}; pass it as a keyword, shaped as `rewards`."
        )


def _clean(x: Tensor, valid: Tensor | None) -> Tensor:
    """Padding replaced by 0 (not multiplied: padding may hold NaN)."""
    return x if valid is None else torch.where(valid, x, torch.zeros((), dtype=x.dtype))


def discounted_sum(x: Float[Tensor, "time ..."], decay: Float[Tensor, "time ..."]) -> Float[Tensor, "time ..."]:
    """y[t] = x[t] + decay[t] · y[t+1], with y = 0 after the last step."""
    y, out = torch.zeros_like(x[0]), []
    for x_t, decay_t in zip(reversed(x.unbind(0)), reversed(decay.unbind(0)), strict=True):
        y = torch.addcmul(x_t, decay_t, y)
        out.append(y)
    return torch.stack(out[::-1])


def following(x: Shaped[Tensor, "time ..."]) -> Shaped[Tensor, "time ..."]:
    """y[t] = x[t+1], 0 or False after the last step."""
    return torch.cat([x[1:], torch.zeros_like(x[:1])])


def _continues(signals: dict[str, Any], like: Tensor) -> Tensor:
    """1 where the episode continues after the step, 0 where it ends or the step is padding."""
    goes_on = torch.ones_like(like, dtype=torch.bool) if (valid := signals.get("valid")) is None else valid
    for flag in (signals.get("terminated"), signals.get("truncated")):
        goes_on = goes_on if flag is None else goes_on & ~flag
    return goes_on.to(like.dtype)


def _td_errors(part: Advantage, gamma: float, rewards: Tensor, signals: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """TD errors `r + γ(1 − terminated)V' − V` and the 0/1 mask of steps after which the episode continues."""
    values, next_values, valid = signals.get("values"), signals.get("next_values"), signals.get("valid")
    terminated = signals.get("terminated")
    _need(part, values=values, next_values=next_values)
    assert values is not None and next_values is not None
    bootstrap = _clean(next_values, valid)
    if terminated is not None:
        bootstrap = torch.where(terminated, torch.zeros((), dtype=bootstrap.dtype), bootstrap)
    return _clean(rewards, valid) + gamma * bootstrap - _clean(values, valid), _continues(signals, rewards)


@dataclass(frozen=True)
class gae(Advantage):
    """Generalized advantage estimation, the λ-weighted mixture of all k-step advantages (arXiv:1506.02438).

    `Â[t] = δ[t] + γλ(1 − done[t])·Â[t+1]` with `δ = r + γ(1 − terminated)V' − V`. Time is the first axis.
    λ = 0 is the TD error (low variance, biased by V), λ = 1 the Monte-Carlo return minus V (unbiased).
    """

    gamma: float = hyperparameter(0.99, low=0, high=1, help="Discount factor.")
    lam: float = hyperparameter(0.95, low=0, high=1, help="GAE's λ, which mixes k-step advantages.")
    formula = "GAE(γ={gamma:g}, λ={lam:g})"

    def __call__(self, rewards: Tensor, **signals: Any) -> Tensor:
        deltas, continues = _td_errors(self, self.gamma, rewards, signals)
        return discounted_sum(deltas, self.gamma * self.lam * continues)


@dataclass(frozen=True)
class n_step(Advantage):
    """The n-step advantage `Σ_{l<n} γ^l r[t+l] + γ^n V[t+n] − V[t]`, shorter where the episode or segment ends."""

    n: int = hyperparameter(5, low=1, help="Number of rewards before the bootstrap.")
    gamma: float = hyperparameter(0.99, low=0, high=1, help="Discount factor.")
    formula = "A_{n}-step(γ={gamma:g})"

    def __call__(self, rewards: Tensor, **signals: Any) -> Tensor:
        deltas, continues = _td_errors(self, self.gamma, rewards, signals)
        # A^(k)[t] = δ[t] + γ·A^(k−1)[t+1]: the TD errors telescope.
        advantage = deltas
        for _ in range(self.n - 1):
            advantage = deltas + self.gamma * continues * following(advantage)
        return advantage


@dataclass(frozen=True)
class monte_carlo(Advantage):
    """The discounted return to go `Σ_l γ^l r[t+l]`, cut at the end of the episode or of the segment, no baseline."""

    gamma: float = hyperparameter(0.99, low=0, high=1, help="Discount factor.")
    formula = "G(γ={gamma:g})"

    def __call__(self, rewards: Tensor, **signals: Any) -> Tensor:
        return discounted_sum(_clean(rewards, signals.get("valid")), self.gamma * _continues(signals, rewards))


def masked_mean(x: Tensor, valid: Tensor | None, dim: int) -> Tensor:
    """Mean over one axis of the valid elements, the axis kept with length 1."""
    if valid is None:
        return x.mean(dim, keepdim=True)
    return _clean(x, valid).sum(dim, keepdim=True) / valid.sum(dim, keepdim=True).clamp(min=1)


def _centred(x: Tensor, valid: Tensor | None) -> Tensor:
    """Deviations from the mean of the last axis, 0 for padding, and exactly 0 where all valid elements are equal.

    The maximum is subtracted first: the rounding error of a plain mean of equal numbers, divided by their standard
    deviation, would be of order 1.
    """
    lowest = torch.full((), -torch.inf, dtype=x.dtype)
    reference = (x if valid is None else torch.where(valid, x, lowest)).amax(-1, keepdim=True)
    shifted = _clean(x - reference, valid)
    return _clean(shifted - masked_mean(shifted, valid, -1), valid)


def _standardized(x: Tensor, valid: Tensor | None, epsilon: float, unbiased: bool = False) -> Tensor:
    centred = _centred(x, valid)
    variance = masked_mean(centred**2, valid, -1)
    if unbiased:
        size = torch.as_tensor(x.shape[-1]) if valid is None else valid.sum(-1, keepdim=True)
        variance = variance * size / (size - 1).clamp(min=1)
    return centred / (variance.sqrt() + epsilon)


@dataclass(frozen=True)
class group_mean(Advantage):
    """Reward minus the mean of its group (the last axis); Dr.GRPO's baseline."""

    formula = "R − mean(R)"

    def __call__(self, rewards: Tensor, **signals: Any) -> Tensor:
        return _centred(rewards.double(), signals.get("valid")).to(rewards.dtype)


@dataclass(frozen=True)
class group_standardized(Advantage):
    """Reward minus its group's mean, over the group's population standard deviation; GRPO's advantage."""

    epsilon: float = hyperparameter(1e-8, above=0, help="Added to the standard deviation.")
    unbiased: bool = hyperparameter(False, help="Divide the squares by n − 1 instead of n.")
    formula = "(R − mean(R)) / std(R)"

    def __call__(self, rewards: Tensor, **signals: Any) -> Tensor:
        found = _standardized(rewards.double(), signals.get("valid"), self.epsilon, self.unbiased)
        return found.to(rewards.dtype)  # squares of rewards of 1e30 are beyond float32


@dataclass(frozen=True)
class among_informative(Advantage):
    """A group advantage times B/(B − M): B groups (the axis before the last), M of which have equal rewards.

    Those groups have no gradient but count in every mean; the factor removes them from it (arXiv:2504.02546). It is at
    most `cap` (B if None), and 1 if no group is informative.
    """

    term: Advantage = dataclasses.field(default_factory=group_mean)
    cap: float | None = hyperparameter(None, low=1, help="Cap on the factor.")

    def __call__(self, rewards: Tensor, **signals: Any) -> Tensor:
        valid = signals.get("valid")
        informative = (_centred(rewards.double(), valid) != 0).any(-1).sum(-1)
        groups = rewards.shape[-2]
        factor = (groups / informative.clamp(min=1)).clamp(max=groups if self.cap is None else self.cap)
        factor = torch.where(informative > 0, factor, torch.ones_like(factor))
        return factor[..., None, None] * self.term(rewards, **signals)

    def __str__(self) -> str:
        factor = "B/(B−M)" if self.cap is None else f"min({self.cap:g}, B/(B−M))"
        return f"{factor}·({self.term})"


@dataclass(frozen=True)
class leave_one_out(Advantage):
    """Reward minus the mean of the *others* of its group (the last axis), RLOO's unbiased baseline; 0 if alone."""

    formula = "R − mean_{{others}}(R)"

    def __call__(self, rewards: Tensor, **signals: Any) -> Tensor:
        valid = signals.get("valid")
        size = torch.as_tensor(rewards.shape[-1]) if valid is None else valid.sum(-1, keepdim=True)
        return (_centred(rewards.double(), valid) * size / (size - 1).clamp(min=1)).to(rewards.dtype)


@dataclass(frozen=True)
class outcome(Advantage):
    """The reward itself, without a baseline; with rewards 0 and 1 this selects successes (rejection sampling)."""

    formula = "R"

    def __call__(self, rewards: Tensor, **signals: Any) -> Tensor:
        return _clean(rewards, signals.get("valid"))


@dataclass(frozen=True)
class unit(Advantage):
    """1 for every element, for imitation (maximum likelihood)."""

    formula = "1"

    def __call__(self, rewards: Tensor, **signals: Any) -> Tensor:
        return _clean(torch.ones_like(rewards), signals.get("valid"))


def standardize(x: Tensor, valid: Tensor | None = None, epsilon: float = 1e-8) -> Tensor:
    """Zero mean and unit (population) standard deviation over all valid elements; 0 where they are all equal."""
    return _standardized(x.flatten(), None if valid is None else valid.flatten(), epsilon).reshape(x.shape)
