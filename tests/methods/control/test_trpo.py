"""TRPO's update against a dense solution of the same problem, its guards, and that it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.on_policy.learner import Learner
from surefoot.loops.on_policy.method import in_turn, pick, take
from surefoot.methods.control.trpo import TRPO
from surefoot.objectives.advantages import standardize

CONTEXT, TARGET, POLE = "surefoot/ContextualAction-v0", "surefoot/ContinuousTarget-v0", "CartPole-v1"


def small(**settings: Any) -> TRPO:
    return TRPO(**{"num_envs": 4, "num_steps": 64, "minibatch_size": 64, "epochs": 2, "hidden": (8,), **settings})


def ready(method: TRPO, env: str, seeds: tuple[int, ...] = (0,)) -> tuple[Learner, dict[str, Any]]:
    """A learner and its first batch."""
    learner = make_learner(method, env, list(seeds), 10**6)
    learner.lr_tensor = torch.tensor(learner.lr)
    return learner, learner.estimate(learner.collect(learner.vector))


def step(method: TRPO, learner: Learner, batch: dict[str, Any]) -> dict[str, Tensor]:
    return {name: x[0] for name, x in in_turn(method.policy_step, learner, batch).items()}


@pytest.mark.parametrize("env", [POLE, TARGET])
def test_the_step_is_the_dense_solution(env):
    method = small(hidden=(4,), cg_iterations=80, cg_damping=0.1, max_kl=1e-3)
    learner, batches = ready(method, env)
    model, batch, start = learner.model, pick(batches, 0), learner.vector[0].clone()
    distribution, valid, actor = model.distribution, batch["valid"], model.policy_mask
    advantage = standardize(batch["advantage"], valid)

    def params(v: Tensor) -> Tensor:
        return model.evaluate(v, batch)[0]

    def objective(v: Tensor) -> Tensor:
        return (distribution.log_prob(params(v), batch["action"]) * advantage)[valid].mean()

    def mean_kl(v: Tensor) -> Tensor:
        return distribution.kl(batch["old_params"], params(v))[valid].mean()

    g = torch.func.grad(objective)(start).double()
    fisher = torch.func.hessian(mean_kl)(start).double()
    x = torch.linalg.solve(fisher + 0.1 * torch.eye(len(g)), g)
    wanted = x * (2 * 1e-3 / (x @ g)).sqrt()

    metrics = step(method, learner, batches)
    moved = (learner.vector[0] - start).double()
    assert float(metrics["step_fraction"]) == 1.0
    assert float((moved - wanted).norm()) < 2e-3 * float(wanted.norm())
    assert float(metrics["kl"]) == pytest.approx(float(mean_kl(learner.vector[0])), rel=1e-3)
    assert float(metrics["predicted_improvement"]) == pytest.approx(float(g @ wanted), rel=1e-3)
    new = distribution.log_prob(params(learner.vector[0]), batch["action"])
    gain = ((new - batch["old_log_prob"]).exp() * advantage)[valid].mean() - advantage[valid].mean()
    assert float(metrics["improvement"]) == pytest.approx(float(gain), abs=1e-5)
    assert not wanted[~actor].any()


def test_policy_and_critic_are_moved_by_their_own_steps_alone():
    learner, batch = ready(small(), POLE)
    actor, start = learner.model.policy_mask, learner.vector.clone()
    step(learner.method, learner, batch)
    between = learner.vector.clone()
    assert torch.equal(between[:, ~actor], start[:, ~actor]) and (between != start)[:, actor].any()
    learner.method.fit_critic(learner, batch)
    assert torch.equal(learner.vector[:, actor], between[:, actor])
    assert (learner.vector != between)[:, ~actor].any()


@pytest.mark.parametrize(
    "settings", [{}, {"max_kl": 0.2, "cg_damping": 1e-3}, {"core": "gru", "core_size": 4, "num_steps": 16}]
)
def test_no_update_leaves_the_trust_region(settings):
    method = small(**settings)
    learner = make_learner(method, POLE, [0, 1], 10**6)
    rows = [row for _ in range(4) for row in learner.iterate()]
    assert all(0 <= row["kl"] <= method.max_kl for row in rows if row["accepted"])
    assert all(row["improvement"] > 0 for row in rows if row["accepted"])
    assert sum(row["accepted"] for row in rows) >= 6


def test_a_search_that_fails_leaves_the_policy():
    learner, batch = ready(small(), POLE)
    start = learner.vector.clone()
    batch["old_params"] = batch["old_params"] + torch.tensor([3.0, -3.0])  # the KL is beyond its bound from the start
    metrics = step(learner.method, learner, batch)
    assert torch.equal(learner.vector, start)
    assert metrics["accepted"] == metrics["step_fraction"] == metrics["improvement"] == 0


def test_a_step_within_the_region_that_lowers_the_surrogate_is_refused():
    learner, batch = ready(small(max_kl=50.0, cg_damping=1e-3, backtrack_tries=1), POLE)
    start, one = learner.vector.clone(), pick(batch, 0)
    whole, slope, before, _ = learner.method.natural_step(learner.model, start[0], one)
    with torch.no_grad():
        _, after, seen = learner.method.improvement(learner.model, start[0] + whole, one)
    assert seen["kl"] < 50 and slope > 0 and after < before
    assert step(learner.method, learner, batch)["accepted"] == 0
    assert torch.equal(learner.vector, start)


@pytest.mark.parametrize("advantage", [0.0, 2.5])
def test_advantages_without_a_difference_move_nothing(advantage):
    learner, batch = ready(small(), POLE)
    start = learner.vector.clone()
    batch["advantage"] = torch.full_like(batch["advantage"], advantage)
    metrics = step(learner.method, learner, batch)
    assert torch.equal(learner.vector, start)
    assert metrics["accepted"] == metrics["curvature"] == metrics["predicted_improvement"] == 0


def test_the_scale_of_the_advantages_does_not_matter():
    moves = []
    for scale in (1.0, 1e-4):
        learner, batch = ready(small(standardize=False), POLE)
        start = learner.vector.clone()
        step(learner.method, learner, {**batch, "advantage": scale * batch["advantage"]})
        moves.append(learner.vector - start)
    assert float((moves[0] - moves[1]).norm()) < 1e-3 * float(moves[0].norm())


def test_what_is_not_valid_does_not_matter():
    vectors = []
    for junk in (0.0, float("nan")):
        learner, batch = ready(small(), CONTEXT)
        assert not batch["valid"].all()
        batch["advantage"] = torch.where(batch["valid"], batch["advantage"], torch.tensor(junk))
        step(learner.method, learner, batch)
        vectors.append(learner.vector)
    assert torch.equal(*vectors)


def test_seeds_side_by_side_are_seeds_alone():
    together = make_learner(small(), POLE, [3, 4], 10**6)
    together.iterate()
    for index, seed in enumerate((3, 4)):
        alone = make_learner(small(), POLE, [seed], 10**6)
        alone.iterate()
        assert torch.allclose(together.vector[index], alone.vector[0], atol=1e-4)


def test_the_same_seed_gives_the_same_bits():
    first, second = (make_learner(small(), TARGET, [5], 10**6) for _ in range(2))
    for _ in range(2):
        assert first.iterate() == second.iterate()
    assert torch.equal(first.vector, second.vector)


def test_it_learns_which_action_is_right():
    learner = make_learner(small(max_kl=0.05, epochs=4), CONTEXT, [0], 10**6)
    rows = [learner.iterate()[0] for _ in range(25)]
    assert rows[0]["return"] < 0.3 and rows[-1]["return"] > 0.9


def test_it_learns_where_the_target_is():
    learner = make_learner(small(max_kl=0.05, epochs=4, log_std_init=-0.5), TARGET, [0], 10**6)
    rows = [learner.iterate()[0] for _ in range(25)]
    assert rows[0]["return"] < -0.3 and rows[-1]["return"] > -0.06


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shared": True}, "shared=True"),
        ({"target_kl": 0.02}, "target_kl=0.02"),
        ({"max_kl": 0.0}, "max_kl=0.0"),
        ({"backtrack_factor": 1.0}, "backtrack_factor=1.0"),
        ({"cg_iterations": 0}, "cg_iterations=0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(UsageError, match=words.replace(".", r"\.")):
        small(**settings)


@pytest.mark.parametrize("settings", [{"num_steps": 65}, {"core": "gru", "core_size": 4, "num_steps": 16}])
def test_fisher_products_take_every_nth_sample_and_the_slope_all(settings):
    method = small(fisher_every=3, cg_damping=0.01, minibatch_size=4, **settings)
    learner, batches = ready(method, POLE)
    model, start, batch = learner.model, learner.vector[0], pick(batches, 0)
    few = take(batch, torch.arange(batch["valid"].shape[-1])[::3])
    step, gain, _, _ = method.natural_step(model, start, batch)
    alone, _, _, _ = method.natural_step(model, start, few)
    (slope,) = torch.autograd.grad(method.improvement(model, (v := start.clone().requires_grad_()), batch)[0], v)

    def kl(v: Tensor) -> Tensor:
        return method.mean_kl(model, model.evaluate(v, few)[0], few)

    fisher = torch.func.jvp(torch.func.grad(kl), (start,), (step,))[1] + 0.01 * step
    assert float(0.5 * step @ fisher) == pytest.approx(method.max_kl, rel=1e-3)
    assert float(gain) == pytest.approx(float(-slope @ step), rel=1e-3)
    assert not torch.allclose(step, alone, rtol=0.1)


@pytest.mark.parametrize("name", TRPO.presets)
def test_presets_are_allowed(name):
    assert TRPO(**TRPO.presets[name]).max_kl == 0.01
