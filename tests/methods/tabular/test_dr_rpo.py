"""DR-RPO: numbers worked out by hand, recursions written again in NumPy, exact solvers, and what it must not do."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import surefoot as sf
from surefoot.ambiguity import KL, ChiSquare, TotalVariation
from surefoot.envs.tabular import TabularMDP, resolve, rollouts
from surefoot.envs.tabular.linear import american_put, linear_mdp, simulated_linear
from surefoot.errors import UsageError
from surefoot.loops.tabular import linear
from surefoot.loops.tabular.learner import TabularLearner
from surefoot.loops.tabular.least_squares import Sums, nothing
from surefoot.methods.tabular.dr_rpo import DRRPO
from surefoot.seeding import torch_stream
from surefoot.solvers import evaluate_policy, solve

CARD = TotalVariation(torch.tensor([[0, 0, 0, 0.6], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.float64))
SETS = [None, CARD, TotalVariation(0.3), KL(0.2), TotalVariation(penalty=0.4), KL(penalty=0.5), ChiSquare(penalty=0.5)]
every_set = pytest.mark.parametrize("ambiguity", SETS, ids=str)


def f64(x) -> torch.Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


def mixed(seed=0, states=4, actions=3, size=4, horizon=3) -> tuple[TabularMDP, torch.Tensor]:
    """A random linear MDP of a kernel for each step, and its factors `[H, d, S']`."""
    draw = np.random.default_rng(seed)
    features = draw.dirichlet([0.6] * size, (states, actions))
    factors = f64(draw.dirichlet([0.7] * states, (horizon, size)))
    reward = draw.random((states, actions))
    return linear_mdp(features, factors, reward, gamma=0.9, horizon=horizon), factors


def bandit(reward) -> TabularMDP:
    """One state, one step."""
    reward = f64([reward])
    one_hot = torch.eye(reward.shape[1], dtype=torch.float64)[None]
    return TabularMDP(torch.ones(1, reward.shape[1], 1), reward, 1.0, horizon=1, features=one_hot)


def walk(method, mdp, episodes, seed=0):
    """The states after each episode, and their metrics."""
    states, rows = [method.start(mdp, seed)], []
    for k in range(episodes):
        state, row = method.step(mdp, states[-1], seed, k)
        states.append(state)
        rows.append({name: float(x) for name, x in row.items()})
    return states, rows


def random_policy(mdp, seed=0) -> torch.Tensor:
    return f64(np.random.default_rng(seed).dirichlet([1.0] * mdp.actions, (mdp.horizon, mdp.states)))


def moved(values, factor, radius) -> float:
    """The worst expectation of a total variation ball: mass goes from the best outcomes to the worst."""
    q, left = factor.copy(), radius
    q[values.argmin()] += min(radius, 1)
    for best in np.argsort(-values):
        taken = min(left, q[best])
        q[best], left = q[best] - taken, left - taken
    return float(q @ values)


# --- the leash -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("eta", "value"), [(1.0, 1.620115), (10.0, 1.930690)])
def test_numbers_worked_out_by_hand(eta, value):
    mdp, method = bandit([1.0, 2.0]), DRRPO(eta=eta)
    q = f64([[1.0, 2.0]])
    policy = method.acting(mdp, q + method.held(mdp))
    assert float(method.value(mdp, policy, q)) == pytest.approx(value, abs=1e-6)
    assert float(method.true_value(mdp)) == pytest.approx(value, abs=1e-6)
    direct = (policy * (q - torch.log(policy / 0.5) / eta)).sum(-1)  # the identity of the closed form
    torch.testing.assert_close(direct, torch.logsumexp(math.log(0.5) + eta * q, -1) / eta)
    if eta == 1:
        assert policy[0].tolist() == pytest.approx([0.268941, 0.731059], abs=1e-6)


def test_a_constant_moves_the_value_and_nothing_else():
    mdp, _ = mixed()
    q = f64(np.random.default_rng(1).normal(size=(4, 3)))
    for method in (DRRPO(eta=3.0), DRRPO(eta=3.0, reference_action=1), DRRPO(eta=math.inf)):
        low, high = (method.acting(mdp, x + method.held(mdp)) for x in (q, q + 7))
        torch.testing.assert_close(low, high)
        torch.testing.assert_close(method.value(mdp, high, q + 7), method.value(mdp, low, q) + 7)


def test_values_grow_with_eta_from_those_of_the_reference_to_the_best():
    mdp, _ = mixed()
    q, found = f64(np.random.default_rng(2).normal(size=(4, 3))), []
    for eta in (1e-9, 0.1, 1.0, 10.0, 100.0, math.inf):
        method = DRRPO(eta=eta, reference_action=2, reference_share=0.5)
        found.append(method.value(mdp, method.acting(mdp, q + method.held(mdp)), q))
    torch.testing.assert_close(found[0], q @ f64([1 / 6, 1 / 6, 4 / 6]), rtol=0, atol=1e-6)
    torch.testing.assert_close(found[-1], q.amax(-1))
    assert bool((torch.stack(found).diff(dim=0) > 0).all())


@every_set
def test_without_leash_the_best_value_is_that_of_the_exact_solver_and_on_a_short_one_the_references(ambiguity):
    mdp, factors = mixed()
    sets = None if ambiguity is None else [linear.at_step(ambiguity, h) for h in range(3)]
    best = solve(mdp, sets, rectangular="d", factors=factors)
    greedy = DRRPO(ambiguity=ambiguity, eta=math.inf)
    assert float(greedy.true_value(mdp)) == pytest.approx(float(mdp.initial @ best.value[0]), abs=1e-9)
    assert float(greedy.true_value(mdp, best.policy)) == pytest.approx(float(greedy.true_value(mdp)), abs=1e-9)
    uniform = torch.full((4, 3), 1 / 3, dtype=torch.float64)
    followed = evaluate_policy(mdp, uniform, sets, rectangular="d", factors=factors)
    held = DRRPO(ambiguity=ambiguity, eta=1e-8)
    assert float(held.true_value(mdp)) == pytest.approx(float(mdp.initial @ followed.value[0]), abs=1e-6)
    state = held.step(mdp, held.start(mdp, 0), 0, 0)[0]
    torch.testing.assert_close(held.policy(mdp, state), uniform.expand(3, 4, 3), rtol=0, atol=1e-6)


def test_the_leash_is_paid_in_the_value_of_every_later_step():
    """The recursion once more, with mass moved by hand and the KL of every step."""
    mdp, factors = mixed(3)
    eta, policy = 2.0, random_policy(mdp)
    method, radius = DRRPO(ambiguity=TotalVariation(0.3), eta=eta, reference_action=0, reference_share=0.4), 0.3
    reference = np.array([0.6, 0.2, 0.2])
    phi, pi, value, best = mdp.features[0].numpy(), policy.numpy(), np.zeros(4), np.zeros(4)
    for h in (2, 1, 0):
        q, top = (
            mdp.reward[h].numpy() + 0.9 * phi @ np.array([moved(v, factor, radius) for factor in factors[h].numpy()])
            for v in (value, best)
        )
        value = (pi[h] * (q - np.log(pi[h] / reference) / eta)).sum(-1)
        best = np.log((reference * np.exp(eta * top)).sum(-1)) / eta
    assert float(method.true_value(mdp, policy)) == pytest.approx(float(value.mean()), abs=1e-10)
    assert float(method.true_value(mdp)) == pytest.approx(float(best.mean()), abs=1e-10)


# --- the adversary ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ambiguity", "value"),
    [
        (None, 1.9),
        (TotalVariation(penalty=0.8), 1.4),
        (KL(penalty=0.8), 1.421219),
        (ChiSquare(penalty=0.8), 1.516406),
        (TotalVariation(1.0), 1.0),
    ],
)
def test_one_factor_by_hand_in_truth_and_from_many_samples(ambiguity, value):
    mdp = linear_mdp(torch.ones(3, 1, 1), [[0.5, 0.3, 0.2]], torch.ones(3, 1), gamma=1.0, horizon=3)
    ahead = f64([1.0, 2.0, 4.0])
    n = 1e9
    seen = Sums(f64([[[n]]]).expand(3, 1, 1), f64([[[0.5 * n, 0.3 * n, 0.2 * n]]]).expand(3, 1, 3))
    for found in (linear.true_backup(mdp, 0, ahead, ambiguity), linear.backup(mdp, seen, 0, ahead, ambiguity)):
        assert found.flatten().tolist() == pytest.approx([1 + value] * 3, abs=1e-6)


def test_with_the_whole_ball_of_total_variation_nothing_comes_next():
    """All mass may go to the state that failed, whose value is 0."""
    mdp, ahead = simulated_linear(), f64([0.3, 1.5, 0.7, 0.0, 1.0])
    assert torch.equal(linear.true_backup(mdp, 1, ahead, TotalVariation(1.0)), mdp.reward[1])
    states, _ = walk(DRRPO(ambiguity=TotalVariation(1.0), beta=0.0, eta=math.inf), one_hot(), 6)
    torch.testing.assert_close(states[-1]["scores"], one_hot().reward.expand(3, 5, 3), rtol=0, atol=1e-12)


def one_hot() -> TabularMDP:
    """Pairs are features of themselves; state 4 is where all has ended."""
    mdp = resolve("garnet:5,3,2,seed=1")
    kernel, reward = mdp.transition.clone(), mdp.expected_reward().clone()
    kernel[:, :, 4], kernel[4], kernel[4, :, 4], reward[4] = kernel[:, :, 4] + 1, 0, 1, 0
    features = torch.eye(15, dtype=torch.float64).view(5, 3, 15)
    return TabularMDP(kernel / kernel.sum(-1, keepdim=True), reward, 1.0, horizon=3, features=features)


def lsvi(mdp, method, episodes, seed=0) -> np.ndarray:
    """Plain least-squares value iteration on the very episodes that the method plays, Q `[H, S, A]`."""
    gram, rows, targets = [np.eye(4) for _ in range(3)], [[], [], []], [[], [], []]
    for k in range(episodes + 1):
        q, value = np.zeros((3, 5, 16)), np.zeros(5)
        for h in (2, 1, 0):
            x, y = np.array(rows[h]).reshape(-1, 4), value[np.array(targets[h], dtype=int)]
            w = np.linalg.solve(gram[h], x.T @ y)
            q[h] = np.clip((mdp.reward[h] + mdp.features[h] @ f64(w)).numpy(), 0, 2 if h < 2 else 1)
            q[h, 3] = 0
            value = q[h].max(-1)
        if k == episodes:
            return q
        policy = torch.nn.functional.one_hot(f64(q).argmax(-1), 16).double()
        met = rollouts(mdp, policy, 1, generator=torch_stream(seed, "episodes", k))
        for h in range(3):
            phi = mdp.features[h, met.states[0, h], met.actions[0, h]].numpy()
            gram[h] += np.outer(phi, phi)
            rows[h].append(phi)
            targets[h].append(int(met.next_states[0, h]))
    raise AssertionError


@pytest.mark.parametrize(
    "ambiguity", [None, TotalVariation(0.0), KL(0.0), TotalVariation(penalty=1e9)], ids=["none", "tv", "kl", "penalty"]
)
def test_an_adversary_without_means_and_no_leash_is_plain_lsvi(ambiguity):
    mdp, method = simulated_linear(), DRRPO(ambiguity=ambiguity, eta=math.inf, beta=0.0)
    states, _ = walk(method, mdp, 9)
    np.testing.assert_allclose(states[-1]["scores"], lsvi(mdp, method, 8), rtol=0, atol=1e-10)


@every_set
def test_no_policy_is_worth_more_in_the_worst_world_or_above_the_best(ambiguity):
    mdp, _ = mixed()
    method = DRRPO(ambiguity=ambiguity, eta=4.0)
    plain = dataclasses.replace(method, ambiguity=None)
    best, gaps = float(method.true_value(mdp)), []
    for seed in range(30):
        policy = random_policy(mdp, seed)
        worst = float(method.true_value(mdp, policy))
        assert worst <= best
        gaps.append(float(plain.true_value(mdp, policy)) - worst)
    assert min(gaps) >= -1e-12 and (ambiguity is None or max(gaps) > 0.01)


# --- learning --------------------------------------------------------------------------------------------------------


def test_the_mirror_comes_nearer_to_the_closed_form_by_its_rate():
    mdp = bandit([0.2, 0.9, 0.5])
    closed = (6.0 * f64([0.2, 0.9, 0.5])).log_softmax(-1)
    states, _ = walk(DRRPO(eta=6.0, kappa=0.3, beta=0.0), mdp, 8)
    logs = torch.stack([DRRPO(eta=6.0).policy(mdp, state)[0, 0].log() for state in states])
    off = (logs - closed) - (logs - closed)[:, :1]  # log-ratios, whatever the normalisers
    torch.testing.assert_close(off[1:], 0.7 * off[:-1], rtol=1e-9, atol=1e-12)
    assert off[0].abs().max() > 1 and off[-1].abs().max() < 0.3


def test_the_mirrors_values_are_those_of_the_policy_played():
    """The logsumexp would be the value of the closed form, which it has not come to yet."""
    mdp, method = simulated_linear(), DRRPO(kappa=0.25, eta=8.0)
    states, _ = walk(method, mdp, 4)
    before, after = states[-2], states[-1]["scores"]
    held = -math.log(16) / 8
    last = (after[2] - 0.75 * before["scores"][2]) / 0.25 - held  # Q̂ of the last step
    policy = (8 * after[2]).softmax(-1)
    value = (policy * (last - (16 * policy).log() / 8)).sum(-1)
    assert bool((value < torch.logsumexp(8 * last - math.log(16), -1) / 8 - 1e-4)[:3].all())
    q = linear.backup(mdp, Sums(before["gram"], before["followed"]), 1, value, TotalVariation(penalty=0.1))
    bonus = 0.05 * mdp.features[1] @ torch.linalg.inv(before["gram"][1]).diagonal().sqrt()
    wanted = 0.75 * before["scores"][1] + 0.25 * ((q + bonus).clamp(0, 2) + held)
    torch.testing.assert_close(after[1][:3], wanted[:3], rtol=0, atol=1e-12)


def test_optimism_is_added_and_clipped_before_the_exponential():
    mdp = simulated_linear()
    flat = DRRPO(beta=0.0, eta=1.0).improved(mdp, DRRPO(eta=1.0).start(mdp, 0)) + math.log(16)
    some = DRRPO(beta=0.05, eta=1.0).improved(mdp, DRRPO(eta=1.0).start(mdp, 0)) + math.log(16)
    much = DRRPO(beta=1e9, eta=1.0).improved(mdp, DRRPO(eta=1.0).start(mdp, 0)) + math.log(16)
    torch.testing.assert_close(flat, mdp.reward)  # nothing has been met: what comes next counts as 0
    torch.testing.assert_close(
        some[2][[0, 1, 2, 4]], mdp.reward[2][[0, 1, 2, 4]] + 0.05 * (mdp.reward[2] < 1)[[0, 1, 2, 4], :1]
    )
    for h, most in enumerate((2.0, 2.0, 1.0)):
        assert bool((much[h, [0, 1, 2, 4]] == most).all())
    assert float(much[:, 3].abs().max()) < 1e-12  # where all has ended nothing is hoped for


def test_the_greedy_policy_locks_onto_what_it_met_and_the_softmax_does_not():
    mdp = simulated_linear()

    def met(method) -> int:
        states, _ = walk(method, mdp, 25)
        return torch.linalg.matrix_rank(states[-1]["gram"][0] - torch.eye(4)).item(), states[-1]

    rank, state = met(DRRPO(ambiguity=None, eta=math.inf, beta=0.0))
    assert rank == 1 and float(state["gram"][0].trace()) > 4
    assert met(DRRPO(ambiguity=None))[0] == 2


def test_regret_is_of_the_regularised_worst_case():
    mdp, method = simulated_linear(), DRRPO(ambiguity=CARD)
    states, rows = walk(method, mdp, 5)
    policy = method.policy(mdp, states[-1])
    assert rows[-1]["robust_value"] == pytest.approx(float(method.true_value(mdp, policy)), abs=1e-12)
    assert all(row["regret"] == pytest.approx(float(method.true_value(mdp)) - row["robust_value"]) for row in rows)
    assert rows[-1]["average_regret"] == pytest.approx(np.mean([row["regret"] for row in rows]))
    assert all(0 <= row["regret"] < 1 for row in rows)
    assert rows[-1]["return_mean"] - rows[-1]["robust_value"] > 0.1  # the nominal return is another thing


def test_regret_falls():
    _, rows = walk(DRRPO(ambiguity=CARD, ridge=0.1), mixed()[0], 60)
    regret = [row["regret"] for row in rows]
    assert np.mean(regret[-10:]) < 0.4 * np.mean(regret[:10])


@every_set
def test_with_all_the_data_in_the_world_nothing_is_lost(ambiguity):
    mdp, factors = mixed()
    method, many = DRRPO(ambiguity=ambiguity, eta=5.0), 1e10
    state = method.start(mdp, 0)
    untaught = float(state["best"] - method.true_value(mdp, method.policy(mdp, state)))
    taught = {**state, "gram": state["gram"] + many * torch.eye(4).double(), "followed": many * factors}
    policy = method.acting(mdp, method.improved(mdp, taught))
    assert untaught > 1e-2
    assert float(state["best"] - method.true_value(mdp, policy)) == pytest.approx(0, abs=1e-6)


def test_without_data_the_sums_are_the_ridge():
    mdp = simulated_linear()
    sums = nothing(mdp, 0.5)
    assert torch.equal(sums.gram, 0.5 * torch.eye(4, dtype=torch.float64).expand(3, 4, 4))
    state, _ = DRRPO(ridge=0.5).step(mdp, DRRPO(ridge=0.5).start(mdp, 0), 0, 0)
    phi = (state["gram"] - sums.gram).diagonal(dim1=1, dim2=2).sqrt()  # one episode: φφᵀ
    torch.testing.assert_close(state["followed"].sum(-1), phi)
    assert phi.sum(-1).tolist() == pytest.approx([1, 1, 1])


# --- what is given ---------------------------------------------------------------------------------------------------


def test_the_reference_leans_to_one_legal_action():
    legal = torch.ones(4, 3, dtype=torch.bool)
    legal[1, 2] = False
    mdp = dataclasses.replace(mixed()[0], legal=legal)
    reference = DRRPO(reference_action=0, reference_share=0.7).reference(mdp)
    assert reference[0].tolist() == pytest.approx([0.8, 0.1, 0.1])
    assert reference[1].tolist() == pytest.approx([0.85, 0.15, 0.0])
    with pytest.raises(
        UsageError, match=r"reference_action=2 is not allowed; the actions legal in every state are \[0, 1\]"
    ):
        DRRPO(reference_action=2).start(mdp, 0)
    with pytest.raises(UsageError, match="reference_action=3"):
        DRRPO(reference_action=3).start(mdp, 0)


@pytest.mark.parametrize(
    ("ambiguity", "words"),
    [
        ("contamination:0.1", "not allowed in a regression"),
        ("chi2:0.1", "not allowed in a regression"),
        (TotalVariation(torch.zeros(2, 4)), r"shape \[2, 4\].*\[H, d\] = \[3, 4\]"),
        (KL(torch.zeros(3)), r"shape \[3\].*\[d\] = \[4\]"),
        (TotalVariation(torch.tensor([0.0, 0.0, 0.0, -1.0])), "radius"),
    ],
)
def test_sets_are_checked_first(ambiguity, words):
    with pytest.raises(UsageError, match=words):
        DRRPO(ambiguity=ambiguity).start(simulated_linear(), 0)


def test_the_kernel_must_be_linear_in_the_features():
    with pytest.raises(UsageError, match="'american-put' is no linear MDP"):
        DRRPO().start(american_put(horizon=3, starts=2), 0)


def test_what_it_cannot_learn_in_says_what_is_missing():
    for mdp, words in (
        (resolve("two-state:horizon=3"), "features"),
        (dataclasses.replace(simulated_linear(), reward=-simulated_linear().reward), "at least 0"),
        (dataclasses.replace(one_hot(), reward=torch.ones(5, 3, 5)), "rewards=expected"),
    ):
        with pytest.raises(UsageError, match=words):
            TabularLearner(DRRPO(), mdp, [0])


def test_the_radius_of_each_step_and_factor_makes_the_run(tmp_path):
    cut = [lambda learner, _: learner.iteration == 2]
    options = {"ambiguity": CARD, "run_dir": tmp_path, "loggers": ()}
    done = sf.train("dr-rpo", env=simulated_linear(), steps=4, seed=0, callbacks=cut, **options)
    assert [row["step"] for row in done.metrics()] == [1, 2]
    done = sf.resume(tmp_path, env=simulated_linear())
    assert done.agent().policy.shape == (3, 5, 16)
    rows, plain = (walk(DRRPO(ambiguity=one), simulated_linear(), 4)[1] for one in (CARD, None))
    assert [row["regret"] for row in done.metrics()] == [row["regret"] for row in rows]
    assert rows[-1]["regret"] != plain[-1]["regret"]
