"""What each perturbation does, by hand, and what the grammar refuses."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from surefoot.envs import make_single
from surefoot.envs.rrls import uncertainty
from surefoot.errors import UsageError
from surefoot.perturbations import (
    Composition,
    Interval,
    ObservationNoise,
    Parameters,
    Perturbation,
    parameters,
    parse,
    register,
)


class Echo(gymnasium.Env):
    """Observation: the time. Remembers what was executed. Reward: 1."""

    def __init__(self, continuous: bool = True):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
        box = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float64)
        self.action_space = box if continuous else gymnasium.spaces.Discrete(3, start=5)
        self.executed: list[float] = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.executed.clear()
        return np.zeros(1), {}

    def step(self, action):
        self.executed.append(np.asarray(action).item())
        return np.array([float(len(self.executed))]), 1.0, False, False, {}


def run(text: str, actions: list, continuous: bool = True):
    """Observations (the first from the reset), executed actions and rewards."""
    echo = Echo(continuous)
    env = parse(text).wrap(echo)
    seen, paid = [env.reset(seed=0)[0].item()], []
    for action in actions:
        observation, reward, *_ = env.step(np.array([action]) if continuous else action)
        seen.append(observation.item())
        paid.append(reward)
    return seen, echo.executed, paid


def test_delays_by_hand():
    assert run("observation-delay:2", [0.0] * 4)[0] == [0, 0, 0, 1, 2]
    assert run("action-delay:2", [0.1, 0.2, 0.3, 0.4])[1] == [0, 0, 0.1, 0.2]
    assert run("action-delay:1", [6, 7, 6], continuous=False)[1] == [5, 6, 7]


def test_actions_by_hand():
    assert run("action-scale:0.5", [1.0, -0.5])[1] == [0.5, -0.25]
    assert run("action-scale:3", [0.2, 0.9])[1] == pytest.approx([0.6, 1.0])  # the box is kept
    assert run("action-scale:3", [2.0])[1] == [2.0]  # but never narrower than the policy's own action
    assert run("sticky-action:1", [0.1, 0.2, 0.3])[1] == [0.1, 0.1, 0.1]
    executed = run("action-random:1", [6] * 300, continuous=False)[1]
    assert sorted(set(executed)) == [5, 6, 7]
    executed = run("sticky-action:0.25", np.arange(4000) / 4000)[1]
    assert np.mean(np.diff(executed) == 0) == pytest.approx(0.25, abs=0.02)


def test_rewards_by_hand():
    assert run("reward-shift:-0.5", [0.0])[2] == [0.5]
    assert run("reward-flip:1", [0.0, 0.0])[2] == [-1, -1]
    assert np.mean(run("reward-flip:0.3", [0.0] * 3000)[2]) == pytest.approx(1 - 2 * 0.3, abs=0.05)
    noise = np.array(run("reward-noise:0.5", [0.0] * 3000)[2]) - 1
    assert [noise.mean(), noise.std()] == pytest.approx([0, 0.5], abs=0.03)


def test_observations_by_hand():
    assert run("observation-dropout:1", [0.0, 0.0])[0] == [0, 0, 0]
    noise = np.array(run("observation-noise:0.5", [0.0] * 3000)[0]) - np.arange(3001)
    assert [noise.mean(), noise.std()] == pytest.approx([0, 0.5], abs=0.03)


def test_strengths_of_one_kind_meet_the_same_noise():
    time = np.arange(6)
    weak, strong = (np.array(run(f"observation-noise:{s}", [0.0] * 5)[0]) - time for s in (0.1, 0.3))
    np.testing.assert_allclose(strong, 3 * weak, rtol=1e-12)


def test_two_of_one_kind_draw_different_noise():
    once = np.array(run("observation-noise:0.1", [0.0] * 5)[0]) - np.arange(6)
    twice = np.array(run("observation-noise:0.1 + observation-noise:0.1", [0.0] * 5)[0]) - np.arange(6)
    assert not np.allclose(twice, 2 * once)


def test_cartpole_parameters_reach_the_derived_ones():
    single = make_single("CartPole-v1")
    env = parse("param:length=2,masspole=0.3").wrap(single)
    env.reset(seed=0)
    inner = single.unwrapped
    assert (inner.length, inner.masspole) == (2, 0.3)
    assert inner.total_mass == 0.3 + inner.masscart
    assert inner.polemass_length == 0.3 * 2
    env.close()
    assert (inner.total_mass, inner.polemass_length) == (1.1, 0.05)
    assert {"gravity", "length", "masscart", "masspole", "force_mag"} <= set(parameters(single))
    assert "polemass_length" not in parameters(single)


class Corridor(gymnasium.Env):
    """`size` steps long."""

    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Discrete(2)

    def __init__(self):
        self.size, self.slope, self.walled = 3, 0.5, True

    def reset(self, *, seed=None, options=None):
        self.left = list(range(self.size))
        return np.zeros(1, np.float32), {}


def test_a_whole_number_stays_one():
    inner, lengths = Corridor(), []
    sweep = parse("param:size=2..5,slope=0..1")
    sweep.check_env(inner)
    for cell in sweep.fitted(inner).grid(3):
        env = cell.perturbation.wrap(inner)
        env.reset(seed=0)
        lengths.append((len(inner.left), inner.slope))
        env.close()
    assert lengths == [(size, slope) for size in (2, 4, 5) for slope in (0, 0.5, 1)]
    assert [dict(cell.coordinates)["size"] for cell in parse("param:size=2..4").fitted(inner).grid(5)] == [2, 3, 4]
    env = parse("param:size=2..4 + observation-noise:0").wrap(inner)
    drawn = [len(inner.left) for _ in range(200) if env.reset()]
    assert {size: drawn.count(size) > 40 for size in (2, 3, 4)} == {2: True, 3: True, 4: True}
    env.close()
    assert (inner.size, inner.slope) == (3, 0.5)
    assert "walled" not in parameters(inner)
    with pytest.raises(UsageError, match="size is a whole number"):
        parse("param:size=2..2.5").check_env(inner)
    with pytest.raises(UsageError, match="size is a whole number .*so size=2.4 would be rounded; give whole numbers"):
        parse("param:size=2.4").check_env(inner)


def test_where_some_actions_are_forbidden_none_is_put_in_the_place_of_the_policys():
    env = make_single("surefoot/MaskedAction-v0")
    for text in ("action-random:0.5", "sticky-action:0.5", "action-delay:1"):
        with pytest.raises(UsageError, match=f"{text} executes actions that the policy did not choose, but .*param:"):
            parse(text).wrap(env)


def test_what_is_allowed_is_known_at_once_under_delay():
    late = parse("observation-delay:2")
    memory, seen, space = [], [], gymnasium.spaces.Dict()
    for t in range(4):
        seen.append(
            late.observe({"x": np.array([t]), "action_mask": np.array([t, 9])}, space, np.random.default_rng(0), memory)
        )
    assert [int(o["x"][0]) for o in seen] == [0, 0, 0, 1] and [int(o["action_mask"][0]) for o in seen] == [0, 1, 2, 3]


def test_parameters_of_a_robust_task_and_the_rarl_forces():
    single = make_single("rrls/Hopper-v5")
    env = parse("param:torsomass=1.5,footforce_x=2").wrap(single)
    env.reset(seed=0)
    model, data = single.unwrapped.model, single.unwrapped.data
    assert model.body_mass[1] == 1.5
    assert data.xfrc_applied[4].tolist() == [2, 0, 0, 0, 0, 0]


def test_friction_of_all_geoms_is_restored_one_by_one():
    single = make_single("rrls/Hopper-v5", {"friction_mode": "all_geoms"})
    before = single.unwrapped.model.geom_friction.copy()
    assert len(set(before[:, 0])) > 1
    env = parse("param:worldfriction=0.5").wrap(single)
    env.reset(seed=0)
    assert set(single.unwrapped.model.geom_friction[:, 0]) == {0.5}
    env.close()
    np.testing.assert_array_equal(single.unwrapped.model.geom_friction, before)


def test_force_keeps_its_size_and_its_plane():
    single = make_single("rrls/Hopper-v5")
    env, body = parse("force:3").wrap(single), single.unwrapped.model.body("torso").id
    forces = []
    for seed in range(5):
        env.reset(seed=seed)
        forces.append(single.unwrapped.data.xfrc_applied[body, :3].copy())
    np.testing.assert_allclose(np.linalg.norm(forces, axis=1), 3)
    assert (np.array(forces)[:, 1] == 0).all()
    assert len({f.tobytes() for f in forces}) == 5
    parse("force:2,body=foot,along=-z").wrap(single).reset(seed=0)
    assert single.unwrapped.data.xfrc_applied[single.unwrapped.model.body("foot").id, :3].tolist() == [0, 0, -2]


def test_box_of_an_environment():
    perturbation = parse("rrls:2d", boxes={"rrls": lambda name: uncertainty("Hopper-v5", name).bounds})
    assert str(perturbation) == "param:worldfriction=0.1..3,torsomass=0.1..3"
    assert len(perturbation.grid(10)) == 100
    assert perturbation.grid(2)[-1].coordinates == (("worldfriction", 3.0), ("torsomass", 3.0))
    published = [cell.coordinates[1][1] for cell in perturbation.grid(10, "rrls")[:10]]
    np.testing.assert_allclose(published, [0.1, 0.39, 0.68, 0.97, 1.26, 1.55, 1.84, 2.13, 2.42, 2.71])


def test_grid_of_a_composition_is_the_product_with_names_of_its_own():
    cells = parse("observation-noise:0..1 + observation-noise:2,law=l2 + action-delay:0..3").grid(3)
    assert len(cells) == 27
    assert cells[-1].coordinates == (("observation-noise#1", 1), ("observation-noise#2", 2), ("action-delay", 3))
    assert [c.coordinates[2][1] for c in cells[:3]] == [0, 2, 3]  # whole steps: 1.5 rounds to 2
    assert cells[-1].label == "observation-noise#1=1, observation-noise#2=2, action-delay=3"


def test_whole_strengths_round_halves_upwards():
    assert [c.coordinates[0][1] for c in parse("action-delay:0..5").grid(3)] == [0, 3, 5]
    assert [c.coordinates[0][1] for c in parse("action-delay:0..3").grid(7)] == [0, 1, 2, 3]
    assert [c.coordinates[0][1] for c in parse("param:size=0..5").fitted(Corridor()).grid(3)] == [0, 3, 5]


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 5.0])
def test_gaussian_noise_on_whole_numbers_keeps_its_deviation(sigma):
    """Rounding adds the variance of a uniform error, 1/12; of half a unit's noise, exactly what the integral gives."""
    batch = np.full((100_000, 1), 100, np.uint8)
    moved = parse(f"observation-noise:{sigma}").on_batch(batch, np.random.default_rng(0)).astype(float) - 100
    steps = np.arange(-40, 41)
    share = norm.cdf((steps + 0.5) / sigma) - norm.cdf((steps - 0.5) / sigma)
    assert moved.std() == pytest.approx(np.sqrt(share @ steps**2), rel=0.02)
    assert moved.std() == pytest.approx(np.sqrt(sigma**2 + 1 / 12), rel=0.02)
    assert moved.mean() == pytest.approx(0, abs=0.02 * sigma)


