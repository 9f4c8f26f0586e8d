"""Policy smoothing: a policy that adds Gaussian noise to every observation, in training and ever after, so that the
return of a whole episode can be certified against every attack on its observations.

    a_t = π(o_t + ε_t + η_t),  η_t ~ N(0, σ²I) fresh at every step
    P_attack[h = 1] ≥ Φ(Φ⁻¹(P[h = 1]) − ε/σ)  for every h of the episode and every attack with Σ‖ε_t‖₂² ≤ ε²

Use it when you need a guarantee and not only a number measured under the attacks at hand. A larger σ costs return
without an attack, and its certificates fall more slowly with the budget. `surefoot certify RUN` computes them.

Aounon Kumar, Alexander Levine and Soheil Feizi, *Policy Smoothing for Provably Robust Reinforcement Learning* (2022),
arXiv:2106.11420.

Differences: the theorem holds for any policy, so the base is PPO, for discrete and continuous actions, in place of DQN
and DDPG; a policy may remember (`core`). Noise is in the units of the environment's observations and is added before
they are normalised; environments are always Gymnasium's. With the wrapper frame_stack it is drawn anew for every
stack, where the paper's code draws it once a frame: the budget is then one of stacked observations.
"""

from __future__ import annotations

from dataclasses import dataclass

from surefoot.hyperparameters import hyperparameter
from surefoot.methods.control.ppo import PPO


@dataclass(frozen=True)
class PolicySmoothing(PPO):
    """PPO under the noise that certifies it."""

    sigma: float = hyperparameter(0.2, above=0, help="Standard deviation of the noise on observations.")

    @property
    def smoothing(self) -> float:
        return float(self.sigma)

    def algorithm(self) -> list[str]:
        return [
            f"every observation, in training and ever after: o + η, η ~ N(0, {self.sigma:g}²I), one fresh draw a step",
            *super().algorithm(),
        ]


METHOD = PolicySmoothing
