"""Lipschitz feedback: three solvers against independent ones, a bound that holds of the whole map, and what follows."""

from __future__ import annotations

import dataclasses
from typing import Any

import cvxpy
import gymnasium as gym
import numpy as np
import pytest
import scipy
import torch
from micro_data import target_data

import surefoot as sf
from surefoot.claims.offline import points
from surefoot.data.transitions import Transitions
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.methods.offline.baselines import BC
from surefoot.methods.robust.lipschitz_feedback import LipschitzFeedback, limited, slope_of
from surefoot.methods.robust.lipschitz_feedback.closed_loop import deviation, distances, learning_error, regret
from surefoot.methods.robust.lipschitz_feedback.graph import Extension, cells, fitted, policy, steepness
from surefoot.methods.robust.lipschitz_feedback.spectral import clipped, linear, norm_above
from surefoot.models.actors import ActorNetwork
from surefoot.models.agent import Agent
from surefoot.models.bounds import end_to_end, product_of_norms, whole

RNG = np.random.default_rng(0)
STATES = RNG.normal(size=(25, 2))
INPUTS = np.stack([np.sin(2 * STATES[:, 0]), STATES[:, 0] * STATES[:, 1]], 1) + 0.1 * RNG.normal(size=(25, 2))


def slopes(x: np.ndarray, v: np.ndarray) -> np.ndarray:
    apart = distances(x, x)
    np.fill_diagonal(apart, np.inf)
    return steepness(v, apart)


# --- the fit on a graph and its extension ----------------------------------------------------------------------------


def test_two_states_by_hand():
    found = fitted([[0.0], [1.0]], [[0.0], [2.0]], 1.0)
    np.testing.assert_allclose(found.values, [[0.5], [1.5]], atol=1e-6)
    np.testing.assert_allclose(found.multipliers, [0.25], atol=1e-6)
    assert ((found.values[:, 0] - [0, 2]) ** 2).mean() == pytest.approx(0.25, abs=1e-6)
    assert policy([[3.0]], [[2.0]], 1.0)(np.array([5.0])) == [2.0]  # one state: a constant


def test_the_extension_by_hand():
    extension = Extension(np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [0.5], [0.0]]), 1.0)
    least, greatest = extension.limits(np.array([[0.25], [0.5], [1.0], [1.7]]))
    np.testing.assert_allclose(least[:, 0], [-0.25, 0, 0.5, -0.2])
    np.testing.assert_allclose(greatest[:, 0], [0.25, 0.5, 0.5, 0.3])
    np.testing.assert_allclose([extension(np.array([x]))[0] for x in (0.25, 0.5, 1, 1.7)], [0, 0.25, 0.5, 0.05])
    assert extension(np.zeros((4, 1))).shape == (4, 1) and extension(np.zeros(1)).shape == (1,)


@pytest.mark.parametrize(("outputs", "bound"), [(1, 0.5), (2, 0.7), (2, 0.05)])
def test_the_fit_is_that_of_a_cone_solver(outputs, bound):
    u = INPUTS[:, :outputs]
    v, apart = cvxpy.Variable(u.shape), distances(STATES, STATES)
    pairs = [cvxpy.norm(v[i] - v[j]) <= bound * apart[i, j] for i in range(len(u)) for j in range(i)]
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(v - u) / len(u)), pairs)
    problem.solve(solver=cvxpy.CLARABEL)
    found = fitted(STATES, u, bound)
    np.testing.assert_allclose(found.values, v.value, atol=2e-4)
    assert ((found.values - u) ** 2).sum() / len(u) == pytest.approx(problem.value, rel=1e-3)
    assert slopes(STATES, found.values).max() <= 1.001 * bound
    # Multipliers: none is negative, none is positive where a pair is less steep, and the primal step holds.
    steep = slopes(STATES, found.values)[tuple(found.pairs.T)]
    assert (found.multipliers >= 0).all() and (found.multipliers[steep < 0.99 * bound] < 1e-3).all()
    laplacian = np.zeros_like(apart)
    for (i, j), one in zip(found.pairs, found.multipliers / apart[tuple(found.pairs.T)] ** 2, strict=True):
        laplacian[[i, j], [i, j]] += one
        laplacian[[i, j], [j, i]] -= one
    np.testing.assert_allclose(found.values / len(u) + laplacian @ found.values, u / len(u), atol=1e-9)


