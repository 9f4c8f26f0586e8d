"""Regularised robust MDPs: the numbers of the card, the equivalence with risk by brute force, every gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from surefoot.ambiguity import KL, ChiSquare, TotalVariation
from surefoot.envs.tabular import TabularMDP, Transitions, rollouts
from surefoot.envs.tabular.policies import greedy
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.tabular.gradient import backup, direct_gradient, evaluate, project
from surefoot.methods.tabular.regularized_rmdp import RFZI, RegularizedRMDP, SampledGradient
from surefoot.seeding import torch_stream

TWO = TabularMDP([[[0.7, 0.3], [0.2, 0.8]], [[0.5, 0.5], [0.9, 0.1]]], [[1, 0.4], [0, 0.6]], 0.9)
POLICY = torch.tensor([[0.6, 0.4], [0.3, 0.7]], dtype=torch.float64)
KL_2 = KL(penalty=0.5)  # β = 2


def garnet(seed, states=6, actions=3, gamma=0.8):
    g = torch_stream(seed, "garnet")
    rows = torch.rand(states, actions, states, generator=g, dtype=torch.float64).pow(4)
    reward = torch.rand(states, actions, generator=g, dtype=torch.float64)
    return TabularMDP(rows / rows.sum(-1, keepdim=True), reward, gamma)


def random_policy(mdp, seed):
    drawn = torch.rand(mdp.states, mdp.actions, generator=torch_stream(seed, "policy"), dtype=torch.float64)
    return drawn / drawn.sum(-1, keepdim=True)


def optimum(mdp, ambiguity, sweeps=300):
    """V* `[S]` by value iteration."""
    value = torch.zeros(mdp.states, dtype=torch.float64)
    for _ in range(sweeps):
        value = backup(mdp, value, ambiguity).q.amax(-1)
    return value


def trained(method, mdp=TWO, steps=200, seed=0):
    learner = make_learner(method, mdp, [seed], steps)
    rows = [learner.iterate()[0] for _ in range(steps)]
    return learner, rows


# --- the equivalence -------------------------------------------------------------------------------------------------


def divergence(name, p, q):
    """D(p ‖ q) of one distribution over two outcomes, p = (p, 1 − p)."""
    p, q = np.array([p, 1 - p]), np.array([q, 1 - q])
    if name == "kl":
        return float(np.sum(p * np.log(np.maximum(p, 1e-300) / q)))
    return float(np.abs(p - q).sum() / 2 if name == "tv" else np.sum((p - q) ** 2 / q))


@pytest.mark.parametrize(
    ("name", "ambiguity"), [("kl", KL_2), ("tv", TotalVariation(penalty=0.8)), ("chi2", ChiSquare(penalty=0.5))]
)
def test_the_risk_recursion_is_the_adversarys_best_stationary_kernel(name, ambiguity):
    """The adversary's problem by brute force: four probabilities, min over them of E Σ γ^t (r + γ·price·D)."""
    nominal, reward, pi = TWO.rows[:, :, 0].numpy().ravel(), TWO.reward.numpy(), POLICY.numpy()

    def value(first):
        rows = np.stack([first, 1 - first], -1).reshape(2, 2, 2)
        paid = ambiguity.penalty * np.array([divergence(name, p, q) for p, q in zip(first, nominal)]).reshape(2, 2)
        chain = np.einsum("sa,sat->st", pi, rows)
        return np.linalg.solve(np.eye(2) - 0.9 * chain, (pi * (reward + 0.9 * paid)).sum(1)).mean()

    starts = [nominal, np.full(4, 0.5), np.array([0.3, 0.6, 0.2, 0.7])]
    best = min(minimize(value, s, method="Powell", bounds=[(0, 1)] * 4, tol=1e-12).fun for s in starts)
    found = evaluate(TWO, POLICY, ambiguity)
    assert float(TWO.initial @ found.value) == pytest.approx(best, abs=2e-6)
    assert value(found.rows[:, :, 0].numpy().ravel()) == pytest.approx(best, abs=2e-6)


