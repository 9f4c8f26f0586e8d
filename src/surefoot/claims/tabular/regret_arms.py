"""Learners that the claim of BoBW-PO compares with: one made for the worst case, and one that takes losses to be random,
and an adversary of the latter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.training import metric_of, train_rows
from surefoot.envs.tabular import TabularMDP
from surefoot.envs.tabular.adversarial import AdversarialMDP, adversarial
from surefoot.loops.tabular.episodes import episodic
from surefoot.loops.tabular.method import Metrics, State, Tabular
from surefoot.methods.tabular.best_of_both_worlds import BestOfBothWorlds
from surefoot.methods.tabular.best_of_both_worlds.ftrl import Regularizer, entropic

POINTS = 60


@dataclass(frozen=True)
class FixedRate(Regularizer):
    """Exponential weights at one rate η; the cost of an episode is the term η·A·H²/(2q) of its regret."""

    horizon: int = 1

    def policy(self, losses: Tensor, rate: Tensor) -> Tensor:
        return entropic(losses, rate[..., None])

    def cost(self, growth: Tensor, policy: Tensor, visits: Tensor, episode: int) -> Tensor:
        return policy.shape[-1] * self.horizon**2 / (2 * self.offset * visits)


@dataclass(frozen=True)
class WorstCase(BestOfBothWorlds):
    """Policy optimisation for the worst case: the same steps with exponential weights at a fixed rate."""

    multiple: float = 1.0
    episodes: int = 1

    def rule(self, mdp: TabularMDP) -> Regularizer:
        horizon = episodic(mdp).horizon
        pairs = horizon * mdp.states * mdp.actions
        eta = self.multiple * 2 * math.sqrt(math.log(mdp.actions) / (horizon**2 * pairs * self.episodes))
        return FixedRate(1 / eta, 0.0, horizon)


@dataclass(frozen=True)
class Optimist(Tabular):
    """Value iteration on the least losses that the past allows, as if they never changed (UCB with a known kernel)."""

    needs: ClassVar[tuple[str, ...]] = ("horizon",)

    def start(self, mdp: TabularMDP, seed: int) -> State:
        zeros = torch.zeros(episodic(mdp).horizon, mdp.states, mdp.actions, dtype=torch.float64)
        return {name: zeros.clone() for name in ("count", "felt", "met")} | {
            "suffered": torch.zeros((), dtype=torch.float64)
        }

    def policy(self, mdp: TabularMDP, state: State) -> Tensor:
        count, chosen = state["count"], []
        width = (torch.log(count.sum() + 1) / (2 * count.clamp(min=1e-9))).sqrt()
        least = (state["felt"] / count.clamp(min=1) - width).clamp(min=0)
        value = torch.zeros(mdp.states, dtype=torch.float64)
        for loss, kernel in zip(least.flip(0), episodic(mdp).kernel.flip(0), strict=True):
            q = loss + kernel @ value
            value = q.amin(-1)
            chosen.append(torch.nn.functional.one_hot(q.argmin(-1), mdp.actions).double())
        return torch.stack(chosen[::-1])

    def step(self, mdp: TabularMDP, state: State, seed: int, iteration: int) -> tuple[State, Metrics]:
        world, policy = episodic(mdp), self.policy(mdp, state)
        losses = world.losses(iteration)
        states, actions, felt = world.play(policy, losses, seed, iteration)
        place = torch.arange(world.horizon), states[0], actions[0]
        after = {
            "count": state["count"].index_put(place, torch.ones_like(felt[0]), accumulate=True),
            "felt": state["felt"].index_put(place, felt[0], accumulate=True),
            "met": state["met"] + losses[0],
            "suffered": state["suffered"] + world.expected(policy, losses[0]),
        }
        return after, {"regret": world.scale * (after["suffered"] - world.best(after["met"]))}


def alternation(depth: int) -> AdversarialMDP:
    """One state a step; the loss is 1 for action 0 in even episodes and for action 1 in odd ones. Whoever always takes
    what has seemed best so far always loses."""
    stages = torch.tensor([[[-1.0, 0.0]], [[0.0, -1.0]]], dtype=torch.float64)
    kernel = torch.ones(1, 2, 1, dtype=torch.float64)
    return adversarial(TabularMDP(kernel, stages.mean(0), 1.0, horizon=depth, name="alternation"), stages)


def regrets(method: Tabular, mdp: TabularMDP, episodes: int, seeds: Sequence[int]) -> np.ndarray:
    """Regret in hindsight after each episode, `[seeds, episodes]`."""
    return metric_of(train_rows(method, mdp, episodes, seeds), "regret")


def thinned(curves: np.ndarray) -> dict[str, Any]:
    """A curve as it is stored: regret at evenly spaced numbers of episodes, the last among them."""
    at = np.linspace(0, curves.shape[1], POINTS + 1, dtype=int)[1:] - 1
    return {"episode": (at + 1).tolist(), "regret": np.round(curves[:, at], 3).tolist()}


def last(found: Any) -> np.ndarray:
    """The final regrets of a stored curve, one a seed."""
    return np.array(found["regret"])[:, -1]
