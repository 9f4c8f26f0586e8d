"""A replay gives back what happened, n-step sums end where episodes do, and sampling is what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.data.priorities import Priorities
from surefoot.data.replay import Replay, joined

GAMMA = 0.9


def filled(rewards, terminated=(), truncated=(), reset=(), capacity=100, seeds=1, **options) -> Replay:
    """One environment a seed whose observation is the number of the step, and whose action is ten times that."""
    replay = Replay(capacity, seeds, 1, **options)
    for t, reward in enumerate(rewards):
        one = np.ones(seeds)
        replay.add(
            np.full((seeds, 1), float(t)),
            np.full((seeds, 1), float(t + 1)),
            action=10.0 * t * one,
            reward=np.float32(reward) * one,
            terminated=np.full(seeds, t in terminated),
            truncated=np.full(seeds, t in truncated),
            valid=np.full(seeds, t not in reset),
        )
    return replay


def at(replay: Replay, t: int, steps: int = 1):
    batch = replay.take((np.array([t]), np.array([0])), GAMMA, steps)
    return tuple(float(batch[k].squeeze()) for k in ("observation", "next_observation", "reward", "discount", "action"))


def test_single_steps():
    replay = filled([1.0, 2.0, 3.0, 4.0], terminated=(1,), truncated=(2,))
    assert at(replay, 0) == pytest.approx((0, 1, 1, 0.9, 0))
    assert at(replay, 1) == (1, 2, 2, 0, 10)  # no bootstrap after a termination
    assert at(replay, 2) == pytest.approx((2, 3, 3, 0.9, 20))  # but after a truncation, from the final observation


def test_sums_of_several_rewards():
    rewards = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert at(filled(rewards), 0, 3) == pytest.approx((0, 3, 1 + 0.9 * 2 + 0.81 * 4, 0.729, 0))
    assert at(filled(rewards, terminated=(1,)), 0, 3) == pytest.approx((0, 2, 1 + 0.9 * 2, 0, 0))
    assert at(filled(rewards, truncated=(1,)), 0, 3) == pytest.approx((0, 2, 1 + 0.9 * 2, 0.81, 0))
    assert at(filled(rewards, terminated=(0,)), 0, 3) == pytest.approx((0, 1, 1, 0, 0))
    assert at(filled(rewards), 3, 3) == pytest.approx((3, 5, 8 + 0.9 * 16, 0.81, 30))  # up to the newest step


def test_the_ring_forgets_the_oldest():
    replay = filled([float(t) for t in range(12)], capacity=5)
    rows, envs = replay.sample(0, 2000, np.random.default_rng(0))
    batch = replay.take((rows, envs), GAMMA)
    assert set(batch["observation"].ravel()) == {7.0, 8.0, 9.0, 10.0, 11.0}
    np.testing.assert_array_equal(batch["next_observation"], batch["observation"] + 1)
    np.testing.assert_array_equal(batch["action"], batch["observation"].ravel() * 10)


def test_steps_that_only_reset_are_not_sampled_and_all_others_are_alike():
    replay = filled([0.0] * 10, terminated=(3,), reset=(4,))
    rows, _ = replay.sample(0, 90_000, np.random.default_rng(0))
    counts = np.bincount(rows, minlength=10)
    assert counts[4] == 0
    np.testing.assert_allclose(counts[[0, 1, 2, 3, 5, 6, 7, 8, 9]], 10_000, rtol=0.05)  # 5 standard deviations


def test_seeds_do_not_mix():
    replay = Replay(10, 3, 2)
    for t in range(4):
        names = {"reward": np.arange(6.0), "action": np.zeros(6)}
        flags = {"terminated": np.zeros(6, bool), "truncated": np.zeros(6, bool), "valid": np.ones(6, bool)}
        replay.add(np.zeros((6, 1)), np.zeros((6, 1)), **names, **flags)
        del t
    for seed in range(3):
        batch = replay.take(replay.sample(seed, 100, np.random.default_rng(seed)), GAMMA)
        assert set(batch["reward"]) == {2.0 * seed, 2.0 * seed + 1}


def test_dict_observations_and_a_ring_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("surefoot.data.replay.SHARE", 0.0)
    replay = Replay(4, 1, 1, folder=tmp_path)
    for t in range(3):
        observation, following = ({"a": np.full((1, 2), k), "b": np.array([k], np.uint8)} for k in (t, t + 1))
        flags = {"terminated": np.zeros(1, bool), "truncated": np.zeros(1, bool), "valid": np.ones(1, bool)}
        replay.add(observation, following, reward=np.ones(1, np.float32), action=np.zeros(1), **flags)
    assert isinstance(replay.store["reward"], np.memmap) and replay.nbytes == 5 * (16 + 1 + 4 + 8 + 3)
    batch = joined([replay.take((np.array([1, 2]), np.array([0, 0])), GAMMA)])
    np.testing.assert_array_equal(batch["observation"]["a"], [[[1, 1], [2, 2]]])
    assert batch["next_observation"]["b"].dtype == np.uint8 and not list(tmp_path.iterdir())


# --- priorities ------------------------------------------------------------------------------------------------------


def test_places_are_drawn_in_proportion_to_their_priorities():
    priorities = Priorities(5, alpha=1.0, epsilon=0.0)
    priorities.add(np.arange(5), np.array([True, True, False, True, True]))
    priorities.set(np.array([0, 1, 3, 4]), np.array([1.0, -2.0, 3.0, 4.0]))
    places, weights = priorities.sample(10_000, np.random.default_rng(0), beta=1.0)
    np.testing.assert_allclose(np.bincount(places, minlength=5) / 10_000, [0.1, 0.2, 0, 0.3, 0.4], atol=1e-3)
    np.testing.assert_allclose(weights, 1 / np.array([1, 2, np.inf, 3, 4])[places], rtol=1e-6)
    assert priorities.sample(10, np.random.default_rng(0), beta=0.0)[1].tolist() == [1.0] * 10


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.integers(0, 2**31 - 1))
@settings(max_examples=50, deadline=None)
def test_the_tree_holds_sums_and_never_draws_an_empty_place(errors, seed):
    priorities = Priorities(40)
    priorities.add(np.arange(len(errors)), np.ones(len(errors), bool))
    priorities.set(np.arange(len(errors)), np.array(errors))
    expected = (np.array(errors) + 1e-6) ** 0.6
    assert priorities.tree[1] == pytest.approx(expected.sum())
    assert priorities.sample(64, np.random.default_rng(seed), 0.4)[0].max() < len(errors)
    other = Priorities(40)
    other.load(priorities.state())
    np.testing.assert_allclose(other.tree, priorities.tree, rtol=1e-12)
    assert other.largest == priorities.largest


def test_new_transitions_are_drawn_soon_and_forgotten_ones_never():
    replay = filled([0.0] * 12, capacity=5, prioritized=True)
    (rows, _), _ = replay.sample_prioritized(0, 1000, np.random.default_rng(0), 0.4)
    assert len(set(rows)) == 5 and replay.head not in rows
    replay.update_priorities(0, (rows[:1], np.zeros(1, int)), np.array([1e6]))
    (drawn, _), weights = replay.sample_prioritized(0, 1000, np.random.default_rng(1), 1.0)
    assert (drawn == rows[0]).mean() > 0.99 and weights[drawn == rows[0]].max() < 1e-2
