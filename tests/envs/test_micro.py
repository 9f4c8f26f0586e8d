"""The micro-environments pay what they say, and the two that guard bookkeeping separate right from wrong."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from surefoot import envs
from surefoot.envs import micro


def sign_action(observation):
    return int(observation[0] > 0)


class Memory:
    """Plays MemoryCue: keeps the cue."""

    def __call__(self, observation):
        if observation[0] != 0:
            self.cue = observation[0]
        return int(self.cue > 0)


BEST = {
    micro.Constant: lambda o: 0,
    micro.ObservedReward: lambda o: 0,
    micro.DelayedReward: lambda o: 0,
    micro.ActionReward: lambda o: 1,
    micro.ContextualAction: sign_action,
    micro.ContinuousTarget: lambda o: np.array([0.5 * o[0]], np.float32),
    micro.MemoryCue: Memory(),
    micro.MaskedAction: lambda o: int(np.argmax(o["action_mask"])),
    micro.DictContext: lambda o: int((o["vector"][0] > 0) == (o["image"].mean() > 100)),
    micro.ImageTarget: lambda o: int(
        np.argmax([o[0, r : r + 18, c : c + 18].mean() for r in (0, 18) for c in (0, 18)])
    ),
    micro.TruncatedConstant: lambda o: 1,
    micro.MultiDiscreteTarget: lambda o: np.array([np.argmax(o[:3]), np.argmax(o[3:])]),
}


def returns(env: gymnasium.Env, policy, episodes: int, gamma: float = 1.0) -> tuple[list[float], list]:
    found, starts = [], []
    for episode in range(episodes):
        observation, _ = env.reset(seed=0 if episode == 0 else None)
        starts.append(observation)
        total, weight, over = 0.0, 1.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(policy(observation))
            total, weight, over = total + weight * reward, weight * gamma, terminated or truncated
        found.append(total)
    return found, starts


def test_all_are_covered():
    assert set(BEST) == set(micro.MICRO_ENVS)


@pytest.mark.parametrize("cls", micro.MICRO_ENVS)
@pytest.mark.filterwarnings("ignore")
def test_gymnasiums_own_checker_accepts_it(cls):
    check_env(cls(), skip_render_check=True)


@pytest.mark.parametrize("cls", micro.MICRO_ENVS)
def test_the_best_policy_gets_the_optimal_return(cls):
    env = gymnasium.make(f"surefoot/{cls.__name__}-v0").unwrapped
    found, _ = returns(env, BEST[cls], 400)
    assert np.mean(found) == pytest.approx(env.optimal_return, abs=1e-6 if env.optimal_return else 0.15)
    assert env.optimal_return == 0 or np.std(found) < 1e-6


@pytest.mark.parametrize(
    "cls", [c for c in micro.MICRO_ENVS if hasattr(c, "value") and c is not micro.TruncatedConstant]
)
def test_the_value_is_the_discounted_return_of_the_best_policy(cls):
    found, starts = returns(cls(), BEST[cls], 60, gamma=0.7)
    assert found == pytest.approx([cls.value(o, 0.7) for o in starts], abs=1e-6)


@pytest.mark.parametrize(
    ("cls", "policy", "expected"),
    [
        (micro.MemoryCue, lambda o: int(o[0] > 0), 0.0),  # no memory
        (micro.DictContext, lambda o: int(o["vector"][0] > 0), 0.0),  # the vector alone
        (micro.DictContext, lambda o: int(o["image"].mean() > 100), 0.0),  # the image alone
        (micro.ImageTarget, lambda o: 0, 0.25),
        (micro.ContextualAction, lambda o: 1, 0.0),
        (micro.ContinuousTarget, lambda o: np.zeros(1), -1 / 12),  # E[(x/2)^2], x uniform on [-1, 1]
    ],
)
def test_a_policy_that_lacks_the_skill_falls_short(cls, policy, expected):
    assert np.mean(returns(cls(), policy, 2000)[0]) == pytest.approx(expected, abs=0.08)


def test_only_the_mask_helps():
    env = micro.MaskedAction()
    assert np.mean(returns(env, lambda o: 0, 500)[0]) < -0.2
    observation, _ = env.reset(seed=0)
    assert np.array_equal(observation["action_mask"], env.action_masks())
    illegal = int(np.argmin(observation["action_mask"]))
    assert env.step(illegal)[1:3] == (-1.0, True)


def test_truncation_is_not_termination():
    env = micro.TruncatedConstant(steps=3)
    env.reset(seed=0)
    assert [env.step(0)[1:4] for _ in range(3)] == [(1.0, False, False), (1.0, False, False), (1.0, False, True)]
    assert env.optimal_return == 3 and env.value(None, 0.9) == pytest.approx(10.0)


def test_memory_cue_shows_its_cue_once():
    env = micro.MemoryCue(blanks=2)
    seen = [env.reset(seed=1)[0]] + [env.step(0)[0] for _ in range(3)]
    assert abs(seen[0][0]) == 1 and [tuple(o) for o in seen[1:]] == [(0, 0), (0, 0), (0, 1)]
    assert env.step(0)[2]


@pytest.mark.parametrize("cls", micro.MICRO_ENVS)
def test_every_one_runs_as_a_vector(cls):
    vec = envs.make(f"surefoot/{cls.__name__}-v0", 3, seed=1)
    observation, _ = vec.reset()
    assert vec.observation_space.contains(observation)
    for _ in range(12):
        observation, reward, *_ = vec.step(vec.action_space.sample())
        assert vec.observation_space.contains(observation) and reward.shape == (3,)
