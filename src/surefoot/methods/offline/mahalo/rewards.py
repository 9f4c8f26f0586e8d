"""The rewards of MAHALO (arXiv:2303.17156): which rows have labels, and the network that explains them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from surefoot.data.transitions import COLUMNS, Transitions, joined
from surefoot.errors import UsageError
from surefoot.models.actors import layers
from surefoot.models.networks import Encoder, Observation
from surefoot.seeding import numpy_stream

SEEN = ("observation", "next_observation", "terminated")  # what a reward is made of
SCENARIOS = {  # whether rewards come with other data, whether they count as 1, and whether those actions are used too
    "rl-sample": (False, False, False),
    "rlfo": (True, False, False),
    "rl-expert": (True, False, True),
    "ilfo": (True, True, False),
    "il": (True, True, True),
}


class TransitionReward(nn.Module):
    """The reward g(s, s', end) of a transition, whatever was done."""

    def __init__(self, space: gym.Space, hidden: Sequence[int], activation: str, cnn: str) -> None:
        super().__init__()
        self.encoder = Encoder(space, (), activation, cnn)
        self.layers = layers(2 * self.encoder.features + 1, hidden, activation, 1)

    def forward(self, observation: Observation, following: Observation, terminated: Tensor) -> Tensor:
        """Rewards `[batch]` of transitions; `terminated` is 1 where the task ended, else 0."""
        seen = [self.encoder(x, terminated.dtype) for x in (observation, following)]
        return self.layers(torch.cat([*seen, terminated.unsqueeze(-1)], -1)).squeeze(-1)


def without_terminals(data: Transitions) -> Transitions:
    """The data without the last row of every episode that terminated; what is left of it counts as cut.

    Raises:
        UsageError: nothing is left.
    """
    kept = ~data.terminated
    if not kept.any():
        raise UsageError(
            f"{data.name}: every episode is one step that terminates, and remove_terminals=True drops those. Give "
            "remove_terminals=False."
        )
    cut = data.truncated.copy()
    cut[:-1] |= data.terminated[1:]
    return replace(data, **{name: getattr(data, name)[kept] for name in COLUMNS[:-1]}, truncated=cut[kept])


def acted_data(data: Transitions, reward_data: Transitions | None, scenario: str) -> Transitions:
    """The rows from which actions and dynamics are learned: `data`, and where a scenario says so, `reward_data` too.

    Raises:
        UsageError: the second data set is missing, has no use in the scenario, or has other observations or actions.
    """
    other, _, acted = SCENARIOS[scenario]
    if other and reward_data is None:
        raise UsageError(
            f"reward_data is missing: in scenario={scenario!r} the rewards are those of a second data set. Give "
            "reward_data=… (--reward-data), or scenario='rl-sample', which samples data for rewards."
        )
    if reward_data is None:
        return data
    if not other:
        raise UsageError(
            f"reward_data has no effect in scenario={scenario!r}, which samples data for rewards; leave it out, or "
            f"choose one of {', '.join(repr(name) for name, (second, *_) in SCENARIOS.items() if second)}."
        )
    for name in ("observation", *(["action"] if acted else [])):
        shapes = [getattr(one, name).shape[1:] for one in (data, reward_data)]
        if shapes[0] != shapes[1]:
            raise UsageError(
                f"reward_data={reward_data.name!r} has {name}s of the shape {shapes[1]}, but those of data have "
                f"{shapes[0]}. Both must be of one task."
            )
    return joined([data, reward_data]) if acted else data


def labelled(data: Transitions, reward_data: Transitions | None, scenario: str, share: float, seed: int) -> Transitions:
    """The rows whose rewards are known: `reward_data`, with rewards of 1 in imitation, or a seed's sample of whole
    episodes of `data`, as many as make up a share of the rows."""
    _, imitation, _ = SCENARIOS[scenario]
    if reward_data is not None:
        return replace(reward_data, reward=np.ones_like(reward_data.reward)) if imitation else reward_data
    order = numpy_stream(seed, "episodes with rewards").permutation(data.episodes)
    lengths = np.diff(data.bounds, axis=1)[order, 0]
    count = int(np.searchsorted(lengths.cumsum(), share * len(data))) + 1
    return data.of_episodes(np.sort(order[:count]))


def bounds(rewards: Transitions, scenario: str, gamma: float) -> tuple[float, float, float, float]:
    """The range of rewards and that of values, which is never narrower than ±1/(1 − γ): r_min, r_max, V_min, V_max."""
    imitation = SCENARIOS[scenario][1]
    low, high = (0.0, 1.0) if imitation else (float(rewards.reward.min()), float(rewards.reward.max()))
    return low, high, min(-1.0, 2 * low) / (1 - gamma), max(1.0, 2 * high) / (1 - gamma)