def test_the_limits_are_a_constant_and_interpolation():
    flat = fitted(STATES, INPUTS, 1e-6)
    np.testing.assert_allclose(flat.values, np.tile(INPUTS.mean(0), (25, 1)), atol=1e-5)
    free = fitted(STATES, INPUTS, 1.001 * slopes(STATES, INPUTS).max())
    np.testing.assert_allclose(free.values, INPUTS, atol=1e-12)
    assert not free.multipliers.any()


def test_shifts_of_inputs_and_motions_of_states_change_nothing():
    base = fitted(STATES, INPUTS, 0.6).values
    turn = scipy.stats.ortho_group.rvs(2, random_state=1)
    np.testing.assert_allclose(fitted(STATES, INPUTS + [3.0, -1.0], 0.6).values - [3.0, -1.0], base, atol=1e-4)
    np.testing.assert_allclose(fitted(STATES @ turn + 5, INPUTS, 0.6).values, base, atol=1e-4)
    np.testing.assert_allclose(fitted(2 * STATES, 4 * INPUTS, 1.2).values, 4 * base, atol=4e-4)


def test_the_policy_has_its_constant_everywhere_in_all_coordinates_together():
    found = policy(STATES, INPUTS, 0.6)
    assert found.slope == pytest.approx(0.6 / 2**0.5)
    np.testing.assert_allclose(found(STATES), found.values, atol=1e-12)
    x = RNG.normal(size=(300, 2)) * 3
    least, greatest = found.limits(x)
    assert (least <= greatest + 1e-12).all() and slopes(x, found(x)).max() <= 0.6 + 1e-9
    assert (found(x) >= INPUTS.min(0)).all() and (found(x) <= INPUTS.max(0)).all()
    # The fit of each coordinate by itself is nearer than the joint one drawn together, which is allowed too.
    joint = fitted(STATES, INPUTS, 0.6).values
    steepest = max(slopes(STATES, column[:, None]).max() for column in joint.T)
    drawn = joint.mean(0) + (joint - joint.mean(0)) * min(1, found.slope / steepest)
    assert ((found.values - INPUTS) ** 2).sum() < ((drawn - INPUTS) ** 2).sum()


def test_rows_of_a_cell_count_as_many_and_repeated_states_are_refused():
    x, u = np.array([[0.0], [0.1], [1.0]]), np.array([[0.0], [1.0], [2.5]])
    with pytest.raises(UsageError, match="two rows have the same state; make cells"):
        fitted(x[[0, 0, 1]], u, 1.0)
    states, means, count = cells(x, u, 0.5)
    np.testing.assert_allclose(states, [[0.05], [1.0]])
    np.testing.assert_allclose(means, [[0.5], [2.5]])
    found = fitted(states, means, 1.0, count).values  # min 2(v − 0.5)² + (w − 2.5)² with w − v = 0.95
    assert count.tolist() == [2, 1]
    np.testing.assert_allclose(found[:, 0], [0.85, 1.8], atol=1e-5)
    for bad, said in ((0.0, "lipschitz=0.0 is not allowed"), (float("nan"), "lipschitz=nan is not allowed")):
        with pytest.raises(UsageError, match=said):
            fitted(x, u, bad)
    with pytest.raises(UsageError, match="1001 rows are too many"):
        fitted(np.arange(1001.0), np.arange(1001.0), 1.0)


def test_a_graph_policy_is_evaluated_like_any_other():
    data = target_data(60, spread=0.1)
    found = policy(data.observation, data.action, 0.5)
    assert sf.evaluate(found, "surefoot/ContinuousTarget-v0", 20)["mean"] > -0.02


# --- gains -----------------------------------------------------------------------------------------------------------


def test_the_nearest_matrix_of_a_norm_has_clipped_singular_values():
    np.testing.assert_allclose(clipped(np.diag([3.0, 1.0]), 2.0), np.diag([2.0, 1.0]), atol=1e-12)
    matrix = RNG.normal(size=(3, 4))
    near = cvxpy.Variable((3, 4))
    cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(near - matrix)), [cvxpy.sigma_max(near) <= 1.2]).solve()
    np.testing.assert_allclose(clipped(matrix, 1.2), near.value, atol=2e-3)


