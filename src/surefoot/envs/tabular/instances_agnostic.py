"""Layered instances for learning from nothing but a policy class: one of many switches is worth pressing."""

from __future__ import annotations

import numpy as np

from surefoot.envs.tabular.mdp import TabularMDP
from surefoot.envs.tabular.zoo import entry, whole
from surefoot.seeding import check_seed, numpy_stream


@entry
def hidden_switch(layers: int = 8, states: int = 8, layer: int = 4, seed: int = 0) -> TabularMDP:
    """In state 0 of one layer action 1 leads to the state that pays in the last step; everywhere else action 0 is best.

    Each pair leads to its own target state with probability 0.7 and to a uniform one otherwise: state 0 under action 0
    to itself, every other pair to one drawn from 1 … S−1. The switch leads to state 1 with 0.9 instead, and from then
    on state 1 stays under action 0 with 0.9. Only the last step pays, 1 or 0: with mean 1 for action 0 in state 1, 0.3
    for action 1 there and in state 0, and a mean drawn from [0, 0.5] elsewhere. The last next state tells whether the
    reward was paid: 0 if so, 1 if not. Episodes start in state 0; `layer` counts from 0.
    """
    whole("layers", layers, 2)
    whole("states", states, 2)
    whole("layer", layer, 0, layers - 2)
    generator = numpy_stream(check_seed(seed), "hidden switch")
    goal = generator.integers(1, states, (layers, states, 2))
    goal[:, 0, 0] = 0
    sure = np.full((layers, states, 2, 1), 0.7)
    goal[layer, 0, 1], sure[layer, 0, 1] = 1, 0.9
    goal[layer + 1 :, 1, 0], sure[layer + 1 :, 1, 0] = 1, 0.9
    transition = sure * np.eye(states)[goal] + (1 - sure) / states
    mean = generator.uniform(0, 0.5, (states, 2))
    mean[0], mean[1] = 0.3, (1, 0.3)
    transition[-1] = 0
    transition[-1, :, :, 0], transition[-1, :, :, 1] = mean, 1 - mean
    reward = np.zeros(transition.shape)
    reward[-1, :, :, 0] = 1
    return TabularMDP(transition, reward, 1.0, initial=np.eye(states)[0], horizon=layers, name="hidden-switch")
