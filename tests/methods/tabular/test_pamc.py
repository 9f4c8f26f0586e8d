"""PAMC: what is seen, how likely it was to be seen, when the completion is trusted, and what the error costs."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from surefoot.envs.tabular import TabularMDP, rollouts
from surefoot.errors import UsageError
from surefoot.loops.tabular.gradient import evaluate, occupancy
from surefoot.methods.tabular.pamc import PAMC, Completed
from surefoot.seeding import torch_stream
from surefoot.solvers import solve


def world(seed=0, states=12, actions=8, rank=1):
    g = torch_stream(seed, "world")
    rows = torch.rand(states, actions, states, generator=g, dtype=torch.float64).pow(6)
    left, right = (torch.rand(n, rank, generator=g, dtype=torch.float64) for n in (states, actions))
    return TabularMDP(rows / rows.sum(-1, keepdim=True), left @ right.T, 0.9)


def walked(method, mdp, steps, seed=0):
    state, rows = method.start(mdp, seed), []
    for i in range(steps):
        state, metrics = method.step(mdp, state, seed, i)
        rows.append({name: float(x) for name, x in metrics.items()})
    return state, rows


def test_where_every_reward_is_seen_the_policy_is_that_of_the_learned_model():
    mdp, method = world(), PAMC(reveal=1.0, episodes=200, beta=1.0)
    state, rows = walked(method, mdp, 3)
    assert rows[-1]["seen"] == 1 and rows[-1]["confidence"] == 1
    known, bonus = method.rewards(state, method.completed(state, torch_stream(0, "other")))
    torch.testing.assert_close(known, mdp.reward, rtol=0, atol=1e-12)
    assert bool((bonus == 0).all())
    assert torch.equal(state["policy"], solve(method.model(mdp, state, mdp.reward)).policy)
    assert rows[-1]["return_mean"] > 0.98 * float(mdp.initial @ solve(mdp).value)


def test_counts_are_those_of_the_episodes():
    mdp, method = world(), PAMC(episodes=5, length=7)
    met = rollouts(mdp, method.start(mdp, 0)["explorer"], 5, 7, torch_stream(0, "episodes"))
    shown = torch.zeros(5, 7, dtype=torch.bool)
    shown[2, 3] = True
    state = method.remember(mdp, method.start(mdp, 0), met, shown)
    pair = met.states[2, 3], met.actions[2, 3]
    assert float(state["seen"].sum()) == 1 and float(state["seen"][pair]) == 1
    assert float(state["earned"][pair]) == float(mdp.reward[pair])
    assert float(state["followed"].sum()) == 35 and float(state["followed"][(*pair, met.next_states[2, 3])]) >= 1
    assert state["starts"].sum() == 5


def test_propensity_is_how_often_a_reward_has_been_seen():
    """Where the model is right and every step leads to a state afresh, over many runs of the first episodes."""
    states, actions = 4, 3
    law = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    mdp = TabularMDP(law.expand(states, actions, states), torch.ones(states, actions), 0.9, initial=law)
    method = PAMC(reveal=0.3, episodes=4, length=5, least=0.001)
    start = method.start(mdp, 0)
    seen, chance, runs = torch.zeros(states, actions), torch.zeros(states, actions).double(), 300
    for seed in range(runs):
        met = rollouts(mdp, start["explorer"], 4, 5, torch_stream(seed, "episodes"))
        shown = torch.rand(4, 5, generator=torch_stream(seed, "revealed")) < 0.3
        state = method.remember(mdp, start, met, shown)
        seen, chance = seen + (state["seen"] > 0) / runs, chance + method.propensity(state) / runs
    torch.testing.assert_close(chance, seen.double(), rtol=0, atol=0.06)
    assert float(chance.min()) < 0.25 < float(chance.max())


def test_a_low_rank_is_trusted_and_right_where_it_is():
    mdp, method = world(rank=1), PAMC(rank=1, ridge=1e-3, reveal=0.3, episodes=20)
    state, _ = walked(method, mdp, 2)
    found = method.completed(state, torch_stream(0, "completion", 1))
    trusted = (found.confidence > 0.5) & (state["seen"] == 0)
    assert int(trusted.sum()) >= 5
    assert float((found.reward - mdp.reward)[trusted].abs().mean()) < 0.1


def test_what_is_never_trusted():
    mdp, base = world(rank=1), PAMC(rank=1, ridge=1e-3, reveal=0.3, episodes=20)
    state, _ = walked(base, mdp, 2)
    stream = torch_stream(0, "completion", 1)
    sure, open_ = dataclasses.replace(base, alpha=1e-9).completed(state, stream), base.propensity(state) < 0.99
    assert bool((sure.confidence[open_] == 0).all()) and bool(torch.isinf(sure.width[open_]).all())
    always = dataclasses.replace(base, tau=1e12).completed(state, torch_stream(0, "completion", 1))
    assert bool((always.confidence[torch.isfinite(always.width)].sum() > 0).all())
    lonely = {**state, "seen": state["seen"].clone(), "earned": state["earned"].clone()}
    lonely["seen"][3] = lonely["earned"][3] = 0
    found = base.completed(lonely, torch_stream(0, "completion", 1))
    assert bool((found.confidence[3] == 0).all()) and bool((found.reward[3] == 0).all())
    nothing = base.completed(base.start(mdp, 0), torch_stream(0, "completion"))
    assert bool((nothing.confidence == 0).all()) and bool(torch.isinf(nothing.width).all())


def test_rewards_that_were_seen_are_never_replaced():
    mdp, method = world(), PAMC()
    state, _ = walked(method, mdp, 2)
    wild = Completed(torch.full_like(mdp.reward, 99), torch.zeros_like(mdp.reward), torch.ones_like(mdp.reward))
    known, bonus = method.rewards(state, wild)
    seen = state["seen"] > 0
    torch.testing.assert_close(known[seen], mdp.reward[seen], rtol=0, atol=1e-12)
    assert bool((known[~seen] == 99).all()) and bool((bonus == 0).all())
    doubted, bonus = method.rewards(state, wild._replace(confidence=torch.zeros_like(mdp.reward)))
    assert bool((doubted[~seen] == 0).all()) and bool((bonus[~seen] > 0).all()) and bool((bonus[seen] == 0).all())


@pytest.mark.parametrize("seed", range(4))
def test_an_error_of_the_rewards_costs_no_more_than_the_bound(seed):
    mdp = world(seed, rank=2)
    wrong = mdp.reward + 0.3 * torch.randn(mdp.reward.shape, generator=torch_stream(seed, "e"), dtype=torch.float64)
    best = solve(mdp).policy
    chosen = solve(dataclasses.replace(mdp, reward=wrong)).policy
    loss = float(mdp.initial @ (evaluate(mdp, best).value - evaluate(mdp, chosen).value))
    error = (wrong - mdp.reward).abs()
    bound = sum(float((occupancy(mdp, p)[:, None] * p * error).sum()) for p in (best, chosen))  # visits sum to 1/(1−γ)
    assert 0 < loss <= bound


def test_what_it_cannot_learn_in_is_refused():
    with pytest.raises(UsageError, match="do not depend on the next state"):
        PAMC().admit(dataclasses.replace(world(), reward=world().reward[..., None].expand(12, 8, 12)))
