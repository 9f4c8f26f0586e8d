"""RPO: DPO against the worst reward that still explains the pairs, which is DPO and a scaled imitation of a baseline.

    max_π min_r  η·(E_π r − E_base r − β·KL(π ‖ π_ref)) + L_D(r)  =  min_θ  DPO(θ) − η·β·E_base log π_θ(y)

The pessimism about rewards outside the data turns, by duality, into the likelihood of a baseline's answers; the chosen
ones are that baseline. Use it where DPO drives the likelihood of chosen answers down, or mass to answers that no pair
covers.

Zhihan Liu et al., *Provably Mitigating Overoptimization in RLHF: Your SFT Loss is Implicitly an Adversarial
Regularizer* (2024), arXiv:2405.16436. `imitated="mean"` is the per-token form of its Appendix F, whose weight has no
factor β; the paper's weight there is 0.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.pairs import Pairwise
from surefoot.objectives import preferences as P
from surefoot.objectives.preferences import PairObjective

NOTHING = 1e-6  # weights below it are taken for 0, as in the authors' code


@dataclass(frozen=True)
class RPO(Pairwise):
    """Preferences with adversarial rewards: DPO and the likelihood of chosen answers."""

    eta: float = hyperparameter(0.005, low=0, help="Weight η of the imitation; times β where it is summed over tokens.")
    imitated: str = hyperparameter(
        "sum", choices=("sum", "mean"), help="Likelihood of an answer: summed over its tokens, or their mean."
    )

    def pair_objective(self) -> PairObjective:
        weight = 0.0 if self.eta < NOTHING else self.eta * (self.beta if self.imitated == "sum" else 1.0)
        return PairObjective(P.logistic(self.beta), imitation=weight, imitated=self.imitated)


METHOD = RPO
