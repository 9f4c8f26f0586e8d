"""PROTECTED: a few policies found before deployment, none of which another replaces, and a bandit that chooses among
them.

For an attacker of unknown strength that may also change: the most robust policy pays for attacks that do not come.
Where returns come in episode by episode, the choice can wait until then.

    gap(Π̃) = max_{π, ν} [ J(π, ν) − max_{π' in Π̃} J(π', ν) ]          J(π, ν): return of π under the attack ν
    discovery: π and ν together ascend J(π, ν) − max_{π' in Π̃} J(π', ν), which is no game between them; π joins Π̃
    deployment: EXP3 draws a member for every episode.   regret in T episodes ≤ T·gap(Π̃) + O(√(T·K·ln K))

Xiangyu Liu, Chenghao Deng, Yanchao Sun, Yongyuan Liang & Furong Huang, *Beyond Worst-case Attacks: Robust RL with
Adaptive Defense via Non-dominated Policies* (2024), arXiv:2402.12673; settings of the authors' code.

Differences: adversaries add their action to the observation (SA-RL), in place of naming a direction of the action
(PA-AD); the first policy is trained here against an adversary of its own, without the code's smoothness regulariser,
which later members lack too; the adversary's two rollouts are the halves of one; the range of returns for the bandit is
that which was measured, in place of 6000.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.on_policy.method import OnPolicy
from surefoot.loops.population.method import Population
from surefoot.loops.population.seats import Threat
from surefoot.methods.control.ppo import PPO
from surefoot.methods.robust.protected.adversary import GapAscent
from surefoot.models.choosing import Bandit
from surefoot.models.ensemble import Ensemble

if TYPE_CHECKING:
    from surefoot.loops.population.learner import PopulationLearner


@dataclass(frozen=True)
class Protected(Population, PPO):
    """Iterative discovery with PPO, and EXP3."""

    default_steps = 5_000_000
    refresh: int = hyperparameter(10, low=1, help="Iterations after which the best member is measured again.")
    rounds: int = hyperparameter(1000, low=1, help="Episodes of a deployment, for which the bandit is tuned.")
    bandit_rate: float = hyperparameter(5.0, above=0, help="Multiplier of the bandit's learning rate.")

    def threat(self) -> Threat:
        return Threat(self.channel, self.budget, 2.0, labelled=True)

    def adversary(self) -> OnPolicy:
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(PPO)}
        own |= {"learning_rate": self.adversary_learning_rate, "standardize_over": "batch", "shared": False}
        return GapAscent(**{**own, "normalize_observations": False, "squash": False})

    def advance(self, game: PopulationLearner) -> list[dict[str, float]]:
        """Without an adversary at first, then against one that lowers the return; then one discovery after another."""
        stage, place = divmod(game.iteration, self.response)
        if stage == 0:
            return game.learn("agent")
        if stage > 1 and place == 0:
            game.protagonist.start_anew()
            game.adversary.start_anew(stage)
        if stage > 1 and place % self.refresh == 0:
            theirs = game.adversary.vector.detach().cpu()
            lead = torch.stack([game.returns(game.agents[:, k], theirs) for k in range(game.agents.shape[1])])
            game.best = lead.argmax(0)
        rows = game.learn("agent", game.adversary.vector.detach().unsqueeze(1))
        new = game.protagonist.vector.detach().cpu()
        old = new if stage == 1 else game.agents[torch.arange(game.num_seeds), game.best]
        new_share = 0 if stage == 1 else self.num_envs // 2  # environments in which the adversary plays the new agent
        turns = np.eye(2)[(np.arange(self.num_envs) >= new_share).astype(int)]
        chances = np.broadcast_to(turns, (game.num_seeds, *turns.shape))
        theirs = game.learn("adversary", torch.stack([new, old], 1), chances)
        found = [other | one for one, other in zip(rows, theirs, strict=True)]
        if place < self.response - 1:
            return found
        if stage == 1:
            game.join(idle=True)
            return found
        game.join()
        gaps = game.payoffs[:, -1, -1] - game.payoffs[:, :-1, -1].amax(1)
        return [
            one | {"gap": g, "members": float(game.agents.shape[1])}
            for one, g in zip(found, gaps.tolist(), strict=True)
        ]

    def deployed(self, game: PopulationLearner, index: int, facts: dict[str, Any]) -> Ensemble:
        """All members, and the bandit for the returns that were measured."""
        low, high = float(game.payoffs[index].min()), float(game.payoffs[index].max())
        members = [game.protagonist.agent_of(vector, index, facts) for vector in game.agents[index]]
        rule = Bandit(low, high if high > low else low + 1.0, self.rounds, self.bandit_rate)
        return Ensemble(members, rule, facts)

    def algorithm(self) -> list[str]:
        rollout = f"{self.num_envs} envs × {self.num_steps} steps of fresh episodes"
        unit = (
            "standard deviations of the observation" if self.channel == "observation" else "half-ranges of the action"
        )
        return [
            f"without an adversary: {self.response} iterations of PPO ({rollout} each); the normaliser is then frozen",
            f"as many against an adversary ν of every {self.channel}, within {self.budget:g} {unit}, that learns "
            "beside the agent to lower its return: the first member",
            f"discovery, {self.response} iterations: π starts as the last member, ν and its two critics afresh",
            f"    π: PPO on J(π, ν), {rollout}",
            f"    b: the member that does best against ν, measured every {self.refresh} iterations "
            f"({self.payoff_episodes} episodes each)",
            "    ν: PPO on J(π, ν) − J(π^b, ν), half of its environments with π and half with π^b, a critic for each",
            "π joins the members; the returns of all members against all adversaries are measured; back to discovery",
            f"deployed: EXP3 over the members, η = {self.bandit_rate:g}·√(ln K/(K·{self.rounds})), returns scaled by "
            "the range that was measured",
            "each step of PPO:",
            *(f"    {line}" for line in PPO.steps(self)),
        ]


METHOD = Protected
