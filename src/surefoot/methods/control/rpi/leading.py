"""Who acts in which environment: the learner in its own, and in the exploring ones the learner first, then a policy
that is selected in the state where it takes over (roll-in, roll-out)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surefoot.loops.on_policy.learner import Act
from surefoot.seeding import numpy_stream

if TYPE_CHECKING:
    from surefoot.loops.on_policy.guided import GuidedLearner

NAMES = ("clock", "switch", "into", "who")
ROLLING_IN = -1
Select = Callable[[int, NDArray[np.float32], NDArray[np.float64]], NDArray[np.int64]]
"""From the number of a seed, observations and numbers in [0, 1) to who goes on."""


def begun(envs: int) -> dict[str, Tensor]:
    """Nobody has taken over."""
    return {name: torch.full((envs,), ROLLING_IN if name == "who" else 0, dtype=torch.int64) for name in NAMES}


class Lead:
    """Acts for some steps, and keeps in `record [steps, seeds, envs]` whose roll-out each step belongs to: the number
    of an oracle, K for the learner, −1 for a roll-in.

    `exploring` are the environments with roll-ins, of fewer than `horizon` steps; `pretraining` lets random oracles
    roll in and take over, in place of the learner and of `select`.
    """

    def __init__(
        self,
        learner: GuidedLearner,
        act: Act,
        steps: int,
        exploring: NDArray[np.bool_],
        horizon: int,
        select: Select,
        pretraining: bool,
    ) -> None:
        self.act, self.oracles, self.select = act, learner.oracles, select
        self.exploring, self.horizon, self.pretraining = exploring & bool(learner.oracles), horizon, pretraining
        self.state = {name: learner.extra[name].cpu().numpy().copy() for name in NAMES}
        self.shape = self.state["who"].shape  # [seeds, envs]
        streams = [numpy_stream(seed, "roll-ins", learner.collector.logged) for seed in learner.seeds]
        self.draws = np.stack([g.random((steps, self.shape[1], 3)) for g in streams], 1)
        self.record = np.full((steps, *self.shape), len(self.oracles))

    def __call__(
        self, t: int, observation: NDArray[np.float32], starts: NDArray[np.bool_]
    ) -> tuple[np.ndarray, np.ndarray]:
        action, executed = self.act(t, observation, starts)
        if not self.exploring.any():
            return action, executed
        clock, switch, into, who = (self.state[name] for name in NAMES)
        draws, count = self.draws[t], len(self.oracles)
        begins = starts.reshape(self.shape)
        clock[begins], who[begins] = 0, ROLLING_IN
        switch[begins] = (draws[..., 0] * self.horizon).astype(int)[begins]
        into[begins] = (draws[..., 1] * count).astype(int)[begins]
        due = self.exploring & (who == ROLLING_IN) & (clock >= switch)
        seen = observation.reshape(*self.shape, -1)
        for seed in np.flatnonzero(due.any(1)):
            chance = draws[seed, due[seed], 2]
            random = (chance * count).astype(int)
            who[seed, due[seed]] = random if self.pretraining else self.select(int(seed), seen[seed, due[seed]], chance)
        clock += 1
        first = into if self.pretraining else count
        acts = np.where(self.exploring, np.where(who == ROLLING_IN, first, who), count).reshape(-1)
        executed = executed.copy()
        for number, oracle in enumerate(self.oracles):
            if (rows := acts == number).any():
                executed[rows] = oracle(observation[rows])
        self.record[t] = np.where(self.exploring, who, count)
        return action, executed

    def store(self, learner: GuidedLearner) -> None:
        """Put who acts where into the learner's state, for the next steps."""
        learner.extra |= {name: torch.from_numpy(x.copy()).to(learner.device) for name, x in self.state.items()}
