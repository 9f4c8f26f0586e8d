"""Methods for language models. `GroupPolicyGradient(objective=…)` turns any objective into a method.

What a run is made of besides its method is here under short names too: tasks of several turns (`Episodes`, `Tools`,
`Retries`), `RewardModel` and `ImplicitReward`, `Sampling` and `LoRA`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from surefoot.envs.language.episodes import Episodes, Retries, Tools
from surefoot.errors import UsageError
from surefoot.hyperparameters import build
from surefoot.loops.group_rollout.method import GroupRollout
from surefoot.methods.language.baselines import GRPO
from surefoot.models.language.lora import LoRA
from surefoot.models.language.reward_model import ImplicitReward, RewardModel
from surefoot.models.language.sampling import Sampling
from surefoot.objectives import PolicyObjective

__all__ = [
    "ByObjective",
    "Episodes",
    "GroupPolicyGradient",
    "ImplicitReward",
    "LoRA",
    "Retries",
    "RewardModel",
    "Sampling",
    "Tools",
]


@dataclass(frozen=True)
class ByObjective(GroupRollout):
    """The group rollout with a given objective; `kl` and `entropy` are the weights of its divergence and entropy."""

    parts: PolicyObjective = field(default_factory=lambda: GRPO().objective())

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, part, inside in (
            ("kl", "divergence", self.parts.divergence),
            ("entropy", "entropy", self.parts.entropy),
        ):
            if inside and inside != getattr(self, name):
                given = f"{name}={getattr(self, name):g}"
                raise UsageError(
                    f"{given} conflicts with an objective that has {part}={inside:g}; give only one of them."
                )

    def objective(self) -> PolicyObjective:
        return replace(self.parts, divergence=self.kl, entropy=self.entropy)


def GroupPolicyGradient(objective: PolicyObjective, **hyperparameters: Any) -> ByObjective:  # noqa: N802
    """The method that maximises an objective on groups of completions; `hyperparameters` are those of `GroupRollout`.

    A divergence in the objective is measured from the model before training. Its weight is `kl`, and the weight of the
    entropy is `entropy`, whether they are given here or in the objective.

    Raises:
        UsageError: the weights are given in both places and differ.
    """
    given = {"kl": objective.divergence, "entropy": objective.entropy, **hyperparameters, "parts": objective}
    return build(ByObjective, given)
