"""RRLS: six MuJoCo tasks with boxes of physical parameters, and the protocol by which a robust policy is measured.

    train:    ω ~ U(Ω) at every reset, constant in the episode; TD3, which does not see ω
    measure:  the mean return of the deterministic policy in every cell of a grid of Ω, ten values per parameter,
              low + i·(high − low)/10, i = 0 … 9
    report:   worst = min over cells,  average = mean over cells,  nominal
    compare:  (v − v_TD3) / |v_M2TD3 − v_TD3|: 0 for TD3 in the nominal task, 1 for `m2td3`

The suite is a benchmark. Its tasks are `rrls/<task>`, and its sets `rrls:1d`, `rrls:2d`, `rrls:3d`, `rrls:rarl` are
perturbations. What is trained under this name is its first training wrapper, domain randomisation, with its reference
learner; `surefoot stress RUN --perturb rrls:2d --grid rrls` is the measurement.

Adil Zouitine, Matthieu Geist, Emmanuel Rachelson et al., *RRLS: Robust Reinforcement Learning Suite* (2024),
arXiv:2406.08406. Domain randomisation: Josh Tobin et al. (2017), arXiv:1703.06907.

Differences: Gymnasium's v5 tasks with their own nominal parameters (the published package swaps the pendulum's masses
and gives Hopper's floor 0.7: `rrls_compat=True`); forces along y, which do nothing in planar tasks, are left out there;
`set` may also be a box of parameters of any other environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.envs.parameter_game import randomised
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.methods.control.td3 import TD3


@dataclass(frozen=True)
class DomainRandomization(TD3):
    """TD3 in an environment whose parameters are drawn at every reset."""

    set: str = hyperparameter("rrls:2d", help="Box of parameters: rrls:1d|2d|3d, or param:name=low..high,….")

    def training_env(self, env: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
        return randomised(env, self.set, options)

    def steps(self) -> list[str]:
        drawn = f"parameters are drawn uniformly from {self.set} at every reset, and stay; the agent does not see them"
        return [drawn, *super().steps()]


def normalised(score: float, td3: float, m2td3: float) -> float:
    """The suite's normalised score of a worst or average return: 0 for TD3's, 1 for M2TD3's if that is higher.

    Raises:
        UsageError: the two references are equal or not finite.
    """
    if not np.isfinite([score, td3, m2td3]).all() or td3 == m2td3:
        raise UsageError(
            f"normalised: score={score}, td3={td3}, m2td3={m2td3} is not allowed; the numbers must be finite, and the "
            "two references differ."
        )
    return (score - td3) / abs(m2td3 - td3)


METHOD = DomainRandomization
