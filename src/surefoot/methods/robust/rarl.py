"""RARL: TRPO against a learned adversary that pushes the body with bounded forces, each in turn the best response.

    max_μ min_ν  E[ Σ γ^t r_t ],   a_t ~ μ(·|s_t),  b_t ~ ν(·|s_t),  force_t = 5 N · fraction · clip(b_t, ±1)

One batch updates the protagonist μ on r, a new one, with the updated μ, the adversary ν on −r. Use it where the world
differs from the simulator in ways that forces can imitate: other masses, other friction, pushes. Too strong an
adversary makes the task hopeless and stops learning; start with a small `fraction`.

Lerrel Pinto et al., *Robust Adversarial Reinforcement Learning* (2017), arXiv:1703.02702; settings of the authors'
code.

Differences: TRPO is that of this library, with a neural critic in place of linear features, and rewards and
observations are normalised; a truncated episode bootstraps; batches go on where the last one ended, in place of whole
episodes; both players' batches count as steps, so that a run has half of them for the protagonist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from surefoot.loops.on_policy.game import OnPolicyGame
from surefoot.methods.control.trpo import TRPO


@dataclass(frozen=True)
class RARL(OnPolicyGame, TRPO):
    """Robust adversarial reinforcement learning: TRPO for both players."""

    default_steps: ClassVar[int] = 25_000_000
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mujoco-2017": {  # section 4.1 and the scripts of the authors' code
            "num_envs": 25,
            "num_steps": 1000,
            "gamma": 0.995,
            "lam": 0.97,
            "minibatch_size": 250,
            "normalize_rewards": False,
        }
    }


METHOD = RARL
