"""Robust RVI: the fixed points of the card, the exact solver as oracle, and what sampling converges to."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from surefoot.ambiguity import KL, ChiSquare, Contamination, TotalVariation, Wasserstein
from surefoot.claims.tabular.robust_average_reward import learn
from surefoot.envs.tabular import Successors, TabularMDP, resolve
from surefoot.envs.tabular.policies import uniform_policy
from surefoot.errors import UsageError
from surefoot.methods.tabular.robust_average_reward import RobustRVI, RobustRVITD, mean_reward
from surefoot.methods.tabular.robust_average_reward.multilevel import Draws, Levels
from surefoot.seeding import numpy_stream
from surefoot.solvers import evaluate_policy, solve

TWO, TRAP = resolve("two-state"), resolve("trap")
LINE = Wasserstein(cost=1 - torch.eye(2, dtype=torch.float64), radius=0.1)
SETS = [Contamination(0.2), TotalVariation(0.1), ChiSquare(0.1), KL(0.05), LINE]


def exact(rows):
    """Draws that leave nothing to chance: the nominal rows themselves."""
    weights = torch.ones(1, *rows.probability.shape[:-1], dtype=torch.float64)
    return Draws(rows.probability[None], weights, weights[0])


def fixed_point(method, mdp, sweeps=150):
    """The table that updates with exact worst cases settle on."""
    rows = method.rows(mdp)
    table = method.start(mdp, 0)["table"]
    for _ in range(sweeps):
        table = method.update(mdp, rows, table, exact(rows), 1)
    return table


def trained(method, mdp, iterations=40, seed=0):
    state, gains = method.start(mdp, seed), []
    for i in range(iterations):
        state, metrics = method.step(mdp, state, seed, i)
        gains.append(float(metrics["gain"]))
    return state, gains


# --- fixed points ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ambiguity", "gain", "q"),
    [
        (Contamination(0.0), 0.900000, [[1.441667, 0.675], [0.375, 1.108333]]),
        (Contamination(0.2), 0.848276, [[1.382759, 0.644828], [0.327586, 1.037931]]),
        (Contamination(0.4), 0.792857, [[1.319643, 0.6125], [0.276786, 0.9625]]),
        (TotalVariation(0.1), 0.866667, [[1.408333, 0.641667], [0.341667, 1.075]]),
        (TotalVariation(0.2), 0.833333, [[1.375, 0.608333], [0.308333, 1.041667]]),
    ],
    ids=str,
)
def test_the_numbers_of_the_card(ambiguity, gain, q):
    method = RobustRVI(ambiguity)
    table = fixed_point(method, TWO)
    assert float(method.gain(TWO, table)) == pytest.approx(gain, abs=5e-7)
    np.testing.assert_allclose(table, q, rtol=0, atol=6e-7)


def test_the_value_of_the_uniform_policy():
    method = RobustRVITD(Contamination(0.2))
    table = fixed_point(method, TWO)
    np.testing.assert_allclose(table, [0.653333, 0.32], rtol=0, atol=5e-7)
    assert float(method.gain(TWO, table)) == pytest.approx(0.486667, abs=5e-7)


@pytest.mark.parametrize("ambiguity", SETS, ids=str)
def test_gains_are_those_of_the_exact_solver(ambiguity):
    learn, judge = RobustRVI(ambiguity), RobustRVITD(ambiguity)
    best = solve(TWO, ambiguity, criterion="average", tolerance=1e-10)
    given = evaluate_policy(TWO, uniform_policy(TWO), ambiguity, criterion="average", tolerance=1e-10)
    assert float(learn.gain(TWO, fixed_point(learn, TWO))) == pytest.approx(best.gain, abs=1e-8)
    assert float(judge.gain(TWO, fixed_point(judge, TWO))) == pytest.approx(given.gain, abs=1e-8)
    assert torch.equal(learn.policy(TWO, {"table": fixed_point(learn, TWO)}), best.policy)


@pytest.mark.parametrize(("radius", "risky"), [(0.02, 0.556545), (0.05, 0.391810), (0.1, 0.210859)])
def test_risky_work_in_the_worst_world(radius, risky):
    always = torch.tensor([[1.0, 0], [1, 0]], dtype=torch.float64)
    method = RobustRVITD(KL(radius), followed=always)
    assert float(method.gain(TRAP, fixed_point(method, TRAP))) == pytest.approx(risky, abs=5e-7)


def test_an_offset_changes_the_table_by_a_constant_only():
    tables = [fixed_point(RobustRVI(TotalVariation(0.1), offset=f), TWO) for f in ("mean", "first", "largest")]
    gains = [float(RobustRVI(offset=f).gain(TWO, t)) for f, t in zip(("mean", "first", "largest"), tables)]
    assert gains == pytest.approx([gains[0]] * 3, abs=1e-9)
    for table in tables[1:]:
        apart = table - tables[0]
        assert float(apart.max() - apart.min()) < 1e-9 and float(apart.abs().max()) > 0.1


@pytest.mark.parametrize("offset", ["mean", "first", "largest"])
def test_an_offset_moves_with_the_table_and_scales_with_it(offset):
    method, table = RobustRVI(offset=offset), torch.randn(2, 2, dtype=torch.float64)
    f = method.gain(TWO, table)
    torch.testing.assert_close(method.gain(TWO, table + 3), f + 3)
    torch.testing.assert_close(method.gain(TWO, 2.5 * table), 2.5 * f)


def test_contamination_is_a_discount():
    """g* = R·min U*, U* being the value of the discount 1 − R."""
    discounted = solve(dataclasses.replace(TWO, gamma=0.8), tolerance=1e-10)
    method = RobustRVI(Contamination(0.2))
    assert float(discounted.value.min()) == pytest.approx(4.241379, abs=5e-7)
    gain = float(method.gain(TWO, fixed_point(method, TWO)))
    assert gain == pytest.approx(0.2 * float(discounted.value.min()), abs=1e-8)


def test_a_larger_set_has_no_larger_gain():
    gains = [float(m.gain(TWO, fixed_point(m, TWO, 60))) for m in (RobustRVI(KL(r)) for r in (0.0, 0.02, 0.1, 0.5))]
    assert gains == sorted(gains, reverse=True) and gains[0] == pytest.approx(0.9, abs=1e-9)


# --- kinds of MDPs ---------------------------------------------------------------------------------------------------


def test_a_sparse_kernel_and_rewards_of_the_next_state_are_the_same_problem():
    state = torch.arange(2).expand(2, 2, 2)
    sparse = dataclasses.replace(TWO, transition=Successors(state.flip(-1), TWO.rows.flip(-1)))
    outcome = dataclasses.replace(TWO, reward=TWO.reward[..., None].expand(2, 2, 2))
    for ambiguity in (KL(0.1), TotalVariation(0.1)):
        method = RobustRVI(ambiguity)
        whole = fixed_point(method, TWO, 30)
        torch.testing.assert_close(fixed_point(method, sparse, 30), whole, rtol=0, atol=1e-12)
        torch.testing.assert_close(fixed_point(method, outcome, 30), whole, rtol=0, atol=1e-12)


def test_actions_that_are_not_legal_are_neither_chosen_nor_counted():
    legal = torch.tensor([[False, True], [True, True]])
    rows = TWO.rows.clone()
    rows[0, 0] = 0.0
    mdp = TabularMDP(rows, TWO.reward, legal=legal)
    method = RobustRVI(TotalVariation(0.1))
    found = solve(mdp, TotalVariation(0.1), criterion="average", tolerance=1e-10)
    table = fixed_point(method, mdp)
    assert float(method.gain(mdp, table)) == pytest.approx(found.gain, abs=1e-8)
    assert torch.equal(method.policy(mdp, {"table": table}), found.policy)
    assert trained(method, mdp, 2)[0]["table"].isfinite().all()


def test_what_a_method_cannot_learn_from_is_refused():
    with pytest.raises(UsageError, match="infinite horizon"):
        RobustRVI().admit(dataclasses.replace(TWO, horizon=3))
    with pytest.raises(UsageError, match="not monotone"):
        RobustRVI("mean-variance:1").admit(TWO)
    with pytest.raises(UsageError, match="policy has shape"):
        RobustRVITD(followed=torch.ones(3, 2) / 2).admit(TWO)


# --- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ambiguity", [Contamination(0.2), TotalVariation(0.1)], ids=str)
def test_sampled_updates_find_gain_and_policy(ambiguity):
    best = solve(TWO, ambiguity, criterion="average").gain
    given = evaluate_policy(TWO, uniform_policy(TWO), ambiguity, criterion="average").gain
    state, gains = trained(RobustRVI(ambiguity), TWO)
    assert np.mean(gains[-10:]) == pytest.approx(best, abs=0.04)
    assert RobustRVI().policy(TWO, state).tolist() == [[1, 0], [0, 1]]
    assert np.mean(trained(RobustRVITD(ambiguity), TWO)[1][-10:]) == pytest.approx(given, abs=0.04)


def test_an_update_is_unbiased_and_seeds_may_share_one():
    """The mean over many updates of one table is the update of the mean, less the bias of the cap."""
    method, table = RobustRVI(TotalVariation(0.1), cap=5), torch.tensor([[1.4, 0.6], [0.3, 1.1]], dtype=torch.float64)
    rows = method.rows(TWO)
    many = 20_000
    wide = rows.probability.expand(many, 2, 2, 2)
    draws = Levels(0.5, 5).draw(wide, numpy_stream(0, "draws"))
    together = method.update(TWO, rows, table.expand(many, 2, 2), draws, 3)
    one = method.update(TWO, rows, table, Draws(draws.laws[:, 7], draws.weights[:, 7], draws.samples[7]), 3)
    torch.testing.assert_close(together[7], one, rtol=0, atol=1e-15)
    error = together.std(0) / many**0.5
    wanted = method.update(TWO, rows, table, exact(rows), 3)
    assert bool(((together.mean(0) - wanted).abs() < 4 * error + 0.002).all())


def test_the_mean_reward_of_a_policy():
    risky, safe = ([[1.0, 0], [1, 0]], [[0, 1.0], [1, 0]])
    found = [float(mean_reward(TRAP, torch.tensor(p, dtype=torch.float64))) for p in (risky, safe)]
    assert found == pytest.approx([0.8, 0.7], abs=1e-6)


def test_the_claim_learns_side_by_side_what_each_seed_learns_alone():
    method = RobustRVI(TotalVariation(0.1), batch=20)
    together = learn(method, TWO, 40, [1, 3])
    alone = [float(method.gain(TWO, trained(method, TWO, 2, seed)[0]["table"])) for seed in (1, 3)]
    assert together["curve"][-1] == pytest.approx(np.mean(alone), abs=5e-5)


def test_the_followed_policy_is_one_of_the_mdp_in_any_precision():
    third = torch.tensor([[1, 2], [2, 1]], dtype=torch.float32) / 3
    policy = RobustRVITD(followed=third.to(torch.bfloat16)).policy(TWO, {})
    torch.testing.assert_close(policy.sum(-1), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-15)
    torch.testing.assert_close(policy, third.double(), rtol=1e-2, atol=0)
    with pytest.raises(UsageError, match=r"policy\[1\] is not a distribution"):
        RobustRVITD(followed=[[0.5, 0.5], [0.5, 0.6]]).admit(TWO)