def test_the_gain_is_that_of_a_cone_solver_and_closed_where_states_are_round():
    x = RNG.normal(size=(40, 3)) @ np.diag([1.0, 2.0, 0.3])
    u = -x @ RNG.normal(size=(3, 2)) + 0.1 * RNG.normal(size=(40, 2))
    gain = cvxpy.Variable((2, 3))
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(u + x @ gain.T)), [cvxpy.sigma_max(gain) <= 0.8])
    problem.solve(solver=cvxpy.SCS, eps=1e-8)
    found = linear(x, u, 0.8)
    np.testing.assert_allclose(found, gain.value, atol=1e-4)
    assert np.linalg.norm(found, 2) <= 0.8 + 1e-12
    round_, right = scipy.linalg.qr(RNG.normal(size=(40, 3)), mode="economic")[0], RNG.normal(size=(2, 3))
    np.testing.assert_allclose(linear(round_, -round_ @ right.T, 0.8), clipped(right, 0.8), atol=1e-9)
    np.testing.assert_allclose(linear(x, u, 1e3), -np.linalg.lstsq(x, u, rcond=None)[0].T, atol=1e-9)


# --- bounds of closed loops ------------------------------------------------------------------------------------------


def test_bounds_by_hand():
    tube = deviation(np.inf, contraction=0.4, gain=1, error=0.2, lipschitz=0.3, radius=0.1)
    assert tube == pytest.approx(0.383333, abs=1e-6)
    given: dict[str, Any] = {"contraction": 0.8, "gain": 1, "error": 0.05, "lipschitz": 0.6, "radius": 0.1}
    np.testing.assert_allclose(
        deviation([0, 1, 5, 10, np.inf], **given), [0, 0.11, 0.369776, 0.490944, 0.55], atol=1e-6
    )
    assert regret(2, cost=3, expert=0.5, **given) == pytest.approx(3 * (2 * 0.11 + 1.5 * 0.11))
    np.testing.assert_allclose(learning_error([0.1, 0.0], 2.0, [[0.0, 1.0], [1.0, 0.2]]), [0.1, 0.4])
    for wrong in (1.0, -0.1, float("nan")):
        with pytest.raises(UsageError, match=r"contraction=.* is not allowed: .* expert's loop that contracts"):
            deviation(1, **{**given, "contraction": wrong})


def test_the_bounds_hold_in_simulated_loops():
    expert, plant = np.array([[0.6, 0.2], [-0.1, 0.5]]), np.array([[0.9, 0.1], [-0.1, 0.9]])
    x = RNG.uniform(-1, 1, (60, 2))
    learned = policy(x, -x @ expert.T, 0.5)
    rho, start = np.linalg.norm(plant - expert, 2), RNG.uniform(-1, 1, (50, 2))
    places = RNG.uniform(-1.2, 1.2, (4000, 2))
    error = np.linalg.norm(learned(places) + places @ expert.T, axis=1)
    residuals = np.linalg.norm(learned(x) + x @ expert.T, axis=1)
    assert (error <= learning_error(residuals, 0.5 + np.linalg.norm(expert, 2), distances(places, x)) + 1e-9).all()
    known: dict[str, Any] = {"contraction": rho, "gain": 1, "lipschitz": 0.5, "radius": 0.2}
    mine, its, worst, paid = start, start, 0.0, 0.0
    for t in range(30):
        noise = RNG.normal(size=mine.shape)
        u = learned(mine + 0.2 * noise / np.linalg.norm(noise, axis=1, keepdims=True))
        worst = max(worst, float(np.linalg.norm(learned(mine) + mine @ expert.T, axis=1).max()))
        paid += np.abs(np.linalg.norm(np.c_[mine, u], axis=1) - np.linalg.norm(np.c_[its, -its @ expert.T], axis=1))
        mine, its = mine @ plant.T + u, its @ (plant - expert).T
        assert np.linalg.norm(mine - its, axis=1).max() <= deviation(t + 1, error=worst, **known)
    assert paid.max() <= regret(30, cost=1, expert=np.linalg.norm(expert, 2), error=worst, **known)


# --- networks --------------------------------------------------------------------------------------------------------


