"""DiRRAc: what should a rejected applicant change, so that tomorrow's classifier accepts too?

Reach for it where people are told what to change (credit, admission) and the classifier will be trained again before
they have. A change that just passes today's boundary fails at the next one. This looks for the change, within a budget,
that keeps the worst probability of rejection least, over all classifiers whose mean and covariance lie within radius ρ
(a Gelbrich ball) of what some trained classifiers show, group by group of them:

    min over x of Σ_k p_k·f_k(x)    with cost(x, x₀) ≤ δ_min + budget  and  θ̂_kᵀx − ρ‖x‖ ≥ ε for all k
    f_k(x) = ((C·|A| + B·√(A² + B² − C²))/(A² + B²))²,    A = θ̂_kᵀx,  B = √(xᵀΣ̂_k x),  C = ρ‖x‖

x has the intercept's 1 as its last coordinate, and δ_min is the least cost of an accepted row. From the projection of
x₀ it goes down the gradient, all rows at once. Rows that have no recourse are told apart, not answered.

    recourse = DiRRAc(radius=0.1, budget=0.5, immutable=["age"]).fit(models).recourse(X_rejected)

A move of the same length straight across today's boundary is the control to beat (its claim has it).

Duy Nguyen, Ngoc Bui, Viet Anh Nguyen, *Distributionally Robust Recourse Action* (ICLR 2023), arXiv:2302.11211.

Departures:
- `radius` is 0.1; every released experiment has 0, which is every distribution with the moments (preset paper).
- δ_min has the margin ε, as in the text; the released code has 0 there.
- The first trial of a step is as long as the budget: near the boundary f is almost 1 and flat, and a step of ζ = 1
  stalls. A line search ends where even the slope promises less than the tolerance.
- Projections are by ADMM on all rows together, in place of a commercial solver row by row; one-hot columns are numbers,
  and rounding is left to the user.
- Uncertain shares of the groups are any set (`shares`): contamination:1 is the paper's worst component.
- Not built: local linear surrogates of classifiers that are not linear; fit on their coefficients does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from surefoot.ambiguity import parse, worst_case
from surefoot.ambiguity.gelbrich import half_space
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.per_instance import PerInstance
from surefoot.methods.supervised.dirrac.models import Moments, moments
from surefoot.methods.supervised.dirrac.projection import with_one
from surefoot.methods.supervised.dirrac.recourse import Fitted


@dataclass(frozen=True)
class DiRRAc(PerInstance):
    """The change of a row that the worst of tomorrow's classifiers is least likely to reject."""

    radius: float = hyperparameter(0.1, low=0, help="ρ: radius of the Gelbrich balls, in units of the parameters.")
    budget: float = hyperparameter(0.1, low=0, help="Cost beyond the least cost of an accepted row.")
    cost: str = hyperparameter("l1", choices=("l1", "l2"), help="Norm by which a change costs.")
    margin: float = hyperparameter(1e-3, above=0, help="ε: least worst-case mean score of an accepted row.")
    normal: bool = hyperparameter(False, help="Balls of normal distributions only (Gaussian DiRRAc).")
    shares: str | None = hyperparameter(
        None, help="Set of the shares of the groups, such as chi-square:0.1 or contamination:1 (the worst group)."
    )
    immutable: tuple[str, ...] = hyperparameter((), help="Features that stay as they are.")
    increasing: tuple[str, ...] = hyperparameter((), help="Features that can only grow, such as age.")
    limits: tuple[float, float] | None = hyperparameter(None, help="Least and greatest value of every other feature.")
    variance: float = hyperparameter(0.0, low=0, help="Added to the variance of every parameter; 0.1 for one model.")
    iterations: int = hyperparameter(10, low=0, help="Most steps of projected gradient.")
    step: float = hyperparameter(1.0, above=0, help="ζ: first length of a step.")
    shrink: float = hyperparameter(0.7, above=0, below=1, help="λ: factor of the line search.")
    tolerance: float = hyperparameter(1e-3, low=0, help="Probability, or gain in it, below which a row is done.")

    usage: ClassVar[str] = "surefoot.supervised.DiRRAc(…).fit(models).recourse(X)."
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"radius": 0.0},
        "real": {"radius": 0.0, "budget": 3.0, "limits": (0.0, 1.0)},
    }

    def __post_init__(self) -> None:
        for name in ("immutable", "increasing", "limits"):
            if isinstance(given := getattr(self, name), list):
                object.__setattr__(self, name, tuple(given))
        super().__post_init__()
        if self.limits is not None and self.limits[0] > self.limits[1]:
            raise UsageError(f"limits={self.limits} is not allowed; the first must not be greater than the second.")
        if self.shares is not None:
            parse(self.shares)

    def fit(self, models: Any, groups: Any = None, features: Sequence[str] | None = None) -> Fitted:
        """What there is to know of some classifiers, from which `recourse(X)` follows.

        models: fitted linear classifiers of two classes, whose scores are positive for those accepted, or their
        parameters `[m, d + 1]` with the intercept last. groups: a label for each, such as the kind of shift that its
        data have; the share of a group is that of its models. features: names, by default those of the first model,
        else x0, x1, …

        Raises:
            UsageError: a model is not linear, a group has no covariance, a named feature is not known.
        """
        return Fitted(self, moments(models, groups, self.variance, features))

    def probability(self, x: Tensor, known: Moments) -> Tensor:
        """The worst probability of rejection of rows `[n, d]`, which has a gradient."""
        radii = torch.full_like(known.shares, self.radius)
        found = half_space(with_one(x), known.means, known.covariances, radii, normal=self.normal)
        if self.shares is None:
            return found @ known.shares
        return worst_case(found, known.shares, parse(self.shares), maximise=True).value

    def objective(self) -> str:
        """The objective as a formula."""
        f = "Φ(−(A² − C²)/(A·B + C·√(A² + B² − C²)))" if self.normal else "((A·C + B·√(A² + B² − C²))/(A² + B²))²"
        over = "Σ p_k·f_k(x)" if self.shares is None else f"max over q of {parse(self.shares)} of Σ q_k·f_k(x)"
        norm = {"l1": "₁", "l2": "₂"}[self.cost]
        return (
            f"minimise {over},  f_k = {f},  A = θ̂_kᵀx, B = √(xᵀΣ̂_k x), C = {self.radius:g}·‖x‖,  "
            f"over ‖x − x₀‖{norm} ≤ δ_min + {self.budget:g}, A − C ≥ {self.margin:g}"
        )

    def steps(self) -> list[str]:
        """What is done for all rows together."""
        return [
            "mean θ̂_k, covariance Σ̂_k and share p_k of every group of classifiers",
            "δ_min: the least cost of an accepted row, by ADMM; a row without one is told apart",
            "x ← projection of x₀ on the accepted rows within the budget",
            f"{self.iterations} times: x ← projection of x − t·∇f(x), t = max({self.step:g}, δ/‖∇f‖)·{self.shrink:g}^i",
            "    with the least i < 60 that gains ‖x − x'‖²/(2t)",
            f"a row is done when f, or its gain, is below {self.tolerance:g}",
        ]


METHOD = DiRRAc
