"""The maker: one contract for every backend, seeds, descriptions, and every refusal."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot import envs
from surefoot.envs.names import pool_ids
from surefoot.envs.registered import _undeprecated
from surefoot.errors import UsageError
from surefoot.seeding import derive

BACKENDS = ["gymnasium", "process", "envpool"]


class Countdown(gymnasium.Env):
    """Observes how many steps are left and its own seed; pays the action, and can break on demand."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float64)

    def __init__(self, length: int = 3, truncate: bool = False, break_in: str = "", break_seed: int | None = None):
        self.length, self.truncate, self.break_in, self.break_seed = length, truncate, break_in, break_seed
        self.seed = -1

    def _observation(self):
        return np.array([self.left, self.seed], np.float64)

    def _break(self, call):
        if self.break_in == call and self.break_seed in (None, self.seed):
            raise ZeroDivisionError("the wheel came off")
        if self.break_in == "die" and call == "step" and self.break_seed in (None, self.seed):
            os._exit(7)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed = self.seed if seed is None else seed
        self._break("reset")
        self.left = self.length
        return self._observation(), {}

    def step(self, action):
        self._break("step")
        self.left -= 1
        over = self.left == 0
        return self._observation(), float(action[0]), over and not self.truncate, over and self.truncate, {"x": 1}


class Masked(gymnasium.Env):
    """Gives its mask in info."""

    observation_space = spaces.Discrete(4)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        return 2, {"action_mask": np.array([1, 0, 1])}

    def step(self, action):
        return 3, 0.0, False, False, {"action_mask": np.array([0, 1, 0])}


def not_an_env():
    return "an environment"


def rollout(vec, steps=40, seed=0):
    rng = np.random.default_rng(seed)
    rows = [vec.reset()[0]]
    for _ in range(steps):
        if isinstance(vec.single_action_space, spaces.Discrete):
            actions = rng.integers(vec.single_action_space.n, size=vec.num_envs)
        else:
            actions = rng.uniform(-1, 1, vec.action_space.shape)
        rows.append(vec.step(actions)[:4])
    return rows


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a[1:], b[1:], strict=True) for x, y in zip(x, y, strict=True))


# --- the contract -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_next_step_reset_on_every_backend(backend):
    vec = envs.make("CartPole-v1", 3, seed=0, backend=backend)
    assert vec.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.NEXT_STEP
    observation, _ = vec.reset()
    ends = np.zeros(3, bool)
    seen = 0
    for _ in range(40):
        before, (observation, reward, terminated, truncated, _) = observation, vec.step(np.zeros(3, int))
        # After an end: reward 0 and a reset observation. At an end: the true last one, outside CartPole's limits.
        assert np.array_equal(reward, np.where(ends, 0.0, 1.0))
        assert (np.abs(observation[ends]) <= 0.05).all()
        assert not (terminated | truncated)[ends].any()
        fell = np.abs(observation[:, 2]) > 12 * 2 * np.pi / 360
        assert np.array_equal(terminated, fell) and not np.array_equal(before, observation)
        ends = terminated | truncated
        seen += ends.sum()
    assert seen >= 6
    vec.close()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "HalfCheetah-v5"])
def test_types_shapes_and_fresh_arrays_on_every_backend(backend, env_id):
    vec = envs.make(env_id, 2, backend=backend)
    kept, _ = vec.reset()
    copy = kept.copy()
    actions = np.ones(vec.action_space.shape, vec.action_space.dtype)
    observation, reward, terminated, truncated, info = first = vec.step(actions)
    copies = [x.copy() for x in first[:4]]
    for _ in range(5):
        vec.step(actions)
    assert np.array_equal(kept, copy)
    assert all(np.array_equal(a, b) for a, b in zip(first[:4], copies, strict=True))
    assert (observation.dtype, reward.dtype, terminated.dtype, truncated.dtype) == (np.float32, np.float32, bool, bool)
    assert vec.observation_space.contains(observation) and info == {}
    assert vec.single_observation_space.dtype == np.float32
    vec.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_seed_same_bits_and_other_seed_other_bits(backend):
    runs = [rollout(envs.make("HalfCheetah-v5", 2, seed=s, backend=backend), 12) for s in (3, 3, 4)]
    assert same(runs[0], runs[1]) and np.array_equal(runs[0][0], runs[1][0])
    assert not np.array_equal(runs[0][0], runs[2][0])
    assert not np.array_equal(runs[0][0][0], runs[0][0][1])


