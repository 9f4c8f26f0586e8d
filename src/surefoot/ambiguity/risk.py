"""Risk measures as their duals: each is a set of re-weightings of the nominal, and its worst case is the risk.

    risk = CVaR(0.1)
    r = risk(samples)                # or risk(values, probabilities); r.value, r.weights
    r = risk(losses, maximise=True)  # the upper tail instead

The sign is that of the room: values are rewards, a risk looks at the lower tail and is at most the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surefoot.ambiguity.core import Ambiguity, Solution
from surefoot.ambiguity.search import take, untake
from surefoot.hyperparameters import hyperparameter


@dataclass(frozen=True)
class Distortion(Ambiguity):
    """Base of the spectral risks: the i-th lowest outcome gets the weight Φ(p₁ + … + p_i) − Φ(p₁ + … + p_{i−1})."""

    def cumulative(self, share: Tensor) -> Tensor:
        """Φ: the weight of the lowest `share` of the draws, increasing from 0 to 1; coherent where it is concave."""
        raise NotImplementedError

    def solve(self, values: Tensor, nominal: Tensor, strength: Tensor | None) -> Solution:
        order = values.argsort(-1)
        share = take(nominal, order).cumsum(-1)
        share = share / share[..., -1:]
        weights = self.cumulative(torch.nn.functional.pad(share, (1, 0))).diff(dim=-1)
        value = (weights * take(values, order)).sum(-1)
        return Solution(value, lambda: untake(weights, order))


@dataclass(frozen=True)
class CVaR(Distortion):
    """Conditional value at risk: the mean of the lowest share α of the draws; 1 is the mean, 0 the lowest outcome.

    Its set is {q ≤ p/α}. What some texts call level 0.9 of a loss is `CVaR(0.1)` with `maximise=True` here.
    """

    level: float = hyperparameter(0.1, low=0, high=1, help="Share α of the draws that counts.")
    name = "cvar"
    formula = "CVaR_{level}"

    def cumulative(self, share: Tensor) -> Tensor:
        return (share / self.level).clamp(max=1) if self.level > 0 else (share > 0).to(share.dtype)
