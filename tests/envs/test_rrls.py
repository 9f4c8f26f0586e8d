"""The robust MuJoCo tasks: tables, boxes, and the exact checks that the suite's physics allows."""

from __future__ import annotations

import itertools
import re

import gymnasium
import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot import envs
from surefoot.envs.rrls import TASKS, named_bounds
from surefoot.errors import UsageError

PLANAR = ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "InvertedPendulum-v5"]


def rollout(env: gymnasium.Env, steps: int = 40, params: dict | None = None, seed: int = 0) -> np.ndarray:
    """Observations of a fixed sequence of actions; `params` are set after the reset, and episodes just go on."""
    observation, _ = env.reset(seed=seed)
    if params:
        envs.set_params(env, params)
    space, rng, seen = env.action_space, np.random.default_rng(1), [observation]
    for _ in range(steps):
        seen.append(env.step(rng.uniform(space.low, space.high).astype(np.float32))[0])
    return np.array(seen)


@pytest.fixture(scope="module", params=sorted(TASKS))
def task(request):
    env = envs.make_single(f"rrls/{request.param}")
    yield env
    env.close()


@pytest.fixture(autouse=True)
def nominal(request):
    yield
    if "task" in request.fixturenames:
        request.getfixturevalue("task").get_wrapper_attr("restore")()


def robust(task_id: str, wrappers=(), **kwargs) -> gymnasium.Env:
    return envs.make_single(f"rrls/{task_id}", kwargs, wrappers)


def test_nominal_values_are_those_of_the_stock_model(task):
    params = task.get_wrapper_attr("get_params")()
    for name, value in TASKS[task.get_wrapper_attr("task_id")].nominal.items():
        assert params[name] == pytest.approx(value, abs=1e-6)


SETTABLE = {
    "Ant-v5": [0.327249, *[0.039158, 0.039158, 0.067592] * 4],
    "HalfCheetah-v5": [6.250209, 1.543515, 1.587448, 1.095397, 1.438075, 1.200837, 0.884519],
    "Hopper-v5": [3.665191, 4.057891, 2.781357, 5.315575],
    "Walker2d-v5": [3.665191, *[4.057891, 2.781357, 3.166725] * 2],
    "HumanoidStandup-v5": [
        8.907462,
        2.261947,
        6.616194,
        *[4.751751, 2.755696, 1.767146] * 2,
        *[1.661080, 1.229540] * 2,
    ],
    "InvertedPendulum-v5": [10.471976, 5.018592],
}


def test_every_named_mass_is_the_one_of_its_body(task):
    params = task.get_wrapper_attr("get_params")()
    masses = [value for name, value in params.items() if name.endswith("mass")]
    assert masses == pytest.approx(SETTABLE[task.get_wrapper_attr("task_id")], abs=1e-6)


BODY_NAMES = {
    "Ant-v5": {"torso": "torso", "frontleftleg": "front_left_leg", "frontrightleg": "front_right_leg"}
    | {"backleftleg": "back_leg", "backrightleg": "right_back_leg", "frontrightaux": "aux_2"},
    "HalfCheetah-v5": {"torso": "torso", "backthigh": "bthigh", "backfoot": "bfoot", "frontfoot": "ffoot"},
    "Hopper-v5": {"torso": "torso", "thigh": "thigh", "foot": "foot"},
    "Walker2d-v5": {"torso": "torso", "thigh": "thigh", "leg": "leg", "leftfoot": "foot_left"},
    "HumanoidStandup-v5": {"torso": "torso", "rightfoot": "right_foot", "leftthigh": "left_thigh"}
    | {"rightthigh": "right_thigh", "leftfoot": "left_foot", "leftlowerarm": "left_lower_arm"},
    "InvertedPendulum-v5": {"cart": "cart", "pole": "pole"},
}


def test_names_follow_the_bodies_of_the_model(task):
    task_id = task.get_wrapper_attr("task_id")
    for ours, models in BODY_NAMES[task_id].items():
        assert TASKS[task_id].bodies.index(ours) + 1 == task.unwrapped.model.body(models).id


def test_dimensions_of_the_sets():
    sizes = {t: [len(envs.uncertainty(t, s)) for s in TASKS[t].sets] for t in TASKS}
    assert sizes.pop("InvertedPendulum-v5") == [1, 2]
    assert set(map(tuple, sizes.values())) == {(1, 2, 3)}
    assert {t: len(envs.uncertainty(t, "rarl")) for t in TASKS} == {
        "Ant-v5": 6,
        "HalfCheetah-v5": 6,
        "Hopper-v5": 2,
        "HumanoidStandup-v5": 6,
        "InvertedPendulum-v5": 2,
        "Walker2d-v5": 4,
    }


