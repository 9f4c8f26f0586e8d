"""The critic's trust region against dense least squares and its bound, the order of the steps, and that it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.on_policy.learner import Learner
from surefoot.loops.on_policy.method import in_turn, pick
from surefoot.methods.control.gae import GAE
from surefoot.objectives.advantages import gae

CONTEXT, TARGET, POLE = "surefoot/ContextualAction-v0", "surefoot/ContinuousTarget-v0", "CartPole-v1"


def small(**settings: Any) -> GAE:
    return GAE(**{"num_envs": 4, "num_steps": 64, "hidden": (8,), **settings})


def ready(method: GAE, env: str) -> tuple[Learner, dict[str, Any]]:
    """A learner and its first batch."""
    learner = make_learner(method, env, [0], 10**6)
    return learner, learner.estimate(learner.collect(learner.vector))


def step(learner: Learner, batch: dict[str, Any]) -> dict[str, Tensor]:
    return {name: x[0] for name, x in in_turn(learner.method.critic_step, learner, batch).items()}


def values(learner: Learner, batch: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        return learner.model.evaluate(learner.vector[0], pick(batch, 0))[1]


LINEAR = {"hidden": (), "critic_damping": 0.0, "cg_iterations": 60}


def least_squares(batch: dict[str, Any]) -> Tensor:
    """The values of the best linear critic on the valid samples."""
    valid = batch["valid"][0]
    x = torch.cat([batch["observation"][0], torch.ones(len(valid), 1)], -1).double()
    return x @ torch.linalg.lstsq(x[valid], batch["target"][0][valid].double()[:, None]).solution[:, 0]


def test_inside_the_region_a_linear_critic_becomes_the_least_squares_solution():
    learner, batch = ready(small(**LINEAR, critic_radius=1e6), POLE)
    assert not batch["valid"].all()
    wanted, before = least_squares(batch), values(learner, batch)
    metrics = step(learner, batch)
    assert float((before - wanted).abs().max()) > 0.5
    assert torch.allclose(values(learner, batch).double(), wanted, atol=2e-3)
    assert metrics["critic_step_fraction"] == 1


def test_outside_it_a_linear_critic_goes_the_same_way_to_the_edge():
    # Rounding decides on which side of the edge the whole step ends; the next one tried is 0.999 of it.
    learner, batch = ready(small(**LINEAR, critic_radius=0.01, backtrack_factor=0.999), POLE)
    wanted, before, valid = least_squares(batch), values(learner, batch).double(), batch["valid"][0]
    variance = ((before - batch["target"][0]) ** 2)[valid].mean()
    share = (2 * 0.01 * variance / ((wanted - before) ** 2)[valid].mean()).sqrt()
    assert share < 0.9
    metrics = step(learner, batch)
    moved = values(learner, batch).double()
    assert torch.allclose(moved - before, share * (wanted - before), atol=3e-3)
    distance = ((moved - before) ** 2)[valid].mean() / (2 * variance)
    assert float(metrics["critic_kl"]) == pytest.approx(float(distance), rel=1e-4)
    assert 0.0099 < distance <= 0.01 * (1 + 1e-6)


def test_the_step_of_a_network_is_the_dense_gauss_newton_step():
    learner, batch = ready(small(hidden=(4,), critic_damping=0.05, cg_iterations=60, critic_radius=1e-4), POLE)
    start, one = learner.vector[0].clone(), pick(batch, 0)
    valid, error = one["valid"], (one["old_value"] - one["target"]).double()
    jacobian = torch.func.jacrev(lambda v: learner.model.evaluate(v, one)[1])(start).double()[valid]
    matrix = jacobian.T @ jacobian / len(jacobian) + 0.05 * torch.eye(len(start))
    x = -torch.linalg.solve(matrix, jacobian.T @ error[valid] / len(jacobian))
    wanted = x * (2 * 1e-4 * (error[valid] ** 2).mean() / (x @ matrix @ x)).sqrt().clamp(max=1.0)
    metrics = step(learner, batch)
    assert metrics["critic_step_fraction"] == 1
    assert float((learner.vector[0] - start - wanted).norm()) < 2e-3 * float(wanted.norm())


@pytest.mark.parametrize("settings", [{}, {"critic_radius": 0.5}, {"core": "gru", "core_size": 4, "num_steps": 16}])
def test_a_step_lowers_the_loss_within_the_bound_and_leaves_the_policy(settings):
    method = small(**settings)
    learner, batch = ready(method, POLE)
    actor, start = learner.model.policy_mask, learner.vector.clone()
    valid, target, old = batch["valid"][0], batch["target"][0], values(learner, batch)
    variance = ((old - target) ** 2)[valid].mean()
    metrics, new = step(learner, batch), values(learner, batch)
    assert metrics["critic_step_fraction"] > 0
    assert float(metrics["value_loss"]) == pytest.approx(float(0.5 * ((new - target) ** 2)[valid].mean()), rel=1e-4)
    assert metrics["value_loss"] < 0.5 * variance
    assert ((new - old) ** 2)[valid].mean() <= 2 * method.critic_radius * variance * (1 + 1e-5)
    assert torch.equal(learner.vector[:, actor], start[:, actor])
    assert (learner.vector != start)[:, ~actor].any()


def test_a_step_that_lowers_the_loss_beyond_the_bound_is_shortened():
    learner = make_learner(small(critic_damping=1e-4), POLE, [1], 10**6)
    batch = learner.estimate(learner.collect(learner.vector))
    start, valid, old = learner.vector.clone(), batch["valid"][0], values(learner, batch)
    fraction = float(step(learner, batch)["critic_step_fraction"])
    taken, target = learner.vector, batch["target"][0]

    def bound_and_loss(vector: Tensor) -> tuple[Tensor, Tensor]:
        learner.vector = vector
        new = values(learner, batch)
        distance = ((new - old) ** 2)[valid].mean() / (2 * ((old - target) ** 2)[valid].mean())
        return distance, ((new - target) ** 2)[valid].mean()

    whole = start + (taken - start) / fraction
    assert fraction < 1 and bound_and_loss(taken)[0] <= 0.01
    assert bound_and_loss(whole)[0] > 0.011 and bound_and_loss(whole)[1] < bound_and_loss(start)[1]


def test_a_critic_without_error_stays():
    learner, batch = ready(small(), POLE)
    start, batch["target"] = learner.vector.clone(), values(learner, batch)[None]
    metrics = step(learner, batch)
    assert torch.equal(learner.vector, start)
    assert metrics["critic_step_fraction"] == metrics["critic_kl"] == metrics["value_loss"] == 0


@pytest.mark.parametrize("tries", [1, 40])
def test_a_step_that_overshoots_is_shortened_or_not_taken(tries):
    """Without damping or radius the whole step of this network raises the loss."""
    learner, batch = ready(small(critic_radius=1e3, critic_damping=0.0, backtrack_tries=tries, hidden=(2,)), POLE)
    start, valid = learner.vector.clone(), batch["valid"][0]
    loss = 0.5 * ((values(learner, batch) - batch["target"][0]) ** 2)[valid].mean()
    metrics = step(learner, batch)
    if tries == 1:
        assert torch.equal(learner.vector, start) and metrics["critic_step_fraction"] == 0
    else:
        assert 0 < metrics["critic_step_fraction"] < 1 and metrics["value_loss"] < loss


def test_the_critic_regresses_to_the_whole_return_and_the_policy_to_the_mixture():
    method = small()
    learner = make_learner(method, POLE, [0], 10**6)
    rollout = learner.collect(learner.vector)
    batch = learner.estimate(rollout)
    scale = learner.reward_moments.scale()[1]  # of the moments that have taken these rewards in
    reward = (rollout.reward * scale).clamp(-10, 10)
    value = learner.model.evaluate(learner.vector[0], {"observation": batch["observation"][0]})[1].detach()
    value = value.unflatten(0, rollout.reward.shape[::2]).unsqueeze(1)
    ended = rollout.terminated | rollout.truncated
    within = ended.flip(0).cumsum(0).flip(0) > 0  # the episode ends within the batch: the return is complete
    goal = torch.zeros_like(value)
    running = torch.zeros_like(value[0])
    for t in reversed(range(len(goal))):
        running = torch.where(rollout.valid[t], reward[t] + method.gamma * torch.where(ended[t], 0.0, running), 0.0)
        goal[t] = running
    chosen = within & rollout.valid
    target = batch["target"][0].unflatten(0, rollout.reward.shape[::2]).unsqueeze(1)
    assert chosen.sum() > 50 and not rollout.truncated.any()
    assert torch.allclose(target[chosen], goal[chosen], atol=1e-4)
    assert method.objective().advantage == gae(0.99, 0.96)


def test_the_policy_is_judged_by_the_critic_from_before_the_fit():
    learner, batch = ready(small(), POLE)
    together, _ = ready(small(), POLE)
    together.method.update(together, batch)
    in_turn(learner.method.policy_step, learner, batch)
    actor = learner.model.policy_mask
    assert torch.equal(together.vector[:, actor], learner.vector[:, actor])
    assert torch.equal(batch["advantage"][batch["valid"]], ready(small(), POLE)[1]["advantage"][batch["valid"]])


def test_the_same_seed_gives_the_same_bits():
    first, second = (make_learner(small(), TARGET, [5, 6], 10**6) for _ in range(2))
    for _ in range(2):
        assert first.iterate() == second.iterate()
    assert torch.equal(first.vector, second.vector)


def test_it_learns_which_action_is_right():
    learner = make_learner(small(max_kl=0.05), CONTEXT, [0], 10**6)
    rows = [learner.iterate()[0] for _ in range(25)]
    assert rows[0]["return"] < 0.3 and rows[-1]["return"] > 0.9


def test_its_critic_learns_what_the_observation_pays():
    learner = make_learner(small(critic_radius=0.1), "surefoot/ObservedReward-v0", [0], 10**6)
    rows = [learner.iterate()[0] for _ in range(25)]
    assert rows[0]["explained_variance"] < 0.7 and rows[-1]["explained_variance"] > 0.98


@pytest.mark.parametrize("settings", [{"critic_radius": 0.0}, {"critic_damping": -1.0}, {"shared": True}])
def test_settings_that_cannot_work_are_refused(settings):
    (name,) = settings
    with pytest.raises(UsageError, match=f"GAE: {name}="):
        small(**settings)


@pytest.mark.parametrize("name", GAE.presets)
def test_presets_are_allowed(name):
    assert GAE(**GAE.presets[name]).lam == 0.96
