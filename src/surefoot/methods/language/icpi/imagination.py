"""A world model and a policy that are nothing but prompts: experience, chosen and shuffled anew for every question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from surefoot.envs.tabular import TabularMDP
from surefoot.methods.language.icpi.predictors import Key, Predictor

STATE, ACTION, REWARD, DONE, NEXT, EPISODE = range(6)  # the columns of experience, a row a step
Steps = NDArray[np.float64]


@dataclass(frozen=True)
class Imagination:
    """Predictions of a sequence model from all steps, and of what to do from those of recent episodes."""

    steps: Steps
    recent: Steps
    predictor: Predictor
    rng: np.random.Generator
    states: int
    actions: int
    tries: int = 3  # prompts for an answer that makes no sense

    def ready(self) -> bool:
        """Whether every action has been taken, some step did not end an episode, and there is a recent episode."""
        tried = set(self.steps[:, ACTION].astype(int).tolist()) if len(self.steps) else set()
        return len(tried) == self.actions and bool((self.steps[:, DONE] == 0).any()) and len(self.recent) > 0

    def done(self, state: int, action: int) -> bool | None:
        """Whether the step ends the episode; from as many steps that did as did not, with this action."""
        same = self.steps[self.steps[:, ACTION] == action]
        found = self._asked(same, DONE, same[:, DONE], (state, action), lambda x: x in (0, 1))
        return None if found is None else bool(found)

    def reward(self, state: int, action: int, done: bool) -> float | None:
        """Its reward; from steps with this action that ended as it does, every reward as often as any other."""
        same = self.steps[(self.steps[:, ACTION] == action) & (self.steps[:, DONE] == done)]
        return self._asked(same, REWARD, same[:, REWARD], (state, action), lambda x: True)

    def following(self, state: int, action: int) -> int | None:
        """The next state; from steps with this action that did not end an episode."""
        same = self.steps[(self.steps[:, ACTION] == action) & (self.steps[:, DONE] == 0)]
        found = self._asked(same, NEXT, np.zeros(len(same)), (state, action), lambda x: 0 <= x < self.states)
        return None if found is None else int(found)

    def action(self, state: int) -> int | None:
        """What was done in such a state lately."""
        labels = np.zeros(len(self.recent))
        found = self._asked(self.recent, ACTION, labels, (state,), lambda x: 0 <= x < self.actions)
        return None if found is None else int(found)

    def value(self, state: int, action: int, gamma: float, longest: int, choose: Callable[[], int]) -> float:
        """The return of an imagined episode that begins with this step, of at most `longest` steps; as far as it was
        imagined, if a prediction fails. `choose` gives an action where none can be predicted."""
        total = 0.0
        for t in range(longest):
            done = self.done(state, action)
            reward = None if done is None else self.reward(state, action, done)
            if done is None or reward is None:
                break
            total += gamma**t * reward
            after = None if done else self.following(state, action)
            if after is None:
                break
            state = after
            action = choose() if (found := self.action(state)) is None else found
        return total

    def _asked(
        self, rows: Steps, column: int, labels: NDArray[np.float64], query: Key, sensible: Callable[[float], bool]
    ) -> float | None:
        """The predictor's answer; asked again with other examples if it makes no sense."""
        for _ in range(self.tries if len(rows) else 0):
            shown = rows[balanced(labels, self.rng)]
            keys = map(tuple, shown[:, : len(query)].tolist())  # the state, or state and action
            found = self.predictor(list(zip(keys, shown[:, column].tolist(), strict=True)), query, self.rng)
            if found is not None and found == found and sensible(found) and (column == REWARD or found == int(found)):
                return found
        return None


def balanced(labels: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """The places of the labels in random order, each label as often as the most frequent; rarer ones are repeated."""
    values, counts = np.unique(labels, return_counts=True)
    places = [np.resize(rng.permutation(np.flatnonzero(labels == value)), counts.max()) for value in values]
    return rng.permutation(np.concatenate(places))


def episodes(steps: np.ndarray) -> int:
    """The number of episodes in the experience."""
    return len(np.unique(steps[:, EPISODE]))


def absorbing(mdp: TabularMDP) -> np.ndarray:
    """Which states are never left and give no reward, `[S]`."""
    stays = torch.diagonal(mdp.dense_rows, dim1=-3, dim2=-1) == 1  # [A, S]
    return (stays.all(0) & (mdp.expected_reward() == 0).all(-1)).cpu().numpy()


def legal(mdp: TabularMDP, state: int) -> np.ndarray:
    """The actions that a state allows."""
    return np.arange(mdp.actions) if mdp.legal is None else mdp.legal[state].cpu().numpy().nonzero()[0]


def best(values: np.ndarray) -> np.ndarray:
    """The actions of the highest value."""
    return np.flatnonzero(values == values.max())
