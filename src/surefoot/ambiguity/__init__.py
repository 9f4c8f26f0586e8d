"""The worst case of an expectation over a set of distributions, and risk measures as such sets.

    worst_case(values, nominal, KL(0.1))          # value and distribution, batched, NumPy or torch, differentiable
    worst_case(losses, nominal, TotalVariation(penalty=2.0), maximise=True)
    CVaR(0.1)(samples).value
    parse("tv:0.2")

`operator` has the operator and its sign convention, `contract` its interface to a set, `core` the base of all sets:
`moves` (total variation, L1, L∞), `divergences` (KL, χ²), `tilts` (reverse KL, Hellinger), `mixtures` (contamination,
boxes, scenarios), `transport` (Wasserstein), `ellipsoid`; `counts` makes some of them from data. The risk measures:
`spectral` (CVaR and related ones), `priced` (the same with a price on the divergence), `risk`. `conventions` converts
the sizes of sets that papers write in another way. `gelbrich` is of another kind: the worst probability of a half-space
over all distributions of vectors whose mean and covariance are near given ones.
"""

from surefoot.ambiguity.core import Ambiguity, Divergence
from surefoot.ambiguity.counts import from_counts
from surefoot.ambiguity.divergences import KL, ChiSquare
from surefoot.ambiguity.ellipsoid import Ellipsoid
from surefoot.ambiguity.grammar import parse
from surefoot.ambiguity.mixtures import Box, Contamination, Scenarios
from surefoot.ambiguity.moves import L1, LInfinity, TotalVariation
from surefoot.ambiguity.operator import WorstCase, worst_case, worst_case_value
from surefoot.ambiguity.priced import Priced
from surefoot.ambiguity.risk import Entropic, Expectile, MeanDeviation, MeanVariance, Mixed
from surefoot.ambiguity.spectral import CVaR, ExponentialSpectral, Extremile, MeanCVaR, MixedVaR, Spectral, VaR
from surefoot.ambiguity.tilts import Hellinger, ReverseKL
from surefoot.ambiguity.transport import Wasserstein

__all__ = [
    "KL",
    "L1",
    "Ambiguity",
    "Box",
    "CVaR",
    "ChiSquare",
    "Contamination",
    "Divergence",
    "Ellipsoid",
    "Entropic",
    "Expectile",
    "ExponentialSpectral",
    "Extremile",
    "Hellinger",
    "LInfinity",
    "MeanCVaR",
    "MeanDeviation",
    "MeanVariance",
    "Mixed",
    "MixedVaR",
    "Priced",
    "ReverseKL",
    "Scenarios",
    "Spectral",
    "TotalVariation",
    "VaR",
    "Wasserstein",
    "WorstCase",
    "from_counts",
    "parse",
    "worst_case",
    "worst_case_value",
]