def test_both_own_backends_and_gymnasiums_agree_to_the_bit():
    """Gymnasium's SyncVectorEnv is the oracle of the lean one, over several episode ends."""
    oracle = SyncVectorEnv([lambda: gymnasium.make("Hopper-v5")] * 3)
    rng = np.random.default_rng(0)
    lean, slow = (envs.make("Hopper-v5", 3, seed=5, backend=b) for b in ("gymnasium", "process"))
    first = [oracle.reset(seed=envs.env_seeds(5, 3))[0].astype(np.float32), lean.reset()[0], slow.reset()[0]]
    assert np.array_equal(first[0], first[1]) and np.array_equal(first[0], first[2])
    ends = 0
    for _ in range(80):
        actions = rng.uniform(-1, 1, (3, 3)).astype(np.float32)
        expected = oracle.step(actions)
        ends += int(expected[2].sum())
        for ours in (lean.step(actions), slow.step(actions)):
            for a, b in zip(ours[:4], expected[:4], strict=True):
                assert np.array_equal(a, b.astype(a.dtype))
    assert ends >= 3
    slow.close()


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"])
def test_envpool_has_gymnasiums_dynamics(env_id):
    """The same start and actions give the same rewards and observations: why "auto" may take EnvPool."""
    pool = envs.make(env_id, 1, backend="envpool")
    single = gymnasium.make(env_id).unwrapped
    single.reset(seed=0)
    observation, _ = pool.reset()
    nq = single.model.nq
    single.set_state(
        np.array([0.0, *observation[0, : nq - 1]], np.float64), observation[0, nq - 1 :].astype(np.float64)
    )
    rng = np.random.default_rng(0)
    for _ in range(6):
        action = rng.uniform(-0.3, 0.3, pool.single_action_space.shape).astype(np.float32)
        theirs, ours = pool.step(action[None]), single.step(action)
        assert theirs[0][0] == pytest.approx(ours[0], abs=2e-3)
        assert theirs[1][0] == pytest.approx(ours[1], abs=2e-3)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "Ant-v5", "Humanoid-v5", "Swimmer-v5"])
def test_envpool_has_gymnasiums_spaces(env_id):
    pool, own = (envs.make(env_id, 1, backend=b) for b in ("envpool", "gymnasium"))
    assert pool.observation_space.shape == own.observation_space.shape
    assert pool.single_action_space == own.single_action_space


def test_envpool_gives_the_same_bits_on_any_number_of_threads():
    one, two = (rollout(envs.make("Hopper-v5", 4, seed=1, backend="envpool", threads=t), 60) for t in (1, 2))
    assert same(one, two)


@pytest.mark.parametrize("backend", ["gymnasium", "process"])
@pytest.mark.parametrize("truncate", [False, True])
def test_both_kinds_of_end_are_kept_apart_and_both_are_followed_by_a_reset(backend, truncate):
    vec = envs.make(Countdown, 1, env_kwargs={"length": 2, "truncate": truncate}, backend=backend)
    vec.reset()
    steps = [vec.step(np.ones((1, 1))) for _ in range(5)]
    assert [int(s[0][0, 0]) for s in steps] == [1, 0, 2, 1, 0]  # steps left: down to the end, then the reset
    assert [float(s[1][0]) for s in steps] == [1, 1, 0, 1, 1]
    ends = [False, True, False, False, True]
    assert [bool(s[2][0]) for s in steps] == [end and not truncate for end in ends]
    assert [bool(s[3][0]) for s in steps] == [end and truncate for end in ends]
    vec.close()


@pytest.mark.parametrize("backend", ["gymnasium", "process"])
def test_actions_are_clipped_to_the_box_here(backend):
    vec = envs.make(Countdown, 2, backend=backend)
    vec.reset()
    assert vec.step(np.array([[3.0], [-0.5]]))[1].tolist() == [1.0, -0.5]
    vec.close()


