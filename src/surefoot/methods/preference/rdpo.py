"""rDPO: the loss of noisy labels whose mean over the flips is DPO's loss of the true ones.

    loss = [(1 − ε)·s(−z) − ε·s(z)]/(1 − 2ε)        z = β(ρ_w − ρ_l),  s(u) = log(1 + e^u)

Labels are flipped with a known probability ε below one half. DPO then fits an implicit reward that is too small, and
smoothing the labels makes it smaller still; here the noise vanishes in expectation. Use it where a flip rate can be
guessed and the size of the preference matters, not only its direction. The loss is not bounded from below: train for
few epochs, and watch `margin`.

Sayak Ray Chowdhury et al., *Provably Robust DPO: Aligning Language Models with Noisy Feedback* (2024),
arXiv:2403.00409. The same correction serves every link: `link="square"` and `"hinge"` correct IPO and SLiC.
"""

from __future__ import annotations

from dataclasses import dataclass

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.pairs import Pairwise
from surefoot.objectives import preferences as P
from surefoot.objectives.preferences import PairObjective

LINKS = {"logistic": P.logistic, "square": P.square, "hinge": P.hinge}


@dataclass(frozen=True)
class RDPO(Pairwise):
    """DPO corrected for flipped labels."""

    label_noise: float = hyperparameter(0.1, low=0, below=0.5, help="Probability ε that a label was flipped.")
    link: str = hyperparameter("logistic", choices=tuple(LINKS), help="The loss to be corrected: DPO, IPO or SLiC.")

    def pair_objective(self) -> PairObjective:
        return PairObjective(LINKS[self.link](self.beta), P.corrected(self.label_noise))


METHOD = RDPO