def test_the_bound_of_a_norm_is_just_above_it_also_mapped_over_seeds():
    for shape in ((1, 5), (64, 64), (3, 40)):
        matrices = torch.randn(4, *shape)
        found = torch.vmap(norm_above)(matrices)
        exact = torch.linalg.matrix_norm(matrices.double(), 2)
        assert (found >= exact * (1 - 1e-6)).all() and (found <= exact * 1.005).all()
    flat = torch.linalg.qr(torch.randn(64, 64))[0]
    assert norm_above(flat) == pytest.approx(64 ** (1 / 1024), rel=1e-5)
    assert norm_above(1e-8 * flat).item() == pytest.approx(1e-8, rel=0.01) and norm_above(torch.zeros(3, 3)) < 1e-6


def test_layers_within_their_limits_stay_and_the_others_are_scaled_to_it():
    weights = [torch.randn(8, 3), torch.randn(8, 8), torch.randn(2, 8)]
    inward, outward, free = torch.tensor([0.1, 10.0, 1.0]), torch.tensor([5.0, 2.0]), torch.tensor(1e9)
    for old, new in zip(weights, limited(weights, inward, outward, free), strict=True):
        torch.testing.assert_close(old, new)
    found = limited(weights, inward, outward, torch.tensor(0.7))
    scaled = [found[0] * inward, found[1], outward[:, None] * found[2]]
    norms = torch.stack([torch.linalg.matrix_norm(x.double(), 2) for x in scaled])
    assert 0.68 < norms.prod().item() <= 0.7
    assert norms[1].item() == pytest.approx((0.7 / 50) ** (1 / 3), rel=0.01)
    (alone,) = limited([weights[0]], inward, torch.ones(8), torch.tensor(0.7))
    assert 0.69 < torch.linalg.matrix_norm(alone * inward, 2).item() <= 0.7


SCALES = np.array([0.01, 30.0], np.float32)
SMALL: dict[str, Any] = {"hidden": (16, 16), "log_every": 60, "batch_size": 32}


def steep_data(rows: int = 300) -> Transitions:
    """States of very unlike units, and actions in boxes of unlike sizes that saturate."""
    rng = np.random.default_rng(1)
    state = rng.normal(size=(rows, 2)).astype(np.float32)
    action = np.tanh(3 * state[:, ::-1]) * np.array([2.0, 0.5])
    box = gym.spaces.Box(np.array([-2, -0.5], np.float32), np.array([2, 0.5], np.float32))
    ends = np.ones(rows, bool)
    seen = state * SCALES
    return Transitions(seen, action, np.zeros(rows), seen, ends, ~ends, action_space=box, name="steep")


@pytest.mark.parametrize(("normalize", "bound"), [(True, 0.3), (True, 20.0), (False, 0.3)])
def test_the_whole_map_never_exceeds_its_bound(normalize, bound):
    data = steep_data()
    method = LipschitzFeedback(lipschitz=bound, normalize_observations=normalize, learning_rate=0.02, **SMALL)
    run = make_learner(method, "", [0, 1], 1000, data=data)
    (row, other) = run.iterate()
    assert row["lipschitz_bound"] == pytest.approx(bound) and max(row["lipschitz"], other["lipschitz"]) <= bound
    agent = run.agent(1)
    constant = product_of_norms(end_to_end(agent))
    assert float(whole(end_to_end(agent))) <= constant * (1 + 1e-9) and constant <= bound
    rng = np.random.default_rng(2)
    x = (rng.normal(size=(10_000, 2)) * SCALES * 2).astype(np.float32)
    y = (x + rng.normal(size=x.shape) * SCALES * rng.choice([1e-3, 1], (10_000, 1))).astype(np.float32)
    acted = [agent.predict(z, deterministic=True)[0].astype(float) for z in (x, y)]
    moved = np.linalg.norm(acted[0] - acted[1], axis=1) - 1e-6
    assert (moved / np.linalg.norm(x.astype(float) - y, axis=1)).max() <= constant
    plain = make_learner(BC(**SMALL, learning_rate=0.02, normalize_observations=normalize), "", [0], 1000, data=data)
    plain.iterate()
    assert float(whole(end_to_end(plain.agent()))) > bound  # it binds


