"""PRDC: the card's neighbours by hand, its limits, and that the target is the actor's own nearest pair."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from micro_data import walk_data

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.hyperparameters import presets
from surefoot.loops.common.run import make_learner
from surefoot.loops.networks.nets import Weights
from surefoot.methods.offline.baselines import TD3BC
from surefoot.methods.offline.prdc import PRDC, nearest

SIZES = {"batch_size": 16, "log_every": 20, "hidden": (16,)}
STATES = np.array([[0.0, 0.0], [1.0, 0.0], [0.1, 0.0]])
ACTIONS = np.array([[0.5], [-0.5], [-0.2]])


# --- numbers by hand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beta", "state", "acted", "row", "distance", "loss"),
    [
        (2.0, 0.05, -0.15, 2, 0.111803, 0.0025),
        (2.0, 0.05, 0.3, 0, 0.223607, 0.04),  # the same state: the target depends on the action
        (0.1, 1.0, 0.4, 0, 0.141421, 0.01),
        (100.0, 1.0, 0.4, 1, 0.9, 0.81),
        (0.0, 1.0, -0.3, 2, 0.1, 0.01),
    ],
)
def test_the_neighbour_and_its_distance(beta, state, acted, row, distance, loss):
    found, index = nearest(STATES, ACTIONS, beta)(np.array([[state, 0.0]]), np.array([[acted]]))
    assert index.tolist() == [row] and found[0] == pytest.approx(distance, abs=1e-6)
    batch = {"nearest": torch.from_numpy(ACTIONS[index])}
    assert PRDC(state_weight=beta).distance(None, batch, torch.tensor([[acted]])).item() == pytest.approx(loss)  # type: ignore[arg-type]


def test_the_search_is_that_of_brute_force():
    rng = np.random.default_rng(0)
    state, action = rng.normal(size=(500, 3)), rng.uniform(-1, 1, (500, 2))
    s, a = rng.normal(size=(2, 100, 3)), rng.uniform(-1, 1, (2, 100, 2))
    for beta in (0.0, 0.5, 2.0, 50.0):
        found, index = nearest(state, action, beta)(s, a)
        apart = beta**2 * ((s[:, :, None] - state) ** 2).sum(-1) + ((a[:, :, None] - action) ** 2).sum(-1)
        np.testing.assert_allclose(found, np.sqrt(apart.min(-1)), atol=1e-9)
        np.testing.assert_allclose(np.take_along_axis(apart, index[..., None], -1)[..., 0], apart.min(-1), atol=1e-9)


def test_it_is_never_tighter_than_the_constraint_of_a_state_and_moves_no_faster_than_the_pair():
    rng = np.random.default_rng(1)
    state, action = rng.normal(size=(200, 2)), rng.uniform(-1, 1, (200, 2))
    search, a = nearest(state, action, 2.0), rng.uniform(-1, 1, (200, 2))
    assert (search(state, a)[0] <= np.linalg.norm(a - action, axis=-1) + 1e-12).all()
    s, b = state + 0.1 * rng.normal(size=state.shape), rng.uniform(-1, 1, (200, 2))
    moved = np.sqrt(4 * ((s - state) ** 2).sum(-1) + ((b - a) ** 2).sum(-1))
    assert (np.abs(search(s, b)[0] - search(state, a)[0]) <= moved + 1e-12).all()


def test_the_pull_is_the_slope_of_the_mean_square_and_vanishes_on_pairs_of_the_data():
    method = PRDC()
    p = torch.randn(4, 3, generator=torch.manual_seed(0), dtype=torch.float64).requires_grad_()
    batch = {"nearest": torch.randn(4, 3, generator=torch.manual_seed(1), dtype=torch.float64)}
    (slope,) = torch.autograd.grad(method.distance(None, batch, p), p)  # type: ignore[arg-type]
    torch.testing.assert_close(slope, 2 * (p - batch["nearest"]).detach() / 12)
    assert torch.autograd.gradcheck(lambda x: method.distance(None, batch, x), (p,))  # type: ignore[arg-type]
    (none,) = torch.autograd.grad(method.distance(None, {"nearest": p.detach()}, p), p)  # type: ignore[arg-type]
    assert (none == 0).all()


# --- a learner against formulas --------------------------------------------------------------------------------------


def learner(method, data=None, seeds=(0,)):
    return make_learner(method, "", list(seeds), 1000, data=walk_data() if data is None else data)


def looked_up(run) -> dict:
    """A batch of all seeds, with what the next step of the actor needs."""
    run.draw()
    batch = run.batch()
    return batch | run.method.beforehand(run)(batch, ("critic", "actor"))


def losses(run, batch, method, seed: int = 0) -> torch.Tensor:
    """The actor's loss of a method on one seed's batch."""
    now = {name: x[seed] for name, x in run.weights.items()}
    w = Weights(run.functions, now, {name: x[seed] for name, x in run.targets.items()}, now)
    return method.actor_loss(w, {k: {} if isinstance(x, dict) else x[seed] for k, x in batch.items()})[0]


def test_the_target_is_the_pair_nearest_to_the_actor_as_it_is_by_normalised_states_and_actions_in_a_unit_box():
    data = walk_data()
    wide = dataclasses.replace(data, action=3 * data.action, action_space=gym.spaces.Box(-3, 3, (2,), np.float32))
    run = learner(PRDC(**SIZES, state_weight=0.7), wide, seeds=(0, 1))
    run.iterate()
    batch = looked_up(run)
    mean, deviation = data.scale()
    state, action = (data.observation - mean) / (deviation + 1e-3), data.action
    assert batch["nearest"].shape == (2, 16, 2)
    for seed in range(2):
        s = batch["observation"][seed].numpy()
        p = run.output("actor", batch["observation"])[seed].numpy()
        apart = 0.7**2 * ((s[:, None] - state) ** 2).sum(-1) + ((p[:, None] - action) ** 2).sum(-1)
        np.testing.assert_allclose(batch["nearest"][seed], action[apart.argmin(1)], atol=1e-6)
        wanted = ((p - action[apart.argmin(1)]) ** 2).mean()
        alone = dataclasses.replace(run.method, alpha=0.0)
        assert losses(run, batch, alone, seed).item() == pytest.approx(wanted, rel=1e-4)
    assert not torch.equal(batch["nearest"], batch["action"])


def test_in_the_limit_of_large_beta_it_is_td3_bc():
    run = learner(PRDC(**SIZES, state_weight=1e5))
    run.iterate()
    batch = looked_up(run)
    torch.testing.assert_close(batch["nearest"], batch["action"], rtol=0, atol=0)
    assert losses(run, batch, run.method) == losses(run, batch, TD3BC(**SIZES))
    plain = learner(TD3BC(**SIZES))
    plain.iterate()
    assert all(torch.equal(run.weights[name], plain.weights[name]) for name in plain.weights)


def test_nothing_is_searched_for_where_the_actor_is_not_due():
    run = learner(PRDC(**SIZES))
    run.draw()
    assert run.method.beforehand(run)(run.batch(), ("critic",)) == {}


# --- settings --------------------------------------------------------------------------------------------------------


def test_presets_are_the_released_settings():
    found = presets(PRDC)
    assert found == {"halfcheetah": {"alpha": 40.0}, "antmaze": {"alpha": 7.5, "state_weight": 7.5}}
    assert (PRDC().alpha, PRDC().state_weight) == (2.5, 2.0)  # those for hopper and walker2d


def test_settings_without_sense_are_refused_and_the_formula_says_what_runs():
    wrong: dict[str, Any] = {"state_weight": -1.0, "alpha": -1.0}
    for name, value in wrong.items():
        with pytest.raises(UsageError, match=f"PRDC: {name}=-1.0 is not allowed"):
            PRDC(**{name: value})
    with pytest.raises(UsageError, match="exploration_noise=0.2 has no effect"):
        PRDC(exploration_noise=0.2)
    text = PRDC(state_weight=0.5).objective()
    assert "(π(s) − a_j)²,  j = argmin_i ‖(0.5·s, π(s)) − (0.5·s_i, a_i)‖" in text and "(π(s) − a)²" not in text
    assert "nearest to (s, π(s))" in sf.explain("prdc")
