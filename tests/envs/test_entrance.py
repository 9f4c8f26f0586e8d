"""What environments give is converted or refused the same way by every backend, in training and in evaluation."""

from __future__ import annotations

import time

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot import envs
from surefoot.envs.entrance import Rows, all_forbidden, batch_figures, converted, figures, named_figures
from surefoot.errors import UsageError
from surefoot.evaluate.rollout import played, returns

BYTES = spaces.Box(0, 255, (2,), np.uint8)


class Giver(gymnasium.Env):
    """Gives what it is told, from the second step on; three steps an episode."""

    action_space = spaces.Discrete(2)

    def __init__(self, space=BYTES, observation=None, answer=None, info=None, reset_answer=None, action=int):
        self.observation_space, self.observation, self.answer = space, observation, answer
        self.info, self.reset_answer, self.action = info or {}, reset_answer, action

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.first = 0, self.observation_space.sample()
        return (self.first, {}) if self.reset_answer is None else self.reset_answer

    def step(self, action):
        assert type(action) is self.action
        self.t += 1
        given = self.first if self.observation is None or self.t < 2 else self.observation
        if self.answer is not None and self.t == 2:
            return self.answer(given)
        return given, 1.0, self.t == 3, False, self.info


def refusal(how: str, **given) -> str:
    """What is said of an environment by the backend, or by evaluation."""
    if how == "evaluate":
        with pytest.raises((envs.EnvError, UsageError)) as caught:
            returns(lambda o: np.zeros(len(o), int), lambda: Giver(**given), 1, [7])
        assert "the episode with seed 7" in str(caught.value)
        return str(caught.value)
    if how == "ready":
        vec = envs.make(Ready(Giver(**given)), 1)
    else:
        vec = envs.make(lambda: Giver(**given), 1, backend=how)
    with pytest.raises((envs.EnvError, UsageError)) as caught:
        vec.reset()
        for _ in range(2):
            vec.step(np.zeros(1, int))
    vec.close()
    return str(caught.value)


class Ready(gymnasium.vector.VectorEnv):
    """Somebody's vector environment, which hands on what the one inside gives."""

    metadata, num_envs = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}, 1

    def __init__(self, env):
        self.env, self.single_observation_space, self.single_action_space = env, env.observation_space, env.action_space

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed)
        return self._batch(observation), info

    def step(self, actions):
        observation, *rest, info = self.env.step(int(actions[0]))
        return self._batch(observation), *([x] for x in rest), info

    def _batch(self, observation):
        if isinstance(observation, dict):
            return {name: np.asarray(x)[None] for name, x in observation.items()}
        return np.asarray(observation)[None]


WRONG = {
    "fractions in bytes": (
        {"observation": np.array([0.25, 3.0])},
        r"observation\[0\] is 0.25.*, which .*uint8.* cannot",
    ),
    "beyond bytes": ({"observation": np.array([3, 256])}, r"observation\[1\] is 256.*, which the declared"),
    "negative bytes": ({"observation": np.array([-1, 2])}, r"observation\[0\] is -1.*, which"),
    "NaN in bytes": ({"observation": np.array([np.nan, 2])}, r"observation\[0\] is nan.*, which"),
    "text": ({"observation": np.array(["1", "2"])}, "not numbers"),
    "None": ({"observation": np.array([None, 2])}, "holds object, not numbers"),
    "shape": ({"observation": np.zeros((2, 1), np.uint8)}, "not of the space"),
    "a state that is none": ({"space": spaces.Discrete(3, start=1), "observation": 0}, "is 0.*, which .*Discrete"),
    "an entry": (
        {"space": spaces.Dict(a=BYTES), "observation": {"a": np.array([0.5, 1])}},
        r"observation 'a'\[0\] is 0.5.*, which",
    ),
    "a missing entry": ({"space": spaces.Dict(a=BYTES), "observation": {"b": 1}}, r"not a dict with the keys \['a'\]"),
    "reward as text": ({"answer": lambda o: (o, "5", False, False, {})}, "reward "),
    "reward missing": ({"answer": lambda o: (o, None, False, False, {})}, "reward "),
    "two rewards": ({"answer": lambda o: (o, np.zeros(2), False, False, {})}, r"reward .*shape \((1, )?2,?\)"),
    "no flag": ({"answer": lambda o: (o, 1.0, None, False, {})}, "terminated "),
    "half a flag": ({"answer": lambda o: (o, 1.0, False, 0.5, {})}, "truncated is .*0.5.*; True or False is needed"),
}


