"""Language: policies that write. `GroupPolicyGradient(objective=…)` makes a method of any objective."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from surefoot.hyperparameters import build
from surefoot.loops.group_rollout.method import GroupRollout
from surefoot.methods.language.baselines import GRPO
from surefoot.objectives import PolicyObjective

__all__ = ["ByObjective", "GroupPolicyGradient"]


@dataclass(frozen=True)
class ByObjective(GroupRollout):
    """The group rollout with a given objective; of `kl` and `entropy` those of the objective count."""

    parts: PolicyObjective = field(default_factory=lambda: GRPO().objective())

    def objective(self) -> PolicyObjective:
        return self.parts


def GroupPolicyGradient(objective: PolicyObjective, **hyperparameters: Any) -> ByObjective:  # noqa: N802
    """The method that maximises an objective on groups of completions; `hyperparameters` are those of `GroupRollout`.

    A divergence in the objective is that from the model before training.
    """
    given = {"kl": objective.divergence, "entropy": objective.entropy, **hyperparameters, "parts": objective}
    return build(ByObjective, given)
