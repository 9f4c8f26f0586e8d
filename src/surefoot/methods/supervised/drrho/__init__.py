"""DRRho: distributionally robust learning of what a reference model shows can be learned, not of noise.

Reach for it where a previous or a simpler model exists and data are few or noisy. A sample that the reference finds
hard too, such as an outlier, gets little weight; one that can be learned and is not yet gets much:

    F(w) = max { Σ_i q_i·(ℓ_i(w) − ℓ_i(reference)) : q in the set } + ½·(l2/n)·‖w‖²

The set is the ball (1/2n)·Σ (n·q_i − 1)² ≤ ρ/n, in which F is about mean + √(2ρ·Var/n) of the excess losses, or any
other (`ambiguity`): kl-penalty:1 tilts by exp(excess/1), cvar:0.1 selects the tenth with the greatest excess. Without a
reference it is ordinary distributionally robust learning. A reference that is wrong misleads it, and where data are
very few a ridge around the reference does better (its claim has both).

Xiyuan Wei, Ming Lin, Fanjiang Ye, Fengguang Song, Liangliang Cao, My T. Thai, Tianbao Yang, *Model Steering: Learning
with a Reference Model Improves Generalization Bounds and Scaling Laws* (ICML 2025), arXiv:2505.06699.

Departures:
- Linear models on all samples, where the normaliser of KL needs no moving average; the contrastive form of the paper
  (DRRho-CLIP), which does, is `drrho-contrastive`.
- An intercept and a price on the norm, as in the other methods on finite sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from surefoot.ambiguity import Ambiguity, ChiSquare, parse
from surefoot.ambiguity.conventions import radius_of_samples
from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.finite_sum.method import FiniteSum
from surefoot.loops.finite_sum.problem import Array
from surefoot.loops.finite_sum.reference import as_reference, reference_losses


@dataclass(frozen=True)
class DRRho(FiniteSum):
    """A linear model that learns most where a reference model is ahead of it."""

    reference: Any = hyperparameter(None, help="Reference: the folder of a run, or a fitted model; none for plain DRO.")
    rho: float = hyperparameter(1.0, low=0, help="ρ: size of the ball (1/2n)·Σ (n·q_i − 1)² ≤ ρ/n.")
    ambiguity: str | Ambiguity | None = hyperparameter(
        None, help="Another set or risk in place of that ball, such as kl-penalty:1, kl:0.1 or cvar:0.1."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "reference", as_reference(self.reference))
        self.ambiguity_of(1)  # refuses an invalid text

    def ambiguity_of(self, n: int) -> Ambiguity:
        if self.ambiguity is None:
            return ChiSquare(radius_of_samples(self.rho, n))
        found = parse(self.ambiguity) if isinstance(self.ambiguity, str) else self.ambiguity
        if found.outcomes is not None:
            raise UsageError(
                f"ambiguity={str(found)!r} is not allowed: it is for {found.outcomes} outcomes, not samples."
            )
        return found

    def offset(self, table: Table) -> Array | float:
        return reference_losses(self.reference, table, self.loss, self.classes_of(table))

    def risk_formula(self) -> str:
        excess = "ℓ_i(w)" if self.reference is None else "(ℓ_i(w) − ℓ_i(reference))"
        if self.ambiguity is None:
            return f"max {{ Σ q_i·{excess} : Σ (n·q_i − 1)²/(2n) ≤ {self.rho:g}/n }}"
        return f"max over q of Σ q_i·{excess}, by {self.ambiguity_of(1)} of rewards v = −{excess}"

    def steps(self) -> list[str]:
        first = "the losses of the reference, once" if self.reference is not None else "no reference: plain losses"
        return [first, *super().steps(), "q is the worst case of the set for the excess losses, held constant in ∇"]


METHOD = DRRho