IN_PROCESSES = ("fractions in bytes", "reward as text", "no flag")  # which take long to start and share the code
EACH = [(case, how) for case in WRONG for how in ("gymnasium", "ready", "evaluate")]


@pytest.mark.parametrize(("case", "how"), [*EACH, *((case, "process") for case in IN_PROCESSES)])
def test_what_does_not_fit_is_refused_everywhere_and_named(case, how):
    given, words = WRONG[case]
    said = refusal(how, **given)
    with pytest.raises(UsageError, match=words):
        raise UsageError(said)
    assert "step 1" in said and ("nvironment 0" in said or how == "ready")


@pytest.mark.parametrize("how", ["gymnasium", "evaluate"])
def test_the_old_interface_and_other_answers_are_recognised(how):
    assert "the form of old Gym" in refusal(how, answer=lambda o: (o, 1.0, False, {}))
    assert "it must return (observation, reward, terminated" in refusal(how, answer=lambda o: None)
    assert "it must return (observation, info)" in refusal(how, reset_answer=np.zeros(2, np.uint8))


@pytest.mark.parametrize("how", ["gymnasium", "ready", "evaluate"])
@pytest.mark.parametrize("wrap", [np.array, lambda x: np.array([x]), np.float32, lambda x: np.bool_(x)])
def test_numbers_and_flags_of_every_form_are_taken_as_they_are(how, wrap):
    def answer(o):
        return o, wrap(1.0), wrap(True), wrap(False), {}

    if how == "evaluate":
        assert returns(lambda o: np.zeros(len(o), int), lambda: Giver(answer=answer), 2).tolist() == [2.0, 2.0]
        return
    ready = Ready(Giver(answer=answer))
    vec = envs.make(ready if how == "ready" else lambda: Giver(answer=answer), 1)
    vec.reset()
    for end in (False, True):
        _, reward, terminated, truncated, _ = vec.step(np.zeros(1, int))
        assert [x.dtype for x in (reward, terminated, truncated)] == [np.float32, bool, bool]
        assert reward.tolist() == [1.0] and terminated.tolist() == [end] and truncated.tolist() == [False]


NUMBERS = st.one_of(st.integers(-300, 300), st.floats(-300, 300).map(lambda x: round(x, 1)))


@settings(max_examples=200)
@given(NUMBERS, st.sampled_from(["u1", "i1", "i8", "f4", "f8"]), st.sampled_from(["u1", "i2", "f4"]))
def test_a_value_arrives_as_it_is_or_not_at_all(value, given_type, declared):
    """The oracle is Python's arithmetic on one number."""
    with np.errstate(all="ignore"):
        array = np.array([value]).astype(given_type)
    exact = array.item()
    space = spaces.Box(-1000, 1000, (1,), np.float32) if declared == "f4" else None
    space = space or spaces.Box(np.iinfo(declared).min, np.iinfo(declared).max, (1,), np.dtype(declared).type)
    try:
        got = converted(array, space)
    except ValueError:
        assert declared != "f4" and (
            exact != int(exact) or not np.iinfo(declared).min <= exact <= np.iinfo(declared).max
        )
    else:
        assert got.dtype == space.dtype and got.item() == (np.float32(exact) if declared == "f4" else exact)


def test_training_and_evaluation_see_the_same_rows():
    space = spaces.Dict(a=spaces.Box(-1, 1, (2,), np.float64), b=spaces.Discrete(4), c=spaces.MultiBinary(2))
    given = {"a": [0.1, 0.7], "b": np.int32(3), "c": np.array([True, False])}
    vec = envs.make(lambda: Giver(space=space, reset_answer=(given, {})), 1)
    rows = Rows(space, 1)
    rows.put(0, given, "a test")
    trained, evaluated = vec.reset()[0], rows.copy()
    for name, dtype in {"a": np.float32, "b": np.int64, "c": np.int8}.items():
        assert trained[name].dtype == evaluated[name].dtype == dtype
        np.testing.assert_array_equal(trained[name], evaluated[name])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_evaluation_names_what_is_not_finite(bad):
    space = spaces.Box(-1, 1, (2,), np.float32)
    said = refusal("evaluate", space=space, observation=np.array([0.0, bad]))
    assert said.startswith(f"observation[1] is {bad} at step 1 of the episode with seed 7")
    said = refusal("evaluate", answer=lambda o: (o, bad, False, False, {}))
    assert said.startswith(f"reward is {bad} at step 1 of the episode with seed 7")