def test_half_cheetah_friction_bound_is_smaller_in_one_dimension():
    assert envs.uncertainty("HalfCheetah-v5", "1d").bounds["worldfriction"] == (0.1, 3.0)
    assert envs.uncertainty("HalfCheetah-v5", "2d").bounds["worldfriction"] == (0.1, 4.0)


def test_the_suites_grid_is_half_open():
    values = [p["torsomass"] for p in envs.uncertainty("Ant-v5", "1d").grid(kind="rrls")]
    assert values == pytest.approx([0.1, 0.39, 0.68, 0.97, 1.26, 1.55, 1.84, 2.13, 2.42, 2.71])
    sizes = [len(list(envs.uncertainty("Hopper-v5", f"{k}d").grid(kind="rrls"))) for k in (1, 2, 3)]
    assert sizes == [10, 100, 1000]
    assert max(values) < 3.0


def test_the_closed_grid_has_both_bounds():
    grid = list(envs.uncertainty("Hopper-v5", "2d").grid(points=3))
    expected = list(itertools.product([0.1, 1.55, 3.0], repeat=2))
    assert np.array([list(p.values()) for p in grid]) == pytest.approx(np.array(expected))


def test_a_grid_is_lazy():
    box = envs.UncertaintyBox({str(i): (0.0, 1.0) for i in range(5)}, {str(i): 0.0 for i in range(5)})
    assert next(box.grid(points=100)) == {str(i): 0.0 for i in range(5)}  # of ten thousand million


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3))
def test_scaled_stays_in_the_box_and_is_affine(unit):
    box = envs.uncertainty("Walker2d-v5", "3d")
    values = np.array(list(box.scaled(unit).values()))
    assert (values >= box.low - 1e-12).all() and (values <= box.high + 1e-12).all()
    assert values == pytest.approx((1 - np.array(unit)) / 2 * box.low + (1 + np.array(unit)) / 2 * box.high)


def test_scaled_known_numbers():
    box = envs.uncertainty("HalfCheetah-v5", "2d")
    assert box.scaled([0.5, -0.25]) == pytest.approx({"worldfriction": 3.025, "torsomass": 2.6875})
    assert list(box.scaled([-1, -1]).values()) == pytest.approx(box.low)
    assert list(box.scaled([1, 1]).values()) == pytest.approx(box.high)


def test_samples_are_uniform_and_seeded():
    box = envs.uncertainty("Hopper-v5", "3d")
    drawn = np.array([list(box.sample(rng).values()) for rng in [np.random.default_rng(0)] for _ in range(4000)])
    assert (drawn >= box.low).all() and (drawn <= box.high).all()
    assert drawn.mean(0) == pytest.approx((box.low + box.high) / 2, rel=0.03)
    assert drawn.std(0) == pytest.approx((box.high - box.low) / np.sqrt(12), rel=0.03)
    assert box.sample(np.random.default_rng(7)) == box.sample(np.random.default_rng(7))


@pytest.mark.parametrize(("task_id", "foot"), [("Hopper-v5", 2.0), ("Walker2d-v5", 1.9)])
def test_floor_friction_below_the_foots_own_changes_nothing(task_id, foot):
    env = robust(task_id)
    base = rollout(env, 60)
    for friction in (0.1, 0.5, 0.7, 1.0, foot):
        assert np.array_equal(rollout(env, 60, {"worldfriction": friction}), base), friction
    assert not np.array_equal(rollout(env, 60, {"worldfriction": 3.0}), base)


@pytest.mark.parametrize("task_id", ["Hopper-v5", "Walker2d-v5"])
def test_friction_of_all_geoms_acts_below_the_foots_own(task_id):
    env = robust(task_id, friction_mode="all_geoms")
    base = rollout(env, 60)
    assert not np.array_equal(rollout(env, 60, {"worldfriction": 0.3}), base)
    env.get_wrapper_attr("restore")()
    assert np.array_equal(rollout(env, 60), base)


def test_half_cheetah_friction_reaches_every_geom():
    env = robust("HalfCheetah-v5")
    envs.set_params(env, {"worldfriction": 2.5})
    assert (env.unwrapped.model.geom_friction[:, 0] == 2.5).all()


