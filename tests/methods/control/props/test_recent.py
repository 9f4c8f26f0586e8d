"""The buffer of recent rollouts: what is written is read, in pieces as in one, and in the eyes of new weights it is
what the learner itself would make of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surefoot.loops.common.collect import Rollout, map_observation
from surefoot.loops.common.run import make_learner
from surefoot.loops.on_policy.learner import Learner
from surefoot.methods.control.ppo import PPO
from surefoot.methods.control.props import recent

STEPS, ENVS, SEEDS = 12, 3, 2
WORLDS: dict[str, tuple[str, dict[str, Any]]] = {
    "box": ("surefoot/ContinuousTarget-v0", {}),
    "discrete": ("CartPole-v1", {}),
    "discrete observation": ("FrozenLake-v1", {}),
    "mask": ("surefoot/MaskedAction-v0", {}),
    "dict with an image": ("surefoot/DictContext-v0", {"cnn": "nature"}),
    "multi-discrete": ("surefoot/MultiDiscreteTarget-v0", {}),
    "memory": ("surefoot/MemoryCue-v0", {"core": "lstm", "core_size": 4}),
}
every_world = pytest.mark.parametrize("world", WORLDS)


def learner(world: str) -> Learner:
    env, options = WORLDS[world]
    sizes = {"num_envs": ENVS, "num_steps": STEPS, "minibatch_size": ENVS * STEPS, "hidden": (4,)}
    return make_learner(PPO(**sizes, **options), env, list(range(SEEDS)), 10**6)


def room(run: Learner, batches: int = 1) -> dict[str, Tensor]:
    """An empty buffer of all seeds."""
    return {k: torch.stack([x] * SEEDS) for k, x in recent.empty(run.model, STEPS, batches * ENVS).items()}


def leaves(parts: Any) -> dict[str, Tensor]:
    """The tensors of a rollout or batch by name."""
    named = parts._asdict() if isinstance(parts, Rollout) else parts
    flat = {}
    for name, x in named.items():
        flat |= {f"{name}/{key}": part for key, part in x.items()} if isinstance(x, dict) else {name: x}
    return flat


def assert_same(one: Any, other: Any, **tolerance: float) -> None:
    first, second = leaves(one), leaves(other)
    assert first.keys() == second.keys()
    for name, x in first.items():
        torch.testing.assert_close(x, second[name], **tolerance, msg=lambda m, name=name: f"{name}: {m}")


@every_world
def test_room_has_the_form_of_what_is_collected_and_holds_nothing(world):
    run = learner(world)
    rollout, held = run.collect(run.vector), recent.read(room(run), 0, ENVS)
    for name, x in leaves(rollout).items():
        assert leaves(held)[name].shape == x.shape, name
        assert leaves(held)[name].dtype == x.dtype, name
    assert not held.valid.any()
    assert room(run)["state"].shape == (SEEDS, ENVS, run.core_state.shape[-1])


@every_world
def test_what_is_written_is_read(world):
    run = learner(world)
    buffer, rollouts = room(run, 3), [run.collect(run.vector) for _ in range(3)]
    for place in (2, 0, 1):
        recent.write(buffer, rollouts[place], 0, place * ENVS)
    for place, rollout in enumerate(rollouts):
        assert_same(recent.read(buffer, place * ENVS, (place + 1) * ENVS), rollout, rtol=0, atol=0)
    assert recent.read(buffer, 0, 2 * ENVS).reward.shape == (STEPS, SEEDS, 2 * ENVS)


@settings(max_examples=8)
@given(
    world=st.sampled_from(["discrete", "mask", "memory"]),
    pieces=st.sampled_from([1, 2, 3, 4, 6, 12]),
    place=st.integers(0, 2),
)
def test_pieces_make_up_the_whole(world, pieces, place):
    """The last observation of a piece is the first of the next one; after the last piece it stays."""
    run = learner(world)
    buffer, whole = room(run, 3), run.collect(run.vector)
    before = {name: x.clone() for name, x in buffer.items()}
    for time in range(0, STEPS, STEPS // pieces):
        rows = slice(time, time + STEPS // pieces)
        last = slice(time, time + STEPS // pieces + 1)
        ends = ("observation", "starts")
        piece = {
            name: {k: part[last] for k, part in x.items()} if isinstance(x, dict) else x[last if name in ends else rows]
            for name, x in whole._asdict().items()
        }
        recent.write(buffer, Rollout(**piece), time, place * ENVS)
    assert_same(recent.read(buffer, place * ENVS, (place + 1) * ENVS), whole, rtol=0, atol=0)
    others = torch.tensor([c for c in range(3 * ENVS) if c // ENVS != place])
    for name, x in buffer.items():
        axis = 1 if name == "state" else 2
        assert torch.equal(x.index_select(axis, others), before[name].index_select(axis, others)), name


@every_world
def test_by_the_weights_that_collected_it_is_the_batch_of_the_learner(world):
    """Two batches that the same weights collected, read at once, are the two batches that the learner makes of them."""
    run, twin = learner(world), learner(world)
    for one in (run, twin):  # the moments know something
        one.estimate(one.collect(one.vector))
    buffer, estimated = room(run, 2), []
    scales = run.scales()
    for place in (0, 1):
        buffer["state"][:, place * ENVS : (place + 1) * ENVS] = run.core_state
        recent.write(buffer, run.collect(run.vector), 0, place * ENVS)
        rollout = twin.collect(twin.vector)
        moments = dict(twin.moments)
        estimated.append(twin.estimate(rollout))
        twin.moments = moments
    batch, value = recent.reread(run, recent.read(buffer, 0, 2 * ENVS), buffer["state"])
    assert value.shape == (SEEDS, STEPS + 1, 2 * ENVS)
    assert run.scales().keys() == scales.keys()
    assert all(torch.equal(x, y) for k in scales for x, y in zip(scales[k], run.scales()[k], strict=True))
    for place, wanted in enumerate(estimated):
        columns = slice(place * ENVS, (place + 1) * ENVS)
        part = {k: map_observation(lambda x: x[:, :, columns], x) for k, x in batch.items() if k != "state"}  # noqa: B023
        part |= {"state": batch["state"][:, columns]} if "state" in batch else {}
        wanted = {k: x for k, x in wanted.items() if k not in ("advantage", "target")}
        assert_same(recent.flat(part), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("world", ["box", "discrete", "memory"])
def test_other_weights_and_scales_read_it_anew(world):
    """Seed by seed and step by step through the module itself."""
    run = learner(world)
    buffer = room(run)
    buffer["state"][:] = run.core_state
    rollout = run.collect(run.vector)
    recent.write(buffer, rollout, 0, 0)
    old, _ = recent.reread(run, recent.read(buffer, 0, ENVS), buffer["state"])
    run.estimate(rollout)
    run.vector = run.vector + 0.3 * torch.randn(run.vector.shape, generator=torch.Generator().manual_seed(0))
    new, value = recent.reread(run, recent.read(buffer, 0, ENVS), buffer["state"])
    assert (new["old_log_prob"] - old["old_log_prob"]).abs().max() > 0.01
    for name in ("action", "valid"):
        assert torch.equal(new[name], old[name])
    for seed in range(SEEDS):
        module = run.network.make(run.observation_space, run.action_space)
        for name, x in run.model.unflatten(run.vector[seed]).items():
            module.get_parameter(name).data = x.clone()
        mean, inverse_std = run.moments[""].scale()
        state = torch.zeros(ENVS, run.core_state.shape[-1]) if run.core_state.shape[-1] else None
        for t in range(STEPS + 1):
            x = ((rollout.observation[t, seed] - mean[seed]) * inverse_std[seed]).clamp(-10, 10)
            with torch.no_grad():
                if state is None:
                    params, values, _ = module(x)
                else:
                    params, values, state = module(x[None], state, rollout.starts[t : t + 1, seed])
                    params, values = params[0], values[0]
            torch.testing.assert_close(value[seed, t], values, rtol=1e-4, atol=1e-5)
            if t < STEPS:
                log_prob = module.distribution.log_prob(params, rollout.action[t, seed])
                torch.testing.assert_close(new["old_params"][seed, t], params, rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(new["old_log_prob"][seed, t], log_prob, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(new["old_value"][seed, t], values, rtol=1e-4, atol=1e-5)


@every_world
def test_samples_are_flat_unless_they_are_sequences(world):
    run = learner(world)
    buffer = room(run)
    recent.write(buffer, run.collect(run.vector), 0, 0)
    batch, _ = recent.reread(run, recent.read(buffer, 0, ENVS), buffer["state"])
    flat = recent.flat(batch)
    if world == "memory":
        assert flat is batch
        assert flat["valid"].shape == (SEEDS, STEPS, ENVS)
    else:
        for name, x in leaves(flat).items():
            assert x.shape[:2] == (SEEDS, STEPS * ENVS), name
            assert torch.equal(x[:, ENVS + 1], leaves(batch)[name][:, 1, 1]), name