# --- actions ---


class Echo(gymnasium.Env):
    """Pays what it is given, as a number."""

    observation_space = spaces.Box(-1, 1, (1,))

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return np.zeros(1, np.float32), float(np.sum(action)), True, False, {}


@pytest.mark.parametrize(("value", "nearest"), [(0.4, 0), (0.6, 1), (-0.7, -1), (9.0, 5), (-9.0, -3)])
def test_actions_of_a_whole_number_box_are_the_nearest_ones(value, nearest):
    space = spaces.Box(-3, 5, (1,), np.int64)
    vec = envs.make(lambda: Echo(space), 1)
    vec.reset()
    assert vec.step(np.array([[value]], np.float32))[1].tolist() == [nearest]
    assert returns(lambda o: np.full((len(o), 1), value), lambda: Echo(space), 1).tolist() == [nearest]


def test_an_action_that_is_not_finite_is_the_policy_s_fault():
    with pytest.raises(UsageError, match="The policy returned the action nan, which is not finite"):
        returns(lambda o: np.full((len(o), 1), np.nan), lambda: Echo(spaces.Box(-1, 1, (1,))), 1)


# --- masks ---


@settings(max_examples=100)
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4), st.data())
def test_a_mask_that_leaves_nothing_to_choose_is_found(masks, data):
    acting = np.array(data.draw(st.lists(st.booleans(), min_size=len(masks), max_size=len(masks))))
    observation = {"action_mask": np.array(masks, np.int8)}
    for space, parts in [
        (spaces.Discrete(5), [slice(0, 5)]),
        (spaces.MultiDiscrete([2, 3]), [slice(0, 2), slice(2, 5)]),
    ]:
        stuck = [i for i, m in enumerate(masks) if acting[i] and not all(any(m[part]) for part in parts)]
        assert all_forbidden(observation, space, acting) == (stuck[0] if stuck else None)
    assert all_forbidden(np.zeros((2, 3)), spaces.Discrete(5), acting) is None


# --- infos ---


def test_the_numbers_of_an_info():
    info = {"is_success": True, "cost": np.float32(2.5), "one": np.array([3]), "many": np.zeros(2), "text": "x"}
    info |= {"nan": np.nan, "none": None, "nested": {"a": 1}}
    assert figures(info) == {"is_success": 1.0, "cost": 2.5, "one": 3.0} and figures(None) == {}


def test_means_over_episodes_that_have_the_figure():
    episodes = [{"success": 1.0, "cost": 1.0}, {"is_success": 0.0}, {"cost": 4.0}]
    assert named_figures(episodes) == {"success_rate": 0.5, "info/cost": 2.5} and named_figures([]) == {}


def test_figures_of_a_batch_are_those_of_the_ended_episodes():
    ended = np.array([True, False, True])
    info = {"cost": np.array([1.0, 2.0, np.nan]), "_cost": np.array([True, True, True]), "elapsed_step": np.ones(3)}
    found = batch_figures(info | {"lives": np.array([3, 4, 5]), "players": {"a": 1}, "wide": np.ones((3, 2))}, ended)
    assert sorted(found) == ["_cost", "_lives", "cost", "lives"]
    assert found["_cost"].tolist() == [True, False, False] and found["lives"][ended].tolist() == [3, 5]
    assert batch_figures(info, np.zeros(3, bool)) == {}


@pytest.mark.parametrize("how", ["gymnasium", "process", "ready"])
def test_the_info_of_an_end_is_handed_on(how):
    info = {"cost": 2.5, "text": "x"}
    if how == "ready":
        vec = envs.make(SyncVectorEnv([lambda: Giver(info=info, action=np.int64)] * 2), 2)
    else:
        vec = envs.make(lambda: Giver(info=info), 2, backend=how)
    vec.reset()
    infos = [vec.step(np.zeros(2, int))[4] for _ in range(4)]
    vec.close()
    assert infos[0] == infos[1] == infos[3] == {} and sorted(infos[2]) == ["_cost", "cost"]
    assert infos[2]["cost"].tolist() == [2.5, 2.5] and infos[2]["_cost"].all()