@pytest.mark.parametrize("task_id", sorted(TASKS))
def test_sideways_forces_are_inert_in_planar_tasks_only(task_id):
    env = robust(task_id)
    body = TASKS[task_id].pushed[-1]
    base = rollout(env, 12)
    acts = {axis: not np.array_equal(rollout(env, 12, {f"{body}force_{axis}": 3.0}), base) for axis in "xyz"}
    assert acts == {"x": True, "y": task_id not in PLANAR, "z": True}


def test_the_xz_force_set_leaves_the_inert_axis_out():
    assert list(envs.uncertainty("Hopper-v5", "rarl").bounds) == ["footforce_x", "footforce_y"]
    box = envs.uncertainty("Hopper-v5", "rarl", force_axes="xz", force=5.0)
    assert box.bounds == {"footforce_x": (-5.0, 5.0), "footforce_z": (-5.0, 5.0)}
    assert box.nominal == {"footforce_x": 0.0, "footforce_z": 0.0}


def test_named_bounds_of_the_grammar():
    assert named_bounds("Hopper-v5") == named_bounds("Hopper-v5", "2d") == envs.uncertainty("Hopper-v5", "2d").bounds
    every = named_bounds("rrls/Hopper-v5", "2d,friction_mode=all_geoms")
    assert every == {"allfriction": (0.1, 3.0), "torsomass": (0.1, 3.0)}
    assert named_bounds("Hopper-v5", "1d, friction_mode=floor") == {"worldfriction": (0.1, 3.0)}
    assert list(named_bounds("Hopper-v5", "rarl")) == ["footforce_x"]
    assert list(named_bounds("Hopper-v5", "rarl,force_axes=xz")) == ["footforce_x", "footforce_z"]
    assert list(named_bounds("Hopper-v5", "rarl,force_axes=xy")) == ["footforce_x", "footforce_y"]
    assert [task for task in TASKS if len(named_bounds(task, "rarl")) < len(envs.uncertainty(task, "rarl"))] == [
        task for task in TASKS if task in PLANAR
    ]
    for text, words in (
        ("2d,friction_mode=all", "friction_mode=floor|all_geoms"),
        ("rarl,friction_mode=floor", "force_axes=xy|xz"),
        ("2d,force_axes=xz", "force_axes=xz is not allowed"),
        ("9d", "9d"),
    ):
        with pytest.raises(UsageError, match=re.escape(words)):
            named_bounds("Hopper-v5", text)
    with pytest.raises(UsageError, match="no friction"):
        named_bounds("Ant-v5", "2d,friction_mode=all_geoms")


def test_allfriction_reaches_every_geom_whatever_the_mode():
    env = robust("Hopper-v5")
    base = rollout(env, 60)
    assert not np.array_equal(rollout(env, 60, {"allfriction": 0.3}), base)
    assert (env.unwrapped.model.geom_friction[:, 0] == 0.3).all()
    env.get_wrapper_attr("restore")()
    assert np.array_equal(rollout(env, 60), base)


@pytest.mark.parametrize("recompute", [False, True])
def test_what_mujoco_derives_from_masses_is_stale_as_published_or_computed_anew(recompute):
    env = robust("HumanoidStandup-v5", recompute=recompute)
    model, stock = env.unwrapped.model, envs.make_single("HumanoidStandup-v5").unwrapped.model
    names = ("body_subtreemass", "body_invweight0", "dof_invweight0")
    before = {name: getattr(model, name).copy() for name in names}
    envs.set_params(env, {"torsomass": 16.0, "rightfootmass": 4.0})
    assert (model.body_subtreemass[0] == pytest.approx(model.body_mass.sum())) == recompute
    stock.body_mass[:] = model.body_mass
    mujoco.mj_setConst(stock, mujoco.MjData(stock))
    for name in names:
        expected = getattr(stock, name) if recompute else before[name]
        np.testing.assert_array_equal(getattr(model, name), expected, err_msg=name)
    env.get_wrapper_attr("restore")()
    assert all(np.array_equal(getattr(model, name), array) for name, array in before.items())


def test_a_reset_erases_forces_and_keeps_masses():
    env = robust("Hopper-v5")
    base = rollout(env)
    envs.set_params(env, {"footforce_x": 3.0})
    assert np.array_equal(rollout(env), base)
    envs.set_params(env, {"torsomass": 1.0})
    assert not np.array_equal(rollout(env), base)
    assert env.get_wrapper_attr("get_params")()["torsomass"] == 1.0