def test_the_entropic_formula_and_the_worst_kernel():
    found = evaluate(TWO, POLICY, KL_2)
    np.testing.assert_allclose(found.value, [6.263565, 5.994317], atol=5e-7)
    soft = -0.5 * torch.log(TWO.rows @ torch.exp(-2 * found.value))
    torch.testing.assert_close(found.q, TWO.reward + 0.9 * soft, rtol=0, atol=1e-12)
    tilted = TWO.rows * torch.exp(-2 * found.value)
    torch.testing.assert_close(found.rows, tilted / tilted.sum(-1, keepdim=True), rtol=0, atol=1e-12)
    paid = (found.rows * (found.rows / TWO.rows).log()).sum(-1) / 2
    torch.testing.assert_close(found.paid, paid, rtol=0, atol=1e-12)


def test_a_price_on_total_variation_cuts_the_values_off_above():
    value = evaluate(garnet(1), random_policy(garnet(1), 1), TotalVariation(penalty=0.3))
    cut = garnet(1).rows @ value.value.clamp(max=float(value.value.min()) + 0.3)
    torch.testing.assert_close(value.q, garnet(1).reward + 0.8 * cut, rtol=0, atol=1e-12)


def test_risk_of_action_and_state_together_is_another_thing_except_for_deterministic_policies():
    """−(γ/β) log Σ_a π exp(−βQ/γ) is less than Σ_a π Q, which is why risk is taken for each action."""
    for policy, same in ((POLICY, False), (torch.eye(2, dtype=torch.float64), True)):
        value = torch.zeros(2, dtype=torch.float64)
        for _ in range(300):
            q = TWO.reward - 0.45 * torch.log(TWO.rows @ torch.exp(-2 * value))
            value = -0.45 * torch.log((policy * torch.exp(-q / 0.45)).sum(-1))
        apart = evaluate(TWO, policy, KL_2).value
        assert bool(((apart - value).abs() < 1e-9).all()) == same and bool((value <= apart + 1e-9).all())


def test_values_fall_with_beta_from_the_neutral_one_to_the_worst_successor():
    betas = (1e-6, 0.1, 1, 10, 100, 1e5)
    values = [float(optimum(TWO, KL(penalty=1 / beta))[0]) for beta in betas]
    np.testing.assert_allclose(values[:5], [9.084746, 9.075289, 8.988830, 8.114210, 6.597345], atol=6e-7)
    assert values[5] == pytest.approx(6.4, abs=1e-3)  # the worse successor for certain: 1 + 0.9·6
    policies = [float(evaluate(TWO, POLICY, KL(penalty=1 / beta)).value[0]) for beta in betas]
    assert all(np.diff(policies) < 0)


# --- the gradient ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ambiguity", [KL_2, KL(0.1), TotalVariation(penalty=0.8)], ids=str)
def test_the_gradient_is_the_derivative_in_every_probability(ambiguity):
    """Of V^π(ρ) as a function of numbers π(a|s) that need not sum to one."""
    found = evaluate(TWO, POLICY, ambiguity)
    gradient = direct_gradient(found.occupancy, found.q)
    for s, a in np.ndindex(2, 2):
        step = torch.zeros(2, 2, dtype=torch.float64)
        step[s, a] = 1e-5
        up, down = (float(TWO.initial @ evaluate(TWO, POLICY + x, ambiguity).value) for x in (step, -step))
        assert float(gradient[s, a]) == pytest.approx((up - down) / 2e-5, abs=1e-6)
    if ambiguity is KL_2:
        np.testing.assert_allclose(gradient, [[34.963267, 31.141707], [25.640903, 28.933558]], atol=5e-6)


@pytest.mark.parametrize("seed", range(5))
def test_a_gap_is_no_larger_than_the_mismatch_times_the_steepest_direction(seed):
    mdp = garnet(seed)
    found = evaluate(mdp, random_policy(mdp, seed), KL_2)
    steepest = float((found.occupancy * (found.q.amax(-1) - found.value)).sum())
    gap = float(mdp.initial @ (optimum(mdp, KL_2) - found.value))
    assert 0 < gap <= steepest * mdp.states / (1 - mdp.gamma)


