"""Episodes are played exactly: right counts, right seeds, right state, whatever the number of slots."""

from __future__ import annotations

import functools
import re

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete

from surefoot.envs import EnvError, make_single
from surefoot.errors import UsageError
from surefoot.evaluate.rollout import Episode, episode_seeds, play, record, returns
from surefoot.perturbations import parse


def lean(observations):
    """Push the cart towards the side to which the pole falls."""
    return (observations[:, 2] + 0.5 * observations[:, 3] > 0).astype(np.int64)


def left(observations):
    return np.zeros(len(observations), np.int64)


class Lengths(gymnasium.Env):
    """An episode lasts 1 + seed % 7 steps of reward 1; the observation is (seed, step)."""

    def __init__(self, render_mode: str | None = None):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.render_mode, self.metadata = render_mode, {"render_modes": ["rgb_array"], "render_fps": 20}
        self.seen: list[float] = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.start, self.time = seed, 0
        return np.array([seed, 0.0]), {}

    def step(self, action):
        self.time += 1
        done = self.time > self.start % 7
        return np.array([self.start, self.time], float), 1.0, done, False, {}

    def render(self):
        return np.full((16, 16, 3), min(255, 20 * self.time), np.uint8)


def zeros(observations):
    return np.zeros((len(observations), 1), np.float32)


@pytest.mark.parametrize("slots", [1, 2, 5, 16])
def test_every_episode_is_played_once_and_to_its_end(slots):
    seeds = [3, 10, 6, 0, 7, 20, 5, 13, 6, 1, 2]
    played = returns(zeros, Lengths, episodes=len(seeds), seeds=seeds, slots=slots)
    np.testing.assert_array_equal(played, [1 + s % 7 for s in seeds])


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_returns_agree_with_a_plain_loop(slots):
    expected = []
    env = make_single("CartPole-v1")
    for seed in episode_seeds(4, 8):
        observation, _ = env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            observation, reward, terminated, truncated, _ = env.step(int(left(observation[None])[0]))
            total, done = total + float(reward), terminated or truncated
        expected.append(total)
    assert len(set(expected)) > 1
    np.testing.assert_array_equal(returns(left, "CartPole-v1", 8, 4, slots=slots), expected)


def test_seeds_are_common_and_extend():
    assert episode_seeds(0, 5) == episode_seeds(0, 9)[:5]
    assert len(set(episode_seeds(0, 50))) == 50
    assert episode_seeds(0, 3) != episode_seeds(1, 3)
    np.testing.assert_array_equal(
        returns(left, "CartPole-v1", 4, perturbation="observation-noise:0"), returns(left, "CartPole-v1", 4)
    )


def test_perturbed_returns_agree_with_a_wrapped_environment():
    attack = parse("observation-noise:0.3 + sticky-action:0.2")
    plain = returns(lean, lambda: attack.wrap(make_single("CartPole-v1")), 6, 2)
    np.testing.assert_array_equal(returns(lean, "CartPole-v1", 6, 2, attack), plain)
    assert plain.mean() < returns(lean, "CartPole-v1", 6, 2).mean()


def test_a_slot_forgets_the_perturbation_of_its_last_episode():
    seeds = episode_seeds(0, 3)
    attack = parse("param:length=5,masspole=3 + observation-noise:0.5")
    mixed = [Episode(p, s) for s in seeds for p in (None, attack)]
    played = play(lean, "CartPole-v1", mixed, slots=1).reshape(3, 2)
    np.testing.assert_array_equal(played[:, 0], returns(lean, "CartPole-v1", 3, seeds))
    np.testing.assert_array_equal(played[:, 1], returns(lean, "CartPole-v1", 3, seeds, attack))


class Counter:
    """A recurrent policy: its state counts the steps of an episode, and it notes what it is given."""

    def __init__(self):
        self.log = []

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        state = np.zeros(len(observation)) if state is None else np.where(episode_start, 0, state)
        self.log.append((observation.copy(), state.copy(), episode_start.copy(), deterministic))
        return np.zeros((len(observation), 1), np.float32), state + 1


def test_recurrent_state_and_episode_starts_follow_the_episodes():
    policy = Counter()
    returns(policy, Lengths, 6, [3, 10, 6, 0, 7, 20], slots=2)
    done = np.zeros(2, bool)
    for observation, state, starts, deterministic in policy.log:
        assert deterministic
        for slot in range(2):
            done[slot] |= observation[slot, 1] > observation[slot, 0] % 7
            if not done[slot]:
                assert state[slot] == observation[slot, 1]
                assert starts[slot] == (observation[slot, 1] == 0)


