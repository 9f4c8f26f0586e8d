"""Eigenpairs, fractions and overlaps against closed forms and dense solutions; losses against the learner's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.on_policy.method import OnPolicy, pick
from surefoot.methods.control.gradient_subspaces.subspaces import (
    _anew,
    actor_loss,
    analyse,
    block,
    combined,
    critic_loss,
    fresh_batches,
    hvp,
    merged,
    overlap,
    subspace_fraction,
    subspace_report,
    top_eigenpairs,
)
from surefoot.methods.control.ppo import PPO
from surefoot.methods.control.spo import SPO

SMALL: dict[str, Any] = {"num_envs": 4, "num_steps": 32, "minibatch_size": 32, "epochs": 1, "hidden": (6,)}
TARGET, POLE = "surefoot/ContinuousTarget-v0", "CartPole-v1"


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(n: int, *columns: dict[int, float]) -> Tensor:
    """Normalised columns given by their entries."""
    basis = torch.zeros(n, len(columns), dtype=torch.float64)
    for j, entries in enumerate(columns):
        for i, x in entries.items():
            basis[i, j] = x
    return basis / basis.norm(dim=0)


def network(sizes: tuple[int, int], inputs: Tensor, targets: Tensor) -> Any:
    """The squared error of a tanh network, as a function of its flat weights."""

    def loss(v: Tensor) -> Tensor:
        first, second = v.split([sizes[0] * sizes[1], sizes[1]])
        return ((torch.tanh(inputs @ first.view(sizes)) @ second - targets) ** 2).mean()

    return loss


def ready(method: OnPolicy, env: str, iterations: int = 1) -> tuple[Any, dict[str, Any], Tensor, dict[str, Tensor]]:
    """A learner that has learnt a little, and its next batch, weights and extra state as the analysis sees them."""
    learner = make_learner(method, env, [0], 10**6)
    for _ in range(iterations):
        learner.iterate()
    batch = pick(learner.estimate(learner.collect(learner.vector)), 0)
    vector = learner.vector[0].double()
    return learner, _anew(learner.model, vector, batch), vector, {k: x[0] for k, x in learner.extra.items()}


def test_fractions_of_a_diagonal_hessian():
    diagonal = torch.tensor([10, 5, 1, 0.1], dtype=torch.float64)
    values, basis = top_eigenpairs(lambda v: 0.5 * (diagonal * v * v).sum(), torch.zeros(4, dtype=torch.float64), 4)
    assert values.tolist() == pytest.approx(diagonal.tolist())
    found = subspace_fraction(torch.tensor([1, 2, 0.5, 0.2], dtype=torch.float64), basis, (1, 2, 3, 4))
    assert found.tolist() == pytest.approx([0.189036, 0.945180, 0.992439, 1], abs=1e-6)


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        (({0: 1}, {1: 1}), 1.0),
        (({0: 1}, {2: 1}), 0.5),
        (({2: 1}, {3: 1}), 0.0),
        (({0: 1, 1: 1}, {2: 1}), 0.5),
    ],
)
def test_overlaps_by_hand(columns, wanted):
    first = unit(4, {0: 1}, {1: 1})
    assert float(overlap(first, unit(4, *columns))) == pytest.approx(wanted)


def test_overlap_is_the_mean_over_the_vectors_of_the_second_basis():
    first = unit(4, {0: 1}, {1: 1})  # (e1+e2)/√2 lies within, (e2+e3)/√2 by half
    assert float(overlap(first, unit(4, {0: 1, 1: 1}, {1: 1, 2: 1}))) == pytest.approx(0.75)


@given(st.integers(2, 12), st.integers(0, 99), st.floats(1e-3, 1e3))
def test_fraction_is_a_property_of_the_span_and_grows_to_one(n, seed, scale):
    gradient, (basis, _) = randn(n, seed=seed), torch.linalg.qr(randn(n, n, seed=seed + 1))
    found = subspace_fraction(gradient, basis, range(1, n + 1))
    assert (found.diff() >= -1e-12).all() and float(found[-1]) == pytest.approx(1)
    torch.testing.assert_close(subspace_fraction(scale * gradient, basis, range(1, n + 1)), found)
    k = (n + 1) // 2
    turn, _ = torch.linalg.qr(randn(k, k, seed=seed + 2))
    torch.testing.assert_close(subspace_fraction(gradient, basis[:, :k] @ turn, (k,)), found[k - 1 : k])


def test_fraction_of_a_zero_gradient_is_no_number_and_is_left_out():
    def loss(v: Tensor, weights: Tensor) -> Tensor:
        return 0.5 * (weights * v * v).sum()

    start = torch.ones(5, dtype=torch.float64)
    weights = torch.tensor([5.0, 4, 3, 2, 1], dtype=torch.float64)
    report = subspace_report(loss, start, weights, [weights, 0 * weights], 1)
    assert torch.isnan(subspace_fraction(report.estimates, report.basis, (1,))[1])
    assert float(report.estimated((1,))) == pytest.approx(25 / 55)


def test_the_mean_of_the_fractions_is_not_the_fraction_of_the_mean():
    def loss(v: Tensor, slope: Tensor) -> Tensor:
        return 0.5 * (torch.tensor([4.0, 1, 1], dtype=torch.float64) * v * v).sum() + slope @ v

    one, other = (torch.tensor(x, dtype=torch.float64) for x in ([3.0, 1, 0], [-3.0, 1, 0]))
    report = subspace_report(loss, torch.zeros(3, dtype=torch.float64), (one + other) / 2, [one, other], 1)
    assert float(report.estimated((1,))) == pytest.approx(0.9)
    assert float(report.true((1,))) == pytest.approx(0)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_lanczos_is_the_dense_solution_by_algebraic_value(k):
    hessian = randn(60, 60, seed=k)
    hessian = hessian + hessian.T - 20 * unit(60, {0: 1}) @ unit(60, {0: 1}).T  # the largest by size is negative
    wanted, directions = torch.linalg.eigh(hessian)
    values, basis = top_eigenpairs(lambda v: 0.5 * v @ hessian @ v, randn(60), k, tolerance=1e-9)
    torch.testing.assert_close(values, wanted.flip(0)[:k], rtol=1e-5, atol=0)
    torch.testing.assert_close(basis.T @ basis, torch.eye(k, dtype=torch.float64), rtol=0, atol=1e-9)
    assert float(overlap(directions.flip(1)[:, :k], basis)) == pytest.approx(1, abs=1e-5)
    along = hessian @ directions[:, -1]  # the gradient where θ is the first eigenvector
    assert float(subspace_fraction(along, basis, (1,))) == pytest.approx(1, abs=1e-6)


def test_eigenpairs_of_no_curvature():
    values, basis = top_eigenpairs(lambda v: 0 * (v**2).sum(), randn(9), 2)
    assert not values.any() and torch.equal(basis, torch.eye(9, 2, dtype=torch.float64))


def test_eigenpairs_that_cannot_be_are_refused():
    def loss(v: Tensor) -> Tensor:
        return (v**2).sum()

    with pytest.raises(UsageError, match=r"k=6 .* \[1, 5\]"):
        top_eigenpairs(loss, randn(5), 6)
    with pytest.raises(UsageError, match="float32"):
        top_eigenpairs(loss, randn(5).float(), 2)


def test_eigenpairs_of_a_sum_are_the_merged_ones():
    """18 + 12 parameters, against the explicit Hessian of the sum."""
    one, other = network((5, 3), randn(40, 5), randn(40, seed=1)), network((5, 2), randn(40, 5), randn(40, seed=2))
    start = randn(30, seed=3)
    hessian = torch.func.hessian(lambda v: one(v[:18]) + other(v[18:]))(start)
    wanted, directions = torch.linalg.eigh(hessian)
    pairs = [top_eigenpairs(one, start[:18], 5, tolerance=1e-10), top_eigenpairs(other, start[18:], 5, tolerance=1e-10)]
    values, basis = merged(pairs, 5)
    torch.testing.assert_close(values, wanted.flip(0)[:5], rtol=1e-7, atol=1e-9)
    assert float(overlap(directions.flip(1)[:, :5], basis)) == pytest.approx(1, abs=1e-6)
    assert all((basis[:18].any(0) ^ basis[18:].any(0)).tolist())


def test_a_random_subspace_holds_its_share_on_average():
    basis, _ = torch.linalg.qr(randn(2000, 20))
    found = subspace_fraction(randn(200, 2000, seed=1), basis, (20,))
    assert float(found.mean()) == pytest.approx(0.01, abs=0.001)


def test_hessian_products_are_linear_symmetric_and_right():
    loss, start = network((5, 3), randn(40, 5), randn(40, seed=1)), randn(18, seed=2)
    u, v = randn(18, seed=3), randn(18, seed=4)
    assert float(u @ hvp(loss, start, v)) == pytest.approx(float(v @ hvp(loss, start, u)), rel=1e-8)
    sum_of_two = 2 * hvp(loss, start, u) - 3 * hvp(loss, start, v)
    torch.testing.assert_close(hvp(loss, start, 2 * u - 3 * v), sum_of_two, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(hvp(loss, start, u), torch.func.hessian(loss)(start) @ u)


def test_a_linear_critic_has_one_subspace_for_all_weights():
    method = PPO(**{**SMALL, "hidden": ()})
    learner, batch, vector, _ = ready(method, POLE)
    loss, start = block(critic_loss(method, learner.model), vector, ~learner.model.policy_mask)
    features = torch.cat([batch["observation"], torch.ones_like(batch["observation"][:, :1])], -1)[batch["valid"]]
    wanted = torch.linalg.eigvalsh(method.value_coefficient * features.T @ features / len(features)).flip(0)
    values, basis = top_eigenpairs(lambda v: loss(v, batch), start, 2)
    torch.testing.assert_close(values, wanted[:2], rtol=1e-6, atol=0)
    _, later = top_eigenpairs(lambda v: loss(v, batch), start + randn(len(start)), 2)
    assert float(overlap(basis, later)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("method", "env"),
    [
        (PPO(**SMALL), POLE),
        (PPO(**SMALL, entropy=0.1, standardize=False, value_clip=0.2), TARGET),
        (PPO(**SMALL, penalty="adaptive", squash=True, entropy=0.1), TARGET),
        (SPO(**SMALL), "surefoot/DelayedReward-v0"),
        (PPO(**SMALL, core="gru", core_size=4), "surefoot/MemoryCue-v0"),
        (PPO(**SMALL), "surefoot/MaskedAction-v0"),
    ],
)
def test_the_losses_have_the_gradient_the_learner_follows(method, env):
    learner, batch, vector, extra = ready(method, env)
    actor, critic = actor_loss(method, learner.model, extra), critic_loss(method, learner.model)
    gradient = torch.func.grad(lambda v: actor(v, batch) + critic(v, batch))(vector)
    followed = torch.func.grad(lambda v: method.loss(learner.model, v, batch, extra)[0])(vector)
    assert followed.any()
    torch.testing.assert_close(gradient, followed, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("env", [POLE, TARGET])
def test_the_actors_hessian_is_that_of_the_unclipped_surrogate(env):
    method = PPO(**SMALL)
    learner, batch, vector, extra = ready(method, env)
    valid, distribution = batch["valid"], learner.model.distribution
    advantage = batch["advantage"][valid]
    advantage = (advantage - advantage.mean()) / advantage.std(correction=0)

    def surrogate(part: Tensor) -> Tensor:
        params = learner.model.evaluate(torch.cat([part, vector[len(part) :]]), batch)[0]
        ratio = (distribution.log_prob(params, batch["action"]) - batch["old_log_prob"]).exp()
        return -(ratio[valid] * advantage).mean()

    loss, start = block(actor_loss(method, learner.model, extra), vector, learner.model.policy_mask)
    hessian = torch.func.hessian(surrogate)(start)
    u = randn(len(start))
    torch.testing.assert_close(hvp(lambda v: loss(v, batch), start, u), hessian @ u, rtol=1e-6, atol=1e-8)


def test_reports_of_several_seeds_are_those_of_the_seeds_alone():
    method = PPO(**SMALL)
    together = make_learner(method, POLE, [3, 4], 10**6)
    batch = together.estimate(together.collect(together.vector))
    for index, seed in enumerate((3, 4)):
        alone = make_learner(method, POLE, [seed], 10**6)
        own = alone.estimate(alone.collect(alone.vector))
        (wanted,) = analyse(alone, own, own, 3)
        found = analyse(together, batch, batch, 3)[index]
        for name in ("actor", "critic", "combined"):
            torch.testing.assert_close(found[name].eigenvalues, wanted[name].eigenvalues, rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(found[name].estimates, wanted[name].estimates, rtol=1e-3, atol=1e-5)
            assert len(found[name].estimates) == 4
            assert found[name].basis.dtype == torch.float64


def test_the_combined_report_is_that_of_both():
    method = PPO(**SMALL)
    learner = make_learner(method, POLE, [0], 10**6)
    batch = learner.estimate(learner.collect(learner.vector))
    (found,) = analyse(learner, batch, batch, 4)
    both = combined([found["actor"], found["critic"]])
    assert torch.equal(both.gradient, torch.cat([found["actor"].gradient, found["critic"].gradient]))
    assert both.basis.shape == (learner.model.size, 4)
    assert float(both.true((4,))) <= max(float(found[name].true((4,))) for name in ("actor", "critic")) + 1e-9
    pairs = torch.cat([found["actor"].eigenvalues, found["critic"].eigenvalues]).sort(descending=True)[0]
    assert torch.equal(both.eigenvalues, pairs[:4])


def test_fresh_data_are_as_many_as_asked_for_and_touch_nothing():
    learner = make_learner(PPO(**SMALL), TARGET, [0, 1], 10**6)
    learner.iterate()
    before = learner.state()
    data, estimation = fresh_batches(learner, TARGET, 130)
    assert data["valid"].shape == (2, 132) and estimation["valid"].shape == (2, 128)
    assert not torch.equal(data["action"][0], data["action"][1])
    again, _ = fresh_batches(learner, TARGET, 130)
    assert torch.equal(data["action"], again["action"]) and torch.equal(data["advantage"], again["advantage"])
    assert all(torch.equal(x, before[name]) or torch.isnan(x).any() for name, x in learner.state().items())
    with pytest.raises(UsageError, match="ready vector environment"):
        fresh_batches(learner, learner.collector.envs, 130)


def test_a_shared_encoder_is_refused():
    learner = make_learner(PPO(**SMALL, shared=True), POLE, [0], 10**6)
    batch = learner.estimate(learner.collect(learner.vector))
    with pytest.raises(UsageError, match="shared=True"):
        analyse(learner, batch, batch, 2)
