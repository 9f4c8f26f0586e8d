"""Instances with a deadline: the best action depends on the remaining time, or on how it is used."""

from __future__ import annotations

import torch

from surefoot.envs.tabular.mdp import TabularMDP
from surefoot.envs.tabular.zoo import entry, share, whole


@entry
def optimal_stopping(prices: int = 11, horizon: int = 10, up: float = 0.6, start: int | None = None) -> TabularMDP:
    """Sell once, at the current price, or never and get nothing.

    States 0 … prices−1 are prices from 0 to 1, the last state is "sold". Action 0 waits: the price goes up by one
    with probability `up`, down by one otherwise, and stays at the ends. Action 1 sells. `start`: the first price; None:
    the middle.
    """
    whole("prices", prices, 2)
    whole("horizon", horizon, 1)
    share("up", up)
    first = prices // 2 if start is None else whole("start", start, 0, prices - 1)
    states = prices + 1
    level = torch.arange(prices)
    transition = torch.zeros(states, 2, states, dtype=torch.float64)
    transition[level, 0, (level + 1).clamp(max=prices - 1)] += up
    transition[level, 0, (level - 1).clamp(min=0)] += 1 - up
    transition[:, 1, prices] = transition[prices, 0, prices] = 1
    reward = torch.zeros(states, 2, dtype=torch.float64)
    reward[:prices, 1] = torch.linspace(0, 1, prices, dtype=torch.float64)
    initial = torch.zeros(states, dtype=torch.float64)
    initial[first] = 1
    return TabularMDP(
        transition, reward, 1.0, initial, horizon, name="optimal-stopping", actions_named=("wait", "sell")
    )


@entry
def delayed_trust(other: float = 0.6) -> TabularMDP:
    """Two steps: a gate whose first action pays 1 and whose second pays 0, or a sure reward of less than 1.

    States 0 (first), 1 (gate), 2 (sure). In state 0 action 0 leads to the gate, action 1 to the sure reward `other`;
    the gate pays 1 for action 0. A policy that still chooses badly at the gate does better without it.
    """
    transition = torch.zeros(3, 2, 3, dtype=torch.float64)
    transition[0, 0, 1] = transition[0, 1, 2] = 1
    transition[1, :, 1] = transition[2, :, 2] = 1
    return TabularMDP(transition, [[0, 0], [1, 0], [other, other]], 1.0, [1, 0, 0], 2, name="delayed-trust")
