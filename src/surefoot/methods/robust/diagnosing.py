"""RA-NLD: along which directions of the observation is a value network unstable, and are they the same everywhere?

For anybody with a trained network who wants to know whether its decisions hang on the same few directions in all states
("non-robust features"), and whether an attack, a shift or robust training moves them. With π = softmax Q and a* the
greedy action, held fixed,

    g(s) = ∇_{s'} −log π(a*|s') at s' = s      L(S) = Σ_{s ∈ S} g(s) g(s)ᵀ      G_S = first eigenvector of L(S)

and Λ(S', S), in [0, 1], is how far the direction of S explains the gradients of S'. Its formula is not in the sources
that were found, so there are two candidates, always side by side, each with gradients as they are and of length 1:

    explained share  Gᵀ L(S') G / tr L(S')        Rayleigh  Gᵀ L(S') G / λ_max(L(S'))

The first is the second times the concentration λ₁/Σλ of S'. A low Λ says different, not better.

`surefoot diagnose RUN` does this for any trained agent, states being those of its own episodes, plain and perturbed.
The method trains DQN, double, duelling and with priorities as in the paper, to the bit as DQN does, and logs the
diagnostic of the states in its replay buffer on the way: Λ is that between two halves of them.

Reference: Korkmaz, "Understanding and Diagnosing Deep Reinforcement Learning", ICML 2024 (arXiv:2406.16979).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.networks.nets import Net
from surefoot.loops.off_policy.method import RECURRENCE
from surefoot.methods.control.dqn import DQN
from surefoot.models.directions import decision_gradients, explained_share, principal, rayleigh
from surefoot.seeding import numpy_stream

if TYPE_CHECKING:
    from surefoot.loops.off_policy.learner import Learner


@dataclass(frozen=True)
class Diagnosing(DQN):
    """DQN that logs the directions along which it is unstable."""

    without_effect: ClassVar[tuple[str, ...]] = (*DQN.without_effect, *RECURRENCE)

    double: bool = hyperparameter(True, help="Choose the next action by the network, value it by the target.")
    dueling: bool = hyperparameter(True, help="State value and advantages apart.")
    prioritized: bool = hyperparameter(True, help="Sample transitions by their last TD error (prioritised replay).")
    diagnose_every: int = hyperparameter(10, low=1, help="Number of iterations between diagnostics.")
    diagnose_states: int = hyperparameter(512, low=4, high=2**14, help="States of the buffer in a diagnostic.")

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        if not isinstance(observation_space, gym.spaces.Box):
            raise UsageError(f"Diagnosing takes gradients in observations that are arrays, not {observation_space}.")
        return super().networks(observation_space, action_space)

    def after_iteration(self, learner: Learner) -> dict[str, Tensor]:
        if learner.iteration % self.diagnose_every or learner.steps < self.learning_starts:
            return {}
        rows = [self.diagnostic(learner, index) for index in range(learner.num_seeds)]
        return {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}

    def diagnostic(self, learner: Learner, index: int) -> dict[str, float]:
        """The diagnostic of one seed."""
        stream = numpy_stream(learner.seeds[index], "diagnostic", learner.iteration)
        places = learner.replay.sample(index, self.diagnose_states, stream)
        states = torch.as_tensor(learner.replay.take(places, self.gamma)["observation"]).float()
        agent = learner.agent(index)
        rows = decision_gradients(agent.outputs, states)[:, 0].double()
        first, second = rows.chunk(2)
        norms, direction = rows.norm(dim=-1), principal(first).direction
        return {
            "concentration": principal(rows).concentration,
            "explained_share": explained_share(direction, second),
            "rayleigh": rayleigh(direction, second),
            "gradient": float(norms.mean()),
            "gradient_variation": float(norms.std() / norms.mean()) if float(norms.mean()) > 0 else 0.0,
        }

    def steps(self) -> list[str]:
        return [
            *super().steps(),
            f"every {self.diagnose_every} iterations, on {self.diagnose_states} states of the buffer: gradients g(s),",
            "    the concentration λ₁/Σλ of L, both forms of Λ between two halves, mean and variation of ‖g‖",
        ]


METHOD = Diagnosing
