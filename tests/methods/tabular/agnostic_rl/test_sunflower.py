"""Sunflowers: the weights of the core, and processes that are worth what their policies are, exactly."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from surefoot.envs.tabular import TabularMDP, Transitions
from surefoot.methods.tabular.agnostic_rl import policy_classes as pc
from surefoot.methods.tabular.agnostic_rl.sunflower import arrivals, chain_reach, chain_values, sunflower
from surefoot.seeding import torch_stream

H, S, A = 3, 3, 2
STEPS = torch.arange(H)


def world() -> TabularMDP:
    g = torch_stream(4, "world")
    rows = torch.rand(H, S, A, S, generator=g, dtype=torch.float64)
    initial = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    return TabularMDP(
        rows / rows.sum(-1, keepdim=True), torch.rand(H, S, A, generator=g, dtype=torch.float64), 1.0, initial, H
    )


def everything(mdp: TabularMDP, core: torch.Tensor, first: int, state: int | None):
    """All runs from a state of step `first` (None: from the start), and their probabilities under the core's mixture.

    What comes before `first` is filled with zeros.
    """
    length = H - first
    runs = torch.tensor(list(product(range(S), repeat=length + 1)))
    runs = runs if state is None else runs[runs[:, 0] == state]
    chance, states, actions = [], [], []
    for a in product(range(A), repeat=length):
        taken = torch.tensor(a).expand(len(runs), -1)
        at = torch.arange(first, H)
        follows = (core[:, at, runs[:, :-1]] == taken).all(-1).double().mean(0)
        moved = mdp.rows[at, runs[:, :-1], taken, runs[:, 1:]].prod(-1)
        chance.append(follows * moved * (mdp.initial[runs[:, 0]] if state is None else 1))
        states.append(runs), actions.append(taken)
    pad = torch.nn.functional.pad
    s, a = pad(torch.cat(states), (first, 0)), pad(torch.cat(actions), (first, 0))
    seen = torch.cat(chance) > 0
    s, a = s[seen], a[seen]
    return torch.cat(chance)[seen], Transitions(s[:, :-1], a, mdp.reward[STEPS, s[:, :-1], a], s[:, 1:])


def exact(mdp: TabularMDP, policies: torch.Tensor, flower):
    """Edges and rewards of all nodes, in expectation."""
    nodes = flower.place.shape[1]
    edges = torch.zeros(len(policies), nodes, nodes + 1, dtype=torch.float64)
    gained = torch.zeros(len(policies), nodes, dtype=torch.float64)
    for i in range(len(policies)):
        for node in range(nodes):
            place = int(flower.place[i, node])
            if node and not place:
                continue
            first, state = ((place - 1) // S, (place - 1) % S) if place else (-1, None)
            chance, met = everything(mdp, flower.core, max(first, 0), state)
            seen = arrivals(policies[i : i + 1], flower.petal[i : i + 1], flower.core, met, first, nodes)
            edges[i, node].scatter_add_(0, seen.node[0], seen.weight[0] * chance)
            gained[i, node] = seen.gained[0] @ chance
    return edges, gained


@pytest.mark.parametrize("policies", [pc.singletons(H, S, A), pc.one_state(H, S, A), pc.open_loop(H, S, A)[3:6]])
def test_the_processes_are_worth_what_their_policies_are(policies):
    mdp, flower = world(), sunflower(policies, A)
    edges, gained = exact(mdp, policies, flower)
    real = torch.nn.functional.pad(flower.place[:, 1:] > 0, (1, 0), value=True)
    torch.testing.assert_close(edges.sum(-1), real.double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(chain_values(edges, gained), pc.class_values(mdp, policies), rtol=0, atol=1e-12)
    reach, visits = chain_reach(edges), pc.visits(mdp, policies).flatten(1)
    torch.testing.assert_close(reach[:, -1], torch.ones(len(policies), dtype=torch.float64))
    for i, node in (flower.place[:, 1:] > 0).nonzero().tolist():
        assert float(reach[i, node + 1]) == pytest.approx(float(visits[i, flower.place[i, node + 1] - 1]), abs=1e-12)


def test_sizes_of_sunflowers():
    flower = sunflower(pc.singletons(4, 3, 2), 2)
    assert flower.core.shape == (5, 4, 3) and flower.place.shape == (13, 2)
    assert flower.place[:, 1].tolist() == list(range(13))
    assert sunflower(pc.one_state(4, 3, 2), 2).place.shape[1] == 1 + 4
    three = sunflower(pc.singletons(2, 2, 3), 3).core
    assert three.shape == (5, 2, 2) and three[:, :, 0].tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [0, 2]]


def test_a_core_that_does_not_play_at_the_petals_is_noticed():
    """With "always 0" alone no run leaves a petal by the policy's own action: the edges are silently nothing."""
    policies = pc.singletons(H, S, A)[5:6]  # layer 1, state 1
    flower = sunflower(policies, A)._replace(core=torch.zeros(1, H, S, dtype=torch.int64))
    edges, _ = exact(world(), policies, flower)
    assert float(edges[0, 1].sum()) == 0
    met = Transitions(torch.tensor([[0, 1, 0]]), torch.tensor([[0, 1, 0]]), torch.zeros(1, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="not a sunflower"):
        arrivals(policies, flower.petal, flower.core, met, 1, 2)


def test_a_chain_by_hand():
    """Start → petal with 0.4, else end; the petal pays 2, the start 1."""
    edges = torch.tensor([[[0, 0.4, 0.6], [0, 0, 1.0]]], dtype=torch.float64)
    assert chain_values(edges, torch.tensor([[1.0, 2.0]]).double()).tolist() == [1.8]
    torch.testing.assert_close(chain_reach(edges), torch.tensor([[1, 0.4, 1.0]], dtype=torch.float64))
