"""Whose value is the baseline in a state, and who is asked to go on from it: max+ and active selection.

Values are those of K oracles and, last, of the learner: means and standard deviations over an ensemble, `[K + 1, ...]`.
After Xuefeng Liu et al., arXiv:2310.01737.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

SELECTIONS = ("bounds", "means", "uniform")
BASELINES = ("all", "oracles")


def baseline(
    mean: Float[Tensor, "policies ..."],
    deviation: Float[Tensor, "policies ..."],
    threshold: float,
    among: str = "all",
) -> Float[Tensor, "..."]:
    """f⁺(s): the largest mean of all policies, or the learner's own where the largest is uncertain, that is where its
    deviation exceeds the threshold. With `among="oracles"` the largest of the oracles' and no threshold; without
    oracles the learner's own."""
    if len(mean) == 1:
        return mean[-1]
    if among == "oracles":
        return mean[:-1].max(0).values
    largest, which = mean.max(0)
    uncertain = deviation.gather(0, which.unsqueeze(0)).squeeze(0) > threshold
    return torch.where(uncertain, mean[-1], largest)


def selected(
    mean: Float[Tensor, "policies rows"],
    deviation: Float[Tensor, "policies rows"],
    rule: str,
    uniform: Float[Tensor, "rows"],
) -> Int[Tensor, "rows"]:
    """Who goes on from a state: by `bounds` the largest of mean + deviation of the oracles and mean − deviation of the
    learner, so that an oracle that may be good is tried and the learner must be good for sure; by `means` the largest
    mean; or any oracle, by a number in [0, 1)."""
    oracles = len(mean) - 1
    if rule == "uniform":
        return (uniform * max(oracles, 1)).long().clamp(max=max(oracles - 1, 0))
    if rule == "means":
        return mean.argmax(0)
    return torch.cat([(mean + deviation)[:-1], (mean - deviation)[-1:]]).argmax(0)
