"""GRAD: agents and adversaries whose perturbations are coupled in time, found as best responses to each other's
mixtures.

For disturbances that are limited in size and in how fast they change: wind, drift, wear. One adversary trained beside
the agent is forgotten as soon as the agent has moved on; here every adversary stays, and so does every agent.

    max over mixtures σ_a, min over σ_v of  σ_aᵀ U σ_v        U[i, j]: mean return of agent i against adversary j
    p_t = clip(p_{t−1} + rate·ε·u_t, ±ε),   u_t = adversary(s_t, p_{t−1})  in [−1, 1]^n,   p = 0 before an episode

The agent that is trained is deployed as a mixture: it draws one of its members for every episode. Reported is the
exploitability of the mixtures as the new best responses see it, which is less than the true one.

Yongyuan Liang, Yanchao Sun, Ruijie Zheng, Xiangyu Liu, Benjamin Eysenbach, Tuomas Sandholm, Furong Huang & Stephen
McAleer, *Game-Theoretic Robust Reinforcement Learning Handles Temporally-Coupled Perturbations* (2024),
arXiv:2307.12062.

Differences: no code was found, so what the text leaves open is ours: best responses start from the last ones; members
of a population take their most likely actions; an adversary starts an episode without a perturbation, where the
definition leaves the first one free; budgets are in units of the first agent's normaliser, which is frozen then.
`channel="action"` perturbs actions; both at once and parameters of the simulator are not built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.population.method import Population
from surefoot.loops.population.seats import Threat
from surefoot.methods.control.ppo import PPO
from surefoot.models.choosing import Mixture
from surefoot.models.ensemble import Ensemble
from surefoot.solvers.matrix_game import equilibrium

if TYPE_CHECKING:
    from surefoot.loops.population.learner import PopulationLearner


@dataclass(frozen=True)
class GRAD(Population, PPO):
    """Double oracle over agents and adversaries, with PPO as the oracle of both."""

    rate: float = hyperparameter(
        0.2, low=0, help="Largest change of a perturbation from one step to the next, as a share of ε; 2 is no limit."
    )

    def threat(self) -> Threat:
        return Threat(self.channel, self.budget, self.rate)

    def advance(self, game: PopulationLearner) -> list[dict[str, float]]:
        """Without an adversary at first; then in turns a best response of the agent and one of the adversary, both to
        the mixtures that are optimal among the members so far."""
        stage, place = divmod(game.iteration, self.response)
        last = place == self.response - 1
        if stage == 0:
            rows = game.learn("agent")
            if last:
                game.join(idle=True)
            return rows
        found = [equilibrium(payoffs) for payoffs in game.payoffs.numpy()]
        row, column = np.array([one.row for one in found]), np.array([one.column for one in found])
        if stage % 2:
            if place == 0:
                game.protagonist.start_anew()
            rows = game.learn("agent", game.adversaries, column)
        else:
            if place == 0:
                game.adversary.start_anew()
            rows = game.learn("adversary", game.agents, row)
            if last:
                game.join()
                gaps = [
                    u[-1, :-1] @ y - x @ u[:-1, -1] for u, x, y in zip(game.payoffs.numpy(), row, column, strict=True)
                ]
                rows = [one | {"exploitability": float(gap)} for one, gap in zip(rows, gaps, strict=True)]
        members = float(game.agents.shape[1])
        return [one | {"game_value": g.value, "members": members} for one, g in zip(rows, found, strict=True)]

    def deployed(self, game: PopulationLearner, index: int, facts: dict[str, Any]) -> Ensemble:
        """The agent's optimal mixture, without members that it never plays."""
        weights = equilibrium(game.payoffs[index].numpy()).row
        played = np.flatnonzero(weights > 1e-6)
        members = [game.protagonist.agent_of(game.agents[index, k], index, facts) for k in played]
        return Ensemble(members, Mixture(tuple((weights[played] / weights[played].sum()).tolist())), facts)

    def algorithm(self) -> list[str]:
        unit = (
            "standard deviations of the observation" if self.channel == "observation" else "half-ranges of the action"
        )
        one = (
            f"{self.response} iterations of PPO ({self.num_envs} envs × {self.num_steps} steps of fresh episodes each)"
        )
        return [
            f"without an adversary, the first agent: {one}; its normaliser of observations is then frozen",
            f"the adversary moves a perturbation of every {self.channel}, at most {self.budget:g} {unit} large, by at "
            f"most {self.rate:g} of that a step; it sees the state and the perturbation. The first one does nothing",
            "(σ_a, σ_v), value: linear program of the game between all agents and all adversaries so far",
            f"a new agent, from the last: {one}, in every episode against an adversary drawn from σ_v",
            "a new adversary, from the last: as many iterations on −r, in every episode against an agent drawn from "
            "σ_a",
            f"both join; the payoffs of the new pairs: mean return of {self.payoff_episodes} episodes with common "
            "seeds",
            "back to the linear program; deployed is σ_a, one member an episode",
            "each iteration of PPO:",
            *(f"    {line}" for line in PPO.steps(self)),
        ]


METHOD = GRAD
