"""A function in two stages is the function; every operation on arrays is torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surefoot.loops.common.run import make_learner
from surefoot.loops.common.staging import NUMPY, staged
from surefoot.methods.control.ppo import PPO

aten = torch.ops.aten
X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
Y = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1))
W = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(2))
CASES = {
    aten._to_copy.default: [((X,), {"dtype": torch.bool}), ((X * 3,), {"dtype": torch.int64})],
    aten._unsafe_view.default: [((X, [6, 4]), {})],
    aten.add.Tensor: [((X, Y), {}), ((X, 2), {})],
    aten.addmm.default: [((W[0, 0], X[0], W[0]), {})],
    aten.argmax.default: [((X, -1), {})],
    aten.atanh.default: [((X.clamp(-0.9, 0.9),), {})],
    aten.bmm.default: [((X, W), {})],
    aten.cat.default: [(([X, Y], -1), {}), (([X, Y], 1), {})],
    aten.clamp.default: [((X, -0.5, 0.5), {}), ((X, 0.1), {}), ((X, None, 0.1), {})],
    aten.cumsum.default: [((X, -1), {}), ((X, 0), {})],
    aten.detach.default: [((X,), {})],
    aten.div.Tensor: [((X, Y + 1), {})],
    aten.elu.default: [((X,), {}), ((X, 0.5), {})],
    aten.eq.Tensor: [((torch.arange(3), torch.tensor([0, 5, 2])), {})],
    aten.exp.default: [((X,), {})],
    aten.expand.default: [((X, [5, 2, 3, 4]), {}), ((X[:, :1], [2, 3, -1]), {}), ((X, [2, 3, 4]), {})],
    aten.gt.Scalar: [((X, 0.3), {})],
    aten.gt.Tensor: [((X, Y), {})],
    aten.index.Tensor: [((X, [None, torch.tensor([2, 0])]), {}), ((X, [torch.tensor([1, 0, 1])]), {})],
    aten.lerp.Tensor: [((X, X + 2, Y), {}), ((X, X + 2, torch.ones(())), {})],
    aten.lift_fresh.default: [((X,), {})],
    aten.linspace.default: [((-10, 10, 51), {"dtype": torch.float32, "pin_memory": False})],
    aten.lt.Scalar: [((X, 0.3), {})],
    aten.lt.Tensor: [((X, Y), {})],
    aten.mean.dim: [((X, [-1]), {}), ((X, [0, 2], True), {})],
    aten.mm.default: [((X[0], W[0]), {})],
    aten.mul.Tensor: [((X, Y), {})],
    aten.permute.default: [((X, [2, 0, 1]), {})],
    aten.relu.default: [((X,), {})],
    aten.scalar_tensor.default: [((0.5,), {"dtype": torch.float32}), ((2,), {"dtype": torch.int64})],
    aten.select.int: [((X, 0, 1), {}), ((X, 1, 2), {}), ((X, -1, 0), {})],
    aten.sigmoid.default: [((X * 20,), {})],
    aten.silu.default: [((X,), {})],
    aten.slice.Tensor: [((X, 1, 0, 2), {}), ((X, -1, 1), {}), ((X, 2, 0, 2**63 - 1, 2), {})],
    aten.split.Tensor: [((X, 2, -1), {}), ((X, 2, 1), {}), ((X, 1), {})],
    aten.split_with_sizes.default: [((X, [1, 3], -1), {}), ((X, [1, 2], 1), {})],
    aten.squeeze.dim: [((X[:, :1], 1), {}), ((X, 1), {})],
    aten.stack.default: [(([X, Y],), {}), (([X, Y], 1), {})],
    aten.sub.Tensor: [((X, Y), {})],
    aten._softmax.default: [((X, -1, False), {}), ((X, 1, False), {})],
    aten.sum.dim_IntList: [((X, [-1]), {}), ((X, [0, 2], True), {})],
    aten.t.default: [((X[0],), {})],
    aten.tanh.default: [((X * 3,), {})],
    aten.unbind.int: [((X,), {}), ((X, 1), {})],
    aten.unsqueeze.default: [((X, 0), {}), ((X, -1), {})],
    aten.view.default: [((X, [6, -1]), {})],
    aten.where.self: [((X > 0, X, Y), {})],
    aten.zeros_like.default: [((X,), {"pin_memory": False})],
}


def arrays(value):
    if isinstance(value, torch.Tensor):
        return value.numpy()
    return (
        [arrays(x) for x in value]
        if isinstance(value, (list, tuple)) and len(value) and torch.is_tensor(value[0])
        else value
    )


@pytest.mark.parametrize("operation", NUMPY, ids=str)
def test_an_operation_on_arrays_is_torchs(operation):
    assert CASES[operation]
    for args, kwargs in CASES[operation]:
        expected = operation(*args, **kwargs)
        found = NUMPY[operation](*map(arrays, args), **kwargs)
        parts = zip(found, expected, strict=True) if isinstance(expected, (list, tuple)) else [(found, expected)]
        for mine, theirs in parts:
            assert mine.dtype == theirs.numpy().dtype
            np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-5, atol=1e-6)


def test_what_needs_only_the_early_arguments_runs_in_prepare():
    def function(early, late):
        (weight,), (x, y) = early, late
        return torch.tanh(x @ torch.exp(weight)), y

    weight, x, y = torch.randn(3, 2), torch.randn(4, 3), torch.zeros(0)
    prepare, run = staged(function, (weight,), (x, y))
    other = torch.randn(3, 2)
    prepared = prepare((other,))
    assert len(prepared) == 1
    np.testing.assert_allclose(prepared[0], torch.exp(other), rtol=1e-6)
    result, same = run(prepared, x.numpy(), y.numpy())
    np.testing.assert_allclose(result, torch.tanh(x @ torch.exp(other)), rtol=1e-5, atol=1e-6)
    assert same.shape == (0,)


def test_an_operation_without_a_counterpart_leaves_the_whole_on_torch():
    def function(early, late):
        return (torch.erfinv(late[0]["a"] * early[0]),)

    x = torch.linspace(-0.9, 0.9, 5)
    prepare, run = staged(function, (torch.ones(()),), ({"a": x},))
    prepared = prepare((torch.tensor(0.5),))
    assert isinstance(prepared[0], torch.Tensor)
    (result,) = run(prepared, {"a": x.numpy()})
    assert isinstance(result, np.ndarray)
    np.testing.assert_array_equal(result, torch.erfinv(x * 0.5).numpy())


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
@pytest.mark.parametrize(
    ("env", "changes"),
    [
        ("Pendulum-v1", {}),
        ("CartPole-v1", {"activation": "swish", "normalize_observations": False}),
        ("FrozenLake-v1", {}),
        ("surefoot/MemoryCue-v0", {"core": "gru"}),
        ("surefoot/MaskedAction-v0", {"core": "lstm"}),
        ("surefoot/DictContext-v0", {"cnn": "impala"}),
        ("surefoot/MultiDiscreteTarget-v0", {}),
        ("surefoot/ContinuousTarget-v0", {"squash": True}),
    ],
)
def test_the_policy_that_acts_is_the_network(env, changes, seeds):
    """What was collected is what the network itself says of those observations, states and noise."""
    method = PPO(num_envs=3, num_steps=8, minibatch_size=8, epochs=2, hidden=(16,), **changes)
    learner = make_learner(method, env, seeds, 10**6)
    for _ in range(2):
        learner.iterate()
    state, first = learner.core_state, learner.collector.fresh.copy()
    before = learner.collector.observation
    rollout = learner.collect(learner.vector, 1)
    noise = torch.stack([learner.model.distribution.noise((1, 3), g) for g in streams(learner)], 1)[0]
    as_tensors = (
        {k: torch.from_numpy(x) for k, x in before.items()} if isinstance(before, dict) else torch.from_numpy(before)
    )
    late = as_tensors, noise, torch.from_numpy(first), state
    with torch.no_grad():
        action, executed, new = learner._policy_step((learner.vector, learner.scales()), late)
    torch.testing.assert_close(rollout.action[0], action, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(learner.core_state, new, rtol=1e-4, atol=1e-5)
    assert executed.shape[0] == 3 * len(seeds)


def streams(learner):
    from surefoot.seeding import torch_stream

    return [torch_stream(seed, "actions", learner.collector.logged - 1) for seed in learner.seeds]


def test_what_would_be_another_number_at_the_next_step_is_no_constant():
    with pytest.raises(AssertionError, match="reads values out of tensors"):
        staged(lambda early, late: (late[0] * float(early[0]),), (torch.ones(()),), (torch.ones(2),))
