"""FixPO: its exact numbers, what its penalty does, and that no update of any policy leaves the trust region."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.on_policy.learner import Learner
from surefoot.loops.on_policy.method import pick
from surefoot.methods.control.fixpo import FixPO
from surefoot.methods.control.ppo import PPO
from surefoot.models.distributions import Categorical, Gaussian

CONTEXT, TARGET = "surefoot/ContextualAction-v0", "surefoot/ContinuousTarget-v0"
SMALL: dict[str, Any] = {"num_envs": 4, "num_steps": 32, "minibatch_size": 32, "epochs": 3, "hidden": (8,)}
CRITIC: dict[str, Any] = {"value_coefficient": 0.2, "value_clip": 0.2}  # FixPO's


def ready(method: Any, env: str, seeds: tuple[int, ...] = (0,)) -> tuple[Learner, dict[str, Any]]:
    """A learner and its first batch."""
    learner = make_learner(method, env, list(seeds), 10**6)
    learner.lr_tensor = torch.tensor(learner.lr)
    return learner, learner.estimate(learner.collect(learner.vector))


def largest_kl(learner: Learner, batch: dict[str, Any], vector: Tensor) -> Tensor:
    """Of every seed, over the valid states of the batch."""
    kls = []
    for index in range(learner.num_seeds):
        one = pick(batch, index)
        with torch.no_grad():
            kl = learner.model.distribution.kl(one["old_params"], learner.model.evaluate(vector[index], one)[0])
        kls.append(kl[one["valid"]].max())
    return torch.stack(kls)


def test_divergences_by_hand():
    def gaussian(mean: float, std: float) -> Tensor:
        return torch.tensor([mean, math.log(std)])

    def kl(p: Tensor, q: Tensor) -> float:
        return float((Gaussian(1) if len(p) == 2 else Categorical((3,))).kl(p, q))

    p, q = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.4, 0.4, 0.2]).log()
    assert kl(gaussian(0, 1), gaussian(0.5, 1)) == pytest.approx(0.125, abs=1e-6)
    assert kl(gaussian(0, 1), gaussian(0.5, 0.8)) == pytest.approx(0.253419, abs=1e-6)
    assert kl(gaussian(0.5, 0.8), gaussian(0, 1)) == pytest.approx(0.168144, abs=1e-6)
    assert kl(p, q) == pytest.approx(0.025267, abs=1e-6)
    assert kl(q, p) == pytest.approx(0.025815, abs=1e-6)


@pytest.mark.parametrize("env", [CONTEXT, TARGET])
def test_at_the_old_policy_the_step_is_the_plain_policy_gradient_whatever_the_penalty(env):
    learner, batch = ready(FixPO(**SMALL), env)
    plain = PPO(**SMALL, penalty="none", **CRITIC, log_std_init=-0.5)
    one, vector, policy = pick(batch, 0), learner.vector[0], learner.model.policy_mask

    def gradient(method: Any, extra: dict[str, Tensor]) -> Tensor:
        return torch.func.grad(lambda v: method.loss(learner.model, v, one, extra)[0])(vector)

    wanted = gradient(plain, {})
    assert wanted[policy].norm() > 1e-3
    for weight in (0.0, 1.0, 100.0):
        found = gradient(learner.method, {"penalty_weight": torch.tensor(weight)})
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


def test_the_loss_is_the_unclipped_surrogate_and_the_penalty():
    learner, batch = ready(FixPO(**SMALL, standardize=False), TARGET)
    one, model = pick(batch, 0), learner.model
    vector = learner.vector[0] + 0.1 * torch.randn(model.size, generator=torch.Generator().manual_seed(0))

    def by_hand(v: Tensor) -> Tensor:
        params, value = model.evaluate(v, one)
        ratio = (model.distribution.log_prob(params, one["action"]) - one["old_log_prob"]).exp()
        surrogate = (ratio * one["advantage"])[one["valid"]].mean()
        kl = model.distribution.kl(one["old_params"], params)[one["valid"]].mean()
        near = one["old_value"] + (value - one["old_value"]).clamp(-0.2, 0.2)
        critic = torch.maximum((value - one["target"]) ** 2, (near - one["target"]) ** 2)
        return -surrogate + 2.5 * kl + 0.1 * critic[one["valid"]].mean()

    extra = {"penalty_weight": torch.tensor(2.5)}
    found = torch.func.grad(lambda v: learner.method.loss(model, v, one, extra)[0])(vector)
    torch.testing.assert_close(found, torch.func.grad(by_hand)(vector), atol=1e-5, rtol=1e-4)
    _, metrics = learner.method.loss(model, vector, one, extra)
    assert float(metrics["minibatch_kl"]) == pytest.approx(float(largest_kl(learner, batch, vector[None])), rel=1e-5)


def test_without_advantages_the_penalty_brings_the_policy_back():
    method = FixPO(**SMALL, learning_rate=1e-3, max_kl=100.0, penalty_lr=0.0)
    learner, batch = ready(method, TARGET)
    batch["advantage"] = torch.zeros_like(batch["advantage"])
    learner.vector = learner.vector + 0.3 * torch.randn(
        learner.vector.shape, generator=torch.Generator().manual_seed(0)
    )
    before = largest_kl(learner, batch, learner.vector)
    distances = []
    for _ in range(10):
        metrics = method.update(learner, batch)
        distances.append(float(metrics["divergence"]))
        assert float(metrics["fixup_steps"]) == 0.0
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.5 * distances[0]
    assert largest_kl(learner, batch, learner.vector) < before


@pytest.mark.parametrize(
    ("env", "options"),
    [
        (TARGET, {}),
        (TARGET, {"squash": True}),
        (TARGET, {"shared": True}),
        (CONTEXT, {}),
        ("CartPole-v1", {"statistic": "mean"}),
        ("surefoot/MultiDiscreteTarget-v0", {}),
        ("surefoot/MaskedAction-v0", {}),
        ("surefoot/MemoryCue-v0", {"core": "gru", "core_size": 8}),
        ("surefoot/MemoryCue-v0", {"core": "lstm", "core_size": 8}),
    ],
)
def test_every_update_ends_inside_the_trust_region(env, options):
    method = FixPO(**SMALL | {"epochs": 2}, learning_rate=0.03, max_kl=0.02, margin=1.0, fixup_sweeps=5, **options)
    learner, batch = ready(method, env, seeds=(0, 1))
    violated = torch.zeros(2)
    for iteration in range(2):
        learner.iteration = iteration
        metrics = method.update(learner, batch)
        violated += metrics["fixup_needed"]
        kl = largest_kl(learner, batch, learner.vector)
        if method.statistic == "max":
            assert (kl <= 0.02 * (1 + 1e-5)).all()
            torch.testing.assert_close(metrics["bounded_kl"], kl)
        assert (metrics["bounded_kl"] <= 0.02).all()
        batch = learner.estimate(learner.collect(learner.vector))
    assert violated.any(), "the step size is so high that the promise is tested"


def test_the_penalty_takes_a_step_with_every_step_of_the_policy():
    method = FixPO(**SMALL, learning_rate=0.03, max_kl=0.02, margin=1.0)
    learner, batch = ready(method, TARGET)
    metrics = method.update(learner, batch)
    fixup_steps = round(method.epochs * float(metrics["fixup_steps"]))
    assert fixup_steps > 0
    assert float(learner.extra["penalty_count"]) == float(learner.adam.count) == method.epochs * 4 + fixup_steps


def test_without_a_bound_it_is_the_unclipped_surrogate():
    free = FixPO(**SMALL, max_kl=math.inf, penalty=0.0, standardize=False)
    learner, batch = ready(free, TARGET)
    plain, _ = ready(
        PPO(
            **SMALL,
            penalty="none",
            standardize=False,
            **CRITIC,
            log_std_init=-0.5,
            anneal=True,
        ),
        TARGET,
    )
    metrics = free.update(learner, batch)
    plain.method.update(plain, batch)
    torch.testing.assert_close(learner.vector, plain.vector)
    assert float(metrics["fixup_needed"]) == 0.0
    assert float(metrics["penalty"]) == 0.0


def test_seeds_together_are_seeds_alone():
    method = FixPO(**SMALL, learning_rate=0.03, max_kl=0.02, margin=1.0)
    together = make_learner(method, CONTEXT, [3, 4], 10**4)
    alone = make_learner(method, CONTEXT, [4], 10**4)
    for _ in range(2):
        both, one = together.iterate()[1], alone.iterate()[0]
    assert both == pytest.approx(one, rel=1e-3, abs=1e-5, nan_ok=True)
    torch.testing.assert_close(together.vector[1], alone.vector[0], atol=1e-5, rtol=1e-4)


def test_the_same_seed_gives_the_same_bits():
    first, second = (make_learner(FixPO(**SMALL, max_kl=0.02), CONTEXT, [0], 10**4) for _ in range(2))
    for _ in range(2):
        assert first.iterate() == second.iterate()
    assert all(torch.equal(x, second.state()[name]) for name, x in first.state().items())


def test_it_learns():
    learner = make_learner(FixPO(**SMALL, learning_rate=0.01, anneal=False), CONTEXT, [0], 10**5)
    rows = [learner.iterate()[0] for _ in range(25)]
    assert rows[-1]["return"] > 0.9
    assert all(row["bounded_kl"] <= 0.5 for row in rows)


def test_target_kl_is_refused():
    with pytest.raises(UsageError, match="target_kl=0.1.*max_kl"):
        dataclasses.replace(FixPO(), target_kl=0.1)
