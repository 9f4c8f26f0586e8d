"""RIQL: implicit Q-learning for data of which a part is wrong.

    V: minimise  mean |τ − 1[u < 0]|·u²        u = quantile_α of the K values Q_k⁻(s, a)  −  V(s)
    Q: minimise  mean_k mean H(r + γ·V(s') − Q_k(s, a))        H(x) = x²/2b  for |x| < b,  |x| − b/2  beyond;  b = 1/σ²
    π: minimise  mean min(exp(β·u), c)·‖π(s) − a‖²

Use it where a share of the logged states, actions, rewards or next states may be corrupted. Wrong next states give
Bellman targets with heavy tails: H bounds the gradient of each. The critics disagree about wrong rows, so a low
quantile of them is low there, and such actions are cloned less; unlike the minimum it is not one critic's mistake.
Observations are normalised by the mean and deviation of both s and s' as given, wrong ones included.

Rui Yang et al., *Towards Robust Offline Reinforcement Learning under Diverse Data Corruption* (2024), arXiv:2310.12955.
Presets are the settings of the authors' code for D4RL's medium-replay sets, `TASK-LAW-ELEMENT`; those that are not
listed, such as hopper-adversarial-action, are the defaults.

Differences: the code clips r + γ·V(s') to [−100, 1000], which suits its tasks; here that is off unless given. Networks
are initialised as torch does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from surefoot.data.transitions import Transitions
from surefoot.errors import UsageError
from surefoot.hyperparameters import Range, hyperparameter
from surefoot.methods.offline.baselines import IQL
from surefoot.objectives.bootstrap import low_quantile
from surefoot.objectives.values import huber

TASKS = ("halfcheetah", "walker2d", "hopper")
RELEASED = {  # σ and α by task, for random and for adversarial corruption of an element
    "observation": ((0.1, 0.1, 0.1), (0.1, 0.25, 0.25), (0.1, 1, 1), (0.1, 0.25, 0.25)),
    "action": ((0.5, 0.5, 0.1), (0.25, 0.1, 0.25), (1, 1, 1), (0.1, 0.1, 0.25)),
    "reward": ((3, 3, 1), (0.25, 0.1, 0.25), (1, 3, 0.1), (0.1, 0.1, 0.25)),
    "dynamics": ((3, 1, 1), (0.25, 0.25, 0.5), (1, 1, 1), (0.1, 0.25, 0.5)),
}
THREE = {"hopper-random-observation", "halfcheetah-random-action", "hopper-random-reward", "walker2d-random-dynamics"}

DEFAULTS: dict[str, Any] = {"sigma": 1.0, "quantile": 0.25, "critics": 5}


def _released() -> dict[str, dict[str, Any]]:
    """The settings of the authors' code by name: σ, α and the number of critics."""
    found = {}
    for element, (*random, adversarial, low) in RELEASED.items():
        for law, sigmas, levels in (("random", *random), ("adversarial", adversarial, low)):
            for task, sigma, level in zip(TASKS, sigmas, levels, strict=True):
                name = f"{task}-{law}-{element}"
                setting = {"sigma": float(sigma), "quantile": level, "critics": 3 if name in THREE else 5}
                if setting != DEFAULTS:
                    found[name] = setting
    return found


@dataclass(frozen=True)
class RIQL(IQL):
    """Robust implicit Q-learning, for data of which a part is corrupted."""

    default_steps: ClassVar[int] = 3_000_000
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = _released()

    critics: int = hyperparameter(DEFAULTS["critics"], low=1, high=100, help="Number K of critics.")
    quantile: float = hyperparameter(
        DEFAULTS["quantile"], low=0, high=1, help="Quantile α of the critics; 0 is their minimum.", tune=Range(0.0, 0.5)
    )
    sigma: float = hyperparameter(
        DEFAULTS["sigma"],
        above=0,
        help="σ of the Huber loss, linear beyond errors of 1/σ².",
        tune=Range(0.1, 3, log=True),
    )
    policy: str = hyperparameter(
        "deterministic", choices=("gaussian", "deterministic"), help="Gaussian with a learned deviation, or a point."
    )
    target_range: tuple[float, float] | None = hyperparameter(
        None, help="Range to which r + γ·V(s') is clipped, in units of return, if given."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_range is not None and not self.target_range[0] < self.target_range[1]:
            raise UsageError(f"target_range={self.target_range} is not allowed; give the lower end first.")

    def fitted(self, data: Transitions) -> Any:
        return data.scale(following=True)

    def judged(self, values: Tensor) -> Tensor:
        return low_quantile(values, self.quantile) if values.dim() > 1 else values

    def target(self, target: Tensor) -> Tensor:
        return target if self.target_range is None else target.clamp(*self.target_range)

    def bellman(self, errors: Tensor) -> Tensor:
        width = self.sigma**-2
        return huber(width)(errors, errors * 0, errors) / width

    def objective(self) -> str:
        value, _, actor = super().objective().split("\n")
        least = "Q⁻" if self.critics == 1 else f"{self.quantile:g}-quantile over {self.critics} of Q⁻"
        clip = "" if self.target_range is None else ", clipped to [{:g}, {:g}]".format(*self.target_range)
        critic = f"critic: mean Huber(y − Q(s, a)), linear beyond {self.sigma**-2:.4g},  y = r + γ·V(s'){clip}"
        return "\n".join([f"{value.partition('u = ')[0]}u = {least}(s, a) − V(s)", critic, actor])


METHOD = RIQL
