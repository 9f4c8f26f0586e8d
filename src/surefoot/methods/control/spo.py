"""SPO: PPO with a quadratic penalty in place of the clip, which pulls a ratio outside its range back.

    maximise  mean[ ρÂ − |Â|(ρ−1)²/(2ε) ]        ρ = π/π_old

Every sample's optimum is exactly at ρ = 1 + ε·sign(Â). Use it with deep networks, high step sizes or many epochs;
on small ones it moves less per update than PPO.

Zhengpeng Xie et al., *Simple Policy Optimization* (2024), arXiv:2401.16025, in the form of its ICML version (earlier
versions describe another method of the same name).

Differences: network and batch are this library's common ones. The released code lets the step size decay to 0
(`anneal=True`), clips the critic's change to the same ε (`value_clip=0.2`), takes four minibatches of 512
(`minibatch_size=512`) and uses networks of up to seven layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.on_policy.method import OnPolicy
from surefoot.objectives import PolicyObjective, stabilizers
from surefoot.objectives.advantages import gae


@dataclass(frozen=True)
class SPO(OnPolicy):
    """Simple policy optimization."""

    epsilon: float = hyperparameter(0.2, above=0, below=1, help="Distance of each sample's optimal ratio from 1.")

    def objective(self) -> PolicyObjective:
        return self.parts or PolicyObjective(
            advantage=gae(self.gamma, self.lam),
            stabilizer=stabilizers.quadratic(self.epsilon),
            standardize=self.standardize,
            entropy=self.entropy,
        )


METHOD = SPO
