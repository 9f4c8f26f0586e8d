"""Solvers against enumeration, linear programmes, stationary distributions and numbers of the cards."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import surefoot as sf
from surefoot.ambiguity import (
    KL,
    L1,
    Box,
    ChiSquare,
    Contamination,
    CVaR,
    Entropic,
    Hellinger,
    LInfinity,
    MeanCVaR,
    MeanVariance,
    Scenarios,
    TotalVariation,
    worst_case_value,
)
from surefoot.envs.tabular import Successors, TabularMDP, resolve
from surefoot.errors import UsageError
from surefoot.solvers import evaluate_policy, solve

P = [[[0.7, 0.3], [0.2, 0.8]], [[0.5, 0.5], [0.9, 0.1]]]
R = [[1, 0.4], [0, 0.6]]
METHODS = ("modified-policy-iteration", "value-iteration", "gauss-seidel")
SETS = [
    None,
    KL(0.1),
    L1(0.3),
    TotalVariation(penalty=0.5),
    ChiSquare(0.2),
    Contamination(0.2),
    CVaR(0.4),
    Hellinger(0.05),
]


def small(**given) -> TabularMDP:
    return TabularMDP(P, R, **{"gamma": 0.9, **given})


def garnet(seed: int, S: int = 6, A: int = 3, K: int = 3, **given) -> tuple[TabularMDP, TabularMDP]:
    """A random MDP with K successors for each pair, sparse and dense."""
    rng = np.random.default_rng(seed)
    state = torch.from_numpy(np.stack([rng.choice(S, K, replace=False) for _ in range(S * A)]).reshape(S, A, K))
    weight = torch.from_numpy(rng.dirichlet(np.ones(K), (S, A)))
    reward = rng.normal(size=(S, A))
    dense = torch.zeros(S, A, S, dtype=torch.float64).scatter_add_(-1, state, weight)
    given = {"gamma": 0.9, **given}
    return TabularMDP(Successors(state, weight), reward, **given), TabularMDP(dense, reward, **given)


def linear_value(kernel, reward, gamma):
    return np.linalg.solve(np.eye(len(kernel)) - gamma * kernel, reward)


def of_policy(mdp: TabularMDP, policy, kernel=None):
    """Chain and rewards of a policy in a dense kernel."""
    kernel = mdp.transition if kernel is None else kernel
    return np.einsum("sa,sat->st", policy, kernel), np.einsum("sa,sa->s", policy, mdp.expected_reward())


# --- numbers of the cards --------------------------------------------------------------------------------------------


def test_regularised_robust_values_of_the_card():
    best = solve(small(), KL(penalty=0.5), tolerance=1e-10)
    assert best.value.numpy() == pytest.approx([8.890945, 8.561767], abs=1e-6)
    assert best.policy.tolist() == [[1, 0], [0, 1]]
    given = evaluate_policy(small(), [[0.6, 0.4], [0.3, 0.7]], KL(penalty=0.5), tolerance=1e-10)
    assert given.value.numpy() == pytest.approx([6.263565, 5.994317], abs=1e-6)
    worst = [[[0.576593, 0.423407], [0.127328, 0.872672]], [[0.368538, 0.631462], [0.840067, 0.159933]]]
    assert given.worst_kernel.numpy() == pytest.approx(np.array(worst), abs=1e-6)
    for beta, value in [(0.1, 9.075289), (1, 8.988830), (10, 8.114210), (100, 6.597345)]:
        assert solve(small(), Entropic(beta), tolerance=1e-8).value[0].item() == pytest.approx(value, abs=1e-6)


def test_average_rewards_of_the_card():
    expected = [
        (None, 0.9),
        (Contamination(0.2), 0.848276),
        (Contamination(0.4), 0.792857),
        (TotalVariation(0.1), 0.866667),
        (TotalVariation(0.2), 0.833333),
    ]
    for ambiguity, gain in expected:
        best = solve(small(gamma=1), ambiguity, criterion="average", tolerance=1e-8)
        assert best.gain == pytest.approx(gain, abs=1e-6)
        assert best.value[0] == 0
    given = evaluate_policy(small(), np.full((2, 2), 0.5), Contamination(0.2), criterion="average", tolerance=1e-8)
    assert given.gain == pytest.approx(0.486667, abs=1e-6)
    assert given.value[1].item() == pytest.approx(0.32 - 0.653333, abs=1e-6)


def test_the_trap_loop_of_the_card():
    trap = TabularMDP([[[0.95, 0.05], [1, 0]], [[0.2, 0.8], [0.2, 0.8]]], [[1, 0.7], [0, 0]], gamma=1)
    for radius, gain, fall, escape in [(0.02, 0.556545, 0.099119, 0.124396), (0.1, 0.210859, 0.172949, 0.046212)]:
        risky = evaluate_policy(trap, [0, 0], KL(radius), criterion="average", tolerance=1e-9)
        assert risky.gain == pytest.approx(gain, abs=1e-6)
        assert risky.worst_kernel[0, 0, 1].item() == pytest.approx(fall, abs=1e-5)
        assert risky.worst_kernel[1, 0, 0].item() == pytest.approx(escape, abs=1e-5)
        best = solve(trap, KL(radius), criterion="average", tolerance=1e-8)
        assert best.gain == pytest.approx(0.7, abs=1e-7)
        assert best.policy[0].tolist() == [0, 1]
    assert solve(trap, criterion="average").gain == pytest.approx(0.8, abs=1e-6)


# --- independent answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_nominal_value_is_that_of_the_linear_programme(method):
    for seed in range(3):
        sparse, dense = garnet(seed)
        S, A = dense.states, dense.actions
        rows = np.repeat(np.eye(S), A, 0) - 0.9 * dense.transition.numpy().reshape(S * A, S)
        best = linprog(np.ones(S), A_ub=-rows, b_ub=-dense.reward.numpy().ravel(), bounds=(None, None))
        for mdp in (sparse, dense):
            found = solve(mdp, method=method, tolerance=1e-9)
            assert found.value.numpy() == pytest.approx(best.x, abs=1e-8)
            assert found.converged


def test_finitely_many_worlds_by_enumeration():
    """Every deterministic policy against every choice of a scenario for each pair."""
    rng = np.random.default_rng(0)
    S, A = 3, 2
    worlds = rng.dirichlet(np.ones(S), (S, A, 2))
    mdp = TabularMDP(worlds[:, :, 0], rng.normal(size=(S, A)), gamma=0.8)
    reward, best, values = mdp.reward.numpy(), np.full(S, -np.inf), {}
    for policy in itertools.product(range(A), repeat=S):
        least = np.full(S, np.inf)
        for choice in itertools.product(range(2), repeat=S):
            kernel = np.stack([worlds[s, policy[s], choice[s]] for s in range(S)])
            least = np.minimum(least, linear_value(kernel, reward[np.arange(S), policy], 0.8))
        values[policy] = least
        best = np.maximum(best, least)
    ambiguity = Scenarios(distributions=torch.tensor(worlds))
    for method in METHODS:
        found = solve(mdp, ambiguity, method=method, tolerance=1e-10)
        assert found.value.numpy() == pytest.approx(best, abs=1e-9)
    for policy, least in values.items():
        assert evaluate_policy(mdp, policy, ambiguity, tolerance=1e-10).value.numpy() == pytest.approx(least, abs=1e-9)


def test_finite_horizons_by_enumeration():
    """All deterministic policies of three steps; kernel and rewards of each step, one of them nominal."""
    rng = np.random.default_rng(1)
    H, S, A = 3, 2, 2
    mdp = TabularMDP(rng.dirichlet(np.ones(S), (H, S, A)), rng.normal(size=(H, S, A)), gamma=0.7, horizon=H)
    for ambiguity in (None, TotalVariation(0.2)):
        best, own = np.full(S, -np.inf), {}
        for policy in itertools.product(range(A), repeat=H * S):
            actions, v = np.reshape(policy, (H, S)), np.zeros(S)
            for h in reversed(range(H)):
                p = mdp.transition[h].numpy()[np.arange(S), actions[h]]
                future = p @ v if ambiguity is None else worst_case_value(v, p, ambiguity)
                v = mdp.reward[h].numpy()[np.arange(S), actions[h]] + 0.7 * future
            own[policy], best = v, np.maximum(best, v)
        found = solve(mdp, ambiguity)
        assert found.value[0].numpy() == pytest.approx(best, abs=1e-12)
        assert found.policy.shape == (H, S, A)
        assert found.gap == 0
        for policy in itertools.islice(own, 0, None, 13):
            value = evaluate_policy(mdp, np.reshape(policy, (H, S)), ambiguity).value[0]
            assert value.numpy() == pytest.approx(own[policy], abs=1e-12)


def test_averages_by_stationary_distributions():
    for seed in range(3):
        _, mdp = garnet(seed, S=4, A=2, K=4)
        gains = []
        for actions in itertools.product(range(2), repeat=4):
            chain, reward = of_policy(mdp, np.eye(2)[list(actions)])
            system = np.vstack([chain.T - np.eye(4), np.ones(4)])
            stationary = np.linalg.lstsq(system, np.array([0, 0, 0, 0, 1.0]), rcond=None)[0]
            gains.append(stationary @ reward)
            assert evaluate_policy(mdp, actions, criterion="average").gain == pytest.approx(gains[-1], abs=1e-6)
        found = solve(mdp, criterion="average", tolerance=1e-8)
        assert found.gain == pytest.approx(max(gains), abs=1e-7)


def test_a_chain_with_a_period_has_an_average():
    ring = TabularMDP(np.eye(3)[[1, 2, 0]][:, None], [[3.0], [0], [0]], gamma=1)
    assert solve(ring, criterion="average", tolerance=1e-9).gain == pytest.approx(1, abs=1e-8)


def test_exponential_utility_of_a_discounted_sum_by_all_paths():
    """A list of entropic risks, one a step, is the certainty equivalent of the whole sum."""
    H, gamma, rate = 3, 0.7, 2.0
    mdp = small(gamma=gamma, horizon=H)
    policy = np.array([[0, 1], [1, 0], [0, 1]])
    utility = 0.0
    for path in itertools.product(range(2), repeat=H - 1):
        states = (0, *path)
        chance = np.prod([P[states[h]][policy[h][states[h]]][states[h + 1]] for h in range(H - 1)])
        utility += chance * np.exp(-rate * sum(gamma**h * R[states[h]][policy[h][states[h]]] for h in range(H)))
    sets = [Entropic(rate * gamma ** (h + 1)) for h in range(H)]
    value = evaluate_policy(mdp, policy, sets).value[0, 0].item()
    assert value == pytest.approx(-np.log(utility) / rate, abs=1e-12)


# --- what always holds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ambiguity", SETS, ids=str)
def test_sparse_is_dense_and_the_worst_kernel_gives_the_value(ambiguity):
    for seed in range(2):
        sparse, dense = garnet(seed)
        one, other = (solve(mdp, ambiguity, tolerance=1e-9) for mdp in (sparse, dense))
        assert one.value.numpy() == pytest.approx(other.value.numpy(), abs=1e-8)
        if ambiguity is not None and getattr(ambiguity, "penalty", None) is None:
            for mdp, found in ((sparse, one), (dense, other)):
                world = TabularMDP(found.worst_kernel, mdp.reward, gamma=mdp.gamma)
                again = evaluate_policy(world, found.policy, tolerance=1e-9)
                assert again.value.numpy() == pytest.approx(found.value.numpy(), abs=1e-8)


@pytest.mark.parametrize("ambiguity", [LInfinity(0.1), Box(lower=np.zeros(6), upper=np.full(6, 0.5))], ids=str)
def test_sets_that_reach_all_states_make_sparse_rows_dense(ambiguity):
    sparse, dense = garnet(0)
    one, other = (solve(mdp, ambiguity, tolerance=1e-9) for mdp in (sparse, dense))
    assert one.value.numpy() == pytest.approx(other.value.numpy(), abs=1e-8)
    assert one.worst_kernel.shape == (6, 3, 6)


@settings(max_examples=20, deadline=None)
@example(656901, TotalVariation(penalty=0.5), "sa", 0.7617505684422354, 1e-6)  # all change alike, then stand still
@given(
    st.integers(0, 10**6),
    st.sampled_from(SETS),
    st.sampled_from(["sa", "s"]),
    st.floats(0.3, 0.95),
    st.floats(1e-6, 1.0),
)
def test_the_gap_is_a_certificate(seed, ambiguity, rectangular, gamma, tolerance):
    if rectangular == "s" and isinstance(ambiguity, CVaR):
        return
    mdp, _ = garnet(seed, gamma=gamma)
    exact = solve(mdp, ambiguity, rectangular=rectangular, tolerance=1e-10)
    for method in METHODS:
        found = solve(mdp, ambiguity, rectangular=rectangular, method=method, tolerance=tolerance)
        assert found.gap <= tolerance
        slack = 1e-9 * (1 + float(exact.value.abs().max()))
        assert float((found.value - exact.value).abs().max()) <= 0.5 * found.gap + slack
        own = evaluate_policy(mdp, found.policy, ambiguity, rectangular=rectangular, tolerance=1e-10).value
        assert float((exact.value - own).max()) <= found.gap + slack


@pytest.mark.parametrize("rectangular", ["sa", "s"])
@pytest.mark.parametrize("kind", [KL, L1, ChiSquare, TotalVariation, Contamination])
def test_radius_zero_is_nominal_and_values_fall_with_the_radius(kind, rectangular):
    mdp, _ = garnet(3)
    last = solve(mdp, tolerance=1e-9).value
    assert solve(mdp, kind(0.0), rectangular=rectangular, tolerance=1e-9).value.numpy() == pytest.approx(
        last.numpy(), abs=1e-8
    )
    for radius in (0.01, 0.1, 1.0):
        value = solve(mdp, kind(radius), rectangular=rectangular, tolerance=1e-9).value
        assert bool((value <= last + 1e-8).all())
        last = value


def test_a_shared_budget_costs_less_than_one_for_each_pair_and_randomising_pays():
    mdp, _ = garnet(4)
    pairs, states = (solve(mdp, L1(0.4), rectangular=r, tolerance=1e-8) for r in ("sa", "s"))
    assert bool((states.value >= pairs.value - 1e-8).all())
    assert float(states.policy.amax(-1).min()) < 0.99
    fixed = evaluate_policy(mdp, states.policy.argmax(-1), L1(0.4), rectangular="s", tolerance=1e-8)
    assert float((states.value - fixed.value).max()) > 1e-3


def test_a_radius_for_each_pair_and_for_each_state():
    sparse, dense = garnet(5)
    radius = torch.rand(6, 3, dtype=torch.float64)
    for mdp in (sparse, dense):
        found = solve(mdp, KL(radius), tolerance=1e-9)
        rows = itertools.product(range(6), range(3))
        worst = [worst_case_value(found.value, dense.transition[x], KL(float(radius[x]))) for x in rows]
        q = mdp.reward + 0.9 * torch.stack(worst).view(6, 3)
        assert q.amax(-1).numpy() == pytest.approx(found.value.numpy(), abs=1e-7)
        own = solve(mdp, KL(torch.where(torch.arange(6) == 2, 0.3, 0.0)), rectangular="s", tolerance=1e-9)
        assert bool((own.value <= solve(mdp, tolerance=1e-9).value + 1e-8).all())


def test_rewards_of_the_next_state_are_at_risk_too():
    _, dense = garnet(6)
    by_next = torch.randn(6, 3, 6, dtype=torch.float64)
    mdp = TabularMDP(dense.transition, by_next, gamma=0.9)
    for ambiguity in (KL(0.1), TotalVariation(0.2), CVaR(0.3)):
        found = solve(mdp, ambiguity, tolerance=1e-9)
        q = worst_case_value(by_next + 0.9 * found.value, dense.transition, ambiguity)
        assert q.amax(-1).numpy() == pytest.approx(found.value.numpy(), abs=1e-7)


def test_actions_that_are_not_legal_are_not_taken():
    legal = torch.tensor([[True, False], [True, True]])
    rows = torch.tensor(P, dtype=torch.float64)
    rows[0, 1] = 0
    for ambiguity, rectangular in itertools.product((None, KL(0.1), L1(0.2)), ("sa", "s")):
        found = solve(TabularMDP(rows, [[0, 9], [0, 1]], gamma=0.9, legal=legal), ambiguity, rectangular=rectangular)
        assert found.policy[0].tolist() == [1, 0]
        assert bool(torch.isfinite(found.value).all())


def test_linear_mdps_against_an_adversary_for_each_factor():
    rng = np.random.default_rng(0)
    S, A, d = 5, 2, 3
    features, factors = rng.dirichlet(np.ones(d), (S, A)), rng.dirichlet(np.ones(S), d)
    mdp = TabularMDP(features @ factors, rng.normal(size=(S, A)), gamma=0.9, features=features)
    nominal = solve(mdp, tolerance=1e-9).value
    found = solve(mdp, KL(penalty=0.8), rectangular="d", factors=factors, tolerance=1e-9)
    w = worst_case_value(found.value, torch.tensor(factors), KL(penalty=0.8))
    assert (mdp.reward + 0.9 * torch.tensor(features) @ w).amax(-1).numpy() == pytest.approx(
        found.value.numpy(), abs=1e-7
    )
    assert bool((found.value < nominal).all())
    given = evaluate_policy(mdp, found.policy, KL(penalty=0.8), rectangular="d", factors=factors, tolerance=1e-9)
    assert given.value.numpy() == pytest.approx(found.value.numpy(), abs=1e-8)
    assert found.worst_kernel.sum(-1).numpy() == pytest.approx(1)
    one_hot = np.eye(S * A).reshape(S, A, S * A)
    pairs = TabularMDP(mdp.transition, mdp.reward, gamma=0.9, features=one_hot)
    as_pairs = solve(pairs, KL(0.1), rectangular="d", factors=(features @ factors).reshape(S * A, S), tolerance=1e-9)
    assert as_pairs.value.numpy() == pytest.approx(solve(mdp, KL(0.1), tolerance=1e-9).value.numpy(), abs=1e-8)


def test_progress_is_told_and_text_names_a_set():
    told = []
    found = sf.solve(small(), "kl:0.1", progress=told.append)
    assert [p.iteration for p in told] == list(range(1, found.iterations + 1))
    assert told[-1].gap == found.gap
    assert sf.evaluate_policy(small(), found.policy, "kl:0.1").value.numpy() == pytest.approx(
        found.value.numpy(), abs=1e-5
    )


def test_too_few_sweeps_are_told():
    with pytest.warns(RuntimeWarning, match="the gap is .* after 2 sweeps"):
        found = solve(small(), method="value-iteration", sweeps=2, tolerance=1e-9)
    assert not found.converged
    assert found.gap > 1e-9


# --- bad input -------------------------------------------------------------------------------------------------------

SPLIT = TabularMDP(np.eye(2)[:, None], [[1.0], [0.0]])
BY_NEXT = garnet(0)[0]
WRONG = [
    (lambda: solve(small(gamma=1)), "gamma=1 is an infinite sum; give gamma below 1"),
    (lambda: solve(small(), criterion="finite"), "make the MDP with horizon=H"),
    (lambda: solve(small(horizon=3), criterion="discounted"), "use criterion='finite'"),
    (lambda: solve(small(), criterion="discount"), "Did you mean 'discounted'"),
    (lambda: solve(small(), method="value"), "Did you mean 'value-iteration'"),
    (lambda: solve(small(), rectangular="x"), "Known: d, s, sa"),
    (lambda: solve(small(), tolerance=0), "must be above 0"),
    (lambda: evaluate_policy(small(), [0, 1], sweeps=-1), "sweeps=-1 is not allowed"),
    (lambda: solve(small(), 0.1), "give a set or risk measure"),
    (lambda: solve(small(), [KL(0.1)]), "one set per step"),
    (lambda: solve(small(), MeanVariance()), "is not monotone"),
    (lambda: solve(small(), CVaR(0.1), rectangular="s"), "shares a budget of divergence"),
    (lambda: solve(small(), KL(0.1), rectangular="d"), "needs a linear MDP"),
    (lambda: solve(small(), KL(torch.rand(3))), r"must be a number or \[2, 2\]"),
    (lambda: solve(small(), Box(lower=np.zeros(3), upper=np.ones(3))), "made for 3 outcomes, but there are 2"),
    (lambda: solve(SPLIT, criterion="average"), r"2 recurrent classes: \{0\} with 1; \{1\} with 0\. Solve each class"),
    (lambda: solve(small(), criterion="average", method="gauss-seidel"), "leave method out for 'average'"),
    (lambda: solve(TabularMDP(BY_NEXT.transition, torch.rand(6, 3, 3)), TotalVariation(0.1)), "support='nominal'"),
    (lambda: evaluate_policy(small(), [[0.5, 0.6], [1, 0]]), r"policy\[0\] is not a distribution"),
    (lambda: evaluate_policy(small(), [0, 2]), "from 0 to 1"),
    (lambda: evaluate_policy(small(), [0.5, 0.5]), r"policy has shape \[2\]"),
    (lambda: evaluate_policy(small(legal=[[True, False], [True, True]]), [1, 0]), "takes action 1 in state 0"),
]


@pytest.mark.parametrize("call, message", WRONG, ids=[message for _, message in WRONG])
def test_what_does_not_fit_is_said_with_its_remedy(call, message):
    with pytest.raises(UsageError, match=message):
        call()


def test_what_does_not_fit_memory_is_said_before_it_is_made(monkeypatch):
    monkeypatch.setattr("surefoot.envs.tabular.memory._free_memory", lambda: 100)
    found = solve(garnet(0)[0], LInfinity(0.1), method="value-iteration")
    with pytest.raises(UsageError, match=r"\[6, 3, 6\] numbers, needs 0.0 GiB, but 0.0 GiB are free. Use fewer states"):
        _ = found.worst_kernel


def test_nested_risks_are_recursions_on_risks():
    found = solve(small(), MeanCVaR(0.3, 0.5), tolerance=1e-10)
    q = small().reward + 0.9 * worst_case_value(found.value, small().transition, MeanCVaR(0.3, 0.5))
    assert q.amax(-1).numpy() == pytest.approx(found.value.numpy(), abs=1e-8)


def test_an_mdp_may_be_named():
    value = solve("river-swim", KL(0.1)).value
    torch.testing.assert_close(value, solve(resolve("river-swim"), KL(0.1)).value)
    with pytest.raises(UsageError, match="env=3 is not allowed; give a TabularMDP, a built-in MDP's name"):
        solve(3)


@pytest.mark.parametrize("sweeps", [0, -1, 2.5, True])
def test_sweeps_are_a_whole_number(sweeps):
    with pytest.raises(UsageError, match=f"sweeps={sweeps!r} is not allowed; it must be a whole number of at least 1"):
        solve("river-swim", sweeps=sweeps)


def test_one_gain_where_every_state_can_be_reached():
    """A policy on the way there may still keep two states apart."""
    mdp = TabularMDP([[[1.0, 0], [0, 1.0]], [[0, 1.0], [1.0, 0]]], [[1.0, -500.0], [0.99, -500.0]], 0.9)
    assert solve(mdp, criterion="average").gain == pytest.approx(1, abs=1e-5)
    with pytest.raises(UsageError, match="no single gain exists"):
        evaluate_policy(mdp, [0, 0], criterion="average")


def test_a_reward_by_next_state_is_not_taken_for_one_by_step():
    """Where there are as many steps as states and actions."""
    rng = np.random.default_rng(0)
    kernel, reward = rng.dirichlet(np.ones(2), (2, 2)), rng.normal(size=(2, 2, 2))
    found = solve(TabularMDP(kernel, reward, 1.0, horizon=2)).value
    mean = (kernel * reward).sum(-1)
    last = mean.max(1)
    assert found[1].tolist() == pytest.approx(last) and found[0].tolist() == pytest.approx(
        (mean + kernel @ last).max(1)
    )
    steps = TabularMDP(rng.dirichlet(np.ones(2), (3, 2, 2)), reward, 1.0, horizon=3)
    assert solve(steps).value.shape == (3, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_policy_of_lower_precision_or_that_runs_backwards_is_one(dtype):
    mdp = garnet(0, A=3)[1]
    policy = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    policy /= policy.sum(-1, keepdim=True)
    exact = policy.double() / policy.double().sum(-1, keepdim=True)
    expected = linear_value(*of_policy(mdp, exact), 0.9)
    assert evaluate_policy(mdp, policy, tolerance=1e-9).value.numpy() == pytest.approx(expected, abs=1e-8)
    assert evaluate_policy(mdp, exact.numpy()[::-1]).value.isfinite().all()
