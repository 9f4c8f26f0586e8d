"""The adversary's seat and the schedules: who sees and pays what, and the published shapes."""

from __future__ import annotations

import functools

import gymnasium
import numpy as np
import pytest

import surefoot as sf
from surefoot.envs.game_seats import AdversarySeat, Scheduled, agent_of, ramp
from surefoot.envs.parameter_game import ParameterGame
from surefoot.envs.rrls import UncertaintyBox
from surefoot.errors import UsageError

BOX = UncertaintyBox({"m": (0.5, 2.0), "l": (1.0, 2.0)}, {"m": 1.0, "l": 1.0})


class Weak:
    """Pushes half as hard as the first entry of what it sees, and counts its steps."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        steps = 0 if episode_start[0] or state is None else state
        return observation[:, :1] * 0.5, steps + 1


def seat(move: str = "drift", speed: float = 0.1) -> AdversarySeat:
    return AdversarySeat(ParameterGame(gymnasium.make("Pendulum-v1"), BOX, move, speed), agent_of(Weak()))


def scheduled(schedule: str, speed: float = 0.1) -> Scheduled:
    return Scheduled(ParameterGame(gymnasium.make("Pendulum-v1"), BOX, "jump"), schedule, speed)


def test_the_adversary_sees_the_policys_next_action_and_is_paid_its_loss():
    env, plain = seat(speed=0.0), gymnasium.make("Pendulum-v1")
    seen, _ = env.reset(seed=1)
    plain.reset(seed=1)
    plain.unwrapped.m, plain.unwrapped.l = env.unwrapped.m, env.unwrapped.l
    for _ in range(3):
        np.testing.assert_allclose(seen[-1], 0.5 * seen[2])  # [ψ, s, a]: two parameters, three states, one action
        state, reward, *_ = plain.step(np.array([seen[-1]], np.float32))
        seen, mine, *_ = env.step(np.array([1.0, -1.0]))
        assert mine == pytest.approx(-reward)
        np.testing.assert_array_equal(seen[2:5], state)
        np.testing.assert_allclose(seen[:2], env.env.unit, atol=1e-6)


def test_an_adversary_is_trained_by_any_method():
    run = sf.train("td3", seat, 60, learning_starts=99, log_every=30, hidden=(8,), batch_size=8, loggers=())
    assert len(run.metrics()) == 2


def test_shapes_of_the_ramps():
    """At index 500 of 1000 places: exponential 0.240658, logarithmic 0.740718."""
    assert ramp("exponential")[500] == pytest.approx(0.240658, abs=1e-6)
    assert ramp("logarithmic")[500] == pytest.approx(0.740718, abs=1e-6)
    for shape in ("linear", "exponential", "logarithmic"):
        assert ramp(shape)[0] == 0 and ramp(shape)[-1] == pytest.approx(1)
    with pytest.raises(UsageError, match="shape='step'"):
        ramp("step")


@pytest.mark.parametrize("schedule", Scheduled.SCHEDULES)
def test_a_schedule_stays_in_the_box_is_seeded_and_acts(schedule):
    paths = []
    for seed in (3, 3, 4):
        env, path = scheduled(schedule), []
        env.reset(seed=seed)
        for _ in range(50):
            env.step(np.zeros(1, np.float32))
            assert 0.5 <= env.unwrapped.m <= 2 and 1 <= env.unwrapped.l <= 2
            path.append(env.point.copy())
        np.testing.assert_allclose(env.unwrapped.m, 0.5 + 1.5 * path[-1][0])
        paths.append(np.array(path))
    np.testing.assert_array_equal(paths[0], paths[1])
    assert not np.array_equal(paths[0], paths[2])
    limit = {"walk": 0.1, "cosine": np.pi * 0.05}.get(schedule, 0.01)
    assert 0 < np.abs(np.diff(paths[0], axis=0)).max() <= limit + 1e-12


def test_ramps_end_in_a_corner():
    env = scheduled("exponential")
    env.reset(seed=0)
    env.time = 999
    env.step(np.zeros(1, np.float32))
    np.testing.assert_allclose(env.point, env._end, atol=1e-12)


def test_a_policy_is_evaluated_under_a_schedule_as_anywhere():
    found = sf.evaluate(lambda x: np.zeros((len(x), 1)), functools.partial(scheduled, "walk"), 1)
    assert np.isfinite(found["mean"])
    for schedule, speed in (("jump", 0.1), ("walk", 0.0)):
        with pytest.raises(UsageError, match="the schedule must be one of"):
            scheduled(schedule, speed)
