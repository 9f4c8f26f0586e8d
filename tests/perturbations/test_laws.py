"""The laws that every registered perturbation obeys."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from surefoot.envs import make_single
from surefoot.errors import UsageError
from surefoot.perturbations import REGISTRY, Attack, GroupShift, InputAttack, LabelFlip, parse, unwrap
from surefoot.perturbations.core import Batched, Graded
from surefoot.perturbations.interval import Interval
from surefoot.seeding import numpy_stream

# name -> (environment, a strength that bites, its neutral, a range)
CASES = {
    "observation-noise": ("Pendulum-v1", "0.3", "0", "0.1..0.5"),
    "observation-dropout": ("Pendulum-v1", "0.4", "0", "0.2..0.9"),
    "relative-noise": ("Pendulum-v1", "0.4", "0", "0.1..0.9"),
    "observation-drift": ("Pendulum-v1", "0.4", "0", "0.1..0.5"),
    "action-drift": ("Pendulum-v1", "0.5", "0", "0.1..0.5"),
    "frame-drop": ("Pendulum-v1", "0.4", "0", "0.2..0.9"),
    "frame-repeat": ("CartPole-v1", "0.5", "0", "0.2..0.9"),
    "observation-delay": ("CartPole-v1", "2", "0", "1..4"),
    "observation-delay-jitter": ("CartPole-v1", "3", "0", "1..4"),
    "action-noise": ("Pendulum-v1", "0.5", "0", "0.1..0.5"),
    "action-scale": ("Pendulum-v1", "0.5", "1", "0.2..0.9"),
    "action-random": ("CartPole-v1", "0.5", "0", "0.2..0.9"),
    "action-delay": ("CartPole-v1", "3", "0", "1..4"),
    "action-delay-jitter": ("CartPole-v1", "3", "0", "1..4"),
    "action-mix": ("Pendulum-v1", "0.5", "0", "0.2..0.9"),
    "speed": ("Pendulum-v1", "3", "1", "2..5"),
    "speed-jitter": ("Pendulum-v1", "3", "0", "1..4"),
    "speed-spike": ("Pendulum-v1", "0.4", "0", "0.2..0.9"),
    "sticky-action": ("CartPole-v1", "0.5", "0", "0.2..0.9"),
    "reward-noise": ("Pendulum-v1", "0.5", "0", "0.1..0.5"),
    "reward-flip": ("Pendulum-v1", "0.5", "0", "0.2..0.9"),
    "reward-shift": ("Pendulum-v1", "-0.5", "0", "0.1..0.5"),
    "param": ("CartPole-v1", "length=2", "length=0.5", "length=0.25..2"),
    "force": ("rrls/Hopper-v5", "3", "0", "1..3"),
}
EXTRA = [
    ("observation-noise", "Pendulum-v1", "0.3,law=linf"),
    ("observation-noise", "Pendulum-v1", "0.3,law=l2"),
    ("action-noise", "Pendulum-v1", "0.3,law=l2"),
    ("speed-spike", "Pendulum-v1", "0.4,steps=2"),
    ("param", "Pendulum-v1", "g=2,m=0.5,l=1.5"),
    ("param", "Acrobot-v1", "LINK_LENGTH_1=1.7"),
    ("param", "rrls/Hopper-v5", "worldfriction=2.5,torsomass=1"),
    ("param", "rrls/Hopper-v5", "footforce_x=3"),
    ("param", "rrls/Hopper-v5", "mass=2,torsomass=1,allfriction=3"),
    ("param", "Reacher-v5", "mass=2,joint0.damping=3,gear=0.5"),
    ("param", "InvertedPendulum-v5", "gravity=5"),
    ("force", "rrls/Hopper-v5", "3,body=foot,along=-x"),
]
BITING = [(name, env, strength) for name, (env, strength, _, _) in CASES.items()] + EXTRA


def act(space: gymnasium.Space, rng: np.random.Generator):
    if isinstance(space, gymnasium.spaces.Discrete):
        return int(rng.integers(space.n))
    return rng.uniform(space.low, space.high).astype(space.dtype)


def trace(env: gymnasium.Env, seed: int | None = 5, steps: int = 25, episodes: int = 2) -> list[bytes]:
    """The bits of observations, rewards and ends under fixed actions; the first reset is seeded, later ones are not."""
    rng, seen = np.random.default_rng(0), []
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed if episode == 0 else None)
        seen.append(np.asarray(observation).tobytes())
        for _ in range(steps):
            observation, reward, terminated, truncated, _ = env.step(act(env.action_space, rng))
            seen.append(
                np.asarray(observation).tobytes() + np.float64(reward).tobytes() + bytes([terminated, truncated])
            )
            if terminated or truncated:
                break
    return seen


def inside(env: gymnasium.Env) -> dict[str, object]:
    """Numbers an environment holds, and what a MuJoCo model can be changed in."""
    inner = env.unwrapped
    found: dict[str, object] = {k: v for k, v in vars(inner).items() if isinstance(v, (int, float))}
    if hasattr(inner, "model"):
        arrays = (inner.model.body_mass, inner.model.geom_friction, inner.data.xfrc_applied)
        found["simulator"] = b"".join(a.tobytes() for a in arrays)
    return found


def test_every_registered_perturbation_is_under_the_laws():
    others = (Attack, GroupShift, InputAttack, LabelFlip)  # see test_attacks, test_labels and test_attacked_rows
    assert set(CASES) == {name for name, cls in REGISTRY.items() if not issubclass(cls, others)}


@pytest.mark.parametrize(("name", "env", "strength"), BITING)
def test_it_bites_is_seeded_and_reversible(name, env, strength):
    perturbation = parse(f"{name}:{strength}")
    clean = trace(make_single(env))
    wrapped = perturbation.wrap(make_single(env))
    attacked = trace(wrapped)
    assert attacked != clean
    assert trace(wrapped) == attacked, "a seeded reset starts the same noise again"
    assert trace(perturbation.wrap(make_single(env))) == attacked, "the same seed gives the same bits"
    inner = unwrap(wrapped)
    assert not hasattr(inner, "perturbation")
    assert trace(inner) == clean, "unwrap leaves no trace"


@pytest.mark.parametrize(("name", "env", "strength"), BITING)
def test_close_restores_the_inside(name, env, strength):
    single = make_single(env)
    single.reset(seed=0)
    before = inside(single)
    wrapped = parse(f"{name}:{strength}").wrap(single)
    wrapped.reset(seed=0)
    wrapped.close()
    assert inside(single) == before


@pytest.mark.parametrize("name", CASES)
def test_the_neutral_strength_changes_no_bit(name):
    env, _, neutral, _ = CASES[name]
    perturbation = parse(f"{name}:{neutral}")
    assert trace(perturbation.wrap(make_single(env))) == trace(make_single(env))
    if isinstance(perturbation, Graded):
        assert perturbation.identity
    if isinstance(perturbation, Batched):
        array = np.array([[-0.0, 1.0], [np.inf, 3.0]])
        assert perturbation.on_batch(array, np.random.default_rng(0)).tobytes() == array.tobytes()


@pytest.mark.parametrize("name", CASES)
def test_a_range_is_drawn_per_episode_within_its_ends(name):
    env, _, _, span = CASES[name]
    wrapped = parse(f"{name}:{span}").wrap(make_single(env), seed=3)
    drawn = []
    for episode in range(12):
        _, info = wrapped.reset(seed=9 if episode == 0 else None)
        drawn.append(info["perturbation"])
    interval = parse(f"{name}:{span}")
    low_high = interval.values[0][1] if name == "param" else interval.strength
    values = [float(text.split(":")[1].rpartition("=")[2]) for text in drawn]
    assert isinstance(low_high, Interval)
    assert all(low_high.low <= v <= low_high.high for v in values)
    assert len(set(values)) > 2
    again = parse(f"{name}:{span}").wrap(make_single(env), seed=3)
    assert [again.reset(seed=9 if e == 0 else None)[1]["perturbation"] for e in range(12)] == drawn


@pytest.mark.parametrize("name", CASES)
def test_it_prints_as_what_parse_reads(name):
    env, strength, neutral, span = CASES[name]
    for text in (strength, neutral, span):
        perturbation = parse(f"{name}:{text}")
        assert parse(str(perturbation)) == perturbation
        assert str(parse(str(perturbation))) == str(perturbation)


@pytest.mark.parametrize("name", CASES)
def test_the_grid_holds_both_ends_and_only_fixed_cells(name):
    _, strength, neutral, span = CASES[name]
    cells = parse(f"{name}:{span}").grid(3)
    ends = span.rpartition("=")[2].split("..")
    values = [cell.coordinates[0][1] for cell in cells]
    assert [values[0], values[-1]] == [float(e) for e in ends]
    assert values == sorted(values)
    rng = np.random.default_rng(0)
    assert all(cell.perturbation.draw(rng) == cell.perturbation for cell in cells)
    half_open = [cell.coordinates[0][1] for cell in parse(f"{name}:{span}").grid(4, "rrls")]
    assert half_open[0] == float(ends[0])
    if name != "param":
        fixed = [cell.coordinates[0][1] for cell in parse(f"{name}:{strength}").grid(3)]
        assert {fixed[0], fixed[-1]} == {float(neutral), float(strength)}


@pytest.mark.parametrize("name", CASES)
def test_two_compose_print_themselves_and_differ_from_one(name):
    env, strength, _, _ = CASES[name]
    first = parse(f"{name}:{strength}")
    both = first + parse("observation-delay:1")
    assert parse(str(both)) == both
    assert str(both) == f"{first} + observation-delay:1"
    assert both.channels == first.channels | {"observation"}
    wrapped = both.wrap(make_single(env))
    attacked = trace(wrapped)
    assert attacked != trace(first.wrap(make_single(env)))
    assert trace(both.wrap(make_single(env))) == attacked
    assert trace(unwrap(wrapped)) == trace(make_single(env))
    assert wrapped.reset(seed=0)[1]["perturbation"] == str(both)


@pytest.mark.parametrize("law", ["linf", "l2"])
@pytest.mark.parametrize("name", ["observation-noise", "action-noise"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
def test_the_budget_is_kept_and_used(name, law, dtype):
    radius = 0.7 if dtype != np.uint8 else 9.0
    batch = (100 * np.random.default_rng(0).random((400, 2, 3)) + 20).astype(dtype)
    moved = parse(f"{name}:{radius},law={law}").on_batch(batch, np.random.default_rng(1))
    assert moved.dtype == dtype
    delta = (moved.astype(np.float64) - batch).reshape(400, -1)
    norms = np.linalg.norm(delta, axis=1) if law == "l2" else np.abs(delta).max(axis=1)
    rounding = 0 if dtype == np.uint8 else 6 * 128 * np.finfo(dtype).eps
    assert norms.max() <= radius + rounding
    assert norms.max() > 0.8 * radius


def test_the_l2_ball_is_filled_uniformly():
    """In d dimensions the share within half the radius is 2**-d."""
    delta = parse("observation-noise:2,law=l2").on_batch(np.zeros((20_000, 3)), np.random.default_rng(0))
    assert np.mean(np.linalg.norm(delta, axis=1) < 1) == pytest.approx(1 / 8, abs=0.01)
    np.testing.assert_allclose(delta.mean(axis=0), 0, atol=0.03)


BATCHED = [name for name, cls in REGISTRY.items() if issubclass(cls, Batched)]


@pytest.mark.parametrize("name", BATCHED)
def test_a_tensor_is_perturbed_as_an_array_is(name):
    perturbation = parse(f"{name}:{CASES[name][1]}")
    array = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    tensor = torch.from_numpy(array.copy()).requires_grad_()
    as_array = perturbation.on_batch(array, numpy_stream(0, "batch"))
    as_tensor = perturbation.on_batch(tensor, numpy_stream(0, "batch"))
    assert as_tensor.dtype == torch.float32
    assert not as_tensor.requires_grad
    np.testing.assert_array_equal(as_tensor.numpy(), as_array)
    assert not np.array_equal(as_array, array)


@pytest.mark.parametrize("name", sorted(set(CASES) - set(BATCHED)))
def test_what_acts_over_time_refuses_a_batch(name):
    with pytest.raises(UsageError, match="wrap"):
        parse(f"{name}:{CASES[name][1]}").on_batch(np.zeros((2, 2)), np.random.default_rng(0))