def test_reset_options_set_parameters_and_forces():
    env = robust("Hopper-v5")
    _, info = env.reset(seed=0, options={"torsomass": 2.0, "footforce_x": 1.5})
    assert (info["params"]["torsomass"], info["params"]["footforce_x"]) == (2.0, 1.5)
    assert env.unwrapped.data.xfrc_applied[4, 0] == 1.5
    info = env.step(env.action_space.sample())[-1]
    assert (info["params"]["torsomass"], info["params"]["footforce_x"]) == (2.0, 1.5)
    _, info = env.reset()
    assert (info["params"]["torsomass"], info["params"]["footforce_x"]) == (2.0, 0.0)


def test_none_keeps_the_current_value():
    env = robust("Hopper-v5")
    env.get_wrapper_attr("set_params")(torsomass=2.0)
    env.get_wrapper_attr("set_params")(torsomass=None, thighmass=1.0)
    params = env.get_wrapper_attr("get_params")()
    assert (params["torsomass"], params["thighmass"]) == (2.0, 1.0)


def test_restore_gives_back_every_bit(task):
    model, wrapper = task.unwrapped.model, task
    before, base = (model.body_mass.copy(), model.geom_friction.copy()), rollout(task, 10)
    names = wrapper.get_wrapper_attr("names")
    envs.set_params(task, dict.fromkeys(names, 1.7))
    assert not np.array_equal(model.body_mass, before[0])
    wrapper.get_wrapper_attr("restore")()
    assert np.array_equal(model.body_mass, before[0]) and np.array_equal(model.geom_friction, before[1])
    assert np.array_equal(rollout(task, 10), base)


def test_compatible_defaults_swap_the_pendulum():
    params = robust("InvertedPendulum-v5", rrls_compat=True).get_wrapper_attr("get_params")()
    assert (params["polemass"], params["cartmass"]) == (10.471976, 5.018592)
    assert robust("Hopper-v5", rrls_compat=True).get_wrapper_attr("get_params")()["worldfriction"] == 0.7


def test_an_untouched_robust_task_is_the_stock_task(task):
    stock = gymnasium.make(task.get_wrapper_attr("task_id"), disable_env_checker=True)
    assert np.array_equal(rollout(task, 20), rollout(stock, 20))


def test_the_time_limit_is_the_stock_one(task):
    assert task.get_wrapper_attr("_max_episode_steps") == 1000


@pytest.mark.parametrize(
    ("params", "words"),
    [({"torsomas": 1.0}, "'torsomass'"), ({"torsomass": 0.0}, "above 0"), ({"worldfriction": float("nan")}, "finite")],
)
def test_wrong_parameters_are_refused_before_anything_is_set(params, words):
    env = robust("Hopper-v5")
    with pytest.raises(UsageError, match=words):
        envs.set_params(env, {"thighmass": 1.0, **params})
    assert env.get_wrapper_attr("get_params")()["thighmass"] == pytest.approx(4.057891, abs=1e-6)


def test_set_params_reaches_a_vector_environment():
    vec = envs.make("rrls/Hopper-v5", 2, wrappers=["flatten"])
    envs.set_params(vec, {"torsomass": 2.0})
    assert [p["torsomass"] for p in vec.call("get_params")] == [2.0, 2.0]
    envs.set_params(vec, [{"torsomass": 1.0}, {"thighmass": 3.0}])
    assert [(p["torsomass"], round(p["thighmass"], 3)) for p in vec.call("get_params")] == [(1.0, 4.058), (2.0, 3.0)]
    workers = envs.make("rrls/Hopper-v5", 2, backend="process")
    envs.set_params(workers, {"torsomass": 2.0})
    assert [p["torsomass"] for p in workers.call("get_params")] == [2.0, 2.0]
    with pytest.raises(UsageError, match="backend='gymnasium'"):
        envs.set_params(workers, [{"torsomass": 1.0}, {"torsomass": 3.0}])
    workers.close()
    with pytest.raises(UsageError, match="rrls/"):
        envs.set_params(envs.make("CartPole-v1", 2, backend="gymnasium"), {"torsomass": 2.0})


