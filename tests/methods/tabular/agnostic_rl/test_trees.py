"""Trees, uniform exploration and resets: unbiased, within the budget that the capacity gives."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from surefoot.envs.tabular import Successors, TabularMDP, resolve
from surefoot.envs.tabular.policies import uniform_policy
from surefoot.envs.tabular.simulate import rollouts
from surefoot.loops.tabular.gradient import evaluate
from surefoot.methods.tabular.agnostic_rl import policy_classes as pc
from surefoot.methods.tabular.agnostic_rl.trees import (
    deviations,
    gains,
    importance_returns,
    play,
    rewards_met,
    tree_returns,
)
from surefoot.seeding import torch_stream

SWITCH = resolve("hidden-switch:4,3,1,seed=1")
SINGLETONS = pc.singletons(4, 3, 2)


def certain(mdp: TabularMDP) -> TabularMDP:
    """With the likeliest successors only."""
    rows = torch.nn.functional.one_hot(mdp.rows.argmax(-1), mdp.states).double()
    return dataclasses.replace(mdp, transition=rows)


@pytest.mark.parametrize("name", ["trees", "importance"])
def test_estimates_are_unbiased(name):
    """Within four standard errors for each of 13 policies."""
    stream, values = torch_stream(1, name), pc.class_values(SWITCH, SINGLETONS)
    if name == "trees":
        returns, _ = tree_returns(SWITCH, SINGLETONS, 4000, stream)
    else:
        returns = importance_returns(SWITCH, SINGLETONS, 40_000, stream)
    error = returns.std(0) / len(returns) ** 0.5
    assert bool(((returns.mean(0) - values).abs() <= 4 * error).all()) and float(error.max()) < 0.02


def test_trees_stay_within_the_capacity():
    for policies in (SINGLETONS, pc.open_loop(4, 3, 2), pc.one_state(4, 3, 2)):
        _, taken = tree_returns(SWITCH, policies, 500, torch_stream(0, "t"))
        assert int(taken.max()) <= 4 * pc.spanning_capacity(policies) and int(taken.min()) >= 4
    _, alone = tree_returns(SWITCH, SINGLETONS[:1], 50, torch_stream(0, "t"))
    assert alone.unique().tolist() == [4]


def test_policies_that_go_together_see_the_same():
    """Two that part in the last step alone, where nothing is paid, have the same return in each tree."""
    quiet = dataclasses.replace(SWITCH, reward=torch.rand(4, 3, 2, generator=torch_stream(0, "r")).double())
    quiet.reward[-1] = 0
    last = torch.cat([SINGLETONS[:1], SINGLETONS[-3:]])
    returns, _ = tree_returns(quiet, last, 300, torch_stream(2, "t"))
    assert bool((returns == returns[:, :1]).all()) and float(returns.std()) > 0.1


def test_where_nothing_is_random_one_tree_is_enough():
    mdp = certain(SWITCH)
    returns, taken = tree_returns(mdp, SINGLETONS, 2, torch_stream(0, "t"))
    torch.testing.assert_close(returns[0], pc.class_values(mdp, SINGLETONS))
    assert len(taken.unique()) == 1


def test_weights_of_uniform_episodes_average_to_one():
    """Of all A^H sequences each episode agrees with one, whose weight is A^H: exactly, whatever is met."""
    ones = dataclasses.replace(SWITCH, reward=torch.full((4, 3, 2), 0.25))
    returns = importance_returns(ones, pc.open_loop(4, 3, 2), 200, torch_stream(0, "i"))
    assert returns.unique().tolist() == [0, 16] and bool((returns.mean(1) == 1).all())
    assert bool((returns.sum(0) > 0).all())


@pytest.mark.parametrize("step", [1, 3])
def test_deviations_are_the_q_values_of_the_policy(step):
    policy = pc.policy_table(SINGLETONS[4], 2)
    start = torch.randint(3, (20_000,), generator=torch_stream(0, "s"))
    seen = deviations(SWITCH, policy, start, step, step, torch_stream(1, "d"))
    q = evaluate(SWITCH, policy).q[step]
    found = gains(SINGLETONS, step, *seen)
    expected = torch.stack([q.gather(1, p[step].unsqueeze(-1)).mean() for p in SINGLETONS])
    torch.testing.assert_close(found, expected, rtol=0, atol=0.04)


def test_play_follows_what_it_is_told():
    followed = torch.tensor([[0, 1, 1, 0]]).expand(500, -1)
    policies = torch.stack([torch.zeros(4, 3), torch.ones(4, 3)]).long()
    met = play(SWITCH, policies, followed, torch_stream(0, "p"))
    assert bool((met.actions == followed).all()) and bool((met.states[:, 1:] == met.next_states[:, :-1]).all())
    assert met.rewards[:, :-1].abs().max() == 0 and set(met.rewards[:, -1].tolist()) == {0.0, 1.0}


def test_rewards_of_transitions_are_those_of_episodes():
    state = torch.tensor([[[0, 1]], [[1, 0]]])
    kernel = Successors(state, torch.full((2, 1, 2), 0.5, dtype=torch.float64))
    mdp = TabularMDP(kernel, [[[1.0, 2.0]], [[3.0, 4.0]]], 1.0, horizon=5)
    met = rollouts(mdp, uniform_policy(mdp), 50, None, torch_stream(0, "r"))
    assert torch.equal(rewards_met(mdp, met.states, met.actions, met.next_states, 0), met.rewards)
    twice = TabularMDP(kernel._replace(state=torch.zeros_like(state)), [[[1.0, 2.0]], [[3.0, 4.0]]], 1.0, horizon=5)
    zero = torch.zeros(1, dtype=torch.int64)
    assert rewards_met(twice, zero, zero, zero, 0).tolist() == [1.5]
