"""The game of MAHALO (arXiv:2303.17156) between a policy and a reward and critics that agree with the data: losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.hyperparameters import Range, hyperparameter
from surefoot.loops.networks.nets import Batch, Function, Weights
from surefoot.loops.offline.method import Offline
from surefoot.methods.control.sac import SAC
from surefoot.methods.offline.mahalo.rewards import SEEN
from surefoot.models.actors import action_size
from surefoot.objectives.bootstrap import lowest

EDGE = 1 - 1e-6  # actions are cloned as if at most this far from 0, where the tanh has an inverse


def weighed(x: Tensor, y: Tensor, weight: Tensor | float) -> Tensor:
    """`x + weight·y`, scaled so that the larger of their two coefficients is 1."""
    return (x + weight * y) / torch.as_tensor(weight).clamp(min=1)


def shrunk(function: Function, vector: Tensor, limit: float) -> Tensor:
    """The weights with every matrix of Frobenius norm at most `limit`; biases stay."""
    each = []
    for copy in vector.view(function.copies, -1):
        for part in function.flat.unflatten(copy).values():
            norm = torch.linalg.vector_norm(part)
            each.append((part * (limit / norm).clamp(max=1) if part.dim() > 1 else part).reshape(-1))
    return torch.cat(each)


@dataclass(frozen=True)
class Game(Offline, SAC):
    """Losses of policy, critics and reward, and of what they start from. Batches also hold `labelled`, rows with
    rewards, and `limits`, the ranges of rewards and of values."""

    pessimism: str = hyperparameter(
        "relative",
        choices=("relative", "absolute"),
        help="Lower the policy's value against that of the data's actions (ATAC), or by itself (PSPI).",
    )
    bellman_weight: float = hyperparameter(
        10.0, above=0, help="Weight β of the Bellman error against pessimism.", tune=Range(0.1, 100, log=True)
    )
    reward_weight: float = hyperparameter(
        1e5, above=0, high=1e30, help="Weight w of the labels against the Bellman error; at 1e30 a plain regression."
    )
    residual_share: float = hyperparameter(
        0.5, low=0, high=1, help="Share of the Bellman error with the critic's own next value, and its gradient."
    )

    def noise(self, size: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        found = super().noise(size, action_space, generator)
        return found | {"labelled": torch.randn(size, action_size(action_space), generator=generator)}

    def regression(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The squared error of g on rows with rewards."""
        rows = batch["labelled"]
        loss = ((w("reward", *(rows[name] for name in SEEN)) - rows["reward"]) ** 2).mean()
        return loss, {"label_error": loss.detach()}

    def cloning(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """How unlikely the data's actions are, less the entropy's price."""
        raw = torch.atanh(batch["action"].clamp(-EDGE, EDGE))
        apart = -w.module("actor").distribution.log_prob(w("actor", batch["observation"]), raw).mean()
        _, log_prob = self.act(w, batch["observation"], batch["noise"]["now"])
        return weighed(apart, log_prob.mean(), self.price(w, batch)), {"cloning": apart.detach()}

    def bellman(self, w: Weights, batch: Batch, values: Tensor, own: Tensor, reward: Tensor) -> Tensor:
        """The Bellman error of values `[critics, batch]`: a mean over the batch, a sum over critics. A share of it has
        the critics' `own` next values `[critics, batch]`, the rest the lowest of the targets."""
        low, high = batch["limits"][2:]
        following = self.act(w, batch["next_observation"], batch["noise"]["next"])[0].detach()
        target = lowest(w.target("critic", batch["next_observation"], following)).clamp(low, high)
        by_target = (values - reward - batch["discount"] * target) ** 2
        by_own = (values - reward - batch["discount"] * own.clamp(low, high)) ** 2
        return torch.lerp(by_target, by_own, self.residual_share).mean(-1).sum()

    def judged(self, w: Any, batch: Batch, call: Any) -> tuple[Tensor, Tensor]:
        """Values `[critics, batch]` of the data's actions, and of the policy's in the next states."""
        following = self.act(w, batch["next_observation"], batch["noise"]["next"])[0].detach()
        pairs = (batch["observation"], batch["action"]), (batch["next_observation"], following)
        now, after = (call("critic", *pair).reshape(-1, len(batch["reward"])) for pair in pairs)
        return now, after

    def evaluation(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The Bellman error of the critics, with g clipped to the range of rewards and without a gradient in it."""
        values, own = self.judged(w, batch, w)
        reward = w.before("reward", *(batch[name] for name in SEEN)).clamp(*batch["limits"][:2])
        loss = self.bellman(w, batch, values, own, reward)
        return loss, {"bellman_error": loss.detach(), "q": values.mean().detach()}

    def critic_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Pessimism, a mean over the batch and a sum over critics, and the Bellman error."""
        error, metrics = self.evaluation(w, batch)
        lowered = self.lowered(w, batch)
        return weighed(lowered, error, self.bellman_weight), {**metrics, "pessimism": lowered.detach()}

    def lowered(self, w: Weights, batch: Batch) -> Tensor:
        """The value of the policy that critics lower: less that of the data's actions, or in all states by itself."""
        state, size = batch["observation"], len(batch["reward"])
        action = self.act(w, state, batch["noise"]["now"])[0].detach()
        values = w("critic", state, action).reshape(-1, size)
        if self.pessimism == "relative":
            return (values - w("critic", state, batch["action"]).reshape(-1, size)).mean(-1).sum()
        state = batch["labelled"]["observation"]
        others = w("critic", state, self.act(w, state, batch["noise"]["labelled"])[0].detach())
        return (values + others.reshape(-1, size)).mean(-1).sum() / 2

    def reward_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The Bellman error of critics as they were, with g as it is and not clipped, and the error of its labels."""
        fit, metrics = self.regression(w, batch)
        values, own = self.judged(w, batch, w.before)
        reward = w("reward", *(batch[name] for name in SEEN))
        error = self.bellman(w, batch, values, own, reward)
        return weighed(error, fit, self.reward_weight), {**metrics, "reward": reward.mean().detach()}

    def actor_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The value of the actor's action by the first critic, negated, and its entropy's price."""
        action, log_prob = self.act(w, batch["observation"], batch["noise"]["now"])
        value = w.fixed("critic", batch["observation"], action).reshape(-1, len(action))[0].mean()
        loss = weighed(-value, log_prob.mean(), self.price(w, batch))
        return loss, {"actor_loss": loss.detach()}
