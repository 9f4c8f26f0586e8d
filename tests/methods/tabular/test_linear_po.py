"""PO-LinMDP: least squares by hand, the bonus against Bellman's equation, mirror descent, and that it learns."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import surefoot as sf
from surefoot.envs.tabular import TabularMDP
from surefoot.envs.tabular.adversarial import adversarial, myopic_loop
from surefoot.errors import UsageError
from surefoot.loops.tabular.episodes import episodic
from surefoot.loops.tabular.learner import TabularLearner
from surefoot.loops.tabular.least_squares import added, elliptical_width, evaluated, expectation, remembered
from surefoot.methods.tabular.linear_po import LinearPO


def f64(x) -> torch.Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


def run(method, mdp, blocks, seed=0):
    learner = TabularLearner(method, mdp, [seed])
    return learner, [learner.iterate()[0] for _ in range(blocks)]


def one_hot_mdp(horizon=3, states=3, actions=2, seed=0, legal=None) -> TabularMDP:
    draw = np.random.default_rng(seed)
    kernel, reward = draw.dirichlet([1.0] * states, (states, actions)), draw.random((states, actions))
    features = torch.eye(states * actions, dtype=torch.float64).view(states, actions, -1)
    return TabularMDP(kernel, reward, 1.0, None, horizon, legal, features)


def linear_mdp(seed=0, states=8, actions=3, rank=5, horizon=4) -> TabularMDP:
    """Kernel and rewards are linear in features that are mixtures of `rank` factors."""
    draw = np.random.default_rng(seed)
    features, factors = draw.dirichlet([0.4] * rank, (states, actions)), draw.dirichlet([0.5] * states, rank)
    return TabularMDP(features @ factors, features @ draw.random(rank), 1.0, None, horizon, None, features)


# --- least squares ---------------------------------------------------------------------------------------------------


def test_one_hot_features_give_empirical_means_and_frequencies():
    draw = np.random.default_rng(0)
    pair, to_go = torch.tensor(draw.integers(0, 4, (40, 2))), f64(draw.random((40, 2)))
    phi = torch.nn.functional.one_hot(pair, 4).double()
    covariance = LinearPO(ridge=1e-12).covariance(phi)
    theta = evaluated(covariance, phi, to_go)
    widths = elliptical_width(
        torch.eye(4, dtype=torch.float64).view(1, 2, 2, 4).expand(2, 2, 2, 4), covariance
    ).flatten(1)
    for h in range(2):
        for k in range(4):
            met = pair[:, h] == k
            assert float(theta[h, k]) == pytest.approx(float(to_go[met, h].mean()), rel=1e-9)
            assert float(widths[h, k]) == pytest.approx(1 / math.sqrt(float(met.double().mean())), rel=1e-9)


def test_widths_by_hand():
    matrix = torch.diag(f64([0.5, 0.25, 0.25]))[None]
    features = f64([[0.0, 1, 0], [1 / math.sqrt(2), 1 / math.sqrt(2), 0]]).view(1, 1, 2, 3)
    torch.testing.assert_close(
        elliptical_width(features, matrix), f64([[[2.0, 1.7320508075688772]]]), rtol=1e-14, atol=0
    )


def test_the_bias_of_the_ridge_is_the_one_of_its_formula():
    draw = np.random.default_rng(1)
    phi, theta, lam = f64(draw.normal(size=(30, 1, 4))), f64(draw.normal(size=4)), 0.3
    covariance = LinearPO(ridge=lam).covariance(phi)
    found = evaluated(covariance, phi, phi @ theta)[0]
    bias = found - theta
    torch.testing.assert_close(bias, -lam * torch.linalg.solve(covariance[0], theta))
    one = f64(draw.normal(size=(1, 1, 1, 4)))
    bound = math.sqrt(lam) * theta.norm() * elliptical_width(one, covariance)[0, 0, 0]
    assert abs(float(one[0, 0, 0] @ bias)) <= float(bound)


def test_more_data_never_widens_a_summed_gram_matrix():
    draw = np.random.default_rng(2)
    mdp = linear_mdp()
    features = episodic(mdp).features
    state = LinearPO().start(mdp, 0)
    before = elliptical_width(features, state["gram"])
    for _ in range(5):
        phi = features[
            torch.arange(4), torch.tensor(draw.integers(0, 8, (3, 4))), torch.tensor(draw.integers(0, 3, (3, 4)))
        ]
        after = torch.tensor(draw.integers(0, 8, (3, 4)))
        state = state | added(remembered(state), phi[:, :-1], after[:, 1:])._asdict()
        after = elliptical_width(features, state["gram"])
        assert bool((after <= before + 1e-14).all())
        assert torch.equal(after[-1], before[-1])  # the last step leads nowhere
        before = after


def test_any_function_of_the_next_state_is_regressed_from_what_is_remembered():
    draw = np.random.default_rng(3)
    mdp = linear_mdp()
    world, state = episodic(mdp), LinearPO().start(mdp, 0)
    states, actions = torch.tensor(draw.integers(0, 8, (50, 4))), torch.tensor(draw.integers(0, 3, (50, 4)))
    phi, values = world.features[torch.arange(4), states, actions], f64(draw.normal(size=8))
    for part in (slice(0, 20), slice(20, None)):
        state = state | added(remembered(state), phi[part, :-1], states[part, 1:])._asdict()
    x, y = phi[:, 1].numpy(), values[states[:, 2]].numpy()
    expected = np.linalg.lstsq(np.vstack([x, np.eye(5)]), np.concatenate([y, np.zeros(5)]), rcond=None)[0]
    found = expectation(world.features, remembered(state), 1, values)
    np.testing.assert_allclose(found, world.features[1].numpy() @ expected, atol=1e-10)


# --- the bonus -------------------------------------------------------------------------------------------------------


def informed(method, mdp, n=1e13):
    """The state after so many visits of each pair that the kernel is known."""
    world, state = episodic(mdp), method.start(mdp, 0)
    state["gram"] = state["gram"] + n * torch.eye(mdp.features.shape[-1], dtype=torch.float64)
    state["followed"] = n * world.kernel.flatten(1, 2)
    return state


def test_the_bonus_solves_bellmans_equation_where_the_kernel_is_known():
    mdp, draw = one_hot_mdp(), np.random.default_rng(4)
    method = LinearPO(optimism=0.0, beta=0.2, cap=2.0)
    policy, widths = f64(draw.dirichlet([1, 1], (3, 3))), f64(2 * draw.random((3, 3, 2)))
    found = method.bonus(mdp, informed(method, mdp), policy, widths)
    reward = 0.2 * (widths + (policy * widths).sum(-1, keepdim=True))
    ahead = torch.zeros(3, dtype=torch.float64)
    for h in (2, 1, 0):
        expected = reward[h] + (4 / 3) * mdp.transition @ ahead
        torch.testing.assert_close(found[h], expected, rtol=0, atol=1e-8)
        ahead = (policy[h] * expected).sum(-1)
    asked = dataclasses.replace(method, dynamics="simulator").bonus(mdp, method.start(mdp, 0), policy, widths)
    torch.testing.assert_close(found, asked, rtol=0, atol=1e-8)


def test_a_reward_of_one_everywhere_is_dilated_and_no_clip_binds():
    mdp = one_hot_mdp()
    method = LinearPO(optimism=0.0, beta=0.5, cap=1.0)  # the greatest reward is 2β·cap = 1
    policy = torch.full((3, 3, 2), 0.5, dtype=torch.float64)
    found = method.bonus(mdp, informed(method, mdp), policy, torch.ones(3, 3, 2, dtype=torch.float64))
    for layer, expected in zip(found, (4.111111111, 2.333333333, 1.0)):
        torch.testing.assert_close(layer, torch.full_like(layer, expected), rtol=0, atol=1e-8)


def test_what_is_not_known_is_worth_the_most_that_a_bonus_can_be():
    mdp, method = one_hot_mdp(), LinearPO(optimism=10.0, beta=0.5, cap=1.0)
    policy, widths = torch.full((3, 3, 2), 0.5, dtype=torch.float64), torch.zeros(3, 3, 2, dtype=torch.float64)
    found = method.bonus(mdp, method.start(mdp, 0), policy, widths)
    for layer, expected in zip(found, (4 / 3 + 16 / 9, 4 / 3, 0.0)):
        torch.testing.assert_close(layer, torch.full_like(layer, expected))
    assert (math.e - 1) * 4 >= 4 / 3 + 16 / 9


def test_the_explorer_goes_where_least_is_known():
    mdp = one_hot_mdp(horizon=1)
    method = LinearPO()
    state = method.start(mdp, 0)
    state["gram"][0] += torch.diag(f64([5.0, 0, 0, 3, 2, 1]))
    assert method.explorer(mdp, state).argmax(-1).tolist() == [[1, 0, 1]]


def test_the_explorer_plans_its_way_to_what_is_not_known():
    chain, method = myopic_loop(), LinearPO()
    state = informed(method, chain, 1e8)
    end = slice(10, 12)  # the two actions of the last state of the chain
    state["gram"][:, end, end], state["followed"][:, end] = torch.eye(2, dtype=torch.float64), 0.0
    explorer = method.explorer(chain, state)
    assert [int(explorer[h, h].argmax()) for h in range(5)] == [0] * 5


# --- mirror descent --------------------------------------------------------------------------------------------------


def test_without_bonus_one_state_and_step_is_hedge_on_block_means():
    one = TabularMDP(torch.ones(1, 3, 1), torch.zeros(1, 3), 1.0, None, 1, None, torch.eye(3).view(1, 3, 3))
    mdp = adversarial(one, -f64([[[0.9, 0.5, 0.1]]]), noise="bernoulli", bounds=(-1.0, 0.0))
    method = LinearPO(block=20, blocks=16, step_size=2.0, beta=0.0, ridge=0.01)
    state, total = method.start(mdp, 0), np.zeros(3)
    for j in range(6):
        policy = method.policy(mdp, state)
        np.testing.assert_allclose(policy[0, 0], np.exp(-0.5 * total) / np.exp(-0.5 * total).sum(), rtol=1e-12)
        _, actions, felt = episodic(mdp).play(policy, episodic(mdp).losses(0, 20), 7, j)
        actions, felt = actions[:, 0].numpy(), felt[:, 0].numpy()
        for a in range(3):
            total[a] += (felt[10:] * (actions[10:] == a)).mean() / ((actions[:10] == a).mean() + 0.01)
        state, _ = method.step(mdp, state, 7, j)
    assert np.ptp(total) > 0.1


def test_what_is_the_same_for_all_actions_of_a_state_changes_nothing():
    mdp, method = one_hot_mdp(), LinearPO()
    state = method.start(mdp, 0)
    state["exponent"] = f64(np.random.default_rng(5).normal(size=(3, 3, 2)))
    shifted = {**state, "exponent": state["exponent"] + f64(np.random.default_rng(6).normal(size=(3, 3, 1)))}
    torch.testing.assert_close(method.policy(mdp, shifted), method.policy(mdp, state), rtol=1e-12, atol=0)


# --- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dynamics", ["learned", "simulator"])
def test_it_walks_on_where_the_loop_tempts(dynamics):
    method = LinearPO(block=50, blocks=60, dynamics=dynamics, step_size=6.0, beta=0.1)
    _, rows = run(method, myopic_loop(), 60)
    cost = [-row["return_mean"] for row in rows]
    assert np.mean(cost[-6:]) < 2.65 < 2.7 < np.mean(cost[:3])
    assert rows[-1]["regret"] == pytest.approx(50 * sum(c - 2.5 for c in cost), abs=50 * 60 * 0.05)


def test_it_learns_from_features_that_states_share():
    mdp = linear_mdp()
    world = episodic(mdp)
    best = float(world.returns(world.best(world.losses(0)[0])))
    _, rows = run(LinearPO(block=40, blocks=40, step_size=16.0), mdp, 40)
    first, last = rows[0]["return_mean"], np.mean([row["return_mean"] for row in rows[-4:]])
    assert best - last < 0.35 * (best - first)


def test_widths_are_capped():
    _, (row,) = run(LinearPO(block=10, ridge=1e-6, cap=2.5), one_hot_mdp(), 1)
    assert 1.0 < row["width"] <= 2.5 and row["bonus"] > 0


def test_the_covariance_is_of_other_episodes_than_the_costs():
    mdp = one_hot_mdp()
    world, policy = episodic(mdp), torch.full((3, 3, 2), 0.5, dtype=torch.float64)
    states, actions, _ = world.play(policy, world.losses(0, 10), 0, 0)
    phi = world.features[torch.arange(3), states, actions]
    first, second = LinearPO(block=10).halves(mdp, policy, phi, 0, 0)
    assert torch.equal(torch.cat([first, phi[second]]), phi) and len(first) == 5
    fresh, every = LinearPO(block=10, dynamics="simulator").halves(mdp, policy, phi, 0, 0)
    assert fresh.shape == phi.shape and not torch.equal(fresh, phi) and torch.equal(phi[every], phi)


def test_cover_blocks_explore_and_leave_the_policy():
    mdp, method = one_hot_mdp(), LinearPO(block=10, cover=2)
    learner, rows = run(method, mdp, 2)
    assert float(learner.states[0]["exponent"].abs().max()) == 0 and rows[0]["bonus"] == 0
    assert float(learner.states[0]["gram"].diagonal(dim1=1, dim2=2)[:-1].sum()) == 2 * 6 + 2 * 10 * 2
    learner.iterate()
    assert float(learner.states[0]["exponent"].abs().max()) > 0


def test_it_stays_within_the_legal_actions():
    legal = torch.tensor([[True, False], [True, True], [False, True]])
    learner, _ = run(LinearPO(block=10), one_hot_mdp(legal=legal), 4)
    assert bool((learner.agent().policy * ~legal == 0).all())


@pytest.mark.parametrize("dynamics", ["learned", "simulator"])
def test_resumed_is_the_same_run_to_the_bit(dynamics):
    method, mdp = LinearPO(block=10, cover=1, dynamics=dynamics), linear_mdp()
    whole, rows = run(method, mdp, 6)
    cut, first = run(method, mdp, 3)
    other = TabularLearner(method, mdp, [0])
    other.load(cut.state(), 3, 0)
    assert rows == first + [other.iterate()[0] for _ in range(3)]
    assert all(torch.equal(x, other.state()[name]) for name, x in whole.state().items())
    assert run(method, mdp, 6, seed=1)[1] != rows


def test_it_needs_features_and_a_horizon():
    with pytest.raises(UsageError, match="features"):
        TabularLearner(LinearPO(), dataclasses.replace(one_hot_mdp(), features=None), [0])
    with pytest.raises(UsageError, match="horizon"):
        TabularLearner(LinearPO(), dataclasses.replace(one_hot_mdp(), horizon=None, gamma=0.9), [0])
    with pytest.raises(UsageError, match="block=1"):
        LinearPO(block=1)


def test_explain_names_where_the_kernel_comes_from():
    learned, simulator = ("\n".join(LinearPO(dynamics=kind).algorithm()) for kind in ("learned", "simulator"))
    assert "Gram matrix" in learned and "simulator" not in learned
    assert "simulator" in simulator and "Gram matrix" not in simulator


def test_from_outside(tmp_path):
    done = sf.train("linear-po", env=myopic_loop(), steps=3, seed=0, block=10, run_dir=tmp_path, loggers=())
    assert [row["step"] for row in done.metrics()] == [1, 2, 3]
    assert done.agent().policy.shape == (6, 7, 2)
