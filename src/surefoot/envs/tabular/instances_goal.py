"""Small worlds with a goal that has to be declared or acted at, in which random behaviour seldom succeeds."""

from __future__ import annotations

import torch

from surefoot.envs.tabular.mdp import TabularMDP
from surefoot.envs.tabular.zoo import entry, whole


@entry
def goal_chain(states: int = 8, goal: int = 4, distractors: int = 1, gamma: float = 0.8) -> TabularMDP:
    """A chain with the actions left, try and right: `try` ends the episode, with reward 1 in the state `goal` only.

    With `distractors` K > 1 a second coordinate that nothing depends on is drawn anew in every step, one of K. States
    are (place, distractor), distractors last, and then the end, which is absorbing. V* = γ^|place − goal|. The domains
    "chain" and "distractor chain" of arXiv:2210.03821.
    """
    whole("states", states, 2)
    whole("goal", goal, 0, states - 1)
    whole("distractors", distractors, 1)
    size = states * distractors
    transition, reward = torch.zeros(size + 1, 3, size + 1), torch.zeros(size + 1, 3)
    transition[size, :, size] = transition[:size, 1, size] = 1
    for place in range(states):
        here = slice(place * distractors, (place + 1) * distractors)
        for action, move in ((0, -1), (2, 1)):
            there = min(max(place + move, 0), states - 1) * distractors
            transition[here, action, there : there + distractors] = 1 / distractors
    reward[goal * distractors : (goal + 1) * distractors, 1] = 1
    initial = torch.full((size + 1,), 1 / size).index_fill(0, torch.tensor(size), 0)
    names = ("left", "try", "right")
    return TabularMDP(transition, reward, gamma, initial, name="goal-chain", actions_named=names)


@entry
def goal_maze(gamma: float = 0.8) -> TabularMDP:
    """Nine cells, row by row; any action in the cell (1, 0) ends the episode with reward 1.

    The actions are left, down, up and right; there are walls between (1, 0) and (1, 1), and between (1, 1) and (2, 1).
    The last state is the end, which is absorbing. The domain "maze" of arXiv:2210.03821.
    """
    moves = ((0, -1), (1, 0), (-1, 0), (0, 1))
    walls = {((1, 0), (1, 1)), ((1, 1), (1, 0)), ((1, 1), (2, 1)), ((2, 1), (1, 1))}
    transition, reward = torch.zeros(10, 4, 10), torch.zeros(10, 4)
    for cell in range(9):
        here = divmod(cell, 3)
        for action, (down, right) in enumerate(moves):
            there = (here[0] + down, here[1] + right)
            inside = 0 <= there[0] < 3 and 0 <= there[1] < 3 and (here, there) not in walls
            transition[cell, action, 3 * there[0] + there[1] if inside else cell] = 1
    transition[3] = torch.eye(10)[9].expand(4, 10)
    transition[9, :, 9], reward[3] = 1, 1
    initial = torch.full((10,), 1 / 9).index_fill(0, torch.tensor(9), 0)
    return TabularMDP(
        transition, reward, gamma, initial, name="goal-maze", actions_named=("left", "down", "up", "right")
    )