def test_evaluation_holds_lengths_and_infos():
    found = played(lambda o: np.zeros(len(o), int), lambda: Giver(info={"is_success": True}), 3, 0)
    assert found.returns.tolist() == [3.0] * 3 and found.lengths.tolist() == [3] * 3
    assert found.figures == [{"is_success": 1.0}] * 3


# --- processes ---


class Sleeper(Giver):
    """Hangs in one of its calls."""

    def __init__(self, call):
        super().__init__()
        self.call = call

    def reset(self, **kwargs):
        time.sleep(60 if self.call == "reset" else 0)
        return super().reset(**kwargs)

    def step(self, action):
        time.sleep(60 if self.call == "step" else 0)
        return super().step(action)


@pytest.mark.parametrize("call", ["reset", "step"])
def test_a_process_that_hangs_is_given_up(call):
    vec = envs.make(Sleeper, 1, backend="process", env_kwargs={"call": call}, step_timeout=2)
    began = time.monotonic()
    with pytest.raises(
        envs.EnvError, match=rf"Environment 0 has not answered {call}\(\).* for 2 seconds.*step_timeout"
    ):
        vec.reset()
        vec.step(np.zeros(1, int))
    assert time.monotonic() - began < 30


class Fragile(Giver):
    """Can be made in the process that asked first, and in no other."""

    made = 0

    def __init__(self):
        super().__init__()
        Fragile.made += 1
        if Fragile.made > 1:
            raise RuntimeError("no licence left")

    def step(self, action):
        raise StopIteration


def test_a_constructor_that_breaks_in_a_process_is_named_and_no_traceback_spills(capfd, recwarn):
    Fragile.made = 0
    vec = envs.make(Fragile, 1, backend="process")
    with pytest.raises(UsageError, match="Fragile.* cannot be made .*RuntimeError: no licence left"):
        vec.reset()
    assert capfd.readouterr() == ("", "") and not len(recwarn)


def test_a_step_that_breaks_in_a_process_spills_no_traceback(capfd, recwarn):
    vec = envs.make(lambda: Giver(answer=lambda o: 1 / 0), 1, backend="process")
    vec.reset()
    vec.step(np.zeros(1, int))
    with pytest.raises(envs.EnvError, match=r"Environment 0 failed in step\(\): ZeroDivisionError: .* at step 1\."):
        vec.step(np.zeros(1, int))
    assert capfd.readouterr() == ("", "") and not len(recwarn)


@pytest.mark.parametrize("error", [AssertionError(), FileNotFoundError("prices.csv"), StopIteration()])
def test_a_constructor_that_breaks_is_named(error):
    class Broken(Giver):
        def __init__(self):
            raise error

    with pytest.raises(UsageError, match=f"env=.*Broken.* cannot be made with env_kwargs=.*{type(error).__name__}"):
        envs.make(Broken, 1)
    with pytest.raises(UsageError, match=f"env=.*Broken.* cannot be made .*{type(error).__name__}"):
        returns(lambda o: o, Broken, 1)


# --- advice ---


class Words(spaces.Space):
    def __init__(self):
        super().__init__((), str)


def test_advice_that_works():
    mixed = spaces.Dict(image=BYTES, words=Words())
    with pytest.raises(UsageError, match="FilterObservation") as refused:
        envs.make(lambda: Giver(space=mixed), 1)
    assert "flatten" not in str(refused.value)
    with pytest.raises(
        UsageError, match=r"'flatten' cannot make a vector of the entries \['words'\].*FilterObservation"
    ):
        envs.make(lambda: Giver(space=mixed), 1, wrappers=["flatten"])
    both = spaces.Tuple([BYTES, spaces.Discrete(3)])
    with pytest.raises(UsageError, match=r"wrappers=\['flatten'\]"):
        envs.make(lambda: Giver(space=both), 1)
    assert envs.make(lambda: Giver(space=both), 1, wrappers=["flatten"]).reset()[0].shape == (1, 5)


def test_more_environments_than_a_machine_can_hold():
    with pytest.raises(UsageError, match=r"num_envs=1000000000000000000 is not allowed; it must be .* in \[1, 65536\]"):
        envs.make("CartPole-v1", 10**18)
