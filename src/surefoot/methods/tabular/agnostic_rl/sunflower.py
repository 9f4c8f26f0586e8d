"""Sunflowers: a few core policies that represent a whole class, except at the petals where each policy departs.

A class Π `[N, H, S]` is a (K, D)-sunflower if there are K core policies and for each π a set of at most D petals, so
that whatever π does from one step to a later one, some core policy does as well, or a petal of π comes after the first
step. The value of each π is then that of a small Markov reward process on {start} + its petals + {end}, every edge of
which can be estimated from episodes of the core policies:

    P̂(s → s′) = mean of 1{π takes the actions from s up to s′, no petal between}·K/m,   m = core policies that do

Source: Jia, Li, Rakhlin, Sekhari and Srebro, "When is agnostic reinforcement learning statistically tractable?" (2023),
arXiv:2310.06113.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.envs.tabular import Transitions


class Sunflower(NamedTuple):
    """Core and petals of a class. The nodes of a policy: 0 the start, 1 … D its petals by step, D + 1 the end."""

    core: Tensor  # [K, H, S]
    petal: Tensor  # [N, H, S] the node of a petal, 0 where there is none
    place: Tensor  # [N, 1 + D] the place of a node: 0 the start, 1 + h·S + s a petal, 0 for missing nodes


def sunflower(policies: Tensor, actions: int) -> Sunflower:
    """The sunflower that every class has: petals are where a policy does not play 0, and K = 1 + H·(A − 1).

    The core plays 0 everywhere, or in one step another action and 0 in all others. From a petal on, π acts like the
    core policy of its action, and from elsewhere like "always 0", until the next petal.
    """
    _, horizon, states = policies.shape
    core = torch.zeros(1 + horizon * (actions - 1), horizon, states, dtype=torch.int64)
    number = torch.arange(len(core) - 1)
    if len(number):
        core[1 + number, number // (actions - 1)] = (1 + number % (actions - 1)).unsqueeze(-1)
    away = (policies != 0).flatten(1)
    petal = away.cumsum(1) * away
    place = torch.zeros(len(policies), 1 + int(petal.max()), dtype=torch.int64)
    which, where = away.nonzero(as_tuple=True)
    place[which, petal[which, where]] = 1 + where
    return Sunflower(core, petal.view(policies.shape), place)


class Arrivals(NamedTuple):
    """Estimates of the edges out of one node, `[N, n]` each: the mean over episodes is the edge."""

    node: Tensor  # the first node that an episode reaches
    weight: Tensor  # of that edge; 0 where the policy would have acted differently
    gained: Tensor  # the reward on the way, weighted


def arrivals(policies: Tensor, petal: Tensor, core: Tensor, met: Transitions, first: int, end: int) -> Arrivals:
    """The edges of policies `[N, H, S]` out of a petal in step `first`, or out of the start for −1.

    `met`: episodes `[n, H]` that follow the uniform mixture of `core` from there on and pass through the node; their
    rewards before it are ignored. `end`: the number of the last node.

    Raises `ValueError` if no core policy acts like some policy: `core` and `petal` are not a sunflower then.
    """
    horizon = policies.shape[1]
    steps = torch.arange(max(first, 0), horizon)
    states, actions, rewards = met.states[:, steps], met.actions[:, steps], met.rewards[:, steps]
    agree = (policies[:, steps, states] == actions).cumprod(-1)
    shared = (core[:, steps, states] == actions).cumprod(-1).sum(0).expand_as(agree)
    agree = torch.nn.functional.pad(agree, (1, 0), value=1)  # before the first action all agree
    shared = torch.nn.functional.pad(shared, (1, 0), value=len(core))
    node = torch.nn.functional.pad(petal[:, steps, states], (0, 1), value=end)
    if first >= 0:
        node[..., 0] = 0
    when = (node > 0).int().argmax(-1, keepdim=True)
    node, agree, shared = (x.gather(-1, when).squeeze(-1) for x in (node, agree, shared))
    if bool(((agree == 1) & (shared == 0)).any()):
        raise ValueError("a policy acts like no core policy: core and petals are not a sunflower")
    weight = agree.double() * len(core) / shared.clamp(min=1)
    so_far = torch.nn.functional.pad(rewards.cumsum(-1), (1, 0)).expand(len(policies), -1, -1)
    return Arrivals(node, weight, weight * so_far.gather(-1, when).squeeze(-1))


def chain_values(edges: Tensor, gained: Tensor) -> Tensor:
    """The value of each start `[N]` of processes with edges `[N, 1 + D, 2 + D]` and rewards `[N, 1 + D]` of nodes."""
    value = torch.zeros(edges.shape[0], edges.shape[2], dtype=edges.dtype)
    for node in reversed(range(edges.shape[1])):
        value[:, node] = gained[:, node] + (edges[:, node] * value).sum(-1)
    return value[:, 0]


def chain_reach(edges: Tensor) -> Tensor:
    """The expected number of visits of each node from the start `[N, 2 + D]`."""
    reach = torch.zeros(edges.shape[0], edges.shape[2], dtype=edges.dtype)
    reach[:, 0] = 1
    for node in range(edges.shape[1]):
        reach = reach + reach[:, node, None] * edges[:, node]
    return reach
