"""Classes of policies: sizes, capacities found by hand and by brute force, visits and what is derived from them."""

from __future__ import annotations

import dataclasses
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.envs.tabular import Successors, TabularMDP, resolve
from surefoot.errors import UsageError
from surefoot.loops.tabular.gradient import evaluate
from surefoot.methods.tabular.agnostic_rl import policy_classes as pc
from surefoot.seeding import torch_stream


def brute_force(policies: torch.Tensor) -> int:
    """Over all deterministic MDPs: a first state and a successor of every pair of every layer."""
    tables, (_, horizon, states) = policies.tolist(), policies.shape
    actions, best = int(policies.max()) + 1, 0
    pairs = (horizon - 1) * states * actions
    for start in range(states):
        for kernel in product(range(states), repeat=pairs):
            reached = [set() for _ in range(horizon)]
            for table in tables:
                s = start
                for h in range(horizon):
                    a = table[h][s]
                    reached[h].add((s, a))
                    s = kernel[(h * states + s) * actions + a] if h + 1 < horizon else s
            best = max(best, *map(len, reached))
    return best


def test_the_members_of_the_classes():
    assert pc.singletons(2, 2, 2).flatten(1).tolist() == [[0, 0, 0, 0], *torch.eye(4, dtype=torch.int64).tolist()]
    assert pc.singletons(3, 2, 3).shape == (13, 3, 2) and int(pc.singletons(3, 2, 3).sum()) == 6 * (1 + 2)
    for name, size in [("singletons", 7), ("open-loop", 4), ("one-state", 10), ("all", 64)]:
        policies = pc.CLASSES[name](2, 3, 2)
        assert len(policies) == size == len(policies.unique(dim=0))
    assert len(pc.singletons(3, 2, 1)) == 1


@pytest.mark.parametrize(
    ("policies", "capacity"),
    [
        (torch.tensor([[[0] * 3] * 2, [[1] * 3] * 2]), 2),
        (torch.cat([torch.zeros(1, 2, 3), torch.eye(3).unsqueeze(1).expand(3, 2, 3)]).long(), 3),
        (pc.all_policies(2, 3, 2), 4),
        (pc.singletons(2, 3, 2), 3),
        (pc.singletons(3, 4, 2), 4),
        (pc.singletons(4, 5, 2), 5),
        (pc.one_state(2, 3, 2), 4),
        (pc.one_state(3, 4, 2), 7),
        (pc.open_loop(2, 3, 2), 4),
        (pc.open_loop(3, 3, 2), 6),
        *((pc.one_state(h, h + 1, 2)[: 2**h], h + 1) for h in (2, 3, 4)),  # free in state 0 alone
    ],
)
def test_capacities_that_are_known(policies, capacity):
    assert pc.spanning_capacity(policies) == capacity <= pc.capacity_bound(policies)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 7), states=st.integers(1, 2), actions=st.integers(2, 3))
def test_capacities_against_brute_force(seed, size, states, actions):
    g = torch_stream(seed, "class")
    policies = torch.randint(actions, (size, 2, states), generator=g)
    found = pc.spanning_capacity(policies)
    assert found == brute_force(policies)
    assert 1 <= found <= pc.capacity_bound(policies) <= min(size, actions**2)
    assert pc.spanning_capacity(policies[: size - 1] if size > 1 else policies) <= found


def test_three_layers_against_brute_force():
    for policies in (pc.singletons(3, 2, 2), pc.one_state(3, 2, 2), pc.open_loop(3, 2, 2)):
        assert pc.spanning_capacity(policies) == brute_force(policies)


def test_a_large_class_of_small_capacity():
    assert pc.capacity_bound(pc.singletons(8, 8, 2)) == 9


def garnets():
    """With steps, discounts, sparse kernels and rewards of the next state."""
    dense = resolve("garnet:3,2,2,seed=3")
    g = torch_stream(0, "kernel")
    rows = torch.rand(3, 3, 2, 3, generator=g, dtype=torch.float64)
    state = torch.randint(3, (3, 2, 2), generator=g)
    chance = torch.tensor([0.3, 0.7], dtype=torch.float64).expand(3, 2, 2)
    return [
        dataclasses.replace(dense, horizon=3, gamma=0.8),
        TabularMDP(rows / rows.sum(-1, keepdim=True), torch.rand(3, 3, 2, 3, generator=g), 1.0, horizon=3),
        TabularMDP(Successors(state, chance), torch.rand(3, 2, 2, generator=g), 0.9, horizon=3, initial=[0.2, 0.8, 0]),
    ]


@pytest.mark.parametrize("mdp", garnets())
def test_values_are_those_of_backward_induction(mdp):
    policies = pc.CLASSES["one-state"](3, 3, 2)
    values = [mdp.initial @ evaluate(mdp, pc.policy_table(p, 2)).value[0] for p in policies]
    torch.testing.assert_close(pc.class_values(mdp, policies), torch.stack(values), rtol=0, atol=1e-12)
    torch.testing.assert_close(pc.visits(mdp, policies).sum(-1), torch.ones(len(policies), 3, dtype=torch.float64))


@pytest.mark.parametrize("mdp", garnets())
def test_coverage_comes_in_its_order(mdp):
    policies = pc.open_loop(3, 3, 2)
    resets = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    cover, conc = pc.coverability(mdp, policies), pc.concentrability(mdp, policies, resets)
    assert 1 - 1e-12 <= cover <= conc + 1e-12 <= pc.pushforward(mdp, resets) + 2e-12
    most = pc.visits(mdp, policies).amax(0)
    assert pc.concentrability(mdp, policies, most / most.sum(-1, keepdim=True)) == pytest.approx(cover)
    assert pc.concentrability(mdp, policies, torch.tensor([[1.0, 0, 0]] * 3).double()) == torch.inf


def test_coverability_of_a_deterministic_mdp_counts_states():
    """Action 0 stays, 1 goes on: in step h the first h + 1 states are reached."""
    kernel = torch.stack([torch.eye(4), torch.eye(4).roll(1, 1)], 1)
    mdp = TabularMDP(kernel, [0] * 4, 1.0, [1, 0, 0, 0], 3)
    assert pc.coverability(mdp, pc.open_loop(3, 4, 2)) == pytest.approx(3)
    resets = torch.tensor([[1, 0, 0, 0], [1 / 2, 1 / 2, 0, 0], [1 / 3] * 3 + [0]]).double()
    assert pc.concentrability(mdp, pc.open_loop(3, 4, 2), resets) == pytest.approx(3)


def test_a_class_that_is_too_large_is_refused():
    with pytest.raises(UsageError, match="'open-loop' has 1,048,576 policies"):
        pc.open_loop(20, 3, 2)
