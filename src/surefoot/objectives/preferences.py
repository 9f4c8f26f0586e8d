"""Losses of pairs, of which one was preferred: a link, a model of how labels are wrong, a margin, and a reference.

    loss = labels(link; ρ_w, ρ_l)        ρ = log π(y|x) − log π_ref(y|x), summed over the tokens of y

A link compares the log-ratios of the chosen and the rejected answer. Most are functions of their difference ρ_w − ρ_l;
some look at each of them. `labels` says how the order in the data relates to the true one: it is the true one, it is
smoothed, or its flips are corrected in expectation. The same composition trains Bradley-Terry reward models, with
scores in place of the log-ratios.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from surefoot.errors import UsageError
from surefoot.hyperparameters import check, hyperparameter
from surefoot.objectives.part import Part

# --- links -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Link(Part, slot="link"):
    """Base of links: the loss of each pair from the log-ratios of its two answers."""

    beta: float = hyperparameter(0.1, above=0, help="Inverse scale β of the implicit reward β·ρ.")

    def __call__(self, chosen: Float[Tensor, "..."], rejected: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The loss of every pair."""
        raise NotImplementedError


@dataclass(frozen=True)
class logistic(Link):
    """−log σ(β(ρ_w − ρ_l) − γ): DPO (arXiv:2305.18290); with a margin γ, SimPO's (arXiv:2405.14734)."""

    margin: float = hyperparameter(0.0, help="Margin γ that the difference should exceed.")
    formula = "−log σ({beta:g}(ρ_w − ρ_l) − {margin:g})"

    def __call__(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        return softplus(self.margin - self.beta * (chosen - rejected))


@dataclass(frozen=True)
class square(Link):
    """(ρ_w − ρ_l − 1/(2β))²: IPO (arXiv:2310.12036)."""

    formula = "(ρ_w − ρ_l − 1/(2·{beta:g}))²"

    def __call__(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        return (chosen - rejected - 1 / (2 * self.beta)) ** 2


@dataclass(frozen=True)
class hinge(Link):
    """max(0, 1 − β(ρ_w − ρ_l)): SLiC (arXiv:2305.10425) on log-ratios."""

    formula = "max(0, 1 − {beta:g}(ρ_w − ρ_l))"

    def __call__(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        return (1 - self.beta * (chosen - rejected)).relu()


@dataclass(frozen=True)
class exo(Link):
    """The reverse divergence of EXO for pairs (arXiv:2402.00856): KL(σ(z) ‖ 1 − ε)."""

    smoothing: float = hyperparameter(1e-3, above=0, high=0.5, help="Probability ε of the rejected answer.")
    formula = "KL(σ({beta:g}(ρ_w − ρ_l)) ‖ 1 − {smoothing:g})"

    def __call__(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        z, rate = self.beta * (chosen - rejected), torch.tensor(self.smoothing, dtype=chosen.dtype)
        over = logsigmoid(z) - torch.log1p(-rate)
        return z.sigmoid() * over + (-z).sigmoid() * (logsigmoid(-z) - rate.log())


@dataclass(frozen=True)
class nca(Link):
    """−log σ(βρ_w) and half of −log σ(−βρ) of both answers (arXiv:2402.05369)."""

    formula = "−log σ({beta:g}ρ_w) − ½ log σ(−{beta:g}ρ_w) − ½ log σ(−{beta:g}ρ_l)"

    def __call__(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        won, lost = self.beta * chosen, self.beta * rejected
        return softplus(-won) + 0.5 * softplus(won) + 0.5 * softplus(lost)


@dataclass(frozen=True)
class bco(Link):
    """Binary classification of each answer (arXiv:2404.04656), without the running shift."""

    formula = "−log σ({beta:g}ρ_w) − log σ(−{beta:g}ρ_l)"

    def __call__(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        return softplus(-self.beta * chosen) + softplus(self.beta * rejected)


@dataclass(frozen=True)
class sppo(Link):
    """(ρ_w − 1/(2β))² + (ρ_l + 1/(2β))²: each log-ratio is regressed on its win rate (arXiv:2405.00675)."""

    formula = "(ρ_w − 1/(2·{beta:g}))² + (ρ_l + 1/(2·{beta:g}))²"

    def __call__(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        half = 1 / (2 * self.beta)
        return (chosen - half) ** 2 + (rejected + half) ** 2


@dataclass(frozen=True)
class apo_zero(Link):
    """1 − σ(βρ_w) + σ(βρ_l): the chosen answer up, the rejected one down (arXiv:2408.06266)."""

    formula = "1 − σ({beta:g}ρ_w) + σ({beta:g}ρ_l)"

    def __call__(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        return (-self.beta * chosen).sigmoid() + (self.beta * rejected).sigmoid()


@dataclass(frozen=True)
class apo_down(Link):
    """σ(βρ_w) + 1 − σ(β(ρ_w − ρ_l)): both down, the rejected one more (arXiv:2408.06266)."""

    formula = "σ({beta:g}ρ_w) + 1 − σ({beta:g}(ρ_w − ρ_l))"

    def __call__(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        return (self.beta * chosen).sigmoid() + (-self.beta * (chosen - rejected)).sigmoid()


@dataclass(frozen=True)
class discopop(Link):
    """A discovered mixture of the logistic and the exponential loss (arXiv:2406.08414)."""

    temperature: float = hyperparameter(0.05, above=0, help="Temperature τ of the mixture's gate.")
    formula = "(1 − g)·(−log σ(z)) + g·e^−z, z = {beta:g}(ρ_w − ρ_l), g = σ(z/{temperature:g})"

    def __call__(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        z = self.beta * (chosen - rejected)
        gate = (z / self.temperature).sigmoid()
        return softplus(-z) * (1 - gate) + (-z).exp() * gate


@dataclass(frozen=True)
class odds_ratio(Link):
    """−β·log σ(log odds_w − log odds_l) of mean log-probabilities per token: the odds ratio of ORPO (arXiv:2403.07691),
    whose weight λ is β here. For objectives that are `per_token` and not `referenced`."""

    formula = "−{beta:g}·log σ(log odds e^ρ_w − log odds e^ρ_l)"

    def __call__(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        return self.beta * odds(chosen, rejected)


# --- labels ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels(Part, slot="labels"):
    """Base of models of labels: how the order in the data relates to the true one."""

    def __call__(self, link: Link, chosen: Tensor, rejected: Tensor) -> Tensor:
        """The loss of every pair, as labelled."""
        raise NotImplementedError


@dataclass(frozen=True)
class exact(Labels):
    """The order in the data is meant as it stands."""

    formula = "ℓ(w, l)"

    def __call__(self, link: Link, chosen: Tensor, rejected: Tensor) -> Tensor:
        return link(chosen, rejected)


@dataclass(frozen=True)
class smoothed(Labels):
    """(1 − ε)·ℓ(w, l) + ε·ℓ(l, w): conservative DPO, which learns less than labels say."""

    rate: float = hyperparameter(0.1, low=0, below=0.5, help="Probability ε that a label was flipped.")
    formula = "(1 − {rate:g})·ℓ(w, l) + {rate:g}·ℓ(l, w)"

    def __call__(self, link: Link, chosen: Tensor, rejected: Tensor) -> Tensor:
        return (1 - self.rate) * link(chosen, rejected) + self.rate * link(rejected, chosen)


@dataclass(frozen=True)
class corrected(Labels):
    """[(1 − ε)·ℓ(w, l) − ε·ℓ(l, w)]/(1 − 2ε): over labels flipped with probability ε, its mean is the loss of the true
    labels (arXiv:2403.00409). It is not bounded from below."""

    rate: float = hyperparameter(0.1, low=0, below=0.5, help="Probability ε that a label was flipped.")
    formula = "[(1 − {rate:g})·ℓ(w, l) − {rate:g}·ℓ(l, w)]/(1 − 2·{rate:g})"

    def __call__(self, link: Link, chosen: Tensor, rejected: Tensor) -> Tensor:
        right, wrong = (1 - self.rate) * link(chosen, rejected), self.rate * link(rejected, chosen)
        return (right - wrong) / (1 - 2 * self.rate)


# --- objectives ------------------------------------------------------------------------------------------------------

IMITATIONS = ("sum", "mean", "pooled")
CERTAIN = 1e-12  # the odds of a token that is certain are finite: those of a log-probability of −1e-12


@dataclass(frozen=True)
class Compared:
    """Pairs of answers, the chosen one first: their log-probabilities, those of the reference, and their lengths; each
    answer maybe in several contexts, which a link then finds on its last axis."""

    log_prob: Float[Tensor, "pairs 2 *contexts"]  # summed over the tokens; the scores, for a reward model
    reference: Float[Tensor, "pairs 2 *contexts"] | None = None
    tokens: Float[Tensor, "pairs 2 *contexts"] | None = None
    usual: Float[Tensor, " pairs"] | None = None  # the mean length of chosen answers; by default that of these pairs
    margin: Float[Tensor, " pairs"] | None = None  # by how much the chosen score should exceed the other


@dataclass(frozen=True)
class PairObjective:
    """What a method on pairs minimises."""

    link: Link = dataclasses.field(default_factory=logistic)
    labels: Labels = dataclasses.field(default_factory=exact)
    referenced: bool = hyperparameter(True, help="Compare log-ratios to the reference, not log-probabilities.")
    per_token: bool = hyperparameter(False, help="Divide by the number of tokens of each answer.")
    imitation: float = hyperparameter(0.0, low=0, help="Weight of the negative log-likelihood of the chosen answer.")
    imitated: str = hyperparameter(
        "sum", choices=IMITATIONS, help="That likelihood: summed over tokens, their mean, or pooled over the batch."
    )

    def __post_init__(self) -> None:
        for name, kind in (("link", Link), ("labels", Labels)):
            if not isinstance(part := getattr(self, name), kind):
                raise UsageError(f"an objective of pairs cannot have {name}={part!r}; give a part of that kind.")
        check(self)

    def losses(self, pairs: Compared) -> Float[Tensor, " pairs"]:
        """The loss of every pair.

        Raises:
            UsageError: the reference or the lengths are needed and not given.
        """
        values = self.values(pairs)
        loss = self.labels(self.link, values[:, 0], values[:, 1])
        return loss + self.imitation * self._imitated(pairs) if self.imitation else loss

    def values(self, pairs: Compared) -> Float[Tensor, "pairs 2 *contexts"]:
        """What is compared: log-ratios, or log-probabilities, maybe per token."""
        values = pairs.log_prob
        if self.referenced:
            if pairs.reference is None:
                raise UsageError("the objective compares log-ratios, and no reference is given.")
            values = values - pairs.reference
        return values / self._tokens(pairs) if self.per_token else values

    def _imitated(self, pairs: Compared) -> Tensor:
        likelihood = -pairs.log_prob[:, 0]
        if self.imitated == "sum":
            return likelihood
        tokens = self._tokens(pairs)[:, 0]
        if self.imitated == "mean":
            return likelihood / tokens
        usual = tokens.mean() if pairs.usual is None else pairs.usual
        return likelihood / usual  # whose mean over the pairs is the mean over all tokens

    @staticmethod
    def _tokens(pairs: Compared) -> Tensor:
        if pairs.tokens is None:
            raise UsageError("the objective divides by the numbers of tokens, and they are not given.")
        return pairs.tokens.clamp(min=1)

    def __str__(self) -> str:
        """The objective as a formula."""
        value = "log π" if not self.referenced else "log π/π_ref"
        where = f"ρ = {value}(y)/|y|" if self.per_token else f"ρ = {value}(y)"
        likelihood = {"sum": "log π(w)", "mean": "log π(w)/|w|", "pooled": "log π(w)/mean|w|"}[self.imitated]
        extra = f" − {self.imitation:g}·{likelihood}" if self.imitation else ""
        return f"{self.labels}{extra}, ℓ = {self.link}, {where}"


@dataclass(frozen=True)
class ScoreObjective(PairObjective):
    """What a reward model minimises: a loss of the scores r(x, y) of two answers, each pair maybe with a margin, and a
    pull of both towards 0. With the logistic link and β = 1 it is Bradley-Terry's likelihood."""

    link: Link = dataclasses.field(default_factory=lambda: logistic(1.0))
    referenced: bool = hyperparameter(False, choices=(False,), help="Must be False: a score has no reference.")
    centring: float = hyperparameter(0.0, low=0, help="Weight of (r_w + r_l)², which keeps scores near 0.")

    def losses(self, pairs: Compared) -> Float[Tensor, " pairs"]:
        scores = pairs.log_prob
        if pairs.margin is not None:
            scores = torch.stack([scores[:, 0] - pairs.margin, scores[:, 1]], 1)
        loss = self.labels(self.link, scores[:, 0], scores[:, 1])
        return loss + self.centring * pairs.log_prob.sum(1) ** 2 if self.centring else loss

    def __str__(self) -> str:
        extra = f" + {self.centring:g}·(r_w + r_l)²" if self.centring else ""
        return f"{self.labels}{extra}, ℓ = {self.link}, ρ = r(x, y), the chosen one less its margin"


@dataclass(frozen=True)
class ValueObjective:
    """What a method on single answers minimises, each desirable or not: KTO (arXiv:2402.01306)."""

    beta: float = hyperparameter(0.1, above=0, help="Inverse scale β of the implicit reward β·ρ.")
    desirable: float = hyperparameter(1.0, above=0, help="Weight λ_D of desirable answers.")
    undesirable: float = hyperparameter(1.0, above=0, help="Weight λ_U of undesirable answers.")

    def __post_init__(self) -> None:
        check(self)

    def losses(
        self, ratio: Float[Tensor, " answers"], desirable: Tensor, base: Float[Tensor, "*answers"] | float
    ) -> Float[Tensor, " answers"]:
        """The loss of every answer from its log-ratio ρ and the detached base z₀."""
        return kto(ratio, desirable, base, beta=self.beta, weights=(self.desirable, self.undesirable))

    def __str__(self) -> str:
        """The objective as a formula."""
        good = f"{self.desirable:g}·(1 − σ({self.beta:g}(ρ − z₀))) if desirable"
        bad = f"{self.undesirable:g}·(1 − σ({self.beta:g}(z₀ − ρ))) if not"
        return f"{good}, {bad}; ρ = log π/π_ref(y), z₀ = KL(π ‖ π_ref) from other prompts' answers"


def kto(
    ratio: Float[Tensor, " answers"],
    desirable: Tensor,
    base: Float[Tensor, "*answers"] | float,
    *,
    beta: float = 0.1,
    weights: tuple[float, float] = (1.0, 1.0),
) -> Float[Tensor, " answers"]:
    """KTO's loss of single answers, each desirable or not (arXiv:2402.01306): λ_D(1 − σ(β(ρ − z₀))) or λ_U(1 − σ(β(z₀ −
    ρ))), with the detached base z₀ and weights (λ_D, λ_U)."""
    value = torch.where(desirable, ratio - base, base - ratio)
    scale = torch.where(desirable, *(torch.tensor(w, dtype=ratio.dtype) for w in weights))
    return scale * (1 - (beta * value).sigmoid())


def odds(chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
    """ORPO's loss of the log-odds of mean log-probabilities per token (arXiv:2403.07691): −log σ(log odds_w − log
    odds_l)."""

    def log_odds(x: Tensor) -> Tensor:
        x = x.clamp(max=-CERTAIN)
        return x - torch.log(-torch.expm1(x))

    return softplus(log_odds(rejected) - log_odds(chosen))
