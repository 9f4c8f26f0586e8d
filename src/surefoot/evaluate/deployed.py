"""Agents of several members where they are deployed: the rule that chooses among them learns from the returns.

A deployment is a sequence of episodes under one perturbation. Its episodes are played one after another, in their
order, and every perturbation begins a new one, so that what is measured does not depend on what was measured before,
nor on how many episodes are played side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from surefoot.models.choosing import Memory
from surefoot.models.ensemble import Ensemble, Playing
from surefoot.models.networks import Observation
from surefoot.seeding import numpy_stream


class Deployment:
    """An ensemble as a policy for a batch of slots, each of which is a deployment of its own."""

    def __init__(self, ensemble: Ensemble, slots: int) -> None:
        self.ensemble, self.member = ensemble, np.zeros(slots, int)
        self.observation_space, self.action_space = ensemble.observation_space, ensemble.action_space
        self.deviations = ensemble.deviations
        self._memory: list[Memory] = [self._start()] * slots

    def _start(self) -> Memory:
        return self.ensemble.rule.start(len(self.ensemble.members))

    def begin(self, slot: int, seed: int, fresh: bool) -> None:
        """Choose who plays a slot's next episode, by the random numbers of its seed; `fresh` begins a deployment."""
        if fresh:
            self._memory[slot] = self._start()
        chances = self.ensemble.rule.chances(self._memory[slot])
        self.member[slot] = numpy_stream(seed, "member").choice(len(chances), p=chances)

    def end(self, slot: int, outcome: float) -> None:
        """The return of the slot's episode."""
        self._memory[slot] = self.ensemble.rule.told(self._memory[slot], int(self.member[slot]), outcome)

    def chances(self, slot: int) -> np.ndarray:
        """The probability of every member for the slot's next episode."""
        return self.ensemble.rule.chances(self._memory[slot])

    def _playing(self, state: tuple[Any, ...] | None) -> Playing:
        return Playing(self.member.copy(), (None,) * len(self.ensemble.members) if state is None else state)

    def predict(
        self,
        observation: Any,
        state: tuple[Any, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[Any, ...]]:
        """The actions of the members that play; the state is that of all members."""
        actions, after = self.ensemble.act(self._playing(state), observation, episode_start, deterministic)
        return actions, after.states

    def respond(self, observation: Observation, state: Any = None, starts: Any = None) -> tuple[Any, Tensor]:
        """For attacks, as the members that play."""
        return self.ensemble.respond(observation, self._here(observation, state), starts)

    def criticise(self, observation: Observation, seen: Observation, state: Any, starts: Any) -> Tensor:
        """For attacks, as the members that play."""
        return self.ensemble.criticise(observation, seen, self._here(observation, state), starts)

    def _here(self, observation: Observation, state: Any) -> Playing | None:
        """Who plays; nobody in particular on a batch that is not that of the slots, with which an attack is tried."""
        rows = len(next(iter(observation.values())) if isinstance(observation, dict) else observation)
        return self._playing(state) if rows == len(self.member) else None


def sequences(policy: Any, perturbations: Sequence[Any], slots: int) -> list[list[int]]:
    """Which episodes each slot plays in turn: for an ensemble whole deployments, for any other policy every
    `slots`-th."""
    total = len(perturbations)
    if not isinstance(policy, Ensemble):
        return [list(range(slot, total, slots)) for slot in range(min(slots, total))]
    starts = boundaries(policy, perturbations)
    runs = [list(range(a, b)) for a, b in zip(starts, starts[1:])]
    return [[j for run in runs[slot::slots] for j in run] for slot in range(min(slots, len(runs)))]


def boundaries(policy: Any, perturbations: Sequence[Any]) -> list[int]:
    """Where a sequence of episodes may be cut, ends included: between deployments, or for any other policy anywhere."""
    total = len(perturbations)
    if not isinstance(policy, Ensemble):
        return list(range(total + 1))
    return [j for j in range(total) if j == 0 or perturbations[j] != perturbations[j - 1]] + [total]