def test_envpool_clips_too():
    a, b = (envs.make("HalfCheetah-v5", 2, backend="envpool") for _ in range(2))
    a.reset(), b.reset()
    assert np.array_equal(a.step(np.full((2, 6), 9.0))[0], b.step(np.ones((2, 6)))[0])


def test_images_and_atari_keep_uint8():
    vec = envs.make("Pong-v5", 2)
    observation, _ = vec.reset()
    assert isinstance(vec, envs.PoolEnvs) and observation.dtype == np.uint8 and observation.shape == (2, 4, 84, 84)
    assert vec.step(np.zeros(2, int))[0].dtype == np.uint8


def test_what_envpool_alone_has_is_played_alone_too():
    single, pool = envs.make_single("Catch-v0"), envs.make("Catch-v0", 1, seed=[3])
    observation, _ = single.reset(seed=3)
    assert np.array_equal(observation, pool.reset()[0][0]) and observation in single.observation_space
    for action in (0, 2) * 5:
        one, many = single.step(action), pool.step(np.array([action]))
        assert np.array_equal(one[0], many[0][0]) and one[1:4] == tuple(x[0] for x in many[1:4])
        if one[2] or one[3]:
            break
    else:
        raise AssertionError("the ball reaches the ground in nine steps")
    wrapped = envs.make("Catch-v0", 2, wrappers=["flatten"])
    assert isinstance(wrapped, envs.SyncEnvs) and wrapped.reset()[0].shape == (2, 50)
    frames = envs.make_single("Pong-v5", {"render_mode": "rgb_array"})
    frames.reset(seed=1)
    assert frames.render().shape == (210, 160, 3)


@pytest.mark.parametrize(
    ("env", "kwargs", "message"),
    [
        ("CheetahRun-v1", {"render_mode": "rgb_array"}, "cannot be filmed: EnvPool renders it with OpenGL"),
        ("Catch-v0", {"hight": 3}, "cannot be made with env_kwargs={'hight': 3}"),
    ],
)
def test_what_envpool_cannot_do_is_said(env, kwargs, message):
    with pytest.raises(UsageError, match=message):
        envs.make_single(env, kwargs)


def test_discrete_observations_are_integers():
    vec = envs.make("Taxi-v4" if "Taxi-v4" in gymnasium.registry else "Taxi-v3", 2, backend="gymnasium")
    observation, _ = vec.reset()
    assert observation.dtype == np.int64 and observation.shape == (2,)


# --- seeds ------------------------------------------------------------------------------------------------------


def test_seeds_are_derived_or_given_and_used_once():
    assert envs.env_seeds(3, 2) == [derive(3, "env", 0), derive(3, "env", 1)]
    vec = envs.make(Countdown, 3, seed=[5, 9, 5])
    assert vec.reset()[0][:, 1].tolist() == [5, 9, 5]
    assert vec.reset(seed=[1, 2, 3])[0][:, 1].tolist() == [1, 2, 3]
    assert vec.reset()[0][:, 1].tolist() == [1, 2, 3]  # the environments' own generators go on
    first = envs.make("CartPole-v1", 2, seed=1, backend="gymnasium")
    assert not np.array_equal(first.reset()[0], first.reset()[0])


def test_a_seed_among_many_draws_what_it_draws_alone():
    for backend in ("gymnasium", "envpool"):
        alone = rollout(envs.make("CartPole-v1", 1, seed=[7], backend=backend), 30)
        among = envs.make("CartPole-v1", 3, seed=[1, 7, 2], backend=backend)
        assert np.array_equal(among.reset()[0][1], alone[0][0])


def test_an_envpool_is_reseeded_by_reset():
    vec = envs.make("CartPole-v1", 2, seed=1, backend="envpool")
    first, second, again = vec.reset()[0], vec.reset()[0], vec.reset(seed=1)[0]
    assert np.array_equal(first, again) and not np.array_equal(first, second)


@pytest.mark.parametrize("seed", [[1, 2], -1, 2**31, "7", 1.5, None, [1, 2, -3]])
def test_wrong_seeds_are_refused(seed):
    with pytest.raises(UsageError, match="seed"):
        envs.make("CartPole-v1", 3, seed=seed)


