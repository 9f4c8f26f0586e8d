"""PPO: several epochs of minibatch steps on one batch, the surrogate clipped where the ratio leaves the clip range.

    maximise  mean[ min(ρÂ, clip(ρ, 1−ε, 1+ε)Â) ]        ρ = π/π_old

or, with `penalty="adaptive"` or `"fixed"`, the plain surrogate less β·KL(π_old ‖ π), β doubled or halved after each
update so that the KL stays near `kl_target`.

John Schulman et al., *Proximal Policy Optimization Algorithms* (2017), arXiv:1707.06347. Defaults are those of the
MuJoCo experiments with eight environments of 256 steps in place of one of 2048.

Differences: a truncated episode bootstraps from its final observation; observations and rewards are normalised by
statistics that are frozen while a batch is collected and used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from surefoot.hyperparameters import Range, hyperparameter
from surefoot.loops.on_policy.method import Batch, OnPolicy
from surefoot.models.functional import Model, over_seeds
from surefoot.objectives import PolicyObjective, aggregation, stabilizers
from surefoot.objectives.advantages import gae
from surefoot.objectives.stabilizers import Stabilizer

if TYPE_CHECKING:
    from surefoot.loops.on_policy.learner import Learner

WEIGHTS = 1e-6, 1e6


@dataclass(frozen=True)
class PPO(OnPolicy):
    """Proximal policy optimization."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mujoco-2017": {  # §6.1, and what it leaves unsaid as in the authors' first code (openai/baselines, ppo1)
            "num_envs": 1,
            "num_steps": 2048,
            "anneal": "linear",
            "standardize_over": "batch",
            "normalize_rewards": False,
            "value_coefficient": 2.0,  # of ½(V − G)²
            "max_grad_norm": None,
        },
    }

    clip: float = hyperparameter(
        0.2, above=0, below=1, help="Clip range ε of the probability ratio.", tune=Range(0.1, 0.4)
    )
    clip_high: float | None = hyperparameter(None, above=0, help="Upper clip range, if different from the lower one.")
    penalty: str = hyperparameter(
        "clip",
        choices=("clip", "adaptive", "fixed", "none"),
        help="What keeps the new policy near the old one: clipping, a KL penalty, or nothing.",
    )
    kl_target: float = hyperparameter(0.01, above=0, help="Target KL of the adaptive penalty.")
    kl_coefficient: float = hyperparameter(1.0, above=0, help="Initial (or fixed) weight of the KL penalty.")

    def stabilizer(self) -> Stabilizer:
        """What f(ρ, Â) is maximised."""
        return stabilizers.clip(self.clip, self.clip_high) if self.penalty == "clip" else stabilizers.none()

    def objective(self) -> PolicyObjective:
        return self.parts or PolicyObjective(
            advantage=gae(self.gamma, self.lam),
            stabilizer=self.stabilizer(),
            standardize=self.standardize,
            entropy=self.entropy,
            divergence=self.kl_coefficient if self.penalty in ("adaptive", "fixed") else 0.0,
        )

    def extra_state(self, model: Model) -> dict[str, Tensor]:
        return {"divergence_weight": torch.tensor(self.objective().divergence)} if self.penalty == "adaptive" else {}

    def after_update(self, learner: Learner, batch: Batch) -> dict[str, Tensor]:
        if self.penalty != "adaptive":
            return {}
        kl = over_seeds(self._mean_kl(learner.model), learner.num_seeds)(learner.vector, batch)
        weight = learner.extra["divergence_weight"]
        learner.extra["divergence_weight"] = adapted(weight, kl, self.kl_target)
        return {"divergence_weight": weight}

    def _mean_kl(self, model: Model) -> Any:
        def mean_kl(vector: Tensor, batch: Batch) -> Tensor:
            with torch.no_grad():
                kl = model.distribution.kl(batch["old_params"], model.evaluate(vector, batch)[0])
            return aggregation.mean()(kl, batch["valid"])

        return mean_kl


def adapted(weight: Tensor, kl: Tensor, target: float) -> Tensor:
    """The penalty's next weight: halved where the KL is below 2/3 of the target, doubled where above 3/2 of it; within
    `WEIGHTS`, from which it comes back in a few updates."""
    factor = torch.where(kl < target / 1.5, 0.5, torch.where(kl > target * 1.5, 2.0, 1.0))
    return (weight * factor).clamp(*WEIGHTS)


METHOD = PPO
