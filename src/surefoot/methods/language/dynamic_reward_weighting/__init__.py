"""Dynamic reward weighting: the weights of several rewards change in training, by gradients or by the Pareto front.

    gradient:     w ← softmax(log w + η·I),   I_k = g_k · Σ_l g_l            Â of  R = Σ_k w_k·r_k
    hypervolume:  ρ = ½ + 3/2·tanh(ΔHV)                                      ρ·Â of the given weights

With fixed weights effort goes on into what is learned already, and only convex parts of the Pareto front are reached.
By gradients, g_k being that of the reward k, an objective gains weight whose gradient is large and agrees with the
others; a learned one has none and loses. Where the weights are a preference to be kept, ρ instead makes steps large
while the front of held-out rewards grows, by the volume ΔHV, and halves them when it does not. Use it with several
reward functions of like scale, such as [0, 1]; `reward_weights` are the start, or the preference.

Yining Lu et al., *Learning to Optimize Multi-Objective Alignment Through Dynamic Reward Weighting* (2025),
arXiv:2509.11452.

Differences: η is the ratio η/μ of the released code (yining610/dynamic-reward-weighting), at any learning rate.
Gradients are those of all weights that learn, not of 16 middle layers; `probed` is for less memory. In the code ρ
multiplies the reward, which cancels in standardised advantages; here it multiplies the advantage, `scaled="reward"` is
theirs. The front is of mean rewards, not of lengths in tokens, which would drown the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.envs.language import Task
from surefoot.errors import UsageError
from surefoot.hyperparameters import Range, hyperparameter
from surefoot.loops.common.schedule import scheduled
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.method import Rollout
from surefoot.methods.language.baselines import ClippedGroups
from surefoot.methods.language.dynamic_reward_weighting.gradients import influence, probe, reweighted, shares, stacked
from surefoot.methods.language.dynamic_reward_weighting.pareto import extended, growth
from surefoot.models.language.model import LanguageModel
from surefoot.objectives import PolicyObjective
from surefoot.objectives.advantages import group_standardized, leave_one_out

ADVANTAGES = {"standardized": group_standardized(1e-6, unbiased=True), "leave-one-out": leave_one_out()}
WITHOUT_EFFECT = {"gradient": ("scaled", "validation"), "hypervolume": ("weight_rate", "weight_every", "probed")}


@dataclass(frozen=True)
class DynamicRewardWeighting(ClippedGroups):
    """GRPO or RLOO on rewards whose weights change."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "math-500-2025": {  # the released script for Qwen3-8B: accuracy, conciseness and format
            "prompts": 64,
            "max_tokens": 2048,
            "learning_rate": 1e-6,
            "kl": 1e-3,
        },
    }

    scheme: str = hyperparameter(
        "gradient", choices=tuple(WITHOUT_EFFECT), help="What changes: the weights, or by the front the size of steps."
    )
    clip: float = hyperparameter(100.0, above=0, help="Lower clip range of the ratio; 100 is none.")
    advantage: str = hyperparameter(
        "standardized", choices=tuple(ADVANTAGES), help="Advantage: how rewards within a group are compared."
    )
    weight_rate: float = hyperparameter(
        0.1,
        low=0,
        help="Step size η of the weights; it follows the schedule of the learning rate.",
        tune=Range(0.01, 1),
    )
    weight_every: int = hyperparameter(1, low=1, help="Iterations whose influences are averaged for a step of weights.")
    probed: float = hyperparameter(
        1.0, above=0, high=1, help="Share of the model's tensors, the middle ones, whose gradients are compared."
    )
    scaled: str = hyperparameter(
        "advantage", choices=("advantage", "reward"), help="What ρ multiplies; standardised advantages lose the latter."
    )
    validation: int = hyperparameter(100, low=1, help="Held-out prompts on which the front is measured, greedily.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in WITHOUT_EFFECT[self.scheme]:
            if (value := getattr(self, name)) != self.__dataclass_fields__[name].default:
                raise UsageError(
                    f"DynamicRewardWeighting: {name}={value!r} has no effect with scheme={self.scheme!r}; leave it out."
                )

    def objective(self) -> PolicyObjective:
        return dataclasses.replace(super().objective(), advantage=ADVANTAGES[self.advantage])

    def advantages(self, rollout: Rollout) -> Tensor:
        found = super().advantages(rollout)
        return found * rollout.progress.memory["scale"] if self._scales("advantage") else found

    # --- what changes over the run -----------------------------------------------------------------------------------

    def memory(self, model: LanguageModel, task: Task) -> dict[str, Tensor]:
        empty = torch.zeros(0, dtype=torch.float64)
        if self.scheme == "gradient":
            return {"log_weights": empty, "influence": empty}
        return {"scale": torch.ones(()), "reference": empty, "front": empty[:, None]}

    def collect(self, iteration: Iteration) -> Rollout:
        known = dict(iteration.progress.memory)
        if self.scheme == "gradient" and not len(known["log_weights"]):
            known["log_weights"] = shares(iteration.reward_weights).log()
            known["influence"] = torch.zeros_like(known["log_weights"])
        if self.scheme == "hypervolume" and not len(known["reference"]):
            known["reference"] = self.validated(iteration)
            known["front"] = known["reference"][None][:0]
        rollout = super().collect(iteration)
        if self.scheme == "hypervolume":
            rollout.logged.add("scale", [float(known["scale"])])
            reward = rollout.reward * known["scale"] if self._scales("reward") else rollout.reward
        else:
            known |= self.stepped(known, iteration, rollout)
            for name, log_weight in zip(rollout.components, known["log_weights"], strict=True):
                rollout.logged.add(f"weight/{name}", [float(log_weight.exp())])
            reward = torch.einsum("k,kps->ps", known["log_weights"].exp().float(), stacked(rollout.components))
        progress = dataclasses.replace(rollout.progress, memory=known)
        return dataclasses.replace(rollout, reward=reward, progress=progress)

    def stepped(self, known: Mapping[str, Tensor], iteration: Iteration, rollout: Rollout) -> dict[str, Tensor]:
        """Weights and influences after those of a rollout; the weights change in every `weight_every`-th iteration."""
        if len(rollout.components) == 1:
            return {}
        each = [dataclasses.replace(rollout, reward=reward) for reward in stacked(rollout.components)]
        probes = [probe(iteration.gradient(self.terms(one)), self.max_grad_norm, self.probed) for one in each]
        total, progress = known["influence"] + influence(probes) / self.weight_every, rollout.progress
        if (progress.step + 1) % self.weight_every:
            return {"influence": total}
        rate = scheduled(self.weight_rate, self.anneal, self.warmup, progress.step, 1, progress.total)
        return {"log_weights": reweighted(known["log_weights"], total, rate), "influence": torch.zeros_like(total)}

    def validated(self, iteration: Iteration) -> Float[Tensor, " objectives"]:
        """The mean of every reward on held-out prompts."""
        components = iteration.held_out(self.validation).components
        return torch.stack([x.double().nanmean() for x in components.values()])

    def remember(self, rollout: Rollout, iteration: Iteration) -> Mapping[str, Tensor]:
        known = rollout.progress.memory
        if self.scheme == "gradient":
            return known
        front, gain = extended(known["front"], self.validated(iteration), known["reference"])
        return {**known, "scale": torch.tensor(growth(gain)), "front": front}

    def _scales(self, what: str) -> bool:
        return self.scheme == "hypervolume" and self.scaled == what

    def steps(self) -> list[str]:
        write, learn = super().steps()
        if self.scheme == "hypervolume":
            return [
                write,
                f"{learn}, with the {self.scaled} multiplied by ρ (1 at first)",
                f"answer {self.validation} held-out prompts; ρ = 0.5 + 1.5·tanh of what they add to the front's volume",
            ]
        often = "then" if self.weight_every == 1 else f"every {self.weight_every} iterations, with the mean I of them,"
        return [
            f"{write} by each function",
            f"per reward, the gradient g_k of its objective on the whole batch; I_k = g_k · Σ g_l; {often} "
            f"w ← softmax(log w + {self.weight_rate:g}·I)",
            f"{learn} of R = Σ w_k·r_k",
        ]


METHOD = DynamicRewardWeighting
