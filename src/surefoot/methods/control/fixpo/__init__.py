"""FixPO: a self-tuning KL penalty, then a few corrective steps, so that every update ends inside a trust region.

    maximise  mean[ ρÂ ] − β·mean[ KL(π_old ‖ π) ]      subject to  max_s KL(π_old ‖ π) ≤ ε        ρ = π/π_old

In the primary phase β follows descent on β·(ε − C·max KL) after every minibatch, so that the penalty settles well
inside the region (at ε/C). In the fixup phase, after every epoch, steps on the KL alone are repeated until no state of
the batch violates the bound. Use it where each update must satisfy a bound on every observed state, for any policy
with a KL in closed form, at about the cost of PPO.

K. R. Zentner et al., *Guaranteed Trust Region Optimization via Two-Phase KL Penalization* (2023), arXiv:2312.05405.
Defaults are those of its released training script, whose critic loss has no ½: 0.1 there is 0.2 here.

Differences: the bound is tested on the whole batch after each sweep, not minibatch by minibatch in a sweep without
steps; after `fixup_sweeps` sweeps the policy retreats towards the old one, so that the update always ends, and inside;
the fixup's gradient never uses a weight below 0.01; the critic is frozen during the fixup. Advantages are
standardised by default, as in the released policy class, since they then have the same scale in every task; its
training script does not standardise them, nor does the preset. There they are in the units of the rewards, here in
those of normalised rewards, and that has no hyperparameter, nor has its 1e-8 for Adam's ε in place of 1e-5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.common.schedule import annealing
from surefoot.loops.on_policy.method import Batch, OnPolicy, in_turn, pick
from surefoot.methods.control.fixpo.fixup import Fixup, Penalty
from surefoot.models.functional import Model
from surefoot.objectives import PolicyObjective, stabilizers
from surefoot.objectives.advantages import gae

if TYPE_CHECKING:
    from surefoot.loops.on_policy.learner import Learner


@dataclass(frozen=True)
class FixPO(OnPolicy):
    """Two-phase KL penalization."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mujoco-2023": {
            "standardize": False
        },  # uscresl/stabilized-rl, mujoco_fixpo_tianshou.py; the defaults otherwise
    }

    num_envs: int = hyperparameter(64, low=1, help="Number of parallel environments.")
    num_steps: int = hyperparameter(128, low=1, help="Steps of each environment per update.")
    minibatch_size: int = hyperparameter(512, low=1, help="Samples per gradient step; must divide the batch size.")
    anneal: str = annealing("linear")
    value_coefficient: float = hyperparameter(0.2, low=0, help="Weight of the critic's loss ½(V − G)².")
    value_clip: float | None = hyperparameter(
        0.2, above=0, help="Clip range of the critic's change, in units of value; no clipping if None."
    )
    log_std_init: float = hyperparameter(-0.5, help="Initial log standard deviation of a Gaussian policy.")
    max_kl: float = hyperparameter(0.5, above=0, help="Trust region: maximum KL(π_old ‖ π) after an update.")
    statistic: str = hyperparameter(
        "max", choices=("max", "mean"), help="Statistic over states that the trust region bounds."
    )
    margin: float = hyperparameter(3.0, low=1, help="The penalty's target KL is max_kl/margin.")
    penalty: float = hyperparameter(1.0, low=0, help="Initial weight of the KL penalty.")
    penalty_lr: float = hyperparameter(0.01, low=0, help="Adam's step size for that weight; 0 keeps it fixed.")
    fixup_minibatch_size: int = hyperparameter(1024, low=1, help="Samples per step of the fixup phase.")
    fixup_sweeps: int = hyperparameter(
        100, low=0, help="Maximum passes of a fixup before the policy is moved back along a line."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_kl is not None:
            raise UsageError(
                f"{type(self).__name__}: target_kl={self.target_kl!r} is not allowed, it must be None: the fixup phase "
                "bounds the KL, so epochs need not stop early. Bound the KL of an update with `max_kl`."
            )

    def objective(self) -> PolicyObjective:
        return self.parts or PolicyObjective(
            advantage=gae(self.gamma, self.lam),
            stabilizer=stabilizers.none(),
            standardize=self.standardize,
            entropy=self.entropy,
            divergence=self.penalty,
        )

    def fixup(self) -> Fixup:
        """The trust region and the phase that restores it."""
        size = self.fixup_minibatch_size if self.core is None else max(1, self.fixup_minibatch_size // self.num_steps)
        return Fixup(
            radius=self.max_kl,
            statistic=self.statistic,
            minibatch_size=size,
            max_sweeps=self.fixup_sweeps,
            max_grad_norm=self.max_grad_norm,
            margin=self.margin,
            weight_lr=self.penalty_lr,
        )

    def extra_state(self, model: Model) -> dict[str, Tensor]:
        return _named(Penalty.start(self.objective().divergence))

    def divergence_weight(self, extra: dict[str, Tensor]) -> Tensor:
        return extra["penalty_weight"]

    def loss(
        self, model: Model, vector: Tensor, batch: Batch, extra: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        params, value = model.evaluate(vector, batch)
        loss, metrics = self.policy_loss(model, params, batch, extra, standardized=self.standardize_over == "batch")
        value_loss = self.critic_loss(value, batch)
        kl = model.distribution.kl(batch["old_params"], params.detach())
        metrics |= {"value_loss": value_loss.detach(), "minibatch_kl": self.fixup().measure(kl, batch["valid"])}
        return loss + self.value_coefficient * value_loss, metrics

    def after_step(self, learner: Learner, step: Tensor, names: list[str]) -> None:
        """Update the penalty from the KL that the minibatch had before the step."""
        penalty = self.fixup().next_penalty(_penalty(learner.extra), step[:, names.index("minibatch_kl")])
        learner.extra = _named(penalty)

    def after_epoch(self, learner: Learner, batch: Batch, start: Tensor) -> dict[str, Tensor]:
        """Run the fixup phase for every seed."""
        fixup = self.fixup()

        def restore(
            learner: Learner, vector: Tensor, adam: Adam, extra: dict[str, Tensor], batch: Batch, seed: int
        ) -> tuple[Tensor, Adam, dict[str, Tensor], dict[str, Tensor]]:
            restored = fixup(learner.model, start[seed], vector, adam, _penalty(extra), batch, learner.lr_tensor)
            return restored.vector, restored.adam, _named(restored.penalty), restored.metrics

        return in_turn(restore, learner, batch)

    def after_update(self, learner: Learner, batch: Batch) -> dict[str, Tensor]:
        fixup = self.fixup()
        kl = [fixup.distance(learner.model, v, pick(batch, seed)) for seed, v in enumerate(learner.vector)]
        return {"bounded_kl": torch.stack(kl), "penalty": learner.extra["penalty_weight"]}

    def steps(self) -> list[str]:
        statistic, slope = f"{self.statistic} KL(π_old ‖ π)", f"{self.max_kl:g} − {self.margin:g}·{self.statistic} KL"
        return [
            *super().steps(),
            f"    after each step, β descends along {slope} by Adam({self.penalty_lr:g}), not below 0",
            f"    after each epoch, until {statistic} ≤ {self.max_kl:g} on the batch: "
            f"steps on β·mean KL alone, in minibatches of {self.fixup_minibatch_size}",
        ]


def _penalty(extra: dict[str, Tensor]) -> Penalty:
    return Penalty(*(extra[f"penalty_{name}"] for name in Penalty._fields))


def _named(penalty: Penalty) -> dict[str, Tensor]:
    return {f"penalty_{name}": x for name, x in penalty._asdict().items()}


METHOD = FixPO
