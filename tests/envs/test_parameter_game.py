"""The game over parameters: the card's numbers, what each move does, and that the simulator has what it says."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import surefoot as sf
from surefoot.envs import make, make_single
from surefoot.envs.parameter_game import ParameterGame, box_of, make_game, randomised
from surefoot.envs.rrls import UncertaintyBox
from surefoot.errors import UsageError
from surefoot.perturbations.mujoco import simulator

SET = "param:m=0.1..3,l=0.5..2"
pairs = st.lists(st.tuples(*[st.floats(-3, 3)] * 2), min_size=1, max_size=20)


def game(set: str = SET, env: str = "Pendulum-v1", **more) -> ParameterGame:
    made = make_game(env, {}, (), set, **{"move": "drift", **more})
    assert isinstance(made, ParameterGame)
    return made


def step(env: gymnasium.Env, *b: float):
    own = env.action_space.shape[0] - len(b)
    return env.step(np.array([0.1] * own + list(b), np.float32))


def test_a_drift_is_clipped_at_the_box():
    """Ψ = [0.1, 3], L = 0.1 in raw units, ψ = 0.15: b = −1 → 0.1, b = 0.5 → 0.2."""
    env = game(speed=0.1 / 2.9)
    env.reset(seed=0)
    for b, wanted in ((-1.0, 0.1), (0.5, 0.2)):
        env.set_unit(np.array([2 * 0.05 / 2.9 - 1, 0.0]))
        step(env, b, 0.0)
        assert env.unwrapped.m == pytest.approx(wanted)


def test_from_end_to_end_takes_as_long_as_the_speed_says():
    """1000 steps at a thousandth of the range, 2900 at 0.001 in raw units."""
    for speed, steps in ((1e-3, 1000), (1e-3 / 2.9, 2900)):
        assert round(1 / speed) == steps
        env = game(speed=speed)
        env.reset(seed=0)
        env.set_unit(np.array([-1.0, -1.0]))
        for _ in range(10):
            step(env, 1.0, 1.0)
        assert (env.unit[0] + 1) / 2 == pytest.approx(10 / steps)


@settings(max_examples=20)
@given(pairs, st.floats(0, 1))
def test_no_move_is_faster_than_the_speed_or_leaves_the_box(moves, speed):
    env = game(speed=speed)
    env.reset(seed=0)
    for b in moves:
        before = env.unit.copy()
        seen, *_ = step(env, *b)
        assert (np.abs(env.unit - before) <= 2 * speed + 1e-9).all() and (np.abs(env.unit) <= 1).all()
        assert 0.1 <= env.unwrapped.m <= 3 and 0.5 <= env.unwrapped.l <= 2
        np.testing.assert_allclose(seen["parameters"], env.unit, atol=1e-6)


def test_the_step_is_taken_with_the_new_parameters():
    env, plain = game(move="jump"), gymnasium.make("Pendulum-v1")
    seen, _ = env.reset(seed=3)
    plain.reset(seed=3)
    plain.unwrapped.m, plain.unwrapped.l = 1.55, 2.0
    seen, *_ = step(env, 0.0, 1.0)
    np.testing.assert_array_equal(seen["state"], plain.step(np.array([0.1], np.float32))[0])


def test_half_cheetah_at_a_point_of_its_set():
    """b = (0.5, −0.25) → friction 3.025, mass 2.6875, before the simulator steps."""
    env = game("rrls:2d", "HalfCheetah-v5", move="jump")
    env.reset(seed=0)
    _, _, _, _, info = step(env, 0.5, -0.25)
    assert info["params"]["worldfriction"] == pytest.approx(3.025)
    assert info["params"]["torsomass"] == pytest.approx(2.6875)


def test_a_factor_multiplies_the_model_as_it_was_made_at_every_step():
    env, plain = game("param:mass=0.5..2", "HalfCheetah-v5", move="jump"), gymnasium.make("HalfCheetah-v5")
    env.reset(seed=0)
    made, built = simulator(plain)[0], simulator(env)[0]
    for b, factor in [(1.0, 2.0), (1.0, 2.0), (-1.0, 0.5), (0.0, 1.25)]:
        step(env, b)
        np.testing.assert_allclose(built.body_mass, factor * made.body_mass)
        np.testing.assert_allclose(built.body_inertia, factor * made.body_inertia)


def test_an_episode_keeps_the_parameters_of_its_first_step():
    env = game(move="episode")
    env.reset(seed=0)
    first, *_ = step(env, 0.5, -0.5)
    second, *_ = step(env, -1.0, 1.0)
    np.testing.assert_allclose(first["parameters"], [0.5, -0.5])
    np.testing.assert_array_equal(second["parameters"], first["parameters"])
    env.reset()
    third, *_ = step(env, -1.0, 1.0)
    np.testing.assert_allclose(third["parameters"], [-1.0, 1.0])


def test_what_came_before_is_seen_and_a_reset_has_the_first_state_and_no_action():
    env = game(previous=True)
    start, _ = env.reset(seed=0)
    np.testing.assert_array_equal(start["previous_state"], start["state"])
    assert start["previous_action"] == 0.0
    after, *_ = step(env, 0.0, 0.0)
    np.testing.assert_array_equal(after["previous_state"], start["state"])
    assert after["previous_action"] == pytest.approx(0.05)  # 0.1 in a box of ±2
    again, _ = env.reset()
    np.testing.assert_array_equal(again["previous_state"], again["state"])
    assert again["previous_action"] == 0.0


def test_without_speed_a_drift_is_domain_randomisation():
    env, starts = game(speed=0.0), []
    for episode in range(200):
        seen, _ = env.reset(seed=7 if episode == 0 else None)
        after, *_ = step(env, 1.0, -1.0)
        np.testing.assert_array_equal(after["parameters"], seen["parameters"])
        starts.append(seen["parameters"])
    mean, spread = np.mean(starts, 0), np.std(starts, 0)
    assert (np.abs(mean) < 0.15).all() and (np.abs(spread - 3**-0.5) < 0.06).all()


def test_the_same_seed_and_actions_give_the_same_bits():
    runs = []
    for _ in range(2):
        envs = make(lambda: game(speed=0.1), 2, seed=[1, 2])
        envs.reset()
        runs.append([envs.step(np.full((2, 3), x, np.float32))[0]["state"] for x in (0.5, -0.5, 1.0)])
        envs.close()
    np.testing.assert_array_equal(*runs)


def test_training_under_a_set_draws_parameters_at_every_reset():
    env, options = randomised("Hopper-v5", "rrls:1d", {"perturb": "observation-noise:0.1", "backend": "envpool"})
    assert (env, options) == ("Hopper-v5", {"perturb": "rrls:1d + observation-noise:0.1", "backend": "gymnasium"})


@pytest.mark.parametrize(
    ("env", "set", "words"),
    [
        ("Pendulum-v1", "observation-noise:0.1", "not a box of parameters"),
        ("Pendulum-v1", "param:m=1", "not a box of parameters"),
        ("Pendulum-v1", "rrls:2d", "does not fit env='Pendulum-v1'"),
        ("Hopper-v5", "rrls:9d", "is not a set of"),
        ("Pendulum-v1", "param:mm=1..2", "no parameter 'mm'"),
        ("CartPole-v1", "param:length=1..2", "vector of continuous actions"),
    ],
)
def test_what_cannot_be_a_game_is_refused(env, set, words):
    with pytest.raises(UsageError, match=words):
        game(set, env)
    with pytest.raises(UsageError, match="needs continuous actions|" + words):
        sf.train("m2td3", env, 100, set=set)


def test_a_game_needs_a_known_move_a_speed_and_no_other_perturbation():
    box = UncertaintyBox({"m": (0.5, 2.0)}, {"m": 1.0})
    for move, speed in (("walk", 0.1), ("drift", -0.1), ("drift", 1.1)):
        with pytest.raises(UsageError, match="move must be one of"):
            ParameterGame(make_single("Pendulum-v1"), box, move, speed)
    with pytest.raises(UsageError, match="no perturb="):
        sf.train("m2td3", "Pendulum-v1", 100, set=SET, perturb="action-noise:0.1")
    assert box_of("Pendulum-v1", SET).bounds == {"m": (0.1, 3.0), "l": (0.5, 2.0)}
