"""The worst case of an expectation over a set of distributions, and risk measures as such sets.

    worst_case(values, nominal, KL(0.1))          # value and distribution, batched, NumPy or torch, differentiable
    worst_case(losses, nominal, TotalVariation(penalty=2.0), maximise=True)
    CVaR(0.1)(samples).value

`moves` and `divergences` hold the sets, `risk` the risk measures, `core` what they share, `operator` the operator.
"""

from surefoot.ambiguity.core import Ambiguity, Divergence
from surefoot.ambiguity.divergences import KL, ChiSquare
from surefoot.ambiguity.moves import L1, Contamination, TotalVariation
from surefoot.ambiguity.operator import WorstCase, worst_case, worst_case_value
from surefoot.ambiguity.risk import CVaR

__all__ = [
    "KL",
    "L1",
    "Ambiguity",
    "CVaR",
    "ChiSquare",
    "Contamination",
    "Divergence",
    "TotalVariation",
    "WorstCase",
    "worst_case",
    "worst_case_value",
]
