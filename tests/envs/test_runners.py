"""Runners stepped together are Gymnasium's, to the bit: rewards, observations, ends, resets, options."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from surefoot import envs
from surefoot.envs.make import make_single
from surefoot.envs.runners import RUNNERS, RunnerEnvs, is_runner
from surefoot.envs.vector import SyncEnvs

OPTIONS = [
    ("HalfCheetah-v5", {}),
    ("HalfCheetah-v5", {"max_episode_steps": 40, "ctrl_cost_weight": 0.5, "frame_skip": 2}),
    ("Hopper-v5", {}),
    ("Hopper-v5", {"terminate_when_unhealthy": False, "max_episode_steps": 25}),
    ("Walker2d-v5", {}),
    ("Walker2d-v5", {"exclude_current_positions_from_observation": False, "healthy_reward": 2.0}),
]


def both(env, kwargs, n=3):
    together = envs.make(env, n, seed=5, backend="gymnasium", env_kwargs=kwargs)
    apart = SyncEnvs([lambda: make_single(env, kwargs)] * n, envs.env_seeds(5, n))
    assert isinstance(together, RunnerEnvs)
    return together, apart


@pytest.mark.parametrize(("env", "kwargs"), OPTIONS)
def test_the_same_bits_as_one_by_one(env, kwargs):
    together, apart = both(env, kwargs)
    rng, ends = np.random.default_rng(0), 0
    np.testing.assert_array_equal(together.reset()[0], apart.reset()[0])
    for _ in range(120):
        action = rng.uniform(-1.5, 1.5, together.action_space.shape).astype(np.float32)
        for mine, theirs in zip(together.step(action)[:4], apart.step(action)[:4], strict=True):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)
        ends += int(together._ended.sum())
    assert ends or env == "HalfCheetah-v5" and not kwargs
    np.testing.assert_array_equal(together.reset(seed=9)[0], apart.reset(seed=9)[0])
    np.testing.assert_array_equal(together.step(action)[0], apart.step(action)[0])


def test_the_time_limit_truncates_and_does_not_terminate():
    together, _ = both("HalfCheetah-v5", {"max_episode_steps": 2})
    together.reset()
    action = np.zeros(together.action_space.shape, np.float32)
    seen = [together.step(action)[2:4] for _ in range(4)]
    assert [truncated.tolist() for _, truncated in seen] == [[False] * 3, [True] * 3, [False] * 3, [False] * 3]
    assert not any(terminated.any() for terminated, _ in seen)


@pytest.mark.parametrize(
    ("env", "kwargs", "wrappers"),
    [
        ("Ant-v5", {}, []),
        ("Hopper-v4", {}, []),
        (lambda: None, {}, []),
        ("Hopper-v5", {"render_mode": "rgb_array"}, []),
        ("Hopper-v5", {}, [["flatten", {}]]),
    ],
)
def test_whatever_may_differ_is_stepped_one_by_one(env, kwargs, wrappers):
    assert not is_runner(env, kwargs, wrappers)


def test_on_one_processor_runners_are_stepped_here_and_on_several_in_the_pool(monkeypatch):
    for processors, backend in ((1, "gymnasium"), (4, "envpool")):
        monkeypatch.setattr(sys.modules["surefoot.envs.make"], "available_threads", lambda n=processors: n)
        assert {envs.describe(env)["backend"] for env in RUNNERS} == {backend}
        assert envs.describe("Ant-v5")["backend"] == "envpool"
