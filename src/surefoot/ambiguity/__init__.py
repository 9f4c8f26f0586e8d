"""The worst case of an expectation over a set of distributions, and risk measures as such sets.

    worst_case(values, nominal, KL(0.1))          # value and distribution, batched, NumPy or torch, differentiable
    worst_case(losses, nominal, TotalVariation(penalty=2.0), maximise=True)
    CVaR(0.1)(samples).value

`operator` holds the operator and its sign, `core` what all sets share. The sets: `moves` (total variation, L1, L∞),
`divergences` (KL, χ²), `tilts` (reverse KL, Hellinger), `mixtures` (contamination, boxes, scenarios), `transport`
(Wasserstein), `ellipsoid`; `risk` holds the risk measures.
"""

from surefoot.ambiguity.core import Ambiguity, Divergence
from surefoot.ambiguity.divergences import KL, ChiSquare
from surefoot.ambiguity.ellipsoid import Ellipsoid
from surefoot.ambiguity.mixtures import Box, Contamination, Scenarios
from surefoot.ambiguity.moves import L1, LInfinity, TotalVariation
from surefoot.ambiguity.operator import WorstCase, worst_case, worst_case_value
from surefoot.ambiguity.risk import CVaR
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
    "Hellinger",
    "LInfinity",
    "ReverseKL",
    "Scenarios",
    "TotalVariation",
    "Wasserstein",
    "WorstCase",
    "worst_case",
    "worst_case_value",
]
