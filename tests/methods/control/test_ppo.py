"""PPO: the numbers of its surrogate, its penalties and its critic, each part of its update.

The file to start from for the tests of another on-policy method.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from surefoot.loops.common.run import make_learner
from surefoot.loops.on_policy.learner import Learner
from surefoot.loops.on_policy.method import gradient_step, pick
from surefoot.methods.control.ppo import PPO, adapted
from surefoot.objectives.advantages import standardize

TARGET = "surefoot/ContinuousTarget-v0"


def small(**settings: Any) -> PPO:
    return PPO(**{"num_envs": 4, "num_steps": 32, "minibatch_size": 32, "epochs": 2, "hidden": (8,), **settings})


def ready(method: PPO, env: str = TARGET) -> tuple[Learner, dict[str, Any]]:
    """A learner and its first batch."""
    learner = make_learner(method, env, [0], 10**6)
    learner.lr_tensor = torch.tensor(learner.lr)
    return learner, learner.estimate(learner.collect(learner.vector))


def moved(learner: Learner, scale: float = 0.1) -> Tensor:
    """Weights some way from those that acted."""
    return learner.vector[0] + scale * torch.randn(learner.model.size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [(1, 1, 1, 1), (1.3, 1, 1.2, 0), (1.3, -1, -1.3, -1), (0.7, 1, 0.7, 1), (0.7, -1, -0.8, 0), (1.1, 2, 2.2, 2)],
)
def test_the_clipped_surrogate(ratio, advantage, value, slope):
    """Card, exact check 1."""
    ratios, advantages = (torch.tensor([float(x)], dtype=torch.float64) for x in (ratio, advantage))
    clip = PPO(clip=0.2).stabilizer()
    assert float(clip(ratios, advantages)) == pytest.approx(value)
    assert float(clip.weight(ratios, advantages)) == pytest.approx(slope)


@pytest.mark.parametrize(("value", "loss"), [(1.0, 0.02), (0.55, 0.03125), (0.2, 0.18)])
def test_the_clipped_critic(value, loss):
    """Card, exact check 4."""
    numbers = (torch.tensor([x], dtype=torch.float64) for x in (value, 0.8, 0.5))
    assert float(PPO(value_clip=0.2).value_loss()(*numbers)) == pytest.approx(loss)


@pytest.mark.parametrize(("kl", "factor"), [(0.006, 0.5), (0.016, 2.0), (0.01, 1.0)])
def test_the_adaptive_weight(kl, factor):
    """Card, exact check 6."""
    assert float(adapted(torch.tensor(1.0), torch.tensor(kl), 0.01)) == factor


@pytest.mark.parametrize("penalty", ["clip", "fixed", "none"])
def test_the_loss_is_that_of_the_paper(penalty):
    """Surrogate, KL(π_old ‖ π), entropy and critic by `torch.distributions`, and the gradient of their sum."""
    learner, batch = ready(small(penalty=penalty, kl_coefficient=1.5, entropy=0.3, value_coefficient=0.7))
    one, model, vector = pick(batch, 0), learner.model, moved(learner)

    def normal(params: Tensor) -> torch.distributions.Normal:
        mean, log_std = params.chunk(2, -1)
        return torch.distributions.Normal(mean, log_std.exp())

    def by_hand(v: Tensor) -> Tensor:
        params, value = model.evaluate(v, one)
        new, old, valid = normal(params), normal(one["old_params"]), one["valid"]
        advantage = standardize(one["advantage"], valid)
        ratio = (new.log_prob(one["action"]).sum(-1) - one["old_log_prob"]).exp()
        gain = (
            torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            if penalty == "clip"
            else ratio * advantage
        )
        if penalty == "fixed":
            gain = gain - 1.5 * torch.distributions.kl_divergence(old, new).sum(-1)
        gain = gain + 0.3 * new.entropy().sum(-1) - 0.7 * 0.5 * (value - one["target"]) ** 2
        return -gain[valid].mean()

    found = torch.func.grad(lambda v: learner.method.loss(model, v, one, {})[0])(vector)
    torch.testing.assert_close(found, torch.func.grad(by_hand)(vector), atol=2e-5, rtol=1e-4)


def test_at_the_old_policy_the_gradient_is_the_policy_gradient():
    """Card, exact checks 2 and 7."""
    learner, batch = ready(small(value_coefficient=0.0, standardize=False))
    one, model = pick(batch, 0), learner.model

    def vanilla(v: Tensor) -> Tensor:
        log_prob = model.distribution.log_prob(model.evaluate(v, one)[0], one["action"])
        return -(log_prob * one["advantage"])[one["valid"]].mean()

    found = torch.func.grad(lambda v: learner.method.loss(model, v, one, {})[0])(learner.vector[0])
    torch.testing.assert_close(found, torch.func.grad(vanilla)(learner.vector[0]), atol=1e-5, rtol=1e-4)


def test_the_gradient_step_clips_the_gradient():
    """The first step of Adam is lr·g/(|g| + ε): with ε as large as the gradient it tells how long g was."""
    learner, batch = ready(small(max_grad_norm=1e-3))
    one, index = pick(batch, 0), torch.arange(32)
    step = gradient_step(learner.method, learner.model, ("grad_norm",), epsilon=1.0)
    adam, lr = type(learner.adam)(*(x[0] for x in learner.adam)), torch.tensor(1.0)
    after, _, metrics = step(learner.vector[0], adam, torch.tensor(1.0), index, {}, one, lr)
    assert float(metrics) > 0.01, "what is logged is the norm before clipping"
    assert float((after - learner.vector[0]).norm()) == pytest.approx(1e-3, rel=1e-2)


def test_epochs_end_where_the_mean_kl_of_the_minibatches_exceeds_the_target():
    """Between the mean over an epoch's minibatches and their sum: the mean decides."""
    learner, batch = ready(small(epochs=4, learning_rate=3e-3))
    steps = count_steps(learner, batch, target_kl=None)
    assert len(steps) == 16
    mean = float(torch.stack(steps[:4]).mean())
    assert len(count_steps(learner, batch, target_kl=1.5 * mean)) > 4
    assert len(count_steps(learner, batch, target_kl=0.5 * mean)) == 4


