"""Prospect: minimise a tail of the losses of a linear model, with neither the bias of batches nor their variance.

Reach for it where the worst-served share of the samples matters (CVaR, extremile, ESRM) and the table of samples fits
into memory. A batch's worst case is not that of all samples, so SGD on batches stalls; this keeps a table of losses,
from which the weights of all samples are found at every step, and one of weighted gradients, and has one step size:

    F(w) = max { q·ℓ(w) − (ν·n/2)·‖q − 1/n‖² : q of the risk } + ½·(l2/n)·‖w‖²

Ronak Mehta, Vincent Roulet, Krishna Pillutla, Zaid Harchaoui, *Distributionally Robust Optimization with Bias and
Variance Reduction* (2023, ICLR 2024), arXiv:2310.13863.

Departures:
- `solver="auto"` is L-BFGS, because for linear models it finds the same minimum in less time, and comes closer where
  the shift cost is 0 and the objective has kinks; solver="prospect" is the paper's (preset paper).
- An intercept, on which no norm is paid; the paper has none (preset paper).
- The step size is found from the data; the paper takes the best of twelve.
- The weights of a batch, in the baselines sgd and srda, pay ν·b for b samples. The released code charges them ν·n, so
  that they are nearly uniform.
- With KL the price is ν in the steps as in the objective; the released class multiplies it by n in the steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from surefoot.ambiguity import Ambiguity, Priced, parse
from surefoot.ambiguity.conventions import price_of_shift
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.finite_sum.method import FiniteSum


@dataclass(frozen=True)
class Prospect(FiniteSum):
    """A linear model that serves the worst share of the samples."""

    risk: str = hyperparameter("cvar:0.5", help="Spectral risk of the losses, such as cvar:0.1: the worst tenth.")
    shift_cost: float = hyperparameter(
        1.0, low=0, help="ν: price of moving weight away from uniform; 0 is the risk itself."
    )
    divergence: str = hyperparameter(
        "chi-square", choices=("chi-square", "kl"), help="Divergence by which that move is measured."
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"solver": "prospect", "fit_intercept": False},
        "extremile": {"risk": "extremile:2", "solver": "prospect", "fit_intercept": False},
        "esrm": {"risk": "esrm:1", "solver": "prospect", "fit_intercept": False},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ambiguity_of(1)  # refuses a risk that is not coherent

    def ambiguity_of(self, n: int) -> Ambiguity:
        price = price_of_shift(self.shift_cost) if self.divergence == "chi-square" else self.shift_cost
        return Priced(parse(self.risk), price, self.divergence)

    def risk_formula(self) -> str:
        paid = {
            "chi-square": f" − ({self.shift_cost:g}·n/2)·‖q − 1/n‖²",
            "kl": f" − {self.shift_cost:g}·Σ q_i log(n·q_i)",
        }
        return f"max {{ q·ℓ(w){paid[self.divergence] if self.shift_cost else ''} : q of {parse(self.risk)} }}"

    def steps(self) -> list[str]:
        weights = "q solves the inner maximum: sort the losses, then one isotonic regression"
        return [*super().steps(), weights]


METHOD = Prospect