# --- what is made -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "options", "expected"),
    [
        ("HalfCheetah-v5", {}, envs.PoolEnvs),
        ("HalfCheetah-v5", {"env_kwargs": {"ctrl_cost_weight": 0.2}}, envs.PoolEnvs),
        ("HalfCheetah-v5", {"env_kwargs": {"render_mode": "rgb_array"}}, envs.SyncEnvs),
        ("HalfCheetah-v5", {"wrappers": ["time_aware"]}, envs.SyncEnvs),
        ("rrls/HalfCheetah-v5", {}, envs.SyncEnvs),
        ("surefoot/Constant-v0", {}, envs.SyncEnvs),
        (Countdown, {}, envs.SyncEnvs),
        (lambda: Countdown(), {}, envs.SyncEnvs),
    ],
)
def test_auto_chooses(env, options, expected):
    assert type(envs.make(env, 2, **options)) is expected


def test_env_kwargs_reach_the_environment_on_both_backends():
    for backend in ("gymnasium", "envpool"):
        vec = envs.make("CartPole-v1", 1, backend=backend, env_kwargs={"max_episode_steps": 4})
        vec.reset()
        assert [bool(vec.step(np.array([k % 2]))[3][0]) for k in range(4)] == [False, False, False, True]


def test_a_ready_next_step_vector_env_is_held_to_what_others_keep():
    """Gymnasium's Pendulum takes float32 actions from -2 to 2; ours of it is the oracle."""
    ready = SyncVectorEnv([lambda: gymnasium.make("Pendulum-v1")] * 2)
    ours, theirs = (envs.make(env, 2, seed=[3, 8], backend="gymnasium") for env in ("Pendulum-v1", ready))
    assert same((ours.reset()[0],), (theirs.reset()[0],))
    for size in (0.5, 3.0, 1e30):
        action = np.array([[size], [-size]], np.float32)
        assert same(ours.step(action)[:4], theirs.step(action)[:4])
    assert theirs.call("spec") == ready.call("spec")
    theirs.close()
    assert ready.closed


class Whole(VectorEnv):
    """Not one of Gymnasium's: it takes one seed, and observes in float64."""

    metadata, num_envs = {"autoreset_mode": AutoresetMode.NEXT_STEP}, 2
    single_observation_space = observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float64)
    single_action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.seed = seed
        return np.zeros((2, 1)), {}

    def step(self, actions):
        return np.zeros((2, 1)), np.ones(2), np.zeros(2, bool), np.zeros(2, bool), {}


def test_a_ready_vector_env_of_another_make():
    whole = Whole()
    vec = envs.make(whole, 2, seed=[5, 6])
    assert vec.reset()[0].dtype == np.float32 and whole.seed == 5
    assert vec.step(np.array([0, 1]))[1].dtype == np.float32


def test_what_a_ready_vector_env_cannot_be():
    ready = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2)
    with pytest.raises(UsageError, match="num_envs=3"):
        envs.make(ready, 3)
    with pytest.raises(UsageError, match="do not apply"):
        envs.make(ready, 2, wrappers=["flatten"])
    same_step = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2, autoreset_mode="SameStep")
    with pytest.raises(UsageError, match="NEXT_STEP"):
        envs.make(same_step, 2)


class Strict(Countdown):
    """Its bounds have no float32; it refuses what lies beyond."""

    action_space = gymnasium.spaces.Box(-0.1, 0.1, (2,), np.float64)

    def step(self, action):
        assert self.action_space.contains(action)
        return super().step(action)


def test_actions_are_within_bounds_that_float32_does_not_have():
    vec = envs.make(Strict, 1)
    vec.reset()
    for value in (-1, -0.1, 0, 0.1, 1):
        vec.step(np.full((1, 2), value, np.float32))


@pytest.mark.parametrize("env", ["Hopper-v5", "CartPole-v1"])
def test_episodes_without_a_time_limit(env):
    """-1 is Gymnasium's word for it. EnvPool ends such an episode at once."""
    vec = envs.make(env, 1, env_kwargs={"max_episode_steps": -1})
    vec.reset()
    assert type(vec) is envs.vector.SyncEnvs
    for _ in range(3):
        assert not vec.step(np.zeros((1, *vec.single_action_space.shape), vec.single_action_space.dtype))[3].any()
    with pytest.raises(UsageError, match="it needs a time limit; use 'auto' or 'gymnasium'"):
        envs.make(env, 1, backend="envpool", env_kwargs={"max_episode_steps": -1})