def test_ascent_reaches_the_optimum_of_the_card():
    learner, rows = trained(RegularizedRMDP("kl-penalty:0.5", learning_rate=0.1))
    q = [[8.890945, 8.151236], [7.829768, 8.561767]]
    np.testing.assert_allclose(learner.states[0]["q"], q, rtol=0, atol=6e-7)
    assert rows[-1]["stationarity"] == pytest.approx(0, abs=1e-9)
    assert learner.agent().policy.tolist() == [[1, 0], [0, 1]]
    robust = [row["robust_mean"] for row in rows]
    assert all(np.diff(robust) > -1e-9) and robust[-1] == pytest.approx((8.890945 + 8.561767) / 2, abs=6e-7)
    nominal = evaluate(TWO, torch.eye(2, dtype=torch.float64)).value.mean()
    assert rows[-1]["return_mean"] == pytest.approx(float(nominal))


@pytest.mark.parametrize("text", ["kl-penalty:0.2", "kl:0.1", "tv:0.1", "cvar:0.3"])
def test_ascent_finds_the_optimum_of_a_random_mdp_under_any_set(text):
    mdp = garnet(2)
    method = RegularizedRMDP(text, learning_rate=1.0)
    learner, _ = trained(method, mdp, 60)
    from surefoot.ambiguity import parse

    gap = mdp.initial @ (optimum(mdp, parse(text)) - evaluate(mdp, learner.states[0]["policy"], parse(text)).value)
    assert float(gap) == pytest.approx(0, abs=1e-8)


# --- from samples ----------------------------------------------------------------------------------------------------


def test_weighed_nominal_episodes_visit_what_the_worst_world_visits():
    """With the exact critic: within five standard errors, which are small against the distance to the nominal."""
    mdp, method = garnet(4, states=3, actions=2, gamma=0.6), SampledGradient(beta=3.0)
    policy = random_policy(mdp, 4)
    found = evaluate(mdp, policy, KL(penalty=1 / 3))
    parts, errors = [], []
    for part in range(20):
        met = rollouts(mdp, policy, 1000, 12, torch_stream(part, "episodes"))
        parts.append(method.visits(mdp, policy, found.q, met)[0])
        errors.append((method.critic(mdp, policy, found.q, met) - found.q).abs().max())
    sampled = torch.stack(parts)
    step, visits = torch.arange(12), mdp.initial
    exact, chain = torch.zeros(3, dtype=torch.float64), torch.einsum("sa,sat->st", policy, found.rows)
    for t in step:
        exact, visits = exact + mdp.gamma**t * visits, visits @ chain
    spread = 5 * sampled.std(0) / 20**0.5
    assert bool(((sampled.mean(0) - exact).abs() < spread + 1e-3).all()) and float(spread.max()) < 0.03
    assert float((evaluate(mdp, policy).occupancy - exact).abs().max()) > 0.1
    assert max(errors) < 0.02  # the exact critic stays where it is


def test_the_critic_finds_the_robust_values():
    mdp, method = garnet(5, states=3, actions=2, gamma=0.6), SampledGradient(beta=2.0)
    policy, q = random_policy(mdp, 5), torch.zeros(3, 2, dtype=torch.float64)
    for part in range(60):
        q = method.critic(mdp, policy, q, rollouts(mdp, policy, 2000, 10, torch_stream(part, "episodes")))
    torch.testing.assert_close(q, evaluate(mdp, policy, KL_2).q, rtol=0, atol=0.01)