def test_deterministic_is_handed_on():
    policy = Counter()
    returns(policy, Lengths, 1, deterministic=False)
    assert not any(d for *_, d in policy.log)


class Picky(gymnasium.Env):
    """One step; it notes the actions that it meets."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, action_space):
        self.action_space, self.met = action_space, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.met.append(action)
        return np.zeros(1, np.float32), 1.0, True, False, {}


class Always:
    """A policy made for some action space that plays the same action again and again."""

    def __init__(self, action, action_space=None):
        self.action, self.action_space = action, action_space

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.stack([self.action] * len(observation)), None


BOX, BITS, MANY = gymnasium.spaces.Box, gymnasium.spaces.MultiBinary(2), gymnasium.spaces.MultiDiscrete
FOREIGN = [
    (Discrete(4), Discrete(2)),
    (Discrete(3, start=1), Discrete(3)),
    (MANY([2, 3]), MANY([3, 2])),
    (MANY([2, 3], start=[1, 0]), MANY([2, 3])),
    (BOX(-1, 1, (1,)), BOX(-0.1, 0.1, (1,))),
    (BITS, MANY([2, 2])),
]


@pytest.mark.parametrize(("made_for", "space"), FOREIGN)
def test_an_agent_made_for_other_actions_is_refused(made_for, space):
    with pytest.raises(UsageError, match="The policy was made for action_space"):
        returns(Always(made_for.sample(), made_for), lambda: Picky(space), 1)


@pytest.mark.parametrize(
    ("made_for", "space"),
    [
        (Discrete(3, start=1), Discrete(3, start=1, dtype=np.int32)),
        (BOX(-0.1, 0.1, (1,), np.float32), BOX(-0.1, 0.1, (1,), np.float64)),
        (BITS, gymnasium.spaces.MultiBinary([2])),
    ],
)
def test_the_number_type_makes_no_other_space(made_for, space):
    assert returns(Always(made_for.sample(), made_for), lambda: Picky(space), 2).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("action", "space"),
    [(2, Discrete(2)), (-1, Discrete(2)), (0, Discrete(3, start=1)), ([0, 2], MANY([3, 2])), ([0, 2], BITS)],
)
def test_an_action_outside_the_space_is_refused(action, space):
    words = re.escape(f"the action {np.array(action)}, which is not in the environment's action space {space}")
    with pytest.raises(UsageError, match=words):
        returns(lambda o: np.stack([action] * len(o)), lambda: Picky(space), 3)


def test_actions_of_a_box_are_clipped_as_in_training():
    env = Picky(BOX(-0.1, 0.2, (2,), np.float32))
    returns(lambda o: np.tile([-1.0, 1.0], (len(o), 1)), lambda: env, 1)
    np.testing.assert_array_equal(env.met, [np.array([-0.1, 0.2], np.float32)])


class Drawing:
    """Draws with torch's global generator, as agents do, and notes what."""

    def __init__(self):
        self.drawn = []

    def __call__(self, observations):
        self.drawn.append(float(torch.rand(())))
        return zeros(observations)


def test_a_policy_draws_the_same_from_the_same_seed_and_nobody_else_notices():
    before, policies = torch.random.get_rng_state(), [Drawing() for _ in range(3)]
    for policy, seed in zip(policies, (0, 0, 1), strict=True):
        returns(policy, Lengths, 2, [seed, 7])
        torch.rand(5)
    one, again, other = (policy.drawn for policy in policies)
    assert one == again and one[0] != other[0]
    torch.random.set_rng_state(before)
    returns(Drawing(), Lengths, 2, 0)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("call", ["reset", "step"])
def test_an_environment_that_breaks_is_named_with_its_episode(call):
    broken = type("Broken", (Lengths,), {call: lambda self, *args, **kwargs: 1 / 0})
    words = rf"Environment 0 in the episode with seed 9 failed in {call}\(\): ZeroDivisionError: .*same seed"
    with pytest.raises(EnvError, match=words):
        returns(zeros, broken, 1, [9])
    with pytest.raises(EnvError, match=r"with seed 9 under action-noise:0.1 failed"):
        returns(zeros, broken, 1, [9], "action-noise:0.1")