def test_importing_the_room_loads_neither_envpool_nor_mujoco():
    code = "import sys, surefoot.envs; print({'envpool', 'mujoco'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "rrls/HalfCheetah-v5"])
def test_of_a_model_that_is_not_ours_only_what_matters_is_said(env_id, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    envs.make_single(env_id).close()
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())
    assert mujoco.get_mju_user_warning() is None


def test_what_is_not_deprecated_is_said_to_whoever_listens(capfd):
    heard = []
    with _undeprecated():
        mujoco.get_mju_user_warning()("the model is odd")
    assert capfd.readouterr().err == "WARNING: the model is odd\n"
    mujoco.set_mju_user_warning(heard.append)
    try:
        with _undeprecated():
            for text in ("it is deprecated", "the model is odd"):
                mujoco.get_mju_user_warning()(text)
        assert heard == ["the model is odd"] and mujoco.get_mju_user_warning() == heard.append
    finally:
        mujoco.set_mju_user_warning(None)


# --- descriptions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "options"),
    [
        ("CartPole-v1", {"seed": [4, 5]}),
        ("surefoot/MemoryCue-v0", {"env_kwargs": {"blanks": 1}, "wrappers": ("flatten", ("frame_stack", {"n": 2}))}),
        ("rrls/Hopper-v5", {"seed": 2, "wrappers": (("domain_randomization", {"set": "3d"}),)}),
        (Countdown, {"env_kwargs": {"length": 5}}),
    ],
)
def test_a_description_makes_the_same_environment_again(env, options):
    description = json.loads(json.dumps(envs.describe(env, 2, **options)))
    a, b = envs.make(env, 2, **options), envs.make(**description)
    assert type(a) is type(b) and envs.describe(**description) == description
    left, right = rollout(a, 8), rollout(b, 8)
    assert np.array_equal(left[0], right[0]) and same(left, right)


@pytest.mark.parametrize(("shape", "stacked"), [((8, 8, 3), (8, 8, 6)), ((3, 8, 8), (6, 8, 8)), ((8, 8, 1), (8, 8, 2))])
def test_stacked_images_are_images(shape, stacked):
    class Film(gymnasium.Env):
        observation_space, action_space = spaces.Box(0, 255, shape, np.uint8), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            self.t = 0
            return np.zeros(shape, np.uint8), {}

        def step(self, action):
            self.t += 1
            return np.full(shape, self.t, np.uint8), 0.0, False, False, {}

    vec = envs.make(Film, 1, wrappers=[("frame_stack", {"n": 2})])
    assert vec.single_observation_space == spaces.Box(0, 255, stacked, np.uint8)
    vec.reset()
    seen = [vec.step(np.array([0]))[0][0] for _ in range(2)][1]
    axis = 0 if shape[0] == 3 else 2
    old, new = np.split(seen, 2, axis)
    assert (old == 1).all() and (new == 2).all()


def test_stacked_vectors_are_one_vector():
    plain, stacked = (envs.make_single(Countdown, wrappers=w) for w in ((), [("frame_stack", {"n": 2})]))
    first, _ = plain.reset(seed=5)
    assert stacked.reset(seed=5)[0].tolist() == [*first, *first] and stacked.observation_space.shape == (4,)
    action = np.zeros(1)
    assert stacked.step(action)[0].tolist() == [*first, *plain.step(action)[0]]


def test_an_observation_of_another_shape_is_not_spread_over_the_row():
    class Short(Countdown):
        def step(self, action):
            observation, *rest = super().step(action)
            return observation[:1], *rest

    vec = envs.make(Short, 1)
    vec.reset()
    with pytest.raises(
        envs.EnvError, match=r"failed in step\(\): ValueError: the observation .* has shape \(1,\), not"
    ):
        vec.step(np.zeros((1, 1)))


def test_a_description_holds_what_a_text_can():
    assert envs.describe(Countdown, env_kwargs={"length": np.int64(5)})["env_kwargs"] == {"length": 5}
    for name, value in {"env_kwargs": {"length": {5}}, "wrappers": [("time_limit", {"steps": print})]}.items():
        with pytest.raises(UsageError, match=f"{name}=.* cannot be recorded with a run: it contains a (set|builtin)"):
            envs.describe(Countdown, **{name: value})


