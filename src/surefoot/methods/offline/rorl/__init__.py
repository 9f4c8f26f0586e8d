"""RORL: SAC-N whose policy and values are smooth around the data, and whose values are low where critics disagree.

    actor: minimise  mean[ α·log π(a|s) − min_k Q_k(s, a) ]  +  β_P·mean max_j J(s, s_j)        |s_j − s| ≤ ε_P
        J(s, s_j) = KL(π(·|s) ‖ π(·|s_j)) + KL(π(·|s_j) ‖ π(·|s))
    critics: minimise  Σ_k mean (Q_k(s, a) − y)²  +  β_Q·L_Q  +  β_O·L_O        y as in SAC-N
        L_Q = mean max_j mean_k [(1 − τ)·max(Δ, 0)² + τ·min(Δ, 0)²]        Δ = Q_k(s_j, a) − Q_k(s, a),  |s_j − s| ≤ ε_Q
        L_O = mean (sg[Q_k − λ·u] − Q_k)²        at (s_j, a_j),  a_j ~ π(·|s_j),  u = std_k Q_k,  |s_j − s| ≤ ε_O

Use it where a policy from data will act on noisy or attacked sensors. J holds the policy still in a ball around every
state of the data; L_Q lets values fall there rather than rise; L_O pushes all critics down by the same amount, in
proportion to their disagreement u, where the policy goes when its sensors are wrong. λ falls linearly to its lowest.
The mean of Q_k − λ·u over the critics is their worst case over weights in a χ²-ball of radius λ²·K/(K − 1) around equal
ones, while all of these are positive; each critic's own target is needed, so it is written in closed form.

Balls are boxes in units of the normaliser, those of `obs-mad:0.05` and other attacks of its agents; states of data that
are not normalised are in their own units. The maximum is over n random points, the same directions for all states.

Rui Yang et al., *RORL: Robust Offline Reinforcement Learning via Conservative Smoothing* (2022), arXiv:2206.02829.
Defaults are the settings of the authors' code for walker2d under attack; presets are those for its other tasks under
attack, `TASK`, and those without one, `TASK-DATA`.

Differences: one draw of directions a step serves all three terms. The losses of the critics are those of SAC-N, with a
factor of ½, and come after the actor's step; the two terms beside them are halved too. Networks are initialised as
torch does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import Range, hyperparameter
from surefoot.loops.networks.nets import Batch, Weights
from surefoot.loops.offline.learner import OfflineLearner
from surefoot.loops.offline.method import Beforehand
from surefoot.methods.offline.rorl.around import apart, disputed, rough
from surefoot.methods.offline.rorl.released import released
from surefoot.methods.offline.sac_n import SACN
from surefoot.models.actors import action_size
from surefoot.seeding import torch_stream


@dataclass(frozen=True)
class RORL(SACN):
    """SAC-N that is smooth in a ball around the data, and pessimistic where its critics disagree there."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = released()

    critics: int = hyperparameter(10, low=2, high=1000, help="Number K of critics.")
    normalize_observations: bool = hyperparameter(
        True, help="Normalise observations by the mean and standard deviation of the data, (s − mean)/(std + 0.001)."
    )
    samples: int = hyperparameter(20, low=1, high=1000, help="Number n of random points in the ball around a state.")
    policy_radius: float = hyperparameter(0.07, low=0, help="Radius ε_P of the policy's ball.", tune=Range(0.0, 0.2))
    policy_smoothing: float = hyperparameter(
        0.5, low=0, help="Weight β_P of the policy's smoothness.", tune=Range(0.01, 10, log=True)
    )
    value_radius: float = hyperparameter(0.03, low=0, help="Radius ε_Q of the values' ball.")
    value_smoothing: float = hyperparameter(1e-4, low=0, help="Weight β_Q of the values' smoothness; 0 saves time.")
    asymmetry: float = hyperparameter(
        0.2, above=0, below=1, help="Weight τ of values that fall around a state; of those that rise it is 1 − τ."
    )
    ood_radius: float = hyperparameter(0.03, low=0, help="Radius ε_O of the ball in which disagreement costs.")
    ood_weight: float = hyperparameter(
        0.5, low=0, help="Weight β_O of the loss that lowers disputed values.", tune=Range(0.01, 2, log=True)
    )
    penalty: float = hyperparameter(
        1.0, low=0, help="λ at first: deviations of the critics that values are lowered by."
    )
    lowest_penalty: float = hyperparameter(0.1, low=0, help="λ at last.")
    penalty_decay: float = hyperparameter(1e-6, low=0, help="What λ falls by in a gradient step.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lowest_penalty > self.penalty:
            raise UsageError(
                f"lowest_penalty={self.lowest_penalty:g} is not allowed: λ falls from penalty={self.penalty:g}. "
                "Give at most that."
            )

    def beforehand(self, learner: OfflineLearner) -> Beforehand:
        size = self.samples * self.batch_size, action_size(learner.action_space)

        def draw(batch: Batch, due: tuple[str, ...]) -> dict[str, Tensor]:
            """Directions, and noise of actions, from streams of their own: the other numbers are those of SAC-N."""
            streams = [torch_stream(seed, "points around states", learner.updates) for seed in learner.seeds]
            shape = self.samples, 1, *batch["observation"].shape[2:]
            moves = torch.stack([2 * torch.rand(shape, generator=g) - 1 for g in streams])
            noise = torch.stack([torch.randn(size, generator=g) for g in streams])
            penalty = torch.full((len(streams),), self.penalty_after(learner.updates))
            return {k: x.to(learner.device) for k, x in (("moves", moves), ("around", noise), ("penalty", penalty))}

        return draw

    def penalty_after(self, steps: int) -> float:
        """λ after so many gradient steps."""
        return max(self.penalty - steps * self.penalty_decay, self.lowest_penalty)

    def around(self, batch: Batch, radius: float) -> Tensor:
        """Points in the ball around every state of a batch, `[samples·batch, ...]`."""
        return (batch["observation"] + radius * batch["moves"]).flatten(0, 1)

    def actor_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """That of SAC-N, and how far the policy changes in the ball."""
        loss, metrics = super().actor_loss(w, batch)
        if not self.policy_smoothing:
            return loss, metrics
        params, around = w("actor", batch["observation"]), w("actor", self.around(batch, self.policy_radius))
        change = apart(w.module("actor").distribution, params, around.view(self.samples, *params.shape)).mean()
        return loss + self.policy_smoothing * change, {**metrics, "policy_change": change.detach()}

    def critic_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """That of SAC-N, the asymmetric change of values in the ball, and the cost of disagreement there."""
        loss, metrics = super().critic_loss(w, batch)
        if self.value_smoothing:
            action = batch["action"]
            values = w("critic", batch["observation"], action)
            around = w("critic", self.around(batch, self.value_radius), action.repeat(self.samples, 1))
            change = rough(values, around.view(self.critics, self.samples, -1), self.asymmetry).mean()
            loss, metrics = loss + self.value_smoothing / 2 * change, {**metrics, "value_change": change.detach()}
        if self.ood_weight:
            states = self.around(batch, self.ood_radius)
            action, _ = self.act(w, states, batch["around"])
            values = w("critic", states, action.detach())
            loss = loss + self.ood_weight / 2 * disputed(values, batch["penalty"])
            metrics = {**metrics, "disagreement": values.std(0).mean().detach(), "penalty": batch["penalty"]}
        return loss, metrics

    def objective(self) -> str:
        critic, actor, *rest = super().objective().split("\n")
        if self.policy_smoothing:
            actor += f"  +  {self.policy_smoothing:g}·mean max_j J(s, s_j),  |s_j − s| ≤ {self.policy_radius:g}"
        if self.value_smoothing:
            weights = f"{1 - self.asymmetry:g}·max(Δ, 0)² + {self.asymmetry:g}·min(Δ, 0)²"
            where = f"Δ = Q(s_j, a) − Q(s, a),  |s_j − s| ≤ {self.value_radius:g}"
            critic += f"\n  + {self.value_smoothing / 2:g}·mean max_j mean_k ({weights}),  {where}"
        if self.ood_weight:
            where = f"at s_j and a_j ~ π(·|s_j),  |s_j − s| ≤ {self.ood_radius:g}"
            critic += f"\n  + {self.ood_weight / 2:g}·mean (sg[Q_k − λ·std_k Q_k] − Q_k)²,  {where}"
        return "\n".join([critic, actor, *rest])

    def steps(self) -> list[str]:
        ball = f"draw {self.samples} directions in the unit box, the same for all states: s_j = s + ε·direction"
        fall = f"λ = max({self.penalty:g} − {self.penalty_decay:g}·step, {self.lowest_penalty:g})"
        return [ball, *super().steps(), *([fall] if self.ood_weight else [])]


METHOD = RORL