def test_a_parameter_out_of_its_bounds_is_no_fault_of_the_environment():
    with pytest.raises(UsageError, match="masses are above 0"):
        returns(lambda o: np.zeros((len(o), 3), np.float32), "Hopper-v5", 1, perturbation="param:torsomass=0")


def test_a_fresh_stable_baselines3_model_is_a_policy():
    sb3 = pytest.importorskip("stable_baselines3")
    model = sb3.PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu")
    played = returns(model, "CartPole-v1", 4, 1, slots=4)
    env, expected = make_single("CartPole-v1"), []
    for seed in episode_seeds(1, 4):
        observation, _ = env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(int(action))
            total, done = total + float(reward), terminated or truncated
        expected.append(total)
    np.testing.assert_array_equal(played, expected)
    with pytest.raises(UsageError, match="observation_space"):
        returns(model, "Acrobot-v1", 1)


def test_tensor_actions_and_dict_observations():
    def policy(observations):
        assert set(observations) == {"vector", "image"}
        return torch.zeros(len(observations["vector"]), dtype=torch.int64)

    assert returns(policy, "surefoot/DictContext-v0", 3).shape == (3,)


def test_record_writes_every_frame(tmp_path):
    pytest.importorskip("imageio")
    import imageio.v2 as imageio

    path = tmp_path / "run.gif"
    played = record(zeros, Lengths, path, episodes=2, seeds=[2, 4])
    np.testing.assert_array_equal(played, [3, 5])
    assert len(imageio.mimread(path)) == (3 + 1) + (5 + 1)  # the first frame of an episode is its reset


BAD = {
    "no episodes": (lambda: returns(lean, "CartPole-v1", 0), "episodes"),
    "seeds and episodes": (lambda: returns(lean, "CartPole-v1", 3, [1, 2]), "seeds"),
    "no policy": (lambda: returns(object(), "CartPole-v1", 1), "predict"),
    "a class": (lambda: returns(Counter, Lengths, 1), "instance"),
    "no slots": (lambda: returns(lean, "CartPole-v1", 1, slots=0), "slots"),
    "predict gives no pair": (lambda: returns(type("P", (), {"predict": lambda *a, **k: 0})(), Lengths, 1), "pair"),
    "observation shape": (lambda: returns(lambda o: o @ np.zeros((9, 1)), "CartPole-v1", 1), r"shape \(1, 4\)"),
    "action shape": (lambda: returns(lambda o: np.zeros(3), "CartPole-v1", 1), r"\(3,\)"),
    "action type": (lambda: returns(lambda o: np.zeros(len(o)), "CartPole-v1", 1), "float64"),
    "rrls elsewhere": (lambda: returns(lean, "CartPole-v1", 1, perturbation="rrls:2d"), "Hopper-v5.*length=low"),
    "unknown set": (lambda: returns(lean, "Hopper-v5", 1, perturbation="rrls:9d"), "9d"),
    "reward corruption": (lambda: returns(lean, "CartPole-v1", 1, perturbation="reward-flip:0.1"), "rewards"),
    "misfit": (lambda: returns(lean, "CartPole-v1", 1, perturbation="action-noise:0.1"), "action-random"),
    "unknown": (lambda: returns(lean, "CartPole-v1", 1, perturbation="observation-nois:1"), "observation-noise"),
    "not a perturbation": (lambda: returns(lean, "CartPole-v1", 1, perturbation=3), "Perturbation"),
    "unknown env": (lambda: returns(lean, "CartPol-v1", 1), "CartPole-v1"),
    "video format": (lambda: record(lean, "CartPole-v1", "x.avi"), "mp4"),
    "infinite": (
        lambda: returns(lambda o: np.full((len(o), 1), np.nan, np.float32), "Pendulum-v1", 1),
        "not finite",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case):
    call, match = BAD[case]
    with pytest.raises(UsageError, match=match):
        call()


def test_an_error_of_the_policy_later_on_is_its_own():
    def policy(observations, calls=[0]):  # noqa: B006
        calls[0] += 1
        if calls[0] > 3:
            raise ValueError("mine")
        return lean(observations)

    with pytest.raises(ValueError, match="^mine$"):
        returns(policy, "CartPole-v1", 1)


def test_an_endless_episode_is_stopped(monkeypatch):
    monkeypatch.setattr("surefoot.evaluate.rollout.LONGEST_EPISODE", 50)
    endless = functools.partial(gymnasium.make, "CartPole-v1", max_episode_steps=1000)
    with pytest.raises(UsageError, match="time limit"):
        returns(lean, endless, 1)
