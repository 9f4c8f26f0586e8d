"""The audit: planted weaknesses are found and nothing else, cells are those of stress, ratings and verdicts by hand."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import re
import shlex

import gymnasium
import numpy as np
import pytest

import surefoot as sf
from surefoot import cli
from surefoot.evaluate.audit import Result, Verdict, audit, requirements
from surefoot.evaluate.battery import FAMILIES, SWEEPS, Cell, pinned, sweeps
from surefoot.evaluate.statistics import ConfidenceInterval
from surefoot.perturbations import parse

STEPS = 20


class Track(gymnasium.Env):
    """Observes the time, pays about 1 a step for 20 steps, and ends early at a friction above 2 or, if `picky`, when an
    action, which should be the time observed, is two steps old."""

    observation_space = gymnasium.spaces.Box(0, 100, (1,), np.float64)
    action_space = gymnasium.spaces.Box(0, 100, (1,), np.float64)

    def __init__(self, friction: float = 1.5, picky: bool = False):
        self.friction, self.picky = friction, picky

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.pay = 0, 0.9 + 0.2 * self.np_random.random()
        return np.zeros(1), {}

    def step(self, action):
        late = self.picky and self.time - action[0] >= 2
        self.time += 1
        over = bool(late or self.friction > 2)
        return np.array([float(self.time)]), self.pay, over, self.time >= STEPS, {}


class Picky(Track):
    def __init__(self, friction: float = 1.5):
        super().__init__(friction, picky=True)


def blind(observations):
    return np.zeros_like(observations)


def echo(observations):
    return observations.copy()


def lazy(observations):
    return (observations[:, 2] > 0).astype(np.int64)


def torques(observations):
    return np.clip(-observations[:, 2:], -2, 2)


@pytest.fixture(scope="module")
def blinded():
    return audit(blind, Track, episodes=3)


@pytest.fixture(scope="module")
def late():
    return audit(echo, Picky, families=["timing", "physics"], episodes=3)


# --- planted weaknesses -------------------------------------------------------------------------------------------


def test_a_policy_that_ignores_its_observation_is_harmed_by_no_sensor(blinded):
    sensors = [i for i, cell in enumerate(blinded.cells) if cell.family == "sensors"]
    assert len(sensors) == 15 and blinded.unchanged[sensors].all()
    assert blinded.families["sensors"].rating == "holds" and blinded.families["sensors"].interval == (1, 1)
    assert "sensors: no cell changed the return of any episode." in blinded.table()
    assert blinded.passed("sensors=1,timing=1,action=1") and not blinded.passed("physics=0.5")


def test_a_fall_at_a_friction_above_two_is_found_and_nothing_else(blinded):
    assert {name: one.rating for name, one in blinded.families.items()} == {
        "sensors": "holds", "actuators": "holds", "timing": "holds", "physics": "falls", "adversarial": "holds"
    }  # fmt: skip
    assert {c.sweep for c in blinded.cells if c.family == "physics"} == {"param:friction=0.75..3"}
    shares = [share for cell, (share, _) in zip(blinded.cells, blinded.kept) if cell.name == "friction"]
    np.testing.assert_allclose(shares, [1, 1, 1, 1 / STEPS, 1 / STEPS])
    assert blinded.lost_from("param:friction=0.75..3") == ">= 2.438"
    assert blinded.worst.cell.at[0] > 2
    lost = {cell.sweep for cell in blinded.cells if blinded.lost_from(cell.sweep)}
    assert lost == {"param:friction=0.75..3"}


def test_a_failure_at_a_delay_of_two_is_found_and_nothing_else(late):
    found = {cell.name: late.lost_from(cell.sweep) for cell in late.cells if cell.name != "friction"}
    assert [found[name] for name in ("action-delay", "observation-delay")] == [">= 2", ">= 2"]
    assert found["speed"] == ">= 3", "an action that is held for three steps is two steps old in the last"
    shares = {c.label: share for c, (share, _) in zip(late.cells, late.kept)}
    assert shares["action-delay=1"] == shares["observation-delay=1"] == shares["speed=2"] == 1
    assert shares["action-delay=2"] == pytest.approx(3 / STEPS), "the third step executes the action of two before"
    assert shares["observation-delay-jitter=1"] == shares["speed-jitter=1"] == 1
    assert not late.passed("delay=0.8") and late.passed("action-delay=0.14")


# --- what is played -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "env", "battery"),
    [
        (torques, "Pendulum-v1", {"a": ["relative-noise:0.1..0.5"], "b": ["param:g=5..15", "param:m=0.5..2"]}),
        (lazy, "CartPole-v1", {"a": ["speed:2..3", "param:length=0.25..1 + frame-repeat:0.3"]}),
        (
            lambda o: np.zeros((len(o), 3)),
            "Hopper-v5",
            {"a": ["rrls:1d", "param:mass=0.5..2", "force:1..2", "speed:2..3"]},
        ),
    ],
)
def test_its_cells_are_those_of_stress(policy, env, battery):
    one = audit(policy, env, battery=battery, episodes=2, points=2, seed=5)
    for text in dict.fromkeys(cell.sweep for cell in one.cells):
        same = sf.stress(policy, env, text, episodes=2, points=2, seed=5)
        places = one.sweep(text)
        assert [list(one.cells[i].at) for i in places] == same.coordinates.tolist()
        np.testing.assert_array_equal(one.returns[places], same.returns)
        np.testing.assert_array_equal(one.nominal_returns, same.nominal_returns)


def test_attacks_along_gradients_are_not_run_on_a_function_and_black_boxes_are(blinded):
    played = {cell.name for cell in blinded.cells if cell.family == "adversarial"}
    assert played == {"obs-random", "obs-search"}
    reasons = {item.what: item.reason for item in blinded.not_run}
    assert {what.partition(":")[0] for what in reasons} == {"obs-fgsm", "obs-pgd", "obs-mad", "obs-critic"}
    assert "offers none" in reasons["obs-pgd:0.02..0.1"] and "obs-search, obs-random" in reasons["obs-pgd:0.02..0.1"]
    assert "the observation's own units" in blinded.table()


def test_an_attack_finds_a_policy_that_stands_on_its_observation(folder):
    class Edge(Track):
        """Ends when the action, which should be at least the time observed, falls below it by 0.05."""

        def step(self, action):
            over, self.time = bool(self.time - action[0] > 0.05), self.time + 1
            return np.array([float(self.time)]), self.pay, over, self.time >= STEPS, {}

    class Follows:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return observation.copy(), None

        def respond(self, observation, state, starts):
            return observation

        def criticise(self, observation, seen, state, starts):
            return seen[:, 0]

    one = audit(Follows(), Edge, families=["adversarial"], episodes=2)
    assert not one.not_run and one.families["adversarial"].rating == "falls"
    lost = {cell.name: one.lost_from(cell.sweep) for cell in one.cells}
    assert lost["obs-critic"] == ">= 0.06", "the critic says which way is down"
    assert sf.audit(folder, families=["adversarial"], episodes=2, points=2).not_run == ()


def test_slots_and_workers_do_not_matter(blinded):
    again = audit(blind, Track, episodes=3, slots=5)
    np.testing.assert_array_equal(again.returns, blinded.returns)


@pytest.mark.parametrize(
    "text", ["action-delay:3", "speed-spike:0.1,steps=2", "param:length=2", "param:length=2 + speed:3"]
)
def test_a_pinned_cell_is_a_sweep_of_itself(text):
    (cell,) = pinned(parse(text)).grid(5)
    assert str(cell.perturbation) == text and parse(str(pinned(parse(text)))) == pinned(parse(text))


def test_the_default_battery_of_a_mujoco_task_and_of_another():
    hopper = sweeps("Hopper-v5")
    assert hopper["physics"] == (
        "param:gravity=4.905..19.62", "param:mass=0.5..2", "param:friction=0.5..2", "param:damping=0.5..2",
        "param:gear=0.5..2", "force:1..5", "rrls:2d",
    )  # fmt: skip
    assert {name: hopper[name] for name in SWEEPS} == SWEEPS and {*hopper} == {*FAMILIES}
    assert "param:masscart=0.5..2" in sweeps("CartPole-v1", ["physics"])["physics"]
    assert not any("threshold" in text for text in sweeps("CartPole-v1")["physics"])
    assert sweeps("surefoot/Constant-v0", ["physics"])["physics"] == ()


def test_no_default_sweep_has_a_neutral_cell_and_all_are_one_dimensional():
    for text in (text for texts in SWEEPS.values() for text in texts):
        cells = parse(text).grid(5)
        assert len(cells) == 5 and not any(cell.perturbation.identity for cell in cells), text


def test_physics_reaches_the_derived_mass_of_cartpole():
    one = audit(lazy, "CartPole-v1", battery={"physics": ["param:masscart=0.5..2"]}, episodes=2, points=2)
    assert not one.not_run and len(one.cells) == 2


class Fragile(Track):
    """Cannot be made with a friction above 2.5, and fails in the middle of an episode above 2."""

    def __init__(self, friction: float = 1.5):
        if friction > 2.5:
            raise ValueError("friction is at most 2.5")
        super().__init__(friction)

    def step(self, action):
        if self.friction > 2 and self.time == 3:
            raise RuntimeError("it slipped")
        self.friction, friction = 0, self.friction
        found = super().step(action)
        self.friction = friction
        return found


def test_what_cannot_be_played_is_listed_with_its_reason():
    one = audit(echo, Fragile, families=["actuators", "physics"], episodes=2, points=5)
    reasons = {item.what: item.reason for item in one.not_run}
    assert set(reasons) == {"param:friction=2.4375", "param:friction=3"}
    assert "it slipped" in reasons["param:friction=2.4375"] and "at most 2.5" in reasons["param:friction=3"]
    assert sum(cell.name == "friction" for cell in one.cells) == 3
    assert "param:friction=3 (physics): " in one.table()
    commands = re.findall(r"'(param.*?)'", one.table().split("To play a sweep again:")[1])
    assert commands == ["param:friction=0.75", "param:friction=1.3125", "param:friction=1.875"]


def test_a_sweep_that_does_not_fit_is_listed_once():
    one = audit(lazy, "CartPole-v1", families=["actuators"], episodes=2, points=2)
    assert [item.what for item in one.not_run] == ["action-mix:0.1..0.5", "action-scale:0.5..0.9"]
    assert all("needs a Box action space" in item.reason for item in one.not_run)


# --- the number of episodes, and films -----------------------------------------------------------------------------


class Noisy(Track):
    """Friction costs a noisy share of the pay."""

    def step(self, action):
        found = super().step(action)
        return found[0], found[1] * (1 - self.friction * self.np_random.random() / 3), *found[2:]


def test_a_width_only_chooses_the_number_of_episodes():
    battery = {"physics": ["param:friction=0..1"]}
    chosen = audit(blind, Noisy, battery=battery, episodes=4, points=2, width=0.1, max_episodes=60)
    assert 4 < len(chosen.seeds) < 60
    fixed = audit(blind, Noisy, battery=battery, episodes=len(chosen.seeds), points=2)
    np.testing.assert_array_equal(chosen.returns, fixed.returns)
    assert chosen.seeds == fixed.seeds and chosen.steps > fixed.steps
    widest = max(high - low for _, (low, high) in chosen.kept)
    assert 0.03 < widest < 0.2 and "chosen by a pilot of other episodes" in chosen.table()
    assert "--episodes" not in chosen.command("x") and f"episodes={len(chosen.seeds)}" in chosen.command("x")
    most = audit(blind, Noisy, battery=battery, episodes=4, points=2, width=1e-6, max_episodes=6)
    assert len(most.seeds) == 6 and "2 of 2 are." in most.table()
    same = audit(blind, Track, battery={"timing": ["speed:2..3"]}, episodes=3, points=2, width=0.01)
    assert len(same.seeds) == 3, "no episode differs"


def test_the_worst_cell_is_filmed_beside_the_nominal_one(folder, tmp_path, monkeypatch):
    filmed = []

    def record(player, env, path, episodes, seeds, cell, **_):
        path.write_bytes(b"film")
        filmed.append((seeds, cell))
        return sf.evaluate(player, env, 1, seed=0, perturb=cell)["returns"]

    monkeypatch.setattr("surefoot.evaluate.films.record", record)
    monkeypatch.setattr("surefoot.evaluate.audit.check_filmable", lambda env: None)
    place = "surefoot/Constant-v0"
    one = audit(sf.load(folder), place, families=["timing"], episodes=2, points=2, video=True, out=tmp_path)
    (seeds, nominal), (again, worst) = filmed
    assert nominal is None and worst == one.worst.cell.perturbation and seeds == again and seeds[0] in one.seeds
    assert (tmp_path / "audit-worst.mp4").read_bytes() == (tmp_path / "audit-nominal.mp4").read_bytes() == b"film"
    page = (tmp_path / "audit.html").read_text()
    assert "<video" not in page, "no film can be read from these bytes"
    assert len(one.films) == 2 and one.worst.cell.label in one.films[1].caption


# --- ratings and verdicts ------------------------------------------------------------------------------------------

CELL = Cell("timing", "speed:2..3", "speed", "speed=2", (2.0,), parse("speed:2"))


@pytest.mark.parametrize(
    ("low", "high", "rating"),
    [
        (0.95, 1.2, "holds"),
        (0.8, 0.9, "mild"),
        (0.5, 0.79, "degraded"),
        (-3, 0.4, "falls"),
        (0.9, 0.99, "mild to holds"),
        (0.1, 0.96, "falls to holds"),
        (-math.inf, math.inf, "unclear"),
    ],
)
def test_ratings_are_the_grades_of_both_ends(low, high, rating):
    assert Result(0.9, ConfidenceInterval(low, high), CELL).rating == rating


def test_a_requirement_is_met_by_the_interval_not_the_value():
    for low, words in ((0.7, "met"), (0.69, "not shown (more episodes may)")):
        assert Verdict("x", 0.7, Result(0.9, ConfidenceInterval(low, 0.95), CELL)).words == words
    assert Verdict("x", 0.7, Result(0.6, ConfidenceInterval(0.5, 0.69), CELL)).words == "not met"


def made(table, nominal, cells=None):
    base = audit(blind, Track, battery={"timing": ["speed:2..3", "action-delay:1..2"]}, episodes=2, points=2)
    return dataclasses.replace(base, returns=np.array(table, float), nominal_returns=np.array(nominal, float))


def test_a_report_by_hand():
    one = made([[90, 100, 110], [80, 100, 120], [30, 40, 50], [0, 10, 20]], [100, 100, 100])
    assert [share for share, _ in one.kept] == pytest.approx([1.0, 1.0, 0.4, 0.1])
    assert one.worst.cell.label == "action-delay=2" and one.worst.kept == pytest.approx(0.1)
    assert one.lost_from("speed:2..3") == "" and one.lost_from("action-delay:1..2") == ">= 1"
    speed, delay = one.verdicts("speed=0.7,delay=0.4")
    assert (speed.result.cell.name, delay.result.cell.label) == ("speed", "action-delay=2")
    assert [speed.met, delay.met] == [False, False] and delay.result.interval.high > 0.3
    costs = made([[-90, -110], [-90, -110], [-150, -150], [-190, -210]], [-100, -100])
    assert [share for share, _ in costs.kept] == pytest.approx([1, 1, 0.5, 0])


def test_losses_on_both_sides_are_told_apart():
    battery = {"physics": ["param:friction=0.75..3"]}
    base = audit(blind, Track, battery=battery, episodes=2, points=5)
    table = np.array([[1, 1], [6, 6], [10, 10], [7, 7], [2, 2]], float)
    both = dataclasses.replace(base, returns=table, nominal_returns=np.array([10.0, 10.0]))
    assert both.lost_from("param:friction=0.75..3") == "<= 1.312, >= 2.438"


def test_json_has_everything_and_is_strict(blinded):
    found = json.loads(blinded.json(), parse_constant=lambda text: pytest.fail(text))
    assert found["families"]["physics"]["rating"] == "falls" and found["passed"] is True
    assert len(found["cells"]) == len(blinded.cells) and found["cells"][0]["returns"] == blinded.returns[0].tolist()
    empty = json.loads(made([[1, 2]] * 4, [-1, 1]).json(), parse_constant=lambda text: pytest.fail(text))
    assert empty["worst"]["rating"] == "unclear" and empty["worst"]["interval"] == [None, None]


def test_the_page_and_the_pull_request_show_the_same(late, tmp_path):
    gated = dataclasses.replace(late, require={"delay": 0.8})
    gated.save(tmp_path / "out")
    page, text = ((tmp_path / "out" / f"audit.{end}").read_text() for end in ("html", "md"))
    for words in ("falls", "action-delay", "&gt;= 2", "surefoot.stress(policy, env"):
        assert words in page
    assert page.count("<svg") == 2
    assert "**Requirements are not met.**" in text and "| delay | 0.8 | 0." in text
    assert "| timing | falls | " in text


# --- from a folder -------------------------------------------------------------------------------------------------

QUICK = ["--episodes", "2", "--points", "2", "--families", "timing"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("audit") / "run"
    small = {"num_envs": 2, "num_steps": 16, "hidden": (4,), "minibatch_size": 16, "epochs": 1}
    sf.train("ppo", "surefoot/Constant-v0", 64, run_dir=path, loggers=(), compile="off", **small)
    return path


@pytest.mark.parametrize(
    ("require", "code"),
    [("", 0), ("worst=1", 0), ("delay=1,speed=0.9", 0), ("worst=1.1", 1), ("delay=1.1,speed=0.9", 1)],
)
def test_the_exit_code_is_that_of_the_requirements(folder, require, code, capsys, monkeypatch):
    monkeypatch.setattr("surefoot.evaluate.audit.AuditReport.save", lambda *_: None)  # drawing takes longest
    try:
        cli.main(["audit", str(folder), "--require", require, *QUICK])
        found = 0
    except SystemExit as end:
        found = end.code
    assert found == code
    assert ("not met" in capsys.readouterr().out) == bool(code)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (
            ["--require", "wind=0.5"],
            "'wind' is not among what is played here. Known: worst; the families timing; speed, ",
        ),
        (["--require", "worst=high"], "worst='high' is not allowed"),
        (["--require", "worst"], "worst='' is not allowed"),
        (["--families", "weather"], "families='weather' is not allowed; name one or more of sensors, actuators"),
        (["--families", ","], "name one or more"),
        (["--episodes", "1"], "episodes=1 is not allowed"),
        (["--points", "1"], "points=1 is not allowed"),
        (["--workers", "0"], "workers=0 is not allowed"),
        (["--width", "0"], "width=0.0 is not allowed; give the width of an interval"),
        (["--width", "0.1", "--max-episodes", "1"], "max_episodes=1 is below episodes=2, which the pilot alone has"),
        (["--video"], "cannot be made with env_kwargs={.render_mode."),
        (["--families", "actuators", "--require", "action-mix=0.5"], "action-mix.* needs a Box action space"),
    ],
)
def test_a_mistake_is_told_before_any_work(folder, flags, match, capsys, monkeypatch):
    monkeypatch.setattr("surefoot.evaluate.audit.play_in_processes", lambda *_, **__: pytest.fail("played"))
    with pytest.raises(SystemExit) as end:
        cli.main(["audit", str(folder), *QUICK, *flags])
    assert end.value.code == 2
    assert re.search(match, " ".join(capsys.readouterr().err.split()))


def test_the_command_plays_the_cell_again(folder, capsys, tmp_path):
    cli.main(["audit", str(folder), *QUICK, "--format", "json", "--out", str(tmp_path)])
    found = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "audit.json").read_text()) == json.loads((folder / "audit.json").read_text()) == found
    cell = next(cell for cell in found["cells"] if cell["cell"] == "action-delay=5")
    program, *arguments = shlex.split(cell["command"])
    assert program == "surefoot"
    cli.main(arguments)
    again = json.loads((folder / "stress-action-delay-5..5.json").read_text())
    assert again["returns"] == [cell["returns"]] and again["nominal_returns"] == found["nominal"]["returns"]


def test_the_command_for_python_is_python(blinded):
    call = ast.parse(blinded.command("action-delay:1..5"), mode="eval").body
    assert isinstance(call, ast.Call) and ast.unparse(call.func) == "surefoot.stress"
    assert [keyword.arg for keyword in call.keywords] == ["points", "episodes", "seed"]


def test_markdown_goes_to_a_pull_request(folder, capsys):
    cli.main(["audit", str(folder), *QUICK, "--format", "markdown"])
    assert capsys.readouterr().out.startswith("### Audit of ppo (seed 0) on surefoot/Constant-v0\n")


def test_a_stable_baselines3_zip_is_audited(tmp_path, capsys):
    sb3 = pytest.importorskip("stable_baselines3")
    sb3.PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu").save(tmp_path / "model.zip")
    where = ["audit", str(tmp_path / "model.zip"), "--algo", "ppo", "--env", "CartPole-v1"]
    cli.main([*where, *QUICK])
    out = capsys.readouterr().out
    assert "--env CartPole-v1 --algo ppo" in out and "timing" in out


def test_requirements_are_read_from_text_and_mappings():
    assert (
        requirements("worst=0.7, delay=.8")
        == requirements({"worst": 0.7, "delay": 0.8})
        == {"worst": 0.7, "delay": 0.8}
    )
    assert requirements(None) == requirements("") == {}
