"""An agent of several members, one of which plays each episode, chosen by a frozen rule (`models.choosing`).

`predict` draws a member for every row that begins an episode, as the rule does before it has seen a return. A
deployment in which the rule learns from the returns is `surefoot.evaluate.deployed.Deployment`; evaluations, stress
tests and audits make one for every perturbation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.files import write_whole
from surefoot.models import choosing
from surefoot.models.agent import Agent
from surefoot.models.networks import Observation
from surefoot.models.saved import read_facts

FORMAT = "surefoot-ensemble-1"
MOST = 1000  # members


class Playing(NamedTuple):
    """The state of an ensemble that acts: who plays each row, and the recurrent state of every member."""

    member: np.ndarray  # [batch]
    states: tuple[Any, ...]  # [members]


class Ensemble:
    """Agents for the same spaces, and the rule that chooses among them."""

    loop: ClassVar[str] = "on-policy"

    def __init__(self, members: Sequence[Agent], rule: choosing.Rule, facts: dict[str, Any] | None = None) -> None:
        if not 1 <= len(members) <= MOST:
            raise UsageError(f"{len(members)} members are not allowed; an agent of several has 1 to {MOST}.")
        first = members[0]
        for other in members[1:]:
            if (other.observation_space, other.action_space) != (first.observation_space, first.action_space):
                raise UsageError("the members of an agent must have the same spaces of observations and actions.")
        self.members, self.rule, self.facts = tuple(members), rule, facts or {}
        self.observation_space, self.action_space = first.observation_space, first.action_space
        self.first = rule.chances(rule.start(len(members)))  # the chances before anything is known

    def predict(
        self,
        observation: Any,
        state: Playing | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Playing]:
        """Actions of the members that play, for a batch of observations, and the new state. Members are drawn with
        torch's global generator; `deterministic` is about their actions."""
        rows = len(next(iter(observation.values())) if isinstance(observation, dict) else observation)
        starts = np.ones(rows, bool) if state is None or episode_start is None else np.asarray(episode_start, bool)
        drawn = torch.multinomial(torch.from_numpy(self.first), rows, replacement=True).numpy()
        states = (None,) * len(self.members) if state is None else state.states
        member = drawn if state is None else np.where(starts, drawn, state.member)
        return self.act(Playing(member, states), observation, episode_start, deterministic)

    def act(
        self, playing: Playing, observation: Any, episode_start: np.ndarray | None, deterministic: bool
    ) -> tuple[np.ndarray, Playing]:
        """Actions of the members in `playing`, and the new state."""
        actions, states = None, list(playing.states)
        for k in np.unique(playing.member):
            own, states[k] = self.members[k].predict(observation, states[k], episode_start, deterministic)
            mine = (playing.member == k).reshape(-1, *[1] * (np.ndim(own) - 1))
            actions = own if actions is None else np.where(mine, own, actions)
        assert actions is not None
        return np.asarray(actions), Playing(playing.member, tuple(states))

    # --- for attacks (surefoot.perturbations.attacks) ----------------------------------------------------------------

    @property
    def deviations(self) -> dict[str, np.ndarray]:
        """The standard deviations by which the first member divides normalised entries: the unit of an attack's
        budget."""
        return self.members[0].deviations

    def respond(
        self, observation: Observation, state: Playing | None = None, episode_start: np.ndarray | None = None
    ) -> tuple[Any, Tensor]:
        """The action distribution of the members that play and its parameters; without a state, of the likeliest."""
        playing = self._playing(observation, state)
        answers = {
            k: self.members[k].respond(observation, playing.states[k], episode_start) for k in np.unique(playing.member)
        }
        return next(iter(answers.values()))[0], _rows(playing.member, {k: x for k, (_, x) in answers.items()})

    def criticise(
        self, observation: Observation, seen: Observation, state: Playing | None, episode_start: np.ndarray | None
    ) -> Tensor:
        """The value `[batch]` by each playing member's own critic; see `Agent.criticise`."""
        playing = self._playing(observation, state)
        answers = {
            k: self.members[k].criticise(observation, seen, playing.states[k], episode_start)
            for k in np.unique(playing.member)
        }
        return _rows(playing.member, answers)

    def _playing(self, observation: Observation, state: Playing | None) -> Playing:
        if state is not None:
            return state
        rows = len(next(iter(observation.values())) if isinstance(observation, dict) else observation)
        return Playing(np.full(rows, int(self.first.argmax())), (None,) * len(self.members))

    # --- files -------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write `agent.json`, and every member into a folder of its own inside."""
        folder = Path(folder)
        for index, member in enumerate(self.members):
            member.save(folder / f"member-{index}")
        description = {
            "format": FORMAT,
            "members": len(self.members),
            "rule": choosing.to_json(self.rule),
            **self.facts,
        }
        write_whole(folder / "agent.json", json.dumps(description, indent=2))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Ensemble:
        """The agent that `save` wrote. Reads tensors and JSON only; no code is run.

        Raises:
            UsageError: the folder holds no such agent, or one that is damaged.
        """
        folder = Path(folder)
        facts = read_facts(folder)
        count = facts.pop("members", None)
        if facts.pop("format", None) != FORMAT or type(count) is not int or not 1 <= count <= MOST:
            raise UsageError(f"{folder}/agent.json is damaged: members={count!r}; save the agent again.")
        rule = choosing.from_json(facts.pop("rule", None))
        return cls([Agent.load(folder / f"member-{index}") for index in range(count)], rule, facts)


def _rows(member: np.ndarray, answers: dict[int, Tensor]) -> Tensor:
    """From the answers `[batch, ...]` of several members, every row's own."""
    found = None
    for k, answer in answers.items():
        mine = torch.from_numpy(member == k).view(-1, *[1] * (answer.dim() - 1))
        found = answer if found is None else torch.where(mine, answer, found)
    assert found is not None
    return found
