"""Dynamic and simultaneous policy gradient: the numbers of the card, and the laws of a stage."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.envs.tabular import TabularMDP
from surefoot.envs.tabular.instances_deadline import delayed_trust, optimal_stopping
from surefoot.errors import UsageError
from surefoot.loops.tabular.gradient import evaluate, occupancy, softmax
from surefoot.loops.tabular.learner import TabularLearner
from surefoot.methods.tabular.dynamic_pg import DynamicPG, SimultaneousPG
from surefoot.seeding import torch_stream

BANDIT = TabularMDP(torch.ones(1, 2, 1).double(), [[1, 0]], 1.0, [1], 1)


def random_mdp(seed=0, horizon=3, states=3, actions=2, **changes):
    g = torch_stream(seed, "random mdp")
    rows = torch.rand(states, actions, states, generator=g, dtype=torch.float64)
    reward = torch.rand(horizon, states, actions, generator=g, dtype=torch.float64)
    settings = {"gamma": 1.0, "horizon": horizon, **changes}
    return TabularMDP(rows / rows.sum(-1, keepdim=True), reward, **settings)


def logits(mdp, seed=0):
    g = torch_stream(seed, "logits")
    return torch.randn(mdp.horizon, mdp.states, mdp.actions, generator=g, dtype=torch.float64)


def go(method, mdp, state, iterations, first=0):
    for i in range(first, first + iterations):
        state, _ = method.step(mdp, state, 0, i)
    return state


def value(method, mdp, state):
    return float(mdp.initial @ evaluate(mdp, method.policy(mdp, state)).value[0])


def best(mdp):
    """V* [H, S] by backward induction."""
    ahead, out = np.zeros(mdp.states), []
    for h in reversed(range(mdp.horizon)):
        here = mdp.at(h)
        ahead = (here.expected_reward().numpy() + mdp.gamma * here.rows.numpy() @ ahead).max(1)
        out.append(ahead)
    return np.array(out[::-1])


# --- the numbers of the card ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [DynamicPG(scale=1.0), SimultaneousPG(scale=2.5)], ids=type)
def test_with_one_epoch_both_are_the_softmax_bandit(method):
    """Steps of 1/2: 1/(2R*) and 2.5/(5R*)."""
    state, seen = method.start(BANDIT, 0), []
    for i in range(4):
        state, _ = method.step(BANDIT, state, 0, i)
        seen.append((float(method.policy(BANDIT, state)[0, 0, 0]), float(state["theta"][0, 0, 0])))
    probability, theta = zip(*seen, strict=True)
    assert probability == pytest.approx([0.562177, 0.621550, 0.675104, 0.721256], abs=5e-7)
    assert theta == pytest.approx([0.125, 0.248067, 0.365680, 0.475349], abs=5e-7)


TRUST = [
    (-2, 100, 0.596355, 0.944790),
    (-2, 200, 0.609967, 0.976162),
    (-2, 400, 0.980604, 0.988989),
    (-4, 400, 0.597407, 0.986773),
    (-4, 1000, 0.598983, 0.995568),
    (0, 100, 0.971992, 0.952360),
    (0, 400, 0.994477, 0.989322),
]


@pytest.mark.parametrize(("z", "updates", "simultaneous", "dynamic"), TRUST)
def test_delayed_trust(z, updates, simultaneous, dynamic):
    """Steps of 1/2 in the states that count; of the three states that μ_h draws from, one counts."""
    mdp = delayed_trust()
    start = SimultaneousPG().start(mdp, 0)
    start["theta"][1, 1, 0] = z
    once = SimultaneousPG(scale=10)
    assert value(once, mdp, go(once, mdp, start, updates)) == pytest.approx(simultaneous, abs=1e-6)
    last, first = (DynamicPG(scale=s, updates=(updates // 2,)) for s in (3, 6))
    half = go(last, mdp, start, updates // 2)
    done = go(first, mdp, half, updates // 2, updates // 2)
    assert value(first, mdp, done) == pytest.approx(dynamic, abs=1e-6)


# --- the laws of a stage ----------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=5), st.integers(0, 10**6))
def test_a_stage_is_smooth(q, seed):
    """The Hessian of θ ↦ softmax(θ)·Q, Q in [0, R], has no eigenvalue beyond 2R."""
    rewards = torch.tensor(q, dtype=torch.float64)
    theta = 2 * torch.randn(len(q), generator=torch_stream(seed, "theta"), dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda x: x.softmax(-1) @ rewards, theta)
    assert float(torch.linalg.eigvalsh(hessian).abs().max()) <= 2 * max(q) + 1e-12


@pytest.mark.parametrize("h", [0, 1, 2])
def test_where_states_are_those_visited_a_stage_is_a_block_of_the_whole_gradient(h):
    mdp = random_mdp()
    policy = softmax(logits(mdp))
    policy[:h] = 0.5  # what `visited` plays before epoch h
    found = evaluate(mdp, policy)
    whole = SimultaneousPG().exact(mdp, policy, found, 0)
    stage = DynamicPG(sampling="visited").exact(mdp, policy, found, h)
    torch.testing.assert_close(stage[h], whole[h], rtol=0, atol=1e-15)
    assert not stage[torch.arange(3) != h].any() and float(stage.sum(-1).abs().max()) < 1e-15
    assert float(whole.sum(-1).abs().max()) < 1e-15


@pytest.mark.parametrize("method", [SimultaneousPG(batch=3), DynamicPG(batch=3, updates=(2,))], ids=type)
def test_rewards_that_are_past_or_certain_do_not_matter(method):
    """A constant on the rewards of epoch 0 leaves the last stage's update as it is, sampled ones too; of epoch h
    itself it leaves the exact one as it is."""
    mdp = random_mdp(2)
    richer = dataclasses.replace(mdp, reward=mdp.reward + torch.tensor([1.0, 0, 0])[:, None, None])
    dynamic = DynamicPG(batch=3, sampling="visited")
    args = softmax(logits(mdp)), 2, 3
    ours, theirs = (dynamic.sampled(m, *args, torch_stream(0, "e"))[0] for m in (mdp, richer))
    assert torch.equal(ours, theirs)
    exact = [type(method)().exact(m, args[0], evaluate(m, args[0]), 0) for m in (mdp, richer)]
    torch.testing.assert_close(*exact, rtol=0, atol=1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_the_theorys_steps_never_lower_a_stage(seed):
    mdp, method = random_mdp(seed), DynamicPG(updates=(30,))
    state, before = {**method.start(mdp, 0), "theta": logits(mdp, seed)}, -np.inf
    for i in range(90):
        h = method.epoch(mdp, i)
        goal = float(method.states(mdp, h) @ evaluate(mdp, method.policy(mdp, state)).value[h])
        assert i % 30 == 0 or goal >= before - 1e-14
        before, (state, metrics) = goal, method.step(mdp, state, 0, i)
        assert metrics["epoch"] == h == 2 - i // 30


def test_epochs_that_are_done_and_those_that_wait_stay_as_they_are():
    mdp, method = random_mdp(1), DynamicPG(updates=(2, 3, 4))
    state, trained = method.start(mdp, 0), []
    for i in range(12):
        after, _ = method.step(mdp, state, 0, i)
        (moved,) = (after["theta"] != state["theta"]).flatten(1).any(-1).nonzero().flatten().tolist()
        trained.append(moved)
        state = after
    assert trained == [2] * 4 + [1] * 3 + [0] * 5


def test_with_many_updates_it_is_backward_induction():
    mdp, method = random_mdp(3), DynamicPG(updates=(150,), scale=1000.0)
    state = go(method, mdp, method.start(mdp, 0), 450)
    np.testing.assert_allclose(evaluate(mdp, method.policy(mdp, state)).value[:3], best(mdp), atol=5e-3)


def test_a_discount_and_forbidden_actions_are_kept_to():
    mdp = random_mdp(4, gamma=0.5, legal=[[True, True], [False, True], [True, True]], actions=2)
    for method in (DynamicPG(updates=(150,), scale=500.0), SimultaneousPG(scale=2000.0)):
        learner = TabularLearner(method, mdp, [0])
        for _ in range(450):
            learner.iterate()
        policy = learner.agent().policy
        assert not policy[:, 1, 0].any()
        barred = dataclasses.replace(mdp, reward=torch.where(mdp.legal, mdp.reward, -9.0))
        found = float(evaluate(mdp, policy).value[0] @ mdp.initial)
        assert found == pytest.approx(float(mdp.initial @ torch.from_numpy(best(barred)[0])), abs=5e-3)


# --- samples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["uniform", "visited", "simultaneous"])
def test_samples_are_unbiased_and_steps_are_counted(sampling):
    """Within five standard errors of the exact gradient. A stage-1 draw plays 2 of 3 steps, and one more to get there
    where it must; a whole episode plays 3."""
    mdp = random_mdp(5, gamma=0.8)
    policy = softmax(logits(mdp, 5))
    method = SimultaneousPG() if sampling == "simultaneous" else DynamicPG(sampling=sampling)
    exact = method.exact(mdp, policy, evaluate(mdp, policy), 1)
    drawn = [method.sampled(mdp, policy, 1, 400, torch_stream(i, "e")) for i in range(40)]
    parts = torch.stack([gradient for gradient, *_ in drawn])
    assert bool(((parts.mean(0) - exact).abs() <= 5 * parts.std(0) / 40**0.5 + 1e-12).all())
    assert float(parts.std(0).max()) / 40**0.5 < 0.1 * float(exact.abs().max())
    assert drawn[0][1] == 400 * (2 if sampling == "uniform" else 3)


@pytest.mark.parametrize("method", [SimultaneousPG(), DynamicPG()], ids=type)
def test_a_baseline_leaves_the_gradient_and_takes_spread_away(method):
    mdp = random_mdp(5)
    policy = softmax(logits(mdp, 5))
    found = evaluate(mdp, policy)
    spread = []
    for mean in (0.0, found.value[:-1]):
        parts = torch.stack([method.sampled(mdp, policy, 1, 400, torch_stream(i, "e"), mean)[0] for i in range(40)])
        error = (parts.mean(0) - method.exact(mdp, policy, found, 1)).abs()
        assert bool((error <= 5 * parts.std(0) / 40**0.5 + 1e-12).all())
        spread.append(float(parts.std(0).sum()))
    assert spread[1] < 0.6 * spread[0]


def test_the_baseline_is_the_mean_of_earlier_returns_and_forgets_slowly():
    mdp, method = delayed_trust(), DynamicPG(batch=4, baseline=True, updates=(30,))
    state = method.start(mdp, 0)
    assert not go(DynamicPG(batch=4, updates=(30,)), mdp, state, 3)["mean"].any()
    state = go(method, mdp, state, 30)
    assert float(state["mean"][1, 2]) == pytest.approx(0.6)  # what state 2 always pays
    assert float(state["seen"][1].sum()) == 120 and not state["mean"][0].any()


@pytest.mark.parametrize("method", [SimultaneousPG(300, 100), DynamicPG(300, 100, updates=(50,))], ids=type)
def test_sampled_updates_learn_to_wait_and_to_sell_in_time(method):
    mdp = optimal_stopping(horizon=4, up=0.9)
    learner = TabularLearner(method, mdp, [0])
    rows = [learner.iterate()[0] for _ in range(200)]
    top = best(mdp)[0] @ mdp.initial.numpy()
    assert rows[0]["return_mean"] < top - 0.2
    assert rows[-1]["return_mean"] > top - 0.02
    policy = learner.agent().policy
    assert policy[0, 5, 0] > 0.9 and policy[3, 8, 1] > 0.9
    assert rows[-1]["env_steps"] >= 199 * 100


def test_states_where_the_episode_is_over_are_not_drawn():
    mdp = optimal_stopping()
    uniform, visited = (DynamicPG(sampling=s).states(mdp, 3) for s in ("uniform", "visited"))
    assert uniform[-1] == 0 and uniform[:-1].tolist() == pytest.approx([1 / 11] * 11)
    assert visited[-1] == pytest.approx(7 / 8)  # sold by a uniform policy in three days
    torch.testing.assert_close(visited, occupancy(mdp, torch.full((12, 2), 0.5).double())[3])


def test_optimal_stopping_waits_for_the_deadline():
    """With 60 % the price rises by 0.2 of a step a day on average, and nothing is gained only at the top."""
    top = best(optimal_stopping())[0]
    assert top[5] == pytest.approx(0.6715769856) and top[10] == 1 and top[11] == 0
    assert best(optimal_stopping(up=0.5))[0][5] == pytest.approx(0.506640625)
    assert best(delayed_trust())[0].tolist() == [1, 2, 1.2]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused():
    mdp = random_mdp()
    with pytest.raises(UsageError, match="updates=.1, 2. has 2 numbers; .* has 3 epochs"):
        DynamicPG(updates=(1, 2)).admit(mdp)
    with pytest.raises(UsageError, match="set horizon=H"):
        DynamicPG().admit(TabularMDP(mdp.rows[0], mdp.reward[0], 0.9))
    with pytest.raises(UsageError, match="add a constant"):
        SimultaneousPG().admit(dataclasses.replace(mdp, reward=mdp.reward - 1))
    with pytest.raises(UsageError, match="start=11 is not allowed; it must be a whole number from 0 to 10"):
        optimal_stopping(start=11)


@pytest.mark.parametrize("sampling", ["uniform", "visited"])
@pytest.mark.parametrize("batch", [None, 4])
def test_where_every_state_is_the_end_there_is_nothing_to_learn(sampling, batch):
    mdp = TabularMDP(np.eye(2)[:, None].repeat(2, 1), np.zeros((2, 2)), gamma=1, horizon=3)
    method = DynamicPG(sampling=sampling, batch=batch)
    assert bool((go(method, mdp, method.start(mdp, 0), 3)["theta"] == 0).all())