def test_truth_values_are_flipped_by_noise_and_stay_truth_values():
    batch = np.tile([True, False], (20_000, 1))
    moved = parse("observation-noise:1").on_batch(batch, np.random.default_rng(0))
    assert moved.dtype == bool
    assert (moved != batch).mean(0) == pytest.approx(norm.cdf(-0.5), abs=0.01)


class Seen(gymnasium.Env):
    """Shows the same again and again, in a Dict: two boxes, one of which is whole numbers, a category and a mask."""

    action_space = gymnasium.spaces.Discrete(3)
    observation_space = gymnasium.spaces.Dict(
        position=gymnasium.spaces.Box(-9, 9, (2,)),
        pixels=gymnasium.spaces.Box(0, 255, (2, 2), np.uint8),
        kind=gymnasium.spaces.Discrete(4),
        action_mask=gymnasium.spaces.Box(0, 1, (3,), np.int8),
    )

    def _see(self):
        seen = {"position": [1, 2], "pixels": np.full((2, 2), 100, np.uint8), "kind": np.int64(3)}
        return {**seen, "action_mask": np.array([1, 0, 1], np.int8)}

    def reset(self, *, seed=None, options=None):
        return self._see(), {}

    def step(self, action):
        return self._see(), 0.0, False, False, {}


