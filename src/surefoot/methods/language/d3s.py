"""D³S: learn from the completions whose advantages differ most and their decisive tokens, from more over time.

    maximise  mean over kept tokens[ min(ρÂ, clip(ρ)Â) ]

    of all n completions those N with the largest variance of Â         N/n from 0.25 to 0.5
    of their tokens the share K with the largest |Â|·H                  K from 0.2 to 0.5

Most completions of a batch say little: their group all failed, or all succeeded. With advantages standardised in their
groups the variance of the whole batch is fixed; that of the best subset, across groups, is not, and it bounds the norm
of the gradient. Fewer completions are also a cheaper update. Use it with large groups, where the update is the
bottleneck or the signal is diluted. The selected advantages have no mean of 0, and rare successes count for much: the
reward must be right. `pool="group"` selects in each group, for models that are still far from the task.

Chao Wang et al., *Learning More with Less: A Dynamic Dual-Level Down-Sampling Framework for Efficient Policy
Optimization* (2025), arXiv:2509.22115.

Differences: the four shares are ours, as the paper's are not known to us; it keeps less than a fifth of all tokens. The
variance is the population variance, and exactly the largest of any N. In the ratio of a whole completion (`gspo-2025`)
all of its tokens count, and only the kept ones are learned from.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.method import Rollout, Term
from surefoot.methods.language.baselines import GRPO
from surefoot.objectives import PolicyObjective, aggregation, ratios
from surefoot.objectives.advantages import group_standardized

RATIOS = {"token": ratios.old(), "sequence": ratios.sequence()}


@dataclass(frozen=True)
class D3S(GRPO):
    """GRPO on a selection of completions and tokens."""

    judges: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gspo-2025": {"ratio": "sequence", "clip": 3e-4, "clip_high": 4e-4},  # GSPO as the base: arXiv:2507.18071, §5
    }

    samples: int = hyperparameter(8, low=2, help="Completions per prompt.")
    rows_first: float = hyperparameter(0.25, above=0, high=1, help="Share of the completions kept when a run starts.")
    rows_last: float = hyperparameter(0.5, above=0, high=1, help="Share of the completions kept at its end.")
    tokens_first: float = hyperparameter(0.2, above=0, high=1, help="Share of their tokens kept when a run starts.")
    tokens_last: float = hyperparameter(0.5, above=0, high=1, help="Share of their tokens kept at its end.")
    pool: str = hyperparameter(
        "batch", choices=("batch", "group"), help="Where completions are selected: among all, or as many of each group."
    )
    ratio: str = hyperparameter(
        "token", choices=tuple(RATIOS), help="Ratio of each token, or GSPO's of the whole completion."
    )

    def objective(self) -> PolicyObjective:
        parts = {"advantage": group_standardized(1e-6, self.unbiased), "ratio": RATIOS[self.ratio]}
        return dataclasses.replace(super().objective(), aggregation=aggregation.mean(), **parts)

    def terms(self, rollout: Rollout) -> list[Term]:
        share = rollout.progress.share
        advantage = self.advantages(rollout)
        pools = advantage.view(1, -1) if self.pool == "batch" else advantage
        count = round(between(self.rows_first, self.rows_last, share) * pools.shape[1])
        chosen = most_varied(pools, min(max(2, count), pools.shape[1]))
        term = self.completions(rollout)[chosen.flatten().nonzero().squeeze(-1)]
        assert term.judged is not None, "the loop judges what a method with `judges` learns from"
        score = term.advantage.abs()[:, None] * term.judged.entropy
        kept = highest(score, term.sequences.valid, between(self.tokens_first, self.tokens_last, share))
        return [dataclasses.replace(term, kept=kept)]

    def scheduled(self) -> list[str]:
        return [*super().scheduled(), "rows_last", "tokens_last"]

    def steps(self) -> list[str]:
        write, learn = super().steps()
        where = "of all completions" if self.pool == "batch" else "of the completions of each prompt"
        return [
            write,
            f"{where} keep the {self.rows_first:g} whose advantages have the largest variance, more and more of them, "
            f"{self.rows_last:g} at the end of the run",
            f"of their tokens keep the {self.tokens_first:g} with the largest |Â|·H, {self.tokens_last:g} at the end",
            f"{learn} of what is kept",
        ]


def between(first: float, last: float, share: float) -> float:
    """The value at a share of the way from the first to the last."""
    return (1 - share) * first + share * last


def most_varied(x: Float[Tensor, "pools n"], count: int) -> Bool[Tensor, "pools n"]:
    """The `count` numbers of every row with the largest population variance.

    They are always some of the smallest and the rest of the largest, because the variance of a set is convex in each of
    its members; so all splits are compared. Of equal numbers the first count as smaller.
    """
    n = x.shape[1]
    ascending, order = x.double().sort(dim=1, stable=True)
    ascending = ascending - ascending.mean(1, keepdim=True)  # against rounding
    low = torch.arange(count + 1)  # how many of the smallest
    sums = torch.nn.functional.pad(torch.stack([ascending, ascending**2]).cumsum(-1), (1, 0))
    total, squares = sums[..., low] + sums[..., -1:] - sums[..., low + n - count]
    best = (squares / count - (total / count) ** 2).argmax(1, keepdim=True)
    place = torch.arange(n)
    inside = (place < best) | (place >= best + n - count)
    return torch.zeros_like(inside).scatter(1, order, inside)


def highest(
    score: Float[Tensor, "rows length"], valid: Bool[Tensor, "rows length"], share: float
) -> Bool[Tensor, "rows length"]:
    """The share of all valid tokens with the highest score, rounded up; of equal ones the first."""
    places = valid.flatten().nonzero().squeeze(-1)
    count = math.ceil(share * len(places) - 1e-9)  # 0.2 · 15 is more than 3 in floating point
    order = score.flatten()[places].argsort(descending=True, stable=True)
    return torch.zeros_like(valid).flatten().index_fill(0, places[order[:count]], True).view_as(valid)


METHOD = D3S
