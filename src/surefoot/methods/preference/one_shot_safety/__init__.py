"""One-shot safety alignment: multipliers of constraints from samples of the reference, then one plain alignment.

    max_π E[r] − β·KL(π ‖ π_ref)  s.t.  E[g_j] ≥ b_j        λ* = argmin_λ≥0 β·E_x log E_y~π_ref exp((r + λᵀ(g − b))/β)

    then DPO on pairs labelled by s = r + λ*ᵀg:  −σ(s − s')·log σ(z) − σ(s' − s)·log σ(−z),  z = β(ρ(y) − ρ(y'))

The best policy for any λ is π_ref·exp(s/β)/Z, so the dual needs no policy: a convex function of a few numbers, whose
minimum is found once where others alternate between policy and multipliers. The first reward function is r, each
further one a g with its threshold. Use it where constraints are to hold in the mean. The network that DPO fits comes
near π_λ and is not it: the metrics `reward/…` tell what holds, `predicted_0` (of r), `predicted_1`, … what the dual
promised. `surefoot align` predicts before anything is trained.

Xinmeng Huang, Shuo Li et al., *One-Shot Safety Alignment for Large Language Models via Optimal Dualization* (2024),
arXiv:2405.19544 (MoCAN). With `relative=True` thresholds are of the improvement over the reference, and with implicit
rewards of two DPO models (`ImplicitReward`) it is PeCAN; they have their factor β, which the authors' code omits.

Differences: the dual's minimum is found by Newton's method, not by projected gradients of a step to be chosen. A pair
has the probabilities of its two labels in place of one draw of them: the same gradient in the mean, with less noise.
Pairs are completions of the policy, from prompts alone; `samples=0` labels the pairs of the data, as the paper does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.envs.language import Example, Task
from surefoot.envs.language.pairs import answers
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.method import Batch, Metrics, Rollout, Term
from surefoot.loops.group_rollout.pairs import PairRollout
from surefoot.loops.group_rollout.rewards import Rewards
from surefoot.methods.preference.baselines import DPO
from surefoot.methods.preference.one_shot_safety.dual import Array, Dual, solve
from surefoot.models.language.model import LanguageModel
from surefoot.objectives.preferences import Compared

TOGETHER = 8  # prompts whose samples of the reference are generated at a time


@dataclass(frozen=True)
class OneShotSafety(DPO):
    """DPO on pairs labelled by a reward and by constraints whose multipliers were found beforehand."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "alpaca-2024": {"samples": 0, "dual_prompts": 1000, "learning_rate": 5e-4, "weight_decay": 0.05, "warmup": 100},
    }

    compares: ClassVar[bool] = False  # pairs are labelled by their scores

    samples: int = hyperparameter(
        2, low=0, help="Completions per prompt, in pairs; 0: the pairs of the data are used, whatever their order."
    )
    threshold: tuple[float, ...] = hyperparameter(
        (), help="Lower bounds on the means of the reward functions after the first one, a number for each."
    )
    relative: bool = hyperparameter(False, help="Whether thresholds are of the improvement over the reference.")
    dual_prompts: int = hyperparameter(600, low=1, help="Prompts whose samples of the reference make up the dual.")
    dual_samples: int = hyperparameter(
        128, low=2, help="Samples of the reference per prompt; of few of them the multipliers come out too large."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples % 2:
            raise UsageError(
                f"OneShotSafety: samples={self.samples} is not allowed: completions are compared in pairs; give 0, or "
                "an even number."
            )

    def objective(self) -> str:  # type: ignore[override]
        score = "r + λᵀg" if self.threshold else "r"
        mean = "minimise mean_pairs( σ(s_w − s_l)·ℓ(w, l) + σ(s_l − s_w)·ℓ(l, w) )"
        return f"{mean}\n  s = {score}, {self.pair_objective()}".replace("ℓ(w, l), ℓ =", "ℓ(w, l) =")

    def check_rewards(self, rewards: Rewards) -> None:
        rewards.check()
        self._check_count(max(1, len(rewards.functions)))

    def _check_count(self, rewards: int) -> None:
        if rewards - 1 != len(self.threshold):
            raise UsageError(
                f"OneShotSafety: threshold={self.threshold} is not allowed with {rewards} reward function"
                f"{'s' if rewards > 1 else ''}: the first is maximised, and each of the others needs one number, the "
                "lower bound on its mean. Give as many, such as reward=[helpful, harmless], threshold=(0.5,)."
            )

    def learned(self, example: Example) -> list[tuple[Any, str]]:
        return [] if self.samples else super().learned(example)

    # --- the dual, once ----------------------------------------------------------------------------------------------

    def memory(self, model: LanguageModel, task: Task) -> dict[str, Tensor]:
        known = {} if self.samples else super().memory(model, task)
        unknown = torch.full((len(self.threshold) + 1,), torch.nan, dtype=torch.float64)
        return known | ({"multiplier": unknown[1:], "predicted": unknown} if self.threshold else {})

    def scored(self, iteration: Iteration) -> tuple[Array, Array]:
        """The reward `[prompts, samples]` and the constraints `[constraints, prompts, samples]` of samples of the model
        as it is now."""
        parts = iteration.choose(self.dual_prompts).split(TOGETHER)
        found = [iteration.sample(part, self.dual_samples).components for part in parts]
        self._check_count(len(found[0]))
        reward, *safety = (torch.cat([part[name] for part in found]).double().numpy() for name in found[0])
        return reward, np.stack(safety)

    def solved(self, reward: Array, safety: Array) -> Dual:
        """The multipliers of the thresholds, and what they promise."""
        return solve(reward, safety, self.threshold, self.beta, relative=self.relative)

    # --- pairs -------------------------------------------------------------------------------------------------------

    def collect(self, iteration: Iteration) -> PairRollout:
        known = {name: iteration.progress.memory[name] for name in ("multiplier", "predicted") if self.threshold}
        if self.threshold and bool(known["multiplier"].isnan().any()):
            dual = self.solved(*self.scored(iteration))
            predicted = torch.tensor([dual.reward, *dual.safety], dtype=torch.float64)
            known = {"multiplier": torch.tensor(dual.multipliers), "predicted": predicted}
        rollout = self._written(iteration) if self.samples else self._labelled(super().collect(iteration), iteration)
        progress = replace(rollout.progress, memory={**rollout.progress.memory, **known})
        return replace(rollout, progress=progress)

    def _written(self, iteration: Iteration) -> PairRollout:
        """Pairs of completions of the next prompts, and their log-probabilities under the reference."""
        found = iteration.write(iteration.choose(self.prompts))
        times, known = self.samples // 2, {field.name: getattr(found, field.name) for field in fields(Rollout)}
        known["examples"] = [example for example in found.examples for _ in range(times)]
        known |= {"index": found.index.repeat_interleave(times), "demonstrations": None}
        known |= {name: known[name].view(-1, 2) for name in ("reward", "truncated")}
        known["components"] = {name: x.view(-1, 2) for name, x in found.components.items()}
        reference = iteration.statistics(found.sequences, reference=True).log_prob.sum(1).view(-1, 2)
        return PairRollout(**known, pairs=found.sequences, reference=reference)

    def _labelled(self, pairs: PairRollout, iteration: Iteration) -> PairRollout:
        """Pairs of the data with the rewards of both answers."""
        texts = [text for example in pairs.examples for text in answers(example)]
        found = iteration.score([example for example in pairs.examples for _ in range(2)], texts)
        return replace(pairs, components={name: x.view(-1, 2) for name, x in found.items()})

    def terms(self, rollout: Rollout) -> list[Term]:
        assert isinstance(rollout, PairRollout) and rollout.pairs is not None and rollout.reference is not None
        dual = {name: rollout.progress.memory[name].float() for name in ("multiplier", "predicted") if self.threshold}
        score, *safety = (torch.nan_to_num(x) for x in rollout.components.values())
        for multiplier, each in zip(dual.get("multiplier", ()), safety, strict=True):
            score = score + multiplier * each
        order = score.argsort(dim=1, descending=True, stable=True)  # the better one first, as metrics read pairs
        rows = (2 * torch.arange(len(order))[:, None] + order).flatten()
        better = replace(rollout, pairs=rollout.pairs[rows], reference=rollout.reference.gather(1, order))
        (term,) = super().terms(better)
        wrong = (-(score[:, 0] - score[:, 1]).abs()).sigmoid().repeat_interleave(2)
        said = {
            f"{name}_{j + (name == 'multiplier')}": x.expand(len(rows))  # the reward is number 0, and has none
            for name, values in dual.items()
            for j, x in enumerate(values)
        }
        return [replace(term, extra={**term.extra, **said, "wrong": wrong})]

    def losses(self, pairs: Compared, batch: Batch) -> Float[Tensor, " pairs"]:
        wrong, objective = batch.extra["wrong"].view(-1, 2)[:, 0], self.pair_objective()
        better, worse = objective.values(pairs).unbind(1)
        return (1 - wrong) * objective.link(better, worse) + wrong * objective.link(worse, better)

    def loss(self, objective: Any, batch: Batch, log_prob: Tensor, entropy: Tensor) -> tuple[Tensor, Metrics]:
        loss, metrics = super().loss(objective, batch, log_prob, entropy)
        share = batch.weights.amax(1)
        said = {name: x for name, x in batch.extra.items() if name.startswith(("multiplier_", "predicted_"))}
        return loss, metrics | {name: (share * x).sum() for name, x in said.items()}

    def steps(self) -> list[str]:
        sampled = f"{self.dual_samples} completions of the reference for each of {self.dual_prompts} prompts"
        first = [f"once: draw {sampled}, and minimise the dual over λ ≥ 0"] if self.threshold else []
        taken, step = super().steps()
        written = f"write {self.samples} completions for each of {self.prompts} prompts, in pairs"
        score = "r + λᵀg" if self.threshold else "r"
        return [*first, f"{written if self.samples else taken}; score both answers by s = {score}", step]


METHOD = OneShotSafety