@pytest.mark.parametrize(("text", "changed"), [("", {"position", "pixels"}), ("position", {"position"})])
@pytest.mark.parametrize("name", ["observation-noise:3", "observation-dropout:1"])
def test_the_boxes_of_a_dict_are_perturbed_and_the_mask_is_not(name, text, changed):
    env = parse(f"{name},keys={text}" if text else name).wrap(Seen())
    plain, _ = Seen().reset()
    for seen in (env.reset(seed=0)[0], env.step(0)[0]):
        assert {key for key in plain if not np.array_equal(seen[key], plain[key])} == changed
        if "dropout" in name:
            assert all((np.asarray(seen[key]) == 0).all() for key in changed)
        assert list(seen) == list(plain)
        assert np.asarray(seen["position"]).dtype == (np.float32 if changed else np.int64)


def test_keys_take_several_and_refuse_what_is_no_box():
    assert parse("observation-noise:0.1,keys=pixels/position").wrap(Seen())
    assert parse(str(parse("observation-noise:0.1,keys=pixels/position"))).keys == "pixels/position"
    for key in ("kind", "action_mask", "positions"):
        with pytest.raises(UsageError, match=f"'{key}' is no Box entry .*'?position"):
            parse(f"observation-noise:0.1,keys={key}").wrap(Seen())
    with pytest.raises(UsageError, match="'x' is no Box entry"):
        parse("observation-noise:0.1,keys=x").wrap(Echo())