def count_steps(learner: Learner, batch: dict[str, Any], target_kl: float | None) -> list[Tensor]:
    """The KL before each gradient step of an update; the learner is left as it was."""
    vector, adam, found = learner.vector, learner.adam, []
    method = small(epochs=4, learning_rate=3e-3, target_kl=target_kl)
    names = learner.metric_names(batch)
    plain = learner.gradient_step

    def watched(active: Tensor, batch: Any, index: Tensor) -> Tensor:
        metrics = plain(active, batch, index)
        found.append(metrics[0, names.index("kl")])
        return metrics

    learner.gradient_step = watched  # type: ignore[method-assign]
    method.update(learner, batch)
    learner.gradient_step, learner.vector, learner.adam = plain, vector, adam  # type: ignore[method-assign]
    return found


def test_minibatches_are_shuffled_anew_in_every_epoch_and_iteration():
    learner, batch = ready(small())
    seen: list[tuple[int, ...]] = []

    def record(active: Tensor, batch: Any, index: Tensor) -> Tensor:
        seen.append(tuple(index[0].tolist()))
        return torch.zeros(1, len(learner.metric_names(batch)))

    learner.gradient_step = record  # type: ignore[method-assign]
    for learner.iteration in range(2):
        learner.method.update(learner, batch)
    epochs = [seen[i : i + 4] for i in range(0, 16, 4)]
    for epoch in epochs:
        assert sorted(sum(epoch, ())) == list(range(128)), "every sample once"
    assert len({sum(epoch, ()) for epoch in epochs}) == 4


def test_the_penalty_adapts_to_the_kl_of_the_update():
    learner, batch = ready(small(penalty="adaptive", kl_target=1e-6, learning_rate=1e-2))
    learner.method.update(learner, batch)
    assert float(learner.extra["divergence_weight"]) == 2.0
