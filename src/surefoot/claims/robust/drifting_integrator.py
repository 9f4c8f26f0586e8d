"""A double integrator under forces that drift: the world of GRAD's miniature, its arms, and attackers that are trained anew."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from surefoot.loops.common.run import make_learner
from surefoot.loops.population.learner import PopulationLearner
from surefoot.methods.robust.grad import GRAD
from surefoot.solvers.matrix_game import equilibrium


class DoubleIntegrator(gym.Env):
    """A mass on a line: x' = x + v/10, v' = v + u/10, reward −(x² + v²/10 + u²/100) after the step, 100 steps from near 0."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.x, self.v = 0, *self.np_random.uniform(-1.0, 1.0, 2).tolist()
        return np.array([self.x, self.v], np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        force = float(action[0])
        self.x, self.v = self.x + self.v / 10, self.v + force / 10
        self.time += 1
        reward = -(self.x**2 + self.v**2 / 10 + force**2 / 100)
        return np.array([self.x, self.v], np.float32), reward, False, self.time == 100, {}


@dataclass(frozen=True)
class LatestOpponent(GRAD):
    """The same game between the latest players only, in turns of one iteration: no populations, no mixtures."""

    def advance(self, game: PopulationLearner) -> list[dict[str, float]]:
        if game.iteration < self.response:
            return game.learn("agent")
        if (game.iteration - self.response) % 2 == 0:
            return game.learn("agent", game.adversary.vector.detach().unsqueeze(1))
        return game.learn("adversary", game.protagonist.vector.detach().unsqueeze(1))


SIZES: dict[str, Any] = {
    "num_envs": 8,
    "num_steps": 200,
    "minibatch_size": 160,
    "payoff_episodes": 16,
    "hidden": (32, 32),
}
ARMS: dict[str, GRAD] = {
    "GRAD": GRAD(channel="action", budget=0.5, rate=0.2, response_steps=16_000, **SIZES),
    "latest": LatestOpponent(channel="action", budget=0.5, rate=0.2, response_steps=16_000, **SIZES),
    "PPO": GRAD(channel="action", budget=0.5, rate=0.2, response_steps=10**9, **SIZES),  # never meets an adversary
}
ATTACKERS = {"coupled": 0.2, "slow": 0.1, "free": 2.0}  # share of the budget by which a perturbation changes in a step


def scores(arm: str, seed: int, steps: int = 176_000, attack_steps: int = 32_000) -> dict[str, float]:
    """The return of a trained agent without an attack, and against a freshly trained attacker of every kind."""
    learner: PopulationLearner = make_learner(ARMS[arm], DoubleIntegrator, [seed], steps)
    try:
        while learner.steps < steps:
            learner.iterate()
        mixed = arm == "GRAD" and learner.agents.shape[1] > 0
        agents = learner.agents if mixed else learner.protagonist.vector.detach().unsqueeze(1)
        weights = equilibrium(learner.payoffs[0].numpy()).row if mixed else np.ones(1)
        idle = torch.zeros_like(learner.adversary.vector)
        found = {"none": _mean(learner, agents, weights, idle)}
        for kind, rate in ATTACKERS.items():
            fresh: PopulationLearner = make_learner(
                replace(ARMS["GRAD"], rate=rate), DoubleIntegrator, [seed], attack_steps
            )
            try:
                fresh.protagonist.load(learner.protagonist.state(), learner.iteration, 0)
                while fresh.steps < attack_steps:
                    fresh.learn("adversary", agents, weights[None])
                found[kind] = _mean(fresh, agents, weights, fresh.adversary.vector.detach())
            finally:
                fresh.close()
        return found
    finally:
        learner.close()


def _mean(learner: PopulationLearner, agents: torch.Tensor, weights: np.ndarray, adversary: torch.Tensor) -> float:
    """The mean return of a mixture of agents `[1, members, weights]` against one adversary `[1, weights]`."""
    each = [float(learner.returns(agents[:, k], adversary)) for k in range(agents.shape[1])]
    return float(np.dot(weights, each))