def test_every_seed_is_limited_with_its_own_normaliser():
    data = [steep_data(), dataclasses.replace(steep_data(), observation=5 * steep_data().observation)]
    method = LipschitzFeedback(lipschitz=0.3, learning_rate=0.02, **SMALL)
    run = points.trained(method, data, [0, 1], 60)
    for index in (0, 1):
        assert 0.25 < product_of_norms(end_to_end(run.agent(index))) <= 0.3


def test_with_a_bound_that_never_binds_it_is_plain_cloning():
    data = target_data()
    runs = []
    for method in (BC(**SMALL), LipschitzFeedback(**SMALL, learning_rate=3e-4, lipschitz=1e9)):
        run = make_learner(method, "", [0], 1000, data=data)
        run.iterate()
        runs.append(run.weights["actor"])
    assert torch.equal(*runs)


def test_a_linear_policy_comes_to_the_projected_one():
    """Where tanh is nearly straight, a network without hidden layers is nearly the gain of the second solver: where the
    bound binds, Adam's own units of every entry matter."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (400, 2)).astype(np.float32)
    gain = np.array([[0.09, -0.02]])
    ends = np.ones(400, bool)
    box = gym.spaces.Box(-1, 1, (1,), np.float32)
    data = Transitions(x, (-x @ gain.T), np.zeros(400), x, ends, ~ends, action_space=box, name="line")
    method = LipschitzFeedback(hidden=(), lipschitz=0.05, learning_rate=3e-3, log_every=600, batch_size=400)
    run = make_learner(method, "", [0], 600, data=data)
    run.iterate()
    layers = end_to_end(run.agent())
    best, found = linear(x, data.action, 0.05), -layers.weights[0].numpy()
    errors = [float(((x @ k.T - x @ gain.T) ** 2).mean()) for k in (best, found)]
    assert np.linalg.norm(found, 2) == pytest.approx(0.05, rel=1e-3) and errors[1] < 1.1 * errors[0]


def test_the_slope_of_the_data_is_a_percentile_over_pairs():
    data = steep_data(40)
    apart, moved = (distances(z, z)[np.triu_indices(40, 1)] for z in (data.observation, data.action))
    kept = apart > 1e-3 * apart.max()
    assert slope_of(data) == pytest.approx(np.percentile(moved[kept] / apart[kept], 95))
    run = make_learner(LipschitzFeedback(**SMALL), "", [0], 1000, data=data)
    assert run.iterate()[0]["lipschitz_bound"] == pytest.approx(slope_of(data), rel=1e-5)
    same = dataclasses.replace(data, action=np.ones_like(data.action) * np.float32(0.5))
    with pytest.raises(UsageError, match="steep does not say how steep its policy is: all its states"):
        make_learner(LipschitzFeedback(**SMALL), "", [0], 1000, data=same)


def test_the_certificate_says_what_holds_of_the_whole_map(tmp_path):
    method = LipschitzFeedback(**SMALL, lipschitz=0.4)
    run = sf.train(
        method, "surefoot/ContinuousTarget-v0", 120, data=target_data(), loggers=(), run_dir=tmp_path / "run"
    )
    found = sf.certify_actions(run.path, budgets=(0.1,), states=20)
    assert found.end_to_end == pytest.approx(float(whole(end_to_end(run.agent())))) and found.end_to_end <= 0.4
    assert "from the observation as it is to the action in its units: " in found.table() and found.broken == (0,)


def test_settings_without_sense_are_refused():
    for values, said in (
        ({"lipschitz": 0.0}, "lipschitz=0.0 is not allowed"),
        ({"activation": "swish"}, "activation='swish' is not allowed"),
        ({"cnn": "impala"}, "cnn"),
    ):
        with pytest.raises(UsageError, match=said):
            LipschitzFeedback(**values)
    pixels = gym.spaces.Box(0, 255, (3, 64, 64), np.uint8)
    with pytest.raises(UsageError, match="are images; a Lipschitz policy sees one vector"):
        LipschitzFeedback().networks(pixels, gym.spaces.Box(-1, 1, (1,)))
    network, spaces = ActorNetwork("values", ()), (gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(2))
    choosing = Agent(network, *spaces, torch.zeros(6), {})
    with pytest.raises(UsageError, match="is a choice, which has no Lipschitz constant"):
        end_to_end(choosing)
    assert "subject to  ‖π(s) − π(s')‖ ≤ 2·‖s − s'‖" in LipschitzFeedback(lipschitz=2).objective()
