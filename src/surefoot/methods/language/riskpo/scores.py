"""Scores of bundles: what each adds to the mixed value at risk, its quantiles over a run, and each prompt's credit.

X are the scores `[bundles, samples]`, R the rewards `[bundles, prompts, samples]`, and quantiles `[..., 2]` those of X
at the levels a and b.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.ambiguity import MixedVaR

CREDITS = ("deviation", "share", "uniform", "score")
ALIKE = 1e-3  # a prompt's rewards with a smaller deviation are not divided by it
EXCESS = 1e-6  # a smaller excess of all prompts together is shared equally


def levels(risk: MixedVaR) -> Float[Tensor, " 2"]:
    """a and b."""
    return torch.tensor([risk.low, risk.high], dtype=torch.float64)


def tail_gain(
    scores: Float[Tensor, "bundles samples"], quantiles: Float[Tensor, "*bundles 2"], risk: MixedVaR, baseline: bool
) -> Float[Tensor, "bundles samples"]:
    """[w·min(X − q_a, 0)/a + (clip(X, q_a, q_b) − q_a)/(b − a)]/(1 + w): the coefficient of ∇log p(X) in the gradient
    of the risk. With the baseline q_b takes the place of the last q_a: a constant less, and nothing is above 0."""
    low, high = (x.unsqueeze(-1) for x in quantiles.unbind(-1))
    tail = (scores - low).clamp(max=0) / risk.low
    middle = (scores.clamp(low, high) - (high if baseline else low)) / (risk.high - risk.low)
    return (risk.weight * tail + middle) / (1 + risk.weight)


def tracked(
    known: Float[Tensor, " 2"], scores: Float[Tensor, "bundles samples"], risk: MixedVaR
) -> Float[Tensor, " 2"]:
    """The quantiles tracked so far; those of the scores at hand if there are none (NaN)."""
    return torch.where(known.isnan(), scores.flatten().quantile(levels(risk)), known)


def moved(
    known: Float[Tensor, " 2"], scores: Float[Tensor, "bundles samples"], risk: MixedVaR, rate: float
) -> Float[Tensor, " 2"]:
    """The tracked quantiles after more scores: q + rate·(level − the share of scores below q), which rests where that
    share is the level."""
    below = (scores[..., None] < known).double().mean((0, 1))
    return torch.where(known.isnan(), tracked(known, scores, risk), known + rate * (levels(risk) - below))


def credited(
    gain: Float[Tensor, "bundles samples"], reward: Float[Tensor, "bundles prompts samples"], credit: str
) -> Float[Tensor, "bundles prompts samples"]:
    """The gain of a score as the advantage of the completions in it, by a rule of `CREDITS`: divided by the deviation
    of the prompt's rewards; in proportion to the reward's excess over their mean, at most the whole; the same for all;
    or the more, the lower the reward."""
    gain, count = gain.unsqueeze(1), reward.shape[1]
    if credit == "deviation":
        deviation = reward.std(2, keepdim=True)
        return gain / torch.where(deviation > ALIKE, deviation, 1.0)
    if credit == "share":
        excess = reward - reward.mean(2, keepdim=True)
        whole = excess.sum(1, keepdim=True)
        share = torch.where(whole.abs() > EXCESS, excess / whole, 1 / count)
        return gain * share.clamp(-1, 1)
    return gain * (1.5 - reward if credit == "score" else torch.ones_like(reward))
