"""Objectives: pure functions on tensors, independent of the meaning of their axes.

`advantages`, `ratios`, `stabilizers`, `likelihoods` and `aggregation` have the parts, `PolicyObjective` combines them,
`values` has the critic's losses, `divergences` the distances between policies.
"""

from surefoot.objectives import advantages, aggregation, beta, divergences, likelihoods, ratios, stabilizers, values
from surefoot.objectives.policy import PolicyObjective

__all__ = [
    "PolicyObjective",
    "advantages",
    "aggregation",
    "beta",
    "divergences",
    "likelihoods",
    "ratios",
    "stabilizers",
    "values",
]
