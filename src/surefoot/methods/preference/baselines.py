"""The usual losses of pairs, each a link between the two log-ratios and a few switches.

    DPO  −log σ(β(ρ_w − ρ_l))      IPO  (ρ_w − ρ_l − 1/2β)²      SLiC  max(0, 1 − β(ρ_w − ρ_l))

ρ is log π/π_ref of a whole answer. cDPO smooths the labels; SimPO, CPO and ORPO do without a reference.
"""

from __future__ import annotations

from dataclasses import dataclass

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.pairs import Pairwise
from surefoot.objectives import preferences as P
from surefoot.objectives.preferences import PairObjective


@dataclass(frozen=True)
class DPO(Pairwise):
    """The policy as its own reward model, fitted to pairs by maximum likelihood (arXiv:2305.18290)."""

    per_token: bool = hyperparameter(False, help="Divide log-ratios by the number of tokens of each answer.")

    def pair_objective(self) -> PairObjective:
        return PairObjective(P.logistic(self.beta), per_token=self.per_token)


@dataclass(frozen=True)
class IPO(Pairwise):
    """Regression of the difference of the log-ratios on 1/(2β), which it cannot exceed (arXiv:2310.12036).

    The log-ratios are those of whole answers, as in the paper; TRL divides by their lengths: `per_token=True`.
    """

    per_token: bool = hyperparameter(False, help="Divide log-ratios by the number of tokens of each answer.")

    def pair_objective(self) -> PairObjective:
        return PairObjective(P.square(self.beta), per_token=self.per_token)


@dataclass(frozen=True)
class SLiC(Pairwise):
    """A hinge on the difference of the log-ratios (arXiv:2305.10425)."""

    def pair_objective(self) -> PairObjective:
        return PairObjective(P.hinge(self.beta))


@dataclass(frozen=True)
class CDPO(Pairwise):
    """DPO with smoothed labels: a flip with probability `label_noise` is allowed for, at the price of a smaller reward
    (arXiv:2305.18290, authors' note)."""

    label_noise: float = hyperparameter(0.1, low=0, below=0.5, help="Probability ε that a label was flipped.")

    def pair_objective(self) -> PairObjective:
        return PairObjective(P.logistic(self.beta), P.smoothed(self.label_noise))


@dataclass(frozen=True)
class SimPO(Pairwise):
    """Mean log-probabilities per token without a reference, and a margin (arXiv:2405.14734)."""

    beta: float = hyperparameter(2.5, above=0, help="Scale β of the mean log-probability per token.")
    margin: float = hyperparameter(1.375, low=0, help="Margin γ; the paper uses 0.3 to 0.55 of β.")

    def pair_objective(self) -> PairObjective:
        return PairObjective(P.logistic(self.beta, margin=self.margin), referenced=False, per_token=True)


@dataclass(frozen=True)
class CPO(Pairwise):
    """DPO without a reference, and the likelihood of the chosen answer (arXiv:2401.08417)."""

    imitation: float = hyperparameter(1.0, low=0, help="Weight of the chosen answers' mean negative log-likelihood.")

    def pair_objective(self) -> PairObjective:
        return PairObjective(P.logistic(self.beta), referenced=False, imitation=self.imitation, imitated="pooled")


@dataclass(frozen=True)
class ORPO(Pairwise):
    """The likelihood of the chosen answer and the odds ratio of both, without a reference (arXiv:2403.07691).

    The likelihood is that of the answer, as in the paper; TRL adds the prompt's.
    """

    beta: float = hyperparameter(0.1, above=0, help="Weight λ of the odds ratio; TRL calls it beta.")

    def pair_objective(self) -> PairObjective:
        return PairObjective(
            P.odds_ratio(self.beta), referenced=False, per_token=True, imitation=1.0, imitated="pooled"
        )
