"""SPO: PPO with a quadratic penalty in place of the clip, which pulls a ratio outside its range back.

    maximise  mean[ ρÂ − |Â|(ρ−1)²/(2ε) ]        ρ = π/π_old

Every sample's optimum is exactly at ρ = 1 + ε·sign(Â). Use it with deep networks, high step sizes or many epochs;
on small ones it moves less per update than PPO.

Zhengpeng Xie et al., *Simple Policy Optimization* (2024), arXiv:2401.16025, in the form of its ICML version (earlier
versions describe another method of the same name).

Differences: the defaults are this library's common ones, so that SPO and PPO differ in the policy's loss alone. The
released setting is in `presets`; where it lets the critic move by the same ε as the policy, as here, the paper's
Algorithm 1 does not clip the critic. Four of its details have no hyperparameter: it treats a truncated episode as
ended, standardises advantages by the unbiased standard deviation (0.1 % larger), uses 1e-8 for Adam's ε in place of
1e-5, and normalises each environment's observations and rewards by statistics of its own, which change at every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.on_policy.method import OnPolicy
from surefoot.objectives import PolicyObjective, stabilizers
from surefoot.objectives.advantages import gae

RELEASED = {  # MyRepositories-hub/Simple-Policy-Optimization, mujoco/main.py and agent.py; all else is the default here
    "minibatch_size": 512,
    "anneal": "linear",
    "value_clip": 0.2,
}


@dataclass(frozen=True)
class SPO(OnPolicy):
    """Simple policy optimization."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mujoco-3-layers": RELEASED,
        "mujoco-7-layers": RELEASED | {"hidden": (256, 256, 128, 128, 64, 64), "critic_hidden": (64, 64)},
    }

    epsilon: float = hyperparameter(0.2, above=0, below=1, help="Distance of each sample's optimal ratio from 1.")

    def objective(self) -> PolicyObjective:
        return self.parts or PolicyObjective(
            advantage=gae(self.gamma, self.lam),
            stabilizer=stabilizers.quadratic(self.epsilon),
            standardize=self.standardize,
            entropy=self.entropy,
        )


METHOD = SPO