def test_what_has_no_name_is_described_but_not_made_again():
    ready = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 8)
    for env in (lambda: Countdown(), ready):
        description = envs.describe(env)
        assert json.dumps(description)
        with pytest.raises(UsageError, match="give that same factory again"):
            envs.make(**description)


# --- wrappers ---------------------------------------------------------------------------------------------------


def test_action_mask_from_info_becomes_part_of_the_observation():
    vec = envs.make(Masked, 2, wrappers=["action_mask"])
    observation, _ = vec.reset()
    assert set(observation) == {"observation", "action_mask"}
    assert observation["action_mask"].tolist() == [[1, 0, 1]] * 2 and observation["observation"].tolist() == [2, 2]
    observation = vec.step(np.zeros(2, int))[0]
    assert observation["action_mask"].tolist() == [[0, 1, 0]] * 2 and observation["observation"].tolist() == [3, 3]
    with pytest.raises(UsageError, match="^The wrapper .action_mask. found no mask"):
        envs.make("CartPole-v1", 1, wrappers=["action_mask"]).reset()
    with pytest.raises(UsageError, match="Discrete"):
        envs.make(Countdown, 1, wrappers=["action_mask"])


def test_small_wrappers():
    assert envs.make_single("CartPole-v1", wrappers=[("frame_stack", {"n": 3})]).observation_space.shape == (12,)
    limited = envs.make(Countdown, 1, env_kwargs={"length": 9}, wrappers=[("time_limit", {"steps": 2})])
    limited.reset()
    assert [bool(limited.step(np.zeros((1, 1)))[3][0]) for _ in range(2)] == [False, True]
    aware = envs.make_single("CartPole-v1", wrappers=["time_aware"])
    aware.reset(seed=0)
    assert aware.observation_space.shape == (5,) and aware.step(0)[0][-1] == pytest.approx(1 / 500)
    flat = envs.make_single("surefoot/DictContext-v0", wrappers=["flatten"])
    assert flat.observation_space.shape == (1 + 36 * 36,)


def test_registered_wrappers_are_found_and_not_replaced():
    @envs.register_wrapper("test_negated")
    def negated(env, factor=-1.0):
        return gymnasium.wrappers.TransformReward(env, lambda r: factor * r)

    vec = envs.make(Countdown, 1, wrappers=[("test_negated", {"factor": -2.0})])
    vec.reset()
    assert vec.step(np.array([[0.5]]))[1].tolist() == [-1.0]
    with pytest.raises(UsageError, match="already exists"):
        envs.register_wrapper("test_negated")(lambda env: env)


@pytest.mark.parametrize(
    ("wrappers", "words"),
    [
        (["frame_stak"], "'frame_stack'"),
        ([("flatten", 3)], "a pair"),
        ([("time_limit", {"n": 3})], "does not apply to"),
        ([3], "a pair"),
    ],
)
def test_wrong_wrappers_are_refused(wrappers, words):
    with pytest.raises(UsageError, match=words):
        envs.make("CartPole-v1", 1, wrappers=wrappers)


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"env": "HalfCheeta-v5"}, "'HalfCheetah-v5'"),
        ({"env": "surefoot/Constan-v0"}, "'surefoot/Constant-v0'"),
        ({"env": "rrls/Hoper-v5"}, "'rrls/Hopper-v5'"),
        ({"env": "Pogn-v5"}, "'Pong-v5'"),
        ({"env": "no.such.module:Thing"}, "cannot be imported"),
        ({"env": "surefoot.envs.micro:Thing"}, "no attribute 'Thing'"),
        ({"env": "CartPole-v1", "num_envs": 0}, "num_envs=0"),
        ({"env": "CartPole-v1", "num_envs": 2.0}, "num_envs=2.0"),
        ({"env": "CartPole-v1", "num_envs": True}, "num_envs=True"),
        ({"env": "CartPole-v1", "backend": "ray"}, "'envpool'"),
        ({"env": "rrls/Hopper-v5", "backend": "envpool"}, "does not have that one"),
        ({"env": "CartPole-v1", "backend": "envpool", "wrappers": ["flatten"]}, "no wrappers"),
        ({"env": "Hopper-v5", "backend": "envpool", "env_kwargs": {"frame_skp": 1}}, "'frame_skip'"),
        ({"env": Countdown, "backend": "envpool"}, "factories"),
        ({"env": not_an_env}, "must return a gymnasium.Env"),
        ({"env": Countdown()}, "not an instance"),
        ({"env": Countdown, "env_kwargs": {"size": 3}}, "size"),
        ({"env": "Blackjack-v1", "backend": "gymnasium"}, "Tuple"),
    ],
)
def test_a_mistake_is_refused_with_what_to_do(arguments, words):
    with pytest.raises(UsageError, match=words):
        envs.make(**arguments)


