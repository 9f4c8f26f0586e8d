"""CFPI: clone the behaviour, judge it, and improve on it in closed form while acting. No actor is trained.

    π_β: maximise  mean log π_β(a|s)        π_β = tanh of Σ_i w_i N(μ_i, Σ_i), Σ_i diagonal
    Z: minimise  quantile Huber loss of Z(s, a) against r + γ·Z⁻(s', a')        a': what the data did next
    act: the u that Q(s, tanh u) likes best of  u_i = μ_i + √κ_i·Σ_i g_i/√(g_iᵀΣ_i g_i)  and  u_J
        g = ∂Q(s, tanh u)/∂u,  Q = mean_k Q_k − β·std_k Q_k,  Q_k the mean of Z_k
        κ_i = 2·max(0, log τ + p_i − max p),  p_i = log w_i − ½ log det(2πΣ_i)

Use it where several policies made the data, and where training an actor is unstable or has to be tuned. Near what was
done Q is nearly linear, so the best action in a region where π_β is dense is known; τ says how much less dense than at
its peak, and is a knob: `agent.acting(log_tau=1.0)`. Each u_i is the best point where one component is dense, u_J where
Σ_i w_i log N_i is, if that is anywhere; both are lower bounds of log π_β. log_tau=0 takes the best of the components'
means, by="samples" the best of 10 drawn actions, and `agent.ruled()` is the clone. With one component the three bounds
are the same. The rule fits any agent that keeps critics: `agent.ruled(ClosedForm())` (`surefoot.models.improved`).

Jiachen Li et al., *Offline Reinforcement Learning with Closed-Form Policy Improvement Operators* (2023),
arXiv:2211.15956. Defaults are the settings of the authors' code for mixtures on MuJoCo tasks; presets are its single
Gaussian, and its radius, which is √2 times the derived one.

Differences: where the data do not say a', at a cut, a row teaches no critic. Several log τ are evenly spaced, not
drawn, and acting takes quantiles at fixed fractions, so that it is deterministic. Critics are without layer
normalisation. The iterative variants, which judge the improved policy in turn, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.data.transitions import Transitions
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.offline.learner import OfflineLearner
from surefoot.loops.offline.method import Offline
from surefoot.models.actors import ActorNetwork
from surefoot.models.distributions import from_box
from surefoot.models.improved import ClosedForm, Improvement
from surefoot.models.mixtures import before_tanh
from surefoot.models.quantiles import QuantileNetwork, fractions
from surefoot.objectives.bootstrap import bootstrapped, implicit_quantile_huber


@dataclass(frozen=True)
class CFPI(Improvement, Offline):
    """A cloned policy that is improved in closed form while it acts, by critics of what the data did."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "released-radius": {"radius_scale": math.sqrt(2)},
        "single": {"components": 1, "log_tau": 2.0, "proposals": 10},
        "antmaze": {"components": 12, "log_tau": 0.0, "trivial": 0.03, "normalize_observations": False},
    }

    hidden: tuple[int, ...] = hyperparameter((256, 256, 256), low=1, high=2**16, help="Sizes of the hidden layers.")
    components: int = hyperparameter(4, low=1, high=1000, help="Gaussians in the cloned mixture.")
    cloning_steps: int = hyperparameter(
        500_000, low=1, high=2**62, help="Gradient steps of cloning; all others judge what was cloned."
    )
    cloning_rate: float = hyperparameter(1e-4, above=0, help="Adam's learning rate in cloning.")
    critics: int = hyperparameter(2, low=1, high=100, help="Number K of critics.")
    quantiles: int = hyperparameter(8, low=1, high=1000, help="Quantiles of each critic.")

    @property
    def acting_rules(self) -> tuple[ClosedForm]:  # type: ignore[override]
        return (ClosedForm(**{f.name: getattr(self, f.name) for f in fields(Improvement)}),)

    def actor_network(self) -> ActorNetwork:
        return ActorNetwork("mixture", self.hidden, self.activation, self.cnn, components=self.components)

    def critic_network(self) -> QuantileNetwork:
        return QuantileNetwork(self.hidden, self.activation, self.cnn, self.quantiles)

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        spaces, first = (observation_space, action_space), {"ends": self.cloning_steps}
        step: dict[str, Any] = {"max_grad_norm": self.max_grad_norm}
        judge = {"copies": self.critics, "kept": self.critic_network(), "target_rate": self.tau}
        judge |= {"starts": self.cloning_steps, "learning_rate": self.learning_rate}
        return {
            "actor": Net(self.make_actor(*spaces), self.actor_loss, self.cloning_rate, **first, **step),
            "critic": Net(self.make_critic(*spaces), self.critic_loss, **judge, **step),
        }

    def columns(self, data: Transitions) -> dict[str, Any]:
        following = np.append(data.follows & ~data.ended[:-1], False)
        known = data.terminated | following
        if not known.any():
            raise UsageError(
                f"{data.name} says nowhere what was done next: every row is the last of an episode that was cut. cfpi "
                "judges what the data did, and needs episodes of at least two steps, or ones that end."
            )
        action = np.roll(data.action, -1, 0)
        return {"next_action": action, "known": known.astype(np.float32)}

    def beforehand(self, learner: OfflineLearner) -> None:
        if learner.total_steps <= self.cloning_steps:
            raise UsageError(
                f"steps={learner.total_steps} leaves none for the critics: the first {self.cloning_steps:,} clone. "
                f"Give more steps, or fewer of these, such as cloning_steps={max(1, learner.total_steps // 2)}."
            )

    def noise(self, size: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        return {k: torch.rand(size, self.quantiles, generator=generator) for k in ("fractions", "next fractions")}

    def actor_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """−log π_β of the data's action."""
        params, own = w("actor", batch["observation"]), w.module("actor").distribution
        loss = -own.log_prob(params, before_tanh(batch["action"])).mean()
        return loss, {"actor_loss": loss.detach()}

    def critic_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The quantile loss of every critic against its own target, where the data say what was done next."""
        own, noise, known = w.module("actor").distribution, batch["noise"], batch["known"]
        at, _ = fractions(noise["fractions"])
        following, shares = fractions(noise["next fractions"])
        action = from_box(batch["next_action"].flatten(1), own.low, own.high)
        later = w.target("critic", batch["next_observation"], action, following).view(-1, *following.shape)
        target = bootstrapped(batch["reward"], batch["discount"], later.movedim(-1, 0)).movedim(0, -1)
        values = w("critic", batch["observation"], batch["action"], at).view(-1, *at.shape)
        each = implicit_quantile_huber(values, at.expand_as(values), target, shares.expand_as(target))
        loss = ((known * each).sum(-1) / known.sum().clamp(min=1)).sum()
        return loss, {"critic_loss": loss.detach() / self.critics, "q": values.mean().detach()}

    def objective(self) -> str:
        clone = f"actor: −mean log π_β(a|s), {self.components} component{'s'[: self.components > 1]}"
        judged = f"mean_k Q_k − {self.pessimism:g}·std_k Q_k"
        ends = f" … {self.proposals} values … ".join(f"{x:g}" for x in self.log_taus()[:: max(1, self.proposals - 1)])
        act = {"samples": f"{self.samples} draws of π_β", "jensen": "u_J", "components": "all u_i"}
        chosen = act.get(self.by, "all u_i and u_J")
        log_tau = "" if self.by == "samples" else f", log τ = {ends}"
        stretched = "" if self.radius_scale == 1 else f", {self.radius_scale:g}√κ_i"
        return "\n".join(
            [
                clone,
                f"critic: mean quantile Huber(r + γ·Z⁻(s', a') − Z(s, a)), {self.critics} critics",
                f"act: the best by {judged} of {chosen}{log_tau}{stretched}",
            ]
        )

    def steps(self) -> list[str]:
        return [
            f"in the first {self.cloning_steps:,} steps, actor: one step of Adam({self.cloning_rate:g})",
            f"after them, critics: one step of Adam({self.learning_rate:g}), {self.quantiles} random fractions each; "
            f"their targets move by {self.tau:g} of the way towards them",
        ]


METHOD = CFPI
