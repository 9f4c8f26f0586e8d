"""The fixup phase: worked numbers for its penalty, torch's Adam as an oracle, and its one promise for every policy."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.common.run import make_learner
from surefoot.loops.on_policy.learner import Learner
from surefoot.loops.on_policy.method import pick
from surefoot.methods.control.fixpo.fixup import Fixup, Penalty, Restored, split
from surefoot.methods.control.ppo import PPO

TARGET = "surefoot/ContinuousTarget-v0"
POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gaussian": (TARGET, {}),
    "squashed gaussian": (TARGET, {"squash": True}),
    "categorical": ("CartPole-v1", {}),
    "masked categorical": ("surefoot/MaskedAction-v0", {}),
    "multi-discrete": ("surefoot/MultiDiscreteTarget-v0", {}),
    "recurrent": ("surefoot/MemoryCue-v0", {"core": "gru", "core_size": 8}),
    "shared encoder": (TARGET, {"shared": True}),
}


@cache
def ready(policy: str) -> tuple[Learner, dict[str, Any]]:
    """A learner, and the batch that its weights collected."""
    env, options = POLICIES[policy]
    method = PPO(num_envs=4, num_steps=16, minibatch_size=64, hidden=(8,), **options)
    learner = make_learner(method, env, [0], 10**6)
    return learner, pick(learner.estimate(learner.collect(learner.vector)), 0)


def away(learner: Learner, scale: float, seed: int = 0) -> Tensor:
    """All weights moved at random."""
    start = learner.vector[0]
    return start + scale * torch.randn(start.shape, generator=torch.Generator().manual_seed(seed))


def restore(policy: str, fixup: Fixup, vector: Tensor, lr: float = 0.01, weight: float = 1.0) -> Restored:
    learner, batch = ready(policy)
    start, adam = learner.vector[0], Adam.start(vector)
    return fixup(learner.model, start, vector, adam, Penalty.start(weight), batch, torch.tensor(lr))


# --- the penalty ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kl", "slope"), [(1 / 6, 0.0), (0.4, -0.7), (0.0, 0.5)])
def test_the_slope_of_the_penalty(kl, slope):
    after = Penalty.start(1.0).step(torch.tensor(kl), radius=0.5, margin=3.0, lr=0.01)
    assert float(after.mean) / 0.1 == pytest.approx(slope, abs=1e-6)
    if slope:
        assert float(after.weight) == pytest.approx(1 - math.copysign(0.01, slope), abs=1e-6)


def test_the_penalty_follows_adam():
    penalty, trace = Penalty.start(1), []  # a whole number is as good
    assert penalty.weight.dtype == torch.float32
    for kl in (0.05, 0.1, 0.2, 0.4, 0.6):
        penalty = penalty.step(torch.tensor(kl), radius=0.5, margin=3.0, lr=0.01)
        trace.append(float(penalty.weight))
    assert trace == pytest.approx([0.990000, 0.980490, 0.974894, 0.977557, 0.983375], abs=2e-6)


@pytest.mark.parametrize("radius", [1e3, math.inf])
def test_without_a_bound_the_penalty_goes_to_zero_and_not_below(radius):
    penalty = Penalty.start(0.05)
    for _ in range(20):
        penalty = penalty.step(torch.tensor(0.3), radius, margin=3.0, lr=0.01)
    assert float(penalty.weight) == 0.0


def test_penalties_of_several_seeds_are_those_of_each():
    kl = torch.tensor([[0.1, 0.9], [0.5, 0.2]])
    both = Penalty(*(torch.stack([x, x]) for x in Penalty.start(1.0)))
    alone = [Penalty.start(1.0), Penalty.start(1.0)]
    for row in kl:
        both = both.step(row, 0.5, 3.0, 0.01)
        alone = [p.step(x, 0.5, 3.0, 0.01) for p, x in zip(alone, row, strict=True)]
    for one, two, together in zip(*alone, both, strict=True):
        assert torch.equal(torch.stack([one, two]), together)


# --- the trust region ----------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 10, width=32), min_size=1, max_size=20), st.data())
def test_a_bound_on_the_maximum_is_one_on_the_mean(kls, data):
    flags = data.draw(st.lists(st.booleans(), min_size=len(kls), max_size=len(kls)).filter(any))
    kl, valid = torch.tensor(kls), torch.tensor(flags)
    largest, mean = (Fixup(statistic=s).measure(kl, valid) for s in ("max", "mean"))
    assert float(largest) == max(x for x, v in zip(kls, flags, strict=True) if v)
    assert float(mean) <= float(largest) * (1 + 1e-6)


def test_a_bound_on_the_mean_is_none_on_the_maximum_and_padding_counts_in_neither():
    kl, valid = torch.tensor([0.9, 0.0, 0.0, math.nan]), torch.tensor([True, True, True, False])
    assert float(Fixup(statistic="mean").measure(kl, valid)) == pytest.approx(0.3)
    assert float(Fixup(statistic="max").measure(kl, valid)) == pytest.approx(0.9)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_feasible_policy_is_left_alone(policy):
    learner, batch = ready(policy)
    for fixup, vector in (
        (Fixup(radius=1e-6), learner.vector[0]),
        (Fixup(radius=0.5), away(learner, 1e-3)),
        (Fixup(radius=math.inf), away(learner, 1.0)),
    ):
        restored = restore(policy, fixup, vector)
        assert torch.equal(restored.vector, vector)
        assert torch.equal(restored.adam.count, torch.zeros(()))
        assert float(restored.penalty.weight) == 1.0
        metrics = {name: float(x) for name, x in restored.metrics.items()}
        assert metrics.pop("kl_before_fixup") == float(fixup.distance(learner.model, vector, batch))
        assert set(metrics.values()) == {0.0}


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=12)
@given(
    scale=st.floats(0.01, 3),
    radius=st.floats(0.01, 0.5),
    statistic=st.sampled_from(["max", "mean"]),
    size=st.sampled_from([2, 24, 1000]),
    sweeps=st.sampled_from([0, 1, 6]),
    lr=st.sampled_from([0.0, 0.003, 0.1]),
    seed=st.integers(0, 99),
)
def test_what_comes_back_is_inside_whatever_went_in(policy, scale, radius, statistic, size, sweeps, lr, seed):
    learner, batch = ready(policy)
    vector = away(learner, scale, seed)
    fixup = Fixup(radius=radius, statistic=statistic, minibatch_size=size, max_sweeps=sweeps)
    restored = restore(policy, fixup, vector, lr)

    with torch.no_grad():
        params = learner.model.evaluate(restored.vector, batch)[0]
        kl = learner.model.distribution.kl(batch["old_params"], params)[batch["valid"]]
    assert float(kl.max() if statistic == "max" else kl.mean()) <= radius * (1 + 1e-5)
    assert fixup.distance(learner.model, restored.vector, batch) <= radius

    critic = ~learner.model.policy_mask
    assert torch.equal(restored.vector[critic], vector[critic])
    assert not restored.adam.mean[critic].any()
    metrics = {name: float(x) for name, x in restored.metrics.items()}
    assert metrics["fixup_sweeps"] <= sweeps
    assert float(restored.adam.count) == float(restored.penalty.count) == metrics["fixup_steps"]
    assert metrics["fixup_needed"] == (metrics["kl_before_fixup"] > radius)
    assert (metrics["fixup_steps"] > 0) == (metrics["fixup_needed"] > 0 and sweeps > 0)


def test_the_steps_are_those_of_torch():
    """The same phase with autograd, `torch.optim` and a module: one minibatch, weight and policy each with an Adam."""
    learner, batch = ready("gaussian")
    distribution, start, radius = learner.model.distribution, away(learner, 0.5), 0.2
    restored = restore("gaussian", Fixup(radius=radius, max_grad_norm=0.5), start, lr=0.02, weight=0.7)

    module = learner.network.make(learner.observation_space, learner.action_space)
    for name, x in learner.model.unflatten(start).items():
        module.get_parameter(name).data = x.clone()
    weight = torch.tensor(0.7, requires_grad=True)
    policy = torch.optim.Adam(module.actor.parameters(), lr=0.02, eps=1e-5)
    multiplier = torch.optim.Adam([weight], lr=0.01)
    steps = 0
    while True:
        kl = distribution.kl(batch["old_params"], module(batch["observation"])[0])[batch["valid"]]
        if kl.max() <= radius:
            break
        policy.zero_grad()
        (weight.detach() * kl.mean()).backward()
        torch.nn.utils.clip_grad_norm_(module.actor.parameters(), 0.5)
        policy.step()
        multiplier.zero_grad()
        (weight * (radius - 3 * kl.detach().max())).backward()
        multiplier.step()
        steps += 1
    assert steps > 3
    assert float(restored.metrics["fixup_steps"]) == steps
    wanted = torch.cat([p.detach().flatten() for p in module.parameters()])
    torch.testing.assert_close(restored.vector, wanted, atol=1e-5, rtol=1e-4)
    assert float(restored.penalty.weight) == pytest.approx(float(weight.detach()), abs=1e-6)


def test_momentum_outwards_is_overcome():
    learner, batch = ready("gaussian")
    start = learner.vector[0]
    vector = away(learner, 0.3)
    adam = Adam(-(vector - start), (vector - start) ** 2, torch.tensor(50.0))
    fixup = Fixup(radius=0.2)
    restored = fixup(learner.model, start, vector, adam, Penalty.start(1.0), batch, torch.tensor(0.01))
    assert float(restored.metrics["fixup_retreat"]) == 0.0
    assert float(restored.metrics["fixup_steps"]) > 1


def test_a_weight_of_zero_does_not_stall_the_phase():
    learner, _ = ready("gaussian")
    restored = restore("gaussian", Fixup(radius=0.2, weight_lr=0.0), away(learner, 0.3), lr=0.02, weight=0.0)
    assert float(restored.metrics["fixup_steps"]) > 0
    assert float(restored.metrics["fixup_retreat"]) == 0.0


def test_the_retreat_ends_on_the_edge():
    """Only the bias of the mean has moved, so the KL is quadratic along the line."""
    learner, batch = ready("gaussian")
    start, radius = learner.vector[0], 0.1
    vector = start + learner.model.mask(lambda name: name == "actor.output.bias")
    fixup = Fixup(radius=radius, max_sweeps=0)
    restored = restore("gaussian", fixup, vector)
    before = float(restored.metrics["kl_before_fixup"])
    assert before == pytest.approx(0.5, rel=1e-4)
    assert float(restored.metrics["fixup_retreat"]) == pytest.approx(1 - math.sqrt(radius / before), abs=1e-4)
    assert 0.999 * radius <= float(fixup.distance(learner.model, restored.vector, batch)) <= radius


def test_weights_that_are_lost_are_taken_back():
    learner, _ = ready("gaussian")
    vector = torch.where(learner.model.policy_mask, torch.nan, learner.vector[0])
    restored = restore("gaussian", Fixup(radius=0.1, max_sweeps=0), vector)
    assert torch.equal(restored.vector, learner.vector[0])
    assert float(restored.metrics["fixup_retreat"]) == 1.0


@pytest.mark.parametrize("policy", ["categorical", "masked categorical", "recurrent"])
def test_the_parts_of_a_batch_make_it_up(policy):
    _, batch = ready(policy)
    axis, samples = (1, 4) if policy == "recurrent" else (0, 64)
    parts = list(split(batch, 3))
    sizes = [part["valid"].shape[axis] for part in parts]
    assert sizes == [3] * (samples // 3) + [samples % 3]
    for key in batch:
        along = 0 if key == "state" else axis
        if isinstance(batch[key], dict):
            for name, x in batch[key].items():
                assert torch.equal(torch.cat([part[key][name] for part in parts], along), x)
        else:
            assert torch.equal(torch.cat([part[key] for part in parts], along), batch[key])


@pytest.mark.parametrize("wrong", [{"radius": 0.0}, {"statistic": "median"}, {"margin": 0.5}, {"max_sweeps": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Fixup(**wrong)
