"""Timing by hand: held actions, repeated and lost frames, varying delays, mixed actions, noise in a sensor's units."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.envs import make_single
from surefoot.errors import UsageError
from surefoot.perturbations import parse
from surefoot.perturbations.timing import newest_arrived, up_to

BOX = gymnasium.spaces.Box(-2.0, 4.0, (1,), np.float64)


class Clock(gymnasium.Env):
    """Observes its own step, keeps what is executed, pays the step, ends after 12 steps."""

    observation_space, action_space = gymnasium.spaces.Box(0, np.inf, (1,), np.float64), BOX

    def reset(self, *, seed=None, options=None):
        self.executed: list[float] = []
        return np.zeros(1), {}

    def step(self, action):
        self.executed.append(float(action[0]))
        time = float(len(self.executed))
        return np.array([time]), time, time >= 12, False, {}


def played(text: str, actions: list[float], seed: int = 0) -> tuple[list[float], list[float], list[float], list[bool]]:
    """Observations from the reset on, executed actions, rewards and ends; stops at the end of the episode."""
    clock = Clock()
    env = parse(text).wrap(clock)
    seen, paid, over = [env.reset(seed=seed)[0].item()], [], []
    for action in actions:
        observation, reward, terminated, *_ = env.step(np.array([action]))
        seen, paid, over = [*seen, observation.item()], [*paid, float(reward)], [*over, terminated]
        if terminated:
            break
    return seen, clock.executed, paid, over


def test_speed_holds_every_action_and_adds_up_its_rewards():
    seen, executed, paid, over = played("speed:3", [0.1, 0.2, 0.3, 0.4])
    assert seen == [0, 3, 6, 9, 12] and over == [False, False, False, True]
    assert executed == [0.1] * 3 + [0.2] * 3 + [0.3] * 3 + [0.4] * 3
    assert paid == [1 + 2 + 3, 4 + 5 + 6, 7 + 8 + 9, 10 + 11 + 12]
    seen, executed, paid, over = played("speed:5", [0.1] * 9)  # the episode ends within the third action
    assert seen == [0, 5, 10, 12] and paid[-1] == 11 + 12 and over == [False, False, True]


def test_two_speeds_multiply():
    assert played("speed:2 + speed:3", [0.1, 0.2])[1] == [0.1] * 6 + [0.2] * 6


@pytest.mark.parametrize(("text", "steps"), [("speed-jitter:3", [1, 2, 3, 4]), ("speed-spike:0.3,steps=2", [1, 3])])
def test_irregular_control_holds_as_long_as_it_may(text, steps):
    held = []
    for seed in range(300):
        seen = played(text, [0.0] * 12, seed)[0]
        held += np.diff(seen)[:-1].astype(int).tolist()  # the end may cut the last one
        assert max(np.diff(seen)) <= steps[-1]
    assert sorted(set(held)) == steps


def test_the_shares_of_spikes_jitter_repeats_and_lost_frames():
    rng = np.random.default_rng(0)
    spike, jitter = parse("speed-spike:0.2"), parse("speed-jitter:3")
    assert np.mean([spike.further(rng) for _ in range(4000)]) == pytest.approx(0.2 * 5, abs=0.08)
    counts = np.bincount([jitter.further(rng) for _ in range(4000)])
    np.testing.assert_allclose(counts / 4000, [0.25] * 4, atol=0.03)
    lost = parse("frame-drop:0.3").on_batch(np.ones((4000, 3)), rng)
    assert set(lost.sum(1)) == {0.0, 3.0} and (lost == 0).mean() == pytest.approx(0.3, abs=0.03)
    memory: list[Any] = []
    repeat = parse("frame-repeat:0.3")
    seen = [repeat.observe(np.array([t]), BOX, rng, memory).item() for t in range(4000)]
    assert np.mean(np.diff(seen) == 0) == pytest.approx(0.3, abs=0.03) and (np.array(seen) <= np.arange(4000)).all()


def test_a_frame_that_is_always_repeated_is_the_first():
    assert played("frame-repeat:1", [0.0] * 4)[0] == [0, 0, 0, 0, 0]


def test_the_newest_that_has_arrived_by_hand():
    """Sent at 0, 1, 2, 3, 4 with delays 2, 0, 3, 0, 1: at 2 the late first one has been overtaken, 2 is never seen."""
    memory: list[Any] = []
    assert [newest_arrived(t, d, memory) for t, d in enumerate([2, 0, 3, 0, 1])] == [None, 1, 1, 3, 3]
    assert newest_arrived(5, 9, memory) == 4


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5), st.integers(0, 1000))
def test_what_is_seen_is_never_older_than_the_longest_delay_and_never_goes_back(longest, seed):
    rng, memory, steps = np.random.default_rng(seed), [], np.arange(30)
    attack = parse(f"observation-delay-jitter:{longest}")
    seen = np.array([attack.observe(np.array([t]), BOX, rng, memory).item() for t in steps])
    assert (steps - seen <= longest).all() and (seen <= steps).all() and (np.diff(seen) >= 0).all()
    rng, memory, attack = np.random.default_rng(seed), [], parse(f"action-delay-jitter:{longest}")
    done = np.array([attack.act(np.array([t + 1.0]), BOX, rng, memory).item() for t in steps])
    assert (steps + 1 - done <= np.where(done > 0, longest, steps + 1)).all() and (np.diff(done) >= 0).all()
    assert (done[longest:] > 0).all(), "idle no longer than the longest delay"


def test_a_varying_delay_varies_evenly():
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(np.bincount([up_to(2, rng) for _ in range(6000)]) / 6000, [1 / 3] * 3, atol=0.02)


def test_until_an_action_arrives_the_environment_gets_the_idle_one():
    executed = [played("action-delay-jitter:2", [0.5], seed)[1][0] for seed in range(60)]
    assert set(executed) == {0.0, 0.5}


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.floats(-2, 4), st.integers(0, 1000))
def test_a_mixed_action_moves_by_its_share_of_the_box_and_stays_inside(share, action, seed):
    mixed = parse(f"action-mix:{share!r}").act(np.array([action]), BOX, np.random.default_rng(seed), []).item()
    other = np.random.default_rng(seed).uniform(-2, 4)
    assert mixed == pytest.approx((1 - share) * action + share * other)
    assert -2 - 1e-12 <= mixed <= 4 + 1e-12 and abs(mixed - action) <= 6 * share + 1e-12


def test_relative_noise_is_in_units_of_the_sensor():
    """A component of a thousand times the spread gets a thousand times the noise, a constant one none."""
    rng, memory = np.random.default_rng(0), []
    noise, space = parse("relative-noise:0.5"), gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    clean = np.random.default_rng(1).normal(size=(6000, 1)) * [1, 1000, 0] + [5, -3, 7]
    moved = np.array([noise.observe(row, space, rng, memory) for row in clean]) - clean
    np.testing.assert_allclose(moved[3000:].std(0) / [1, 1000, 1], [0.5, 0.5, 0], rtol=0.06)
    assert (moved[0] == 0).all(), "one reading has no spread"
    batch = parse("relative-noise:0.5").on_batch(clean, rng) - clean
    np.testing.assert_allclose(batch.std(0) / [1, 1000, 1], [0.5, 0.5, 0], rtol=0.06)


def test_relative_noise_knows_the_spread_so_far_exactly():
    rng, memory, readings = np.random.default_rng(3), [], [1.0, 4.0, -2.0, 0.5]
    noise = parse("relative-noise:2")
    seen = [noise.observe(np.array([x]), Clock.observation_space, rng, memory).item() for x in readings]
    drawn = np.random.default_rng(3).standard_normal(4)
    spread = [np.std(readings[: i + 1]) for i in range(4)]
    np.testing.assert_allclose(seen, readings + 2 * np.array(spread) * drawn)


@pytest.mark.parametrize("text", ["speed:2", "speed-jitter:1", "speed-spike:0.1", "action-delay-jitter:1"])
def test_no_action_is_held_where_steps_forbid_some(text):
    with pytest.raises(UsageError, match=r"executes actions that the policy did not choose"):
        parse(text).wrap(make_single("surefoot/MaskedAction-v0"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("speed:0", r"strength=0.0 is not allowed; it must be a number in \[1"),
        ("speed:1.5", "whole number"),
        ("speed-spike:0.1,steps=0", "steps=0"),
        ("speed-spike:0.1,steps=1.5", "steps=1.5"),
        ("action-mix:1.1", "strength=1.1"),
        ("frame-repeat:-0.1", "strength=-0.1"),
    ],
)
def test_strengths_outside_their_range_are_refused(text, match):
    with pytest.raises(UsageError, match=match):
        parse(text)


def test_a_discrete_action_is_not_mixed():
    with pytest.raises(UsageError, match="needs a Box action space"):
        parse("action-mix:0.1").wrap(make_single("CartPole-v1"))
