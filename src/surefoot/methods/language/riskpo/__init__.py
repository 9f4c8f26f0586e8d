"""RiskPO: the lower tail of the scores of bundled questions is maximised, not their mean.

    maximise  MVaR(X) = (w·RVaR_{0:a} + RVaR_{a:b})/(1 + w)        X = Σ R over the B prompts of a bundle

    Â ∝ [ w·min(X − q_a, 0)/a + (clip(X, q_a, q_b) − q_a)/(b − a) ]/(1 + w)

RVaR_{a:b} is the mean of X between its quantiles q_a and q_b. The worst share a of the scores has most of the weight,
the best 1 − b have none. A reward of 0 or 1 has no quantiles worth the name, so B prompts are scored together: the g-th
completions of all of them are one paper of questions. Use it with rewards in [0, 1] where diversity should last.

Tao Ren et al., *RiskPO: Risk-based Policy Optimization via Verifiable Reward for LLM Post-Training* (2025),
arXiv:2510.00911.

Differences: formula, credit and clip are those of the released code (RTkenny/RiskPO). The paper does not divide the
two ranges by their widths (w = 0.83 here in place of 1.5), and clips a length-normalised ratio. Quantiles are tracked;
the code loses them on the way, so that every bundle has its own. With tracked ones nearly equal scores have a large
advantage beside a tiny deviation: the divisor is at least 0.1·√B, and equal scores have no advantage. A share of the
credit is at most the whole. `baseline` is off, as in one of two scripts: with it large steps unlearned all answers.
Where a share b of the scores is 0, successes do not count: begin with easier prompts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.ambiguity import MixedVaR
from surefoot.envs.language import Task
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.method import Rollout
from surefoot.loops.group_rollout.rewards import in_unit
from surefoot.methods.language.baselines import ClippedGroups
from surefoot.methods.language.riskpo.scores import CREDITS, credited, levels, moved, tail_gain, tracked
from surefoot.models.language.model import LanguageModel
from surefoot.objectives import PolicyObjective, aggregation, stabilizers
from surefoot.objectives.advantages import outcome

FLOOR = 0.1  # least deviation of a bundle's scores, times √B


@dataclass(frozen=True)
class RiskPO(ClippedGroups):
    """The gradient of the mixed value at risk of bundles' scores, dual clip and token mean."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "easy-math-2025": {  # Qwen2.5-1.5B-Instruct on GSM8K and MATH; 1024 prompts in the released script
            "prompts": 1020,
            "max_tokens": 1024,
            "learning_rate": 1e-6,
            "high": 0.9,
            "baseline": True,
        },
        "hard-math-2025": {  # DeepSeek-R1-Distill-Qwen-1.5B on DAPO-Math-17k; 512 prompts in the released script
            "prompts": 510,
            "samples": 10,
            "minibatches": 4,
            "max_tokens": 3072,
            "learning_rate": 1e-6,
            "credit": "share",
        },
    }

    prompts: int = hyperparameter(40, low=1, help="Prompts per step, a multiple of `bundle`.")
    samples: int = hyperparameter(5, low=2, help="Completions per prompt, and scores per bundle.")
    bundle: int = hyperparameter(5, low=1, help="Prompts B whose rewards are added up to one score.")
    low: float = hyperparameter(0.2, above=0, below=1, help="a: share of the scores that is the tail.")
    high: float = hyperparameter(0.8, above=0, high=1, help="b: share of the scores above which none counts; above a.")
    weight: float = hyperparameter(1.5, low=0, help="w: weight of the tail relative to the middle.")
    quantiles: str = hyperparameter(
        "tracked",
        choices=("tracked", "bundle", "both"),
        help="Whose quantiles of the scores: of all iterations so far, of the bundle, or their average.",
    )
    quantile_rate: float = hyperparameter(0.1, above=0, high=1, help="Step size of tracked quantiles, in reward.")
    baseline: bool = hyperparameter(
        False, help="Whether the middle counts from q_b down: no advantage is above 0, which needs smaller steps."
    )
    credit: str = hyperparameter(
        "deviation",
        choices=CREDITS,
        help="What a completion gets: the gain over its rewards' deviation, its share, all, or more where it is wrong.",
    )
    dual_clip: float = hyperparameter(3.0, above=1, help="Ratio at which the loss of a bad token is capped.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompts % self.bundle:
            near = max(1, self.prompts // self.bundle) * self.bundle
            raise UsageError(
                f"RiskPO: prompts={self.prompts} is not a multiple of bundle={self.bundle}; give, say, {near}."
            )
        if self.low >= self.high:
            raise UsageError(f"RiskPO: low={self.low} is not below high={self.high}; give low < high.")

    @property
    def risk(self) -> MixedVaR:
        """The risk of scores that is maximised."""
        return MixedVaR(self.low, self.high, self.weight)

    def objective(self) -> PolicyObjective:
        return dataclasses.replace(
            super().objective(),
            advantage=outcome(),
            stabilizer=stabilizers.dual_clip(self.clip, self.clip_high, self.dual_clip),
            aggregation=aggregation.mean(),
        )

    def memory(self, model: LanguageModel, task: Task) -> dict[str, Tensor]:
        return {"quantiles": torch.full((2,), torch.nan, dtype=torch.float64)}

    def remember(self, rollout: Rollout, iteration: Iteration) -> Mapping[str, Tensor]:
        known, scores = rollout.progress.memory["quantiles"], self.bundled(rollout).sum(1)
        return {"quantiles": moved(known, scores, self.risk, self.quantile_rate)}

    def bundled(self, rollout: Rollout) -> Float[Tensor, "bundles prompts samples"]:
        """The rewards by bundle."""
        return in_unit("total", rollout.reward, "RiskPO").double().unflatten(0, (-1, self.bundle))

    def advantages(self, rollout: Rollout) -> Tensor:
        scores = (reward := self.bundled(rollout)).sum(1)
        deviation = scores.std(1, keepdim=True)
        gain = self.gains(scores, self.quantiles_of(scores, rollout.progress.memory["quantiles"]))
        gain = (deviation > 0) * gain / deviation.clamp(min=FLOOR * self.bundle**0.5)
        return self.objective().advantage(credited(gain, reward, self.credit).flatten(0, 1).float())

    def gains(self, scores: Tensor, quantiles: Tensor) -> Float[Tensor, "bundles samples"]:
        """What every score adds to the risk."""
        return tail_gain(scores, quantiles, self.risk, self.baseline)

    def quantiles_of(self, scores: Tensor, known: Tensor) -> Float[Tensor, "bundles 2"]:
        """q_a and q_b for every bundle; tracked ones are as they were before these scores."""
        own = scores.quantile(levels(self.risk), dim=1).T
        before = tracked(known, scores, self.risk).expand_as(own)
        return {"tracked": before, "bundle": own, "both": (before + own) / 2}[self.quantiles]

    def steps(self) -> list[str]:
        write, learn = super().steps()
        whose = {"tracked": "of the run so far", "bundle": "of its bundle", "both": "of run and bundle"}[self.quantiles]
        gain = f"what X adds to {self.risk} with the quantiles {whose}, over the deviation of X in its bundle"
        score = f"{write}; add up the g-th rewards of every {self.bundle} prompts to a score X"
        return [score, f"replace each R by {gain}; credit: {self.credit}", learn]


METHOD = RiskPO