def test_the_critic_keeps_its_digits_at_every_temperature():
    """One pair is met, whose Z goes all the way (rate 1) or half the way; Z itself would be e^−5000."""
    met = Transitions(*(torch.tensor([[x]]) for x in (0, 1)), torch.tensor([[0.9]]).double(), torch.tensor([[1]]))
    q = torch.tensor([[1.0, 2.0], [5.0, 5.0]], dtype=torch.float64)
    whole = SampledGradient(beta=1e3, critic_rate=1.0).critic(TWO, POLICY, q, met)
    half = SampledGradient(beta=1e3, critic_rate=0.5).critic(TWO, POLICY, q, met)
    assert float(whole[0, 1]) == pytest.approx(0.9 * (5 + 1)) and float(half[0, 1]) == pytest.approx(
        2 + 0.9e-3 * np.log(2)
    )
    whole[0, 1] = half[0, 1] = 2.0
    assert torch.equal(whole, q) and torch.equal(half, q)


@pytest.mark.parametrize("seed", range(3))
def test_sampled_ascent_comes_near_the_optimum(seed):
    mdp = garnet(6, states=4, actions=2, gamma=0.7)
    method = SampledGradient(beta=2.0, learning_rate=0.5, length=20, critic_sweeps=3)
    _, rows = trained(method, mdp, 60, seed)
    best = float(mdp.initial @ optimum(mdp, KL_2))
    uniform = float(mdp.initial @ evaluate(mdp, torch.full((4, 2), 0.5, dtype=torch.float64), KL_2).value)
    assert best - rows[-1]["robust_mean"] < 0.1 * (best - uniform)
    assert 1 <= rows[-1]["effective_sample_size"] <= 64


# --- offline ---------------------------------------------------------------------------------------------------------


def test_fitted_z_comes_to_the_optimum_with_data():
    mdp = garnet(3)
    gaps = []
    for samples in (300, 3_000, 100_000):
        learner, rows = trained(RFZI(beta=2.0, samples=samples), mdp, 60)
        gaps.append(float((learner.states[0]["q"].amax(-1) - optimum(mdp, KL_2)).abs().max()))
        assert rows[-1]["change"] < 1e-4
    assert gaps[2] < 0.01 < min(gaps[:2])
    assert torch.equal(learner.agent().policy, greedy(mdp, learner.states[0]["q"]))


def test_at_beta_0_fitted_z_is_fitted_q():
    mdp = garnet(3)
    learner, rows = trained(RFZI(beta=0, samples=100_000), mdp, 60)
    assert float((learner.states[0]["q"].amax(-1) - optimum(mdp, None)).abs().max()) < 0.02
    assert rows[-1]["robust_mean"] == rows[-1]["return_mean"]


@pytest.mark.parametrize("method", [RegularizedRMDP("kl-penalty:0.5"), RFZI(beta=2.0, samples=100_000)], ids=str)
def test_rewards_of_the_next_state_are_risked_with_its_value(method):
    """Against V*(s) = max_a −(γ/β) log E exp(−β (V(s') + r(s, a, s')/γ)), iterated here."""
    base = garnet(7, states=3, actions=2)
    paid = torch.rand(3, 2, 3, generator=torch_stream(7, "rewards"), dtype=torch.float64)
    mdp, value = TabularMDP(base.rows, paid, 0.8), torch.zeros(3, dtype=torch.float64)
    for _ in range(200):
        value = (-0.4 * torch.log((base.rows * torch.exp(-2 * (value + paid / 0.8))).sum(-1))).amax(-1)
    learner, _ = trained(method, mdp, 80)
    best = learner.states[0]["q"].amax(-1)
    torch.testing.assert_close(best, value, rtol=0, atol=0.01 if isinstance(method, RFZI) else 1e-8)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [RegularizedRMDP(), SampledGradient(), RFZI()], ids=lambda m: type(m).__name__)
def test_an_mdp_with_an_end_or_without_a_discount_is_refused(method):
    for changes in ({"horizon": 3}, {"gamma": 1.0}, {"gamma": 0.0}):
        with pytest.raises(UsageError, match=f"{type(method).__name__} cannot learn in 'mdp'"):
            make_learner(method, TabularMDP(TWO.rows, TWO.reward, **{"gamma": 0.9, **changes}), [0], 10)


def test_a_policy_on_the_edge_is_projected_back():
    assert project(POLICY + 1.0).tolist() == pytest.approx(POLICY.numpy())
