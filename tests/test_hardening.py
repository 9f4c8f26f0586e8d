"""Hardening: a planted weakness is trained away and its worst cell is shown to rise; the old run is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import surefoot as sf
from surefoot import cli
from surefoot.envs.names import remember
from surefoot.errors import UsageError
from surefoot.evaluate.hardened import Change, changed, worst_changed
from surefoot.evaluate.statistics import ConfidenceInterval
from surefoot.hardening import texts_of


class Push(gymnasium.Env):
    """Pays, for 10 steps, 1 less the squared distance between the action, one number, and minus the `wind`, which is
    observed. Without wind the weight of the observation is never learned."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, wind: float = 0.0):
        self.wind = wind

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.array([self.wind], np.float32), {}

    def step(self, action):
        self.time += 1
        pay = 1 - float(action[0] + self.wind) ** 2 + 0.01 * self.np_random.normal()
        return np.array([self.wind], np.float32), pay, False, self.time >= 10, {}


SMALL = {"num_envs": 4, "num_steps": 50, "minibatch_size": 50, "epochs": 4, "hidden": (8,), "learning_rate": 1e-2}
SMALL |= {"normalize_observations": False, "normalize_rewards": False}
QUIET = {"loggers": (), "compile": "off"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return sf.train("ppo", Push, 2_000, run_dir=tmp_path_factory.mktemp("harden") / "old", **SMALL, **QUIET)


@pytest.fixture(scope="module")
def report(old):
    kept = contents(old.path)
    found = sf.harden(old, "param:wind=-0.9..0.9", 8_000, families=["timing"], episodes=3, points=3, loggers=())
    assert contents(old.path) == kept, "the old run is untouched"
    return found


def test_what_it_was_hardened_against_rises_by_an_interval_above_zero(report, old):
    assert report.hardened and report.worst["against"].interval.low > 0
    assert report.worst["against"].before < 5 < report.worst["against"].after
    assert [cell.label for cell, _ in report.changes if cell.family == "against"] == [
        f"wind={x:g}" for x in (-0.9, 0, 0.9)
    ]
    assert abs(report.nominal.gain) < 1
    new = sf.Run(Path(report.run))
    assert new.path == old.path.with_name("old-hardened") and new.finished
    assert new.config["env"]["perturb"] == "param:wind=-0.9..0.9" and new.config["start"]["from"] == str(old.path)
    assert new.config["hyperparameters"] == old.config["hyperparameters"]
    assert report.before.seeds == report.after.seeds


def test_it_is_shown_as_text_markdown_json_and_a_page(report):
    folder = Path(report.run)
    found = json.loads((folder / "harden.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert found["hardened"] is True and found["worst"]["against"]["word"] == "higher"
    assert len(found["cells"]) == len(found["audit_after"]["cells"])
    assert "worst, against" in report.table() and "wind=0.9" in report.table()
    page, text = ((folder / f"harden.{end}").read_text() for end in ("html", "md"))
    assert page.count("<svg") == 4 and "trained on for 8,000 steps against param:wind" in page
    assert "| worst, against | " in text and (folder / "audit.html").exists()


def test_the_same_call_goes_on_and_another_one_is_refused(report, old):
    kept = contents(Path(report.run) / "agent")
    given = {"families": (), "episodes": 2, "points": 2, "loggers": ()}
    again = sf.harden(old.path, ["param:wind=-0.9..0.9"], 8_000, **given)
    assert contents(Path(report.run) / "agent") == kept and [*again.worst] == ["against"]
    with pytest.raises(UsageError, match="holds another run"):
        sf.harden(old.path, "param:wind=-0.5..0.5", 8_000, **given)


def test_an_interrupted_training_is_resumed_to_the_bit(old, tmp_path):
    wind, given = "param:wind=-0.9..0.9", {"families": (), "episodes": 2, "points": 2, "loggers": ()}
    stop = lambda learner, rows: learner.iteration == 3  # noqa: E731
    with pytest.raises(UsageError, match="give the same command to go on"):
        sf.harden(old, wind, 1_000, **given, run_dir=tmp_path / "part", callbacks=stop)
    for name in ("part", "whole"):
        sf.harden(old, wind, 1_000, **given, run_dir=tmp_path / name)
    agents = [(tmp_path / name / "agent" / "agent.safetensors").read_bytes() for name in ("part", "whole")]
    assert agents[0] == agents[1]


def test_the_command_says_the_same(old, report, capsys):
    remember(Push)
    cli.main(["harden", str(old.path), "--against", "param:wind=-0.9..0.9", "--steps", "8k", "--families", "",
              "--episodes", "3", "--points", "3", "--format", "json"])  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert found["worst"]["against"] == json.loads(report.json())["worst"]["against"]


@pytest.mark.parametrize(
    ("against", "match"),
    [
        ("", "against is missing"),
        ("obs-pgd:0..0.1", "observation-noise of the same size with law=linf"),
        ("param:fog=0..1", "fog"),
        ("weather:1", "weather"),
        ("action-mix:0..2", "strength=2.0 is not allowed"),
    ],
)
def test_what_cannot_be_trained_against_is_refused_before_any_work(against, match, old, tmp_path, monkeypatch):
    monkeypatch.setattr("surefoot.hardening.audited", lambda *_, **__: pytest.fail("audited"))
    with pytest.raises(UsageError, match=match):
        sf.harden(old, against, run_dir=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_trained_on_is_refused_with_a_cure(old, tmp_path):
    (tmp_path / "model.zip").write_bytes(b"")
    for run, env, match in (
        (lambda x: x, None, "env is missing"),
        (lambda x: x, Push, "its weights and its method are needed"),
        (tmp_path / "model.zip", None, "env is missing"),
        (old.path / "agent", None, "Give the run's folder, or train from it"),
        (old, "Pendulum-v1", "is for a model's file"),
        (tmp_path / "nowhere", None, "is not the folder of a run"),
    ):
        with pytest.raises(UsageError, match=match):
            sf.harden(run, "action-delay:0..2", env=env)


def test_a_comma_before_a_name_separates_perturbations():
    assert texts_of("rrls:2d,observation-noise:0..0.1") == ("rrls:2d", "observation-noise:0..0.1")
    assert texts_of("rrls:2d,friction_mode=all_geoms, speed:1..3") == ("rrls:2d,friction_mode=all_geoms", "speed:1..3")
    assert texts_of("param:mass=0.5..2,torso.mass=1..5") == ("param:mass=0.5..2,torso.mass=1..5",)


# --- changes by hand and by simulation -----------------------------------------------------------------------------


def test_changes_by_hand():
    assert changed(np.array([1.0, 3]), np.array([2.0, 4])) == Change(2, 3, None)
    assert changed(np.array([1.0, 3]), np.array([2.0, 4])).word == "higher"
    one = changed(np.array([1.0, 2, 3]), np.array([2.0, 4, 3]))
    assert one.gain == 1 and one.interval == pytest.approx((1 - 4.302653 / 3**0.5, 1 + 4.302653 / 3**0.5), rel=1e-6)
    assert one.word == "not shown" and Change(3, 1, ConfidenceInterval(-3, -1)).word == "lower"
    fixed = worst_changed(np.array([[5.0, 5], [3, 3]]), np.array([[4.0, 4], [9, 9]]))
    assert fixed == Change(3, 4, None) and fixed.word == "higher"


def test_the_interval_of_the_worst_covers_where_that_of_the_cell_that_was_worst_does_not():
    rng, trials, cells, n = np.random.default_rng(0), 400, 20, 5
    missed, naive = 0, 0
    for _ in range(trials):
        before, after = rng.normal(size=(2, cells, n))  # nothing changed: all true means are 0
        low, high = worst_changed(before, after).interval
        missed += not low <= 0 <= high
        place = before.mean(1).argmin()
        naive += changed(before[place], after[place]).interval.low > 0
    assert missed / trials <= 0.05 and naive / trials > 0.15
