"""What is optimised: pure functions on tensors that do not know where their axes come from.

`advantages`, `ratios`, `stabilizers`, `likelihoods` and `aggregation` hold the parts, `PolicyObjective` puts them
together, `values` holds the critic's losses, `divergences` the distances between policies.
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