def test_unknown_tasks_and_sets_are_refused():
    with pytest.raises(UsageError, match="'Hopper-v5'"):
        envs.uncertainty("Hoper-v5")
    with pytest.raises(UsageError, match="3d"):
        envs.uncertainty("InvertedPendulum-v5", "3d")
    with pytest.raises(UsageError, match="closed"):
        envs.uncertainty("Hopper-v5").grid(kind="open")
    with pytest.raises(UsageError, match="at least 2"):
        envs.uncertainty("Hopper-v5").grid(points=1)
    with pytest.raises(UsageError, match="all_geoms"):
        robust("Hopper-v5", friction_mode="ground")
    with pytest.raises(UsageError, match="low <= high"):
        envs.UncertaintyBox({"a": (1.0, 0.0)}, {"a": 0.0})


def test_domain_randomization_is_seeded_and_constant_within_an_episode():
    env = robust("Hopper-v5", [("domain_randomization", {"set": "3d"})])
    names = list(TASKS["Hopper-v5"].sets["3d"])

    def drawn(info):
        return [info["params"][name] for name in names]

    first, second = drawn(env.reset(seed=3)[1]), drawn(env.reset()[1])
    assert drawn(env.step(env.action_space.sample())[-1]) == second != first
    assert (drawn(env.reset(seed=3)[1]), drawn(env.reset()[1])) == (first, second)
    assert drawn(env.reset(seed=4)[1]) != first
    box = envs.uncertainty("Hopper-v5", "3d")
    assert ((box.low <= np.array([first, second])) & (np.array([first, second]) <= box.high)).all()
    assert np.array_equal(env.reset(seed=3)[0], gymnasium.make("Hopper-v5").reset(seed=3)[0])  # the task's own draws


def test_dynamic_adversary_sets_the_box_every_step_and_a_reset_restores():
    env = robust("HalfCheetah-v5", [("dynamic_adversary", {"set": "2d"})])
    assert env.action_space.shape == (8,)
    env.reset(seed=0)
    for unit, expected in (([0.5, -0.25], (3.025, 2.6875)), ([-1, 1], (0.1, 7.0)), ([0, 0], (2.05, 3.55))):
        _, reward, _, _, info = env.step(np.array([*np.zeros(6), *unit], np.float32))
        assert (info["params"]["worldfriction"], info["params"]["torsomass"]) == pytest.approx(expected)
        assert info["adversarial_reward"] == -reward
    params = env.reset(seed=0)[1]["params"]
    assert (params["worldfriction"], params["torsomass"]) == pytest.approx((0.4, 6.250209), abs=1e-6)


@pytest.mark.parametrize("mode", ["mix", "probability"])
@pytest.mark.parametrize(("alpha", "heard"), [(0.0, 0), (1.0, 1)])
def test_action_adversary_at_its_two_ends(mode, alpha, heard):
    env = robust("Hopper-v5", [("action_adversary", {"alpha": alpha, "mode": mode})])
    stock, rng = gymnasium.make("Hopper-v5", disable_env_checker=True), np.random.default_rng(0)
    env.reset(seed=0), stock.reset(seed=0)
    for _ in range(15):
        parts = rng.uniform(-1, 1, (2, 3)).astype(np.float32)
        theirs = stock.step(parts[heard])
        ours = env.step(parts.ravel())
        assert np.array_equal(ours[0], theirs[0]) and ours[1] == theirs[1]


def test_action_adversary_shares():
    class Echo(gymnasium.Env):
        observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(1, np.float32), {}

        def step(self, action):
            return np.asarray(action), 0.0, False, False, {}

    mixed = envs.ProbabilisticActionRobust(Echo(), alpha=0.25)
    mixed.reset(seed=0)
    assert mixed.step(np.array([1.0, -1.0]))[0] == pytest.approx([0.5])
    drawn = envs.ProbabilisticActionRobust(Echo(), alpha=0.25, mode="probability")
    drawn.reset(seed=0)
    heard = [drawn.step(np.array([1.0, -1.0]))[0][0] for _ in range(4000)]
    assert set(heard) == {1.0, -1.0} and np.mean(np.array(heard) < 0) == pytest.approx(0.25, abs=0.03)


def test_robust_wrappers_refuse_what_they_cannot_wrap():
    with pytest.raises(UsageError, match="not a robust task"):
        envs.make_single("CartPole-v1", wrappers=["domain_randomization"])
    with pytest.raises(UsageError, match="continuous"):
        envs.make_single("CartPole-v1", wrappers=["action_adversary"])
    with pytest.raises(UsageError, match="alpha"):
        envs.make_single("Hopper-v5", wrappers=[("action_adversary", {"alpha": 2})])