@pytest.mark.parametrize("backend", ["gymnasium", "process"])
@pytest.mark.parametrize("call", ["reset", "step"])
def test_an_environment_that_raises_is_named(backend, call):
    kwargs = {"break_in": call, "break_seed": 11}
    vec = envs.make(Countdown, 3, seed=[10, 11, 12], env_kwargs=kwargs, backend=backend)
    words = rf"Environment 1 failed in {call}\(\): ZeroDivisionError: the wheel came off.*run it alone"
    with pytest.raises(envs.EnvError, match=words):
        vec.reset()
        vec.step(np.zeros((3, 1)))


def test_signals_of_a_terminal_reach_the_caller_alone():
    """It sends them to all processes of its group; workers that went at once would take the iteration with them."""
    vec = envs.make(Countdown, 2, backend="process")
    groups = {os.getpgid(process.pid) for process in vec._workers.processes}
    assert len(groups) == 2 and os.getpgid(0) not in groups
    vec.close()


def test_a_worker_that_dies_is_named():
    vec = envs.make(Countdown, 2, seed=[10, 11], env_kwargs={"break_in": "die", "break_seed": 11}, backend="process")
    vec.reset()
    with pytest.raises(envs.EnvError, match=r"step\(\).*\{1: 7\}"):
        vec.step(np.zeros((2, 1)))


def test_wrong_shapes_are_named():
    class Wrong(Countdown):
        def reset(self, **kwargs):
            super().reset(**kwargs)
            return np.zeros(3), {}

    with pytest.raises(envs.EnvError, match="not of the space"):
        envs.make(Wrong, 1).reset()
    vec = envs.make(Countdown, 2)
    vec.reset()
    with pytest.raises(UsageError, match=r"\(2, 1\) is needed"):
        vec.step(np.zeros(2))


# --- finiteness -------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(0, 3), st.integers(0, 2), st.integers(0, 4), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_the_first_number_that_is_not_finite_is_named(step, env, component, bad):
    observation, reward = np.zeros((4, 3, 5), np.float32), np.zeros((4, 3), np.float32)
    envs.check_finite(observation, reward)
    observation[step, env, component] = bad
    with pytest.raises(
        UsageError, match=rf"observation\[{component}\] is .* in environment {env} at step {10 + step}:"
    ):
        envs.check_finite(torch.from_numpy(observation), torch.from_numpy(reward), first_step=10)
    with pytest.raises(UsageError, match=rf"observation 'a'\[{component}\] is .* in environment {env} at step 0:"):
        envs.check_finite({"a": observation[step], "image": np.zeros((3, 2), np.uint8)}, reward[step])
    reward[step, env] = bad
    with pytest.raises(UsageError, match=rf"reward is .* in environment {env} at step {step}:"):
        envs.check_finite(np.zeros((4, 3, 5)), reward)


def test_large_finite_numbers_pass():
    envs.check_finite(np.full((2, 3, 4), 3e38, np.float32), np.full((2, 3), -3e38, np.float32))


# --- without EnvPool --------------------------------------------------------------------------------------------


def test_where_envpool_is_not_installed_gymnasium_does(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    pool_ids.cache_clear()
    try:
        vec = envs.make("CartPole-v1", 2, seed=0)
        assert isinstance(vec, envs.SyncEnvs)
        with pytest.raises(UsageError, match="EnvPool is not installed"):
            envs.make("CartPole-v1", 2, backend="envpool")
        with pytest.raises(UsageError, match="not a known id"):
            envs.make("Pong-v5", 1)
    finally:
        pool_ids.cache_clear()
