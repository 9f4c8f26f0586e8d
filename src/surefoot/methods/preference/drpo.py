"""DRPO: maximise a doubly robust estimate of how often the policy is preferred to the one that wrote the pairs.

    maximise  mean_pairs ψ − β·KL
    ψ = ½ Σ_{a = w, l} E_{y ~ π} ĝ(y, a)  +  ½·[ρ(w) − ρ(l)]·(1 − ĝ(w, l))        ρ = π/π_ref of a whole answer

The first part trusts a preference model ĝ, as RLHF does; the second corrects it by the labels, and trusts the reference
to have written the pairs, as DPO does. The sum is right if either can be trusted: its bias is a product of both errors.
Use it where there are pairs and a reward, and neither is beyond doubt. ĝ comes from the run's reward functions: scores
of Bradley and Terry, or, with `preference="win-rate"`, the mean probability of being preferred to the two answers of
the pair, which may be cyclic.

Erhan Xu et al., *Doubly Robust Alignment for Large Language Models* (2025), arXiv:2506.01183. Defaults are those of the
released recipe for helpfulness and harmlessness, whose learning rate is 5e-7. Differences: the code doubles the data,
each pair in both orders, and learns from one answer of a row; here both answers of a pair are used at once, which has
the same mean. The gradient of the code's KL, k3, is that of KL(π_ref ‖ π); `kl_estimator="weighted"` is the paper's
KL(π ‖ π_ref). Clipping ρ biases the second part; `clip=None` does without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.envs.language.pairs import answers
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.method import Batch, Metrics, Rollout, Term
from surefoot.loops.group_rollout.pairs import SUMS, Paired, PairRollout
from surefoot.loops.group_rollout.rewards import in_unit
from surefoot.objectives import PolicyObjective
from surefoot.objectives.advantages import outcome
from surefoot.objectives.policy import MAX_LOG_RATIO


def doubly_robust(
    direct: Float[Tensor, " pairs"],
    ratio: Float[Tensor, "pairs 2"],
    preferred: Float[Tensor, " pairs"],
    judged: Float[Tensor, " pairs"],
) -> Float[Tensor, " pairs"]:
    """Estimates ψ of the probability of being preferred to the reference; their mean has the error std(ψ)/√pairs.

    `direct` is the mean of ĝ(y, a) over the policy's y and both answers a, `ratio` π/π_ref of each answer, `preferred`
    1 where the first one was preferred, and `judged` ĝ(first, second).
    """
    return direct + 0.5 * (ratio[:, 0] - ratio[:, 1]) * (preferred - judged)


@dataclass(frozen=True)
class Judged(PairRollout):
    """Pairs, completions of their prompts, and what the reward functions give for the answers of the pairs."""

    answered: Float[Tensor, "prompts 2"] | None = None


@dataclass(frozen=True)
class DRPO(Paired):
    """The policy gradient of a preference model, corrected by labelled pairs."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # The released recipe (DRPO4LLM) for summaries; a batch of 20 rows is one of 10 pairs.
        "tldr-2025": {"prompts": 10, "samples": 3, "temperature": 0.88, "learning_rate": 5e-7},
    }

    samples: int = hyperparameter(2, low=1, help="Completions per prompt, for the expectation over the policy.")
    temperature: float = hyperparameter(0.66, above=0, help="Temperature of sampling and of likelihoods.")
    epochs: int = hyperparameter(1, low=1, high=1, help="Passes over each batch; must be 1.")
    minibatches: int = hyperparameter(1, low=1, high=1, help="Optimiser steps per pass; must be 1.")
    max_grad_norm: float | None = hyperparameter(0.25, above=0, help="Maximum gradient norm.")
    kl: float = hyperparameter(0.04, low=0, help="Weight β of the KL divergence from the reference.")
    informative: float = hyperparameter(0.0, low=0, high=0, help="Must be 0: every pair is informative.")
    clip: float | None = hyperparameter(2.5, above=1, help="Ratios are kept in [1/clip, clip]; None for no clipping.")
    preference: str = hyperparameter(
        "scores",
        choices=("scores", "win-rate"),
        help="What rewards are: scores, whose differences are log-odds of being preferred; or the mean probability of "
        "being preferred to the answers in the columns chosen and rejected.",
    )

    def objective(self) -> str:  # type: ignore[override]
        ratio = "π/π_ref" if self.clip is None else f"clip(π/π_ref, 1/{self.clip:g}, {self.clip:g})"
        kl = f" − {self.kl:g}·D(π_ref, π)" if self.kl else ""
        model = "σ(r(y) − r(a))" if self.preference == "scores" else "the reward's win rate"
        value = f"mean_pairs[ ½·Σ_a E_(y~π) ĝ(y, a) + ½·[ρ(w) − ρ(l)]·(1 − ĝ(w, l)) ]{kl}"
        return f"maximise {value}\n  with ρ = {ratio} of a whole answer\n  and  ĝ = {model}"

    @property
    def refers(self) -> bool:
        return True

    def collect(self, iteration: Iteration) -> Judged:
        taken = super().collect(iteration)
        texts = [text for example in taken.examples for text in answers(example)]
        answered = iteration.judged([e for e in taken.examples for _ in range(2)], texts).view(-1, 2)
        pairs = {"pairs": taken.pairs, "reference": taken.reference, "progress": taken.progress}
        return Judged(**{**vars(iteration.write(taken.index)), **pairs}, answered=answered)

    def preferences(self, rollout: Judged) -> tuple[Float[Tensor, "prompts samples"], Float[Tensor, " prompts"]]:
        """The mean of ĝ(y, a) over the two answers a for every completion y, and ĝ(chosen, rejected).

        Raises:
            UsageError: a win rate is outside [0, 1].
        """
        assert rollout.answered is not None, "collect made it"
        won, lost = rollout.answered.unbind(1)
        if self.preference == "win-rate":
            rates = in_unit("win-rate", torch.cat([rollout.reward, rollout.answered], 1), "DRPO")
            return rates[:, : self.samples], 0.5 + won - lost  # an answer beats itself with probability ½
        against = rollout.reward[:, :, None] - rollout.answered[:, None]
        return against.sigmoid().mean(-1), (won - lost).sigmoid()

    def terms(self, rollout: Rollout) -> list[Term]:
        assert isinstance(rollout, Judged) and rollout.pairs is not None and rollout.reference is not None
        direct, sure = self.preferences(rollout)
        model = replace(SUMS, advantage=outcome(), divergence=self.kl, entropy=self.entropy)
        residual = torch.stack([1 - sure, sure - 1], 1)
        first, second = (torch.arange(len(sure)).repeat_interleave(count) for count in (self.samples, 2))
        extra = {"reference": rollout.reference.flatten()}
        return [
            Term(rollout.sequences, (direct - 0.5).flatten(), model, first, sampled=rollout.log_prob),
            Term(rollout.pairs, residual.flatten(), SUMS, second, name="pairs", extra=extra),
        ]

    def loss(
        self, objective: PolicyObjective, batch: Batch, log_prob: Tensor, entropy: Tensor
    ) -> tuple[Tensor, Metrics]:
        if "reference" not in batch.extra:
            return super().loss(objective, batch, log_prob, entropy)
        moved = torch.where(batch.valid, log_prob.detach(), 0.0).sum(1) - batch.extra["reference"]
        plain = moved.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        ratio = plain if self.clip is None else plain.clamp(1 / self.clip, self.clip)
        pull, share = batch.weights * ratio[:, None] * batch.advantage, batch.weights.amax(1)
        metrics = {
            "correction": (share * ratio * batch.advantage[:, 0]).sum(),
            "clip_fraction": (share * (ratio != plain)).sum(),
            "ratio_max": plain.max(),
        }
        return -(pull * log_prob).sum(), metrics

    def steps(self) -> list[str]:
        taken = f"take {self.prompts} pairs; the reference's log-probabilities are computed once for each pair"
        return [taken, *super().steps()]


METHOD = DRPO
