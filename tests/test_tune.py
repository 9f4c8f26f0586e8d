"""Tuning: the ranges that methods declare, a study that is pruned, kept and resumed, and the fresh seeds at its end."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import surefoot as sf
from surefoot import api, catalogue, cli
from surefoot.errors import UsageError
from surefoot.hyperparameters import Choices, Range, check_values, declared, hyperparameter
from surefoot.loops.common.run import Run
from surefoot.methods.control.dqn import DQN
from surefoot.methods.control.gae import GAE
from surefoot.methods.control.ppo import PPO
from surefoot.search import dimensions, from_words

optuna = pytest.importorskip("optuna")
ENV = "surefoot/ActionReward-v0"
SMALL = {"num_envs": 2, "num_steps": 16, "minibatch_size": 32, "hidden": (8,), "compile": "off"}
STUDY = {
    "steps": 64,
    "seeds": 2,
    "evaluations": 2,
    "evaluate_episodes": 2,
    "only": ["learning_rate", "epochs"],
    **SMALL,
}


# --- the space -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", catalogue.methods(), ids=lambda entry: entry.slug)
def test_declared_ranges_are_allowed_values(entry):
    """Both ends of every range, and every value to choose from, pass the checks of the method itself."""
    method = catalogue.method_class(entry.slug)
    if not any("tune" in field.metadata for field, _ in declared(method)):
        pytest.skip("it declares none")
    for one in dimensions(method):
        values = one.drawn.values if isinstance(one.drawn, Choices) else one.drawn[:2]
        for value in values:
            check_values(method, {one.name: int(value) if one.whole and value is not None else value})
        if isinstance(one.drawn, Range):
            assert one.drawn.low < one.drawn.high and (one.drawn.low > 0 or not one.drawn.log)


def test_a_subclass_with_another_default_keeps_the_range_and_unused_ones_have_none():
    @dataclass(frozen=True)
    class Mine(PPO):
        learning_rate: float = hyperparameter(1e-3, above=0)
        clip: float = hyperparameter(0.2, above=0, below=1, tune=Range(0.05, 0.15))

    found = {one.name: one.drawn for one in dimensions(Mine)}
    assert found["learning_rate"] == Range(1e-5, 1e-2, True) and found["clip"] == Range(0.05, 0.15)
    assert "learning_rate" not in {one.name for one in dimensions(GAE)} and "tau" not in {
        d.name for d in dimensions(DQN)
    }


def test_ranges_of_ones_own():
    space = from_words({"learning_rate": "1e-4..1e-3:log", "epochs": "4,10", "core": '"gru",null', "clip": "0.1..0.3"})
    assert space == {"learning_rate": (1e-4, 1e-3, "log"), "epochs": [4, 10], "core": ["gru", None], "clip": (0.1, 0.3)}
    (one,) = dimensions(PPO, only=["clip"], space={"clip": (0.1, 0.3)})
    assert str(one) == "clip: 0.1 to 0.3"
    trial = optuna.trial.FixedTrial({"hidden": "[64, 64]", "epochs": 3, "learning_rate": 0.1})
    both = {d.name: d for d in dimensions(PPO, only=["epochs"], space={"hidden": [(64, 64), (8,)]})}
    assert both["hidden"].suggest(trial) == (64, 64) and both["epochs"].suggest(trial) == 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"only": ["clp"]}, "PPO has no hyperparameter 'clp' to tune. Did you mean 'clip'"),
        ({"only": ["shared"]}, "shared declares no range to tune in; give one: space="),
        ({"fixed": ["clip"], "only": ["clip"]}, "clip is given a value, so it cannot be tuned"),
        ({"space": {"clip": (0.3, 0.1)}}, r"space: clip=\(0.3, 0.1\) is not allowed"),
        ({"space": {"entropy": (0.0, 0.1, "log")}}, "with low above 0"),
    ],
)
def test_spaces_that_do_not_work(given, words):
    with pytest.raises(UsageError, match=words):
        dimensions(PPO, **given)


# --- the study -------------------------------------------------------------------------------------------------------


def told(tuned) -> list[tuple]:
    return [(t.number, t.state, t.value, t.hyperparameters) for t in tuned.trials]


def test_a_study_finds_keeps_and_measures_on_fresh_seeds(tmp_path):
    lines = []
    tuned = sf.tune("ppo", ENV, 4, out=tmp_path / "a", final_seeds=2, progress=lines.append, **STUDY)
    assert len(tuned.trials) == 4 and len(lines) == 6 and lines[0].startswith("trial 0: complete")
    assert tuned.best.value == max(t.value for t in tuned.trials if t.state == "complete")
    for trial in tuned.trials:
        assert 1e-5 <= trial.hyperparameters["learning_rate"] <= 1e-2 and 1 <= trial.hyperparameters["epochs"] <= 20
        run = Run(tuned.path / "trials" / f"{trial.number:04d}" / "0")
        assert run.config["seeds"] == [0, 1]
        last = [row["evaluation_mean"] for row in run.metrics() if "evaluation_mean" in row][-2:]
        assert trial.value == np.mean(last), "the mean over both seeds of the last evaluation"
    assert tuned.fresh_seeds == (2, 3) and set(tuned.final) == {"tuned", "default"}
    best = json.loads(tuned.config.read_text())
    assert best["learning_rate"] == tuned.best.hyperparameters["learning_rate"] and best["num_envs"] == 2
    table = tuned.table()
    assert "2 fresh seeds (2 to 3)" in table and f"surefoot train --config {tuned.config}" in table
    with open(tuned.path / "trials.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["learning_rate"]) for row in rows] == [t.hyperparameters["learning_rate"] for t in tuned.trials]


def test_the_configuration_is_one_that_train_takes_and_repeats_the_final_run(tmp_path, capsys):
    tuned = sf.tune("ppo", ENV, 1, out=tmp_path / "a", final_seeds=2, **STUDY)
    place = tmp_path / "run"
    flags = ["--seed", "2", "--num-seeds", "2", "--run-dir", str(place), "--loggers"]
    cli.main(["train", "--config", str(tuned.config), *flags])
    ours, theirs = sf.load(place, 3), sf.load(tuned.path / "final" / "tuned-0" / "2", 3)
    assert (ours.vector == theirs.vector).all()


@pytest.mark.parametrize("at_once", [1, 2])
def test_an_interrupted_study_is_the_one_that_was_not(at_once, tmp_path, monkeypatch):
    """Killed in the middle of the third trial, and made longer: the same trials with the same values."""
    given = {**STUDY, "final_seeds": 0, "at_once": at_once}
    whole = sf.tune("ppo", ENV, 6, out=tmp_path / "whole", **given)
    train, count = api.train, []

    class Killed(BaseException):
        pass

    def dying(*arguments, **options):
        count.append(1)
        if len(count) == 3:
            raise Killed
        return train(*arguments, **options)

    monkeypatch.setattr(api, "train", dying)
    with pytest.raises(Killed):
        sf.tune("ppo", ENV, 4, out=tmp_path / "cut", **given)
    monkeypatch.setattr(api, "train", train)
    sf.tune("ppo", ENV, 4, out=tmp_path / "cut", **given)
    cut = sf.tune("ppo", ENV, 6, out=tmp_path / "cut", **given)
    assert [row[1:] for row in told(cut)] == [row[1:] for row in told(whole)]
    with pytest.raises(UsageError, match="has a study with steps=64, not 96"):
        sf.tune("ppo", ENV, 6, out=tmp_path / "cut", **{**given, "steps": 96})


def test_a_trial_worse_than_the_median_is_pruned(tmp_path, monkeypatch):
    """Evaluations are replaced by the trial's number, falling: from the sixth trial on, all are below the median."""
    train, count = api.train, []

    def falling(*arguments, callbacks, **options):
        count.append(1)

        def worse(learner, rows):
            for row in rows:
                row["evaluation_mean"] = -float(len(count))
            return callbacks(learner, rows)

        return train(*arguments, callbacks=worse, **options)

    monkeypatch.setattr(api, "train", falling)
    tuned = sf.tune("ppo", ENV, 7, out=tmp_path / "a", final_seeds=0, **STUDY)
    assert [t.state for t in tuned.trials] == ["complete"] * 5 + ["pruned"] * 2
    assert tuned.best.number == 0 and tuned.trials[5].value == -6.0
    assert Run(tuned.path / "trials" / "0005" / "0").metrics()[-1]["step"] < 64