def test_whole_numbers_in_a_box_of_floats_get_noise_in_full():
    class Counts(Echo):
        def step(self, action):
            return [7], 1.0, False, False, {}

    env = parse("observation-noise:0.1").wrap(Counts())
    env.reset(seed=0)
    seen = np.array([env.step(np.zeros(1))[0].item() for _ in range(2000)])
    assert [seen.mean() - 7, seen.std()] == pytest.approx([0, 0.1], abs=0.01)


def test_pluses_need_no_blanks_and_numbers_may_end_with_a_point():
    both = parse("observation-noise:0.1 + action-delay:1")
    for text in ("observation-noise:0.1+action-delay:1", "observation-noise:.1 +action-delay:1."):
        assert parse(text) == both
    assert parse("observation-noise:1e+1").strength == 10
    for text, ends in ((".5..1.", (0.5, 1)), ("0...5", (0, 0.5)), ("1..2", (1, 2)), ("1...5e1", (1, 5))):
        assert parse(f"observation-noise:{text}").strength == Interval(*ends)


def test_grammar_reads_what_it_should():
    assert parse("observation-noise:.5,law=l2") == ObservationNoise(0.5, "l2")
    assert parse("observation-noise:1e-3..5e-1").strength == Interval(1e-3, 0.5)
    assert parse("param:x=-1..-0.5,y=3") == Parameters.of({"x": (-1.0, -0.5), "y": 3.0})
    assert isinstance(parse("reward-flip:0.1 + force:1,along=-x"), Composition)


@settings(deadline=None)
@given(st.floats(0, 1e12), st.floats(0, 1e12))
def test_any_strength_prints_as_itself(a, b):
    for strength in (a, Interval(min(a, b), max(a, b))):
        assert parse(str(ObservationNoise(strength))) == ObservationNoise(strength)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("observation-nose:0.1", "observation-noise"),
        ("", "observation-noise"),
        ("rrls:2d", "stress"),
        ("observation-noise:-1", "strength"),
        ("observation-noise:-1..1", "strength"),
        ("observation-noise:2..1", "low <= high"),
        ("observation-noise:0.3..0", r"'observation-noise:0.3..0': the range 0.3..0 .* low <= high: 0..0.3"),
        ("observation-noise:0.1 + ", "a plus sign without a perturbation"),
        ("observation-noise:0.1 +", "a plus sign without a perturbation"),
        ("+ observation-noise:0.1", "a plus sign without a perturbation"),
        ("observation-noise:0.1 + + action-delay:1", "a plus sign without a perturbation"),
        ("observation-noise:nan", "finite"),
        ("observation-noise:1,lw=l2", "law"),
        ("observation-noise:1,law=l3", "linf"),
        ("observation-noise:1,l2,3", "too many"),
        ("observation-noise:1,strength=2", "twice"),
        ("observation-noise:law=l2,1", "before"),
        ("action-delay:1.5", "whole"),
        ("action-delay:0.5..2", "whole"),
        ("reward-shift:much", "finite"),
        ("param:length", "param:name=value"),
        ("param", "at least one"),
        ("param:a=1,a=2", "twice"),
        ("param:a=1..", "number or a range"),
        ("force:1,along=xx", "along"),
    ],
)
def test_grammar_refuses(text, match):
    with pytest.raises(UsageError, match=match):
        parse(text)


@pytest.mark.parametrize(
    ("text", "env", "match"),
    [
        ("action-noise:0.1", "CartPole-v1", "action-random"),
        ("action-scale:0.1", "CartPole-v1", "Box action"),
        ("param:lenght=1", "CartPole-v1", "length"),
        ("param:torsomas=1", "rrls/Hopper-v5", "torsomass"),
        ("force:1", "CartPole-v1", "MuJoCo"),
        ("force:1,body=tors", "rrls/Hopper-v5", "torso"),
        ("force:1,body=3", "rrls/Hopper-v5", "body=3.0 is not allowed; it must be a string"),
        ("observation-noise:1", "FrozenLake-v1", "Box observation"),
        ("observation-noise:1,keys=vektor", "surefoot/DictContext-v0", "vector"),
        ("action-delay:1 + action-noise:1", "CartPole-v1", "action-random"),
    ],
)
def test_what_does_not_fit_the_environment_is_refused_at_once(text, env, match):
    with pytest.raises(UsageError, match=match):
        parse(text).wrap(make_single(env))


@pytest.mark.parametrize(("points", "grid"), [(1, "closed"), (0, "rrls"), (2.5, "closed"), (3, "open")])
def test_grid_refuses(points, grid):
    with pytest.raises(UsageError, match="grid"):
        parse("observation-noise:1").grid(points, grid)


def test_a_name_is_taken_once():
    class Other(Perturbation):
        name = "force"

    with pytest.raises(UsageError, match="exists"):
        register(Other)
