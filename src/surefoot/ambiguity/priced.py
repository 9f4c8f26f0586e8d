"""A spectral risk whose weights pay a price for their divergence from the nominal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from scipy.special import xlog1py
from torch import Tensor

from surefoot.ambiguity.contract import Problem, Solution
from surefoot.ambiguity.core import Ambiguity
from surefoot.ambiguity.spectral import Distortion
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter

TINY = 1e-200  # replaces a price of zero, in units of the span of the values
SYMBOLS = {"chi-square": "χ²(q‖p)", "kl": "KL(q‖p)"}


@dataclass(frozen=True)
class Priced(Ambiguity):
    """A coherent spectral risk, smoothed: min q·v + λ·D(q‖p) over the weights q that the risk allows.

    The risk allows what gives any share of the draws at most what it gives the lowest ones, q(A) ≤ Φ(p(A)). With the
    outcomes sorted, this is one isotonic regression (Prospect, arXiv:2310.13863): within each of its pools q is the
    worst case under the price alone, and a pool has the mass that the risk gives to its ranks. A price of 0 leaves the
    risk, an infinite one the mean. The value is differentiable where λ > 0; like any price, it breaks positive
    homogeneity and superadditivity.
    """

    risk: Ambiguity
    price: float = hyperparameter(1.0, low=0, help="λ: price of a unit of divergence, in units of the values.")
    divergence: str = hyperparameter("chi-square", choices=tuple(SYMBOLS), help="Divergence that is paid for.")
    name = "priced"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.risk, Distortion) or not _concave(self.risk):
            raise UsageError(
                f"Priced: risk={str(self.risk)!r} is not allowed; give a coherent spectral risk, such as CVaR(0.1), "
                "Extremile(2), ExponentialSpectral(1) or MeanCVaR(0.1)."
            )

    def __str__(self) -> str:
        return f"min {{ q·v + {self.price:g}·{SYMBOLS[self.divergence]} : q of {self.risk} }}"

    @property
    def parts(self) -> tuple[Problem, ...]:
        return self.risk.parts

    def spectrum(self, nominal: np.ndarray) -> np.ndarray:
        """The weights `[n]` that the risk itself gives to outcomes of these probabilities `[n]`, the lowest first."""
        assert isinstance(self.risk, Distortion)
        share = torch.as_tensor(nominal).cumsum(-1)
        share = torch.nn.functional.pad(share / share[-1], (1, 0))
        return self.risk.cumulative(share).diff(dim=-1).numpy()

    def pooled(
        self, values: np.ndarray, nominal: np.ndarray, spectrum: np.ndarray, price: float | None = None
    ) -> np.ndarray:
        """The weights `[n]` of the worst case, for values in ascending order and positive probabilities.

        price: in place of the set's own.
        """
        span = float(values[-1] - values[0])
        price = self.price if price is None else price
        scaled = (values[0] - values) / (max(price / span, TINY) * span) if span > 0 else np.zeros_like(values)
        if self.divergence == "kl":
            return _tilted(scaled, nominal, spectrum)
        scaled = scaled / 2
        found = isotonic_regression(scaled - spectrum / nominal, weights=nominal, increasing=False)
        first, sizes = found.blocks[:-1], np.diff(found.blocks)
        mass = np.add.reduceat(nominal, first)
        beyond = scaled - np.repeat(scaled[first], sizes)  # exactly 0 for a pool of one, however low the price
        centred = beyond - np.repeat(np.add.reduceat(nominal * beyond, first) / mass, sizes)
        return np.maximum(nominal * (centred + np.repeat(np.add.reduceat(spectrum, first) / mass, sizes)), 0.0)

    def solve(self, values: Tensor, nominal: Tensor, strength: Tensor | None) -> Solution:
        values, nominal = torch.broadcast_tensors(values, nominal)
        rows = (x.reshape(-1, x.shape[-1]).cpu().numpy() for x in (values, nominal))
        found = [self._row(v, p) for v, p in zip(*rows)]
        worst = torch.as_tensor(np.array([value for value, _ in found]), device=values.device)
        weights = torch.as_tensor(np.stack([q for _, q in found]), device=values.device).reshape(values.shape)
        return Solution(worst.reshape(values.shape[:-1]), lambda: weights)

    def _row(self, values: np.ndarray, nominal: np.ndarray) -> tuple[float, np.ndarray]:
        """The worst value and its weights for one row."""
        order = np.argsort(values, kind="stable")
        order = order[nominal[order] > 0]
        v, p = values[order], nominal[order]
        sorted_weights = self.pooled(v, p, self.spectrum(p))
        weights = np.zeros_like(values)
        weights[order] = sorted_weights
        return self.paid(v, sorted_weights, p), weights

    def paid(self, values: np.ndarray, weights: np.ndarray, nominal: np.ndarray) -> float:
        """q·v + λ·D(q‖p) for weights within a nominal of full support."""
        paid = self.price * self._divergence(weights, nominal) if 0 < self.price < math.inf else 0.0
        return float(weights @ values) + paid

    def _divergence(self, weights: np.ndarray, nominal: np.ndarray) -> float:
        gained = (weights - nominal) / nominal
        if self.divergence == "kl":  # no term is negative, so that nothing cancels near the nominal
            return float(nominal @ (xlog1py(1 + gained, gained) - gained))
        return float(nominal @ gained**2)


def _concave(risk: Distortion) -> bool:
    """Whether Φ of a risk is concave, that is whether the risk is coherent; found on a fine grid of shares."""
    shares = risk.cumulative(torch.linspace(0, 1, 1001, dtype=torch.float64))
    return bool((shares.diff().diff() <= 1e-9).all())


class _Pool(NamedTuple):
    """A pool of `_tilted`: its first log p·e^gain, the log of their sum relative to that, the mass that the risk gives
    to its ranks, and where it ends."""

    first: float
    sum: float
    given: float
    end: int

    @property
    def level(self) -> float:
        return self.first + self.sum - math.log(self.given) if self.given > 0 else math.inf

    def joined(self, other: _Pool) -> _Pool:
        one, two = self.sum, other.first - self.first + other.sum
        total = max(one, two) + math.log1p(math.exp(-abs(one - two)))
        return _Pool(self.first, total, self.given + other.given, other.end)


def _tilted(gains: np.ndarray, nominal: np.ndarray, spectrum: np.ndarray) -> np.ndarray:
    """The weights under a price on KL, for gains −v/λ in descending order.

    The level log Σ p·e^gain − log Σ σ falls from one pool to the next. Logarithms, because both sums can underflow, and
    a risk that ignores the best outcomes has σ = 0 there, with which no pool can end.
    """
    logs = np.log(nominal) + gains
    pools: list[_Pool] = []
    for place, (log, given) in enumerate(zip(logs.tolist(), spectrum.tolist()), 1):
        pool = _Pool(log, 0.0, given, place)
        while pools and pools[-1].level <= pool.level:
            pool = pools.pop().joined(pool)
        pools.append(pool)
    first, total, given, ends = (np.array(column) for column in zip(*pools))
    sizes = np.diff(ends, prepend=0)
    return np.repeat(given, sizes) * np.exp(logs - np.repeat(first, sizes) - np.repeat(total, sizes))