def test_a_combination_that_is_not_allowed_is_a_failed_trial_with_its_reason(tmp_path):
    given = {**STUDY, "only": ["epochs"], "space": {"num_steps": [17]}}
    given.pop("num_steps")
    with pytest.raises(UsageError, match="none of 2 trials was completed.* minibatch_size=32 does not divide"):
        sf.tune("ppo", ENV, 2, out=tmp_path / "a", final_seeds=0, **given)


def test_arguments_that_do_not_work(tmp_path):
    with pytest.raises(UsageError, match="final_seeds=1 is not allowed"):
        sf.tune("ppo", ENV, 2, out=tmp_path / "a", final_seeds=1)
    with pytest.raises(UsageError, match="num_seeds=2 is not allowed: tune sets it"):
        sf.tune("ppo", ENV, 2, out=tmp_path / "a", num_seeds=2)
    with pytest.raises(UsageError, match="trials=0 is not allowed"):
        sf.tune("ppo", ENV, 0)
    with pytest.raises(UsageError, match="on='dask' is not allowed"):
        sf.tune("ppo", ENV, 2, out=tmp_path / "a", on="dask")
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, capsys):
    flags = ["--trials", "2", "--steps", "32", "--seeds", "1", "--evaluations", "1", "--evaluate-episodes", "1"]
    fixed = ["--set", "num_envs=2", "num_steps=16", "minibatch_size=32", "hidden=[8]", "epochs=1"]
    own = ["--final-seeds", "0", "--only", "clip", "--space", "learning_rate=1e-4..1e-3:log"]
    cli.main(["tune", "ppo", "--env", ENV, *flags, *fixed, *own, "--out", str(tmp_path / "a")])
    out = capsys.readouterr().out
    assert out.startswith("trial 0: complete") and "2 trials: 2 complete, 0 pruned, 0 failed" in out
    about = json.loads((tmp_path / "a" / "tune.json").read_text())
    assert about["space"] == ["clip: 0.1 to 0.4", "learning_rate: 0.0001 to 0.001 (log)"]
    assert Path(tmp_path / "a" / "study.journal").is_file()
