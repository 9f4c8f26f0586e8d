"""Metrics reach every sink once, in order, also across a kill; what cannot log is refused before training."""

from __future__ import annotations

import io
import json
import math
import sys
import types

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common import logs
from surefoot.loops.common.logs import JsonLines, TensorBoard, check_loggers, read_rows, sinks
from surefoot.loops.common.run import Run

SETTINGS = {"num_envs": 2, "num_steps": 16, "minibatch_size": 32, "epochs": 1, "hidden": (8,)}


def row(iteration: int, seed: int = 0, **more: float) -> dict:
    return {"iteration": iteration, "step": 10 * iteration, "seed": seed, "time": 1.0, "steps_per_second": 5.0, **more}


# --- metrics.jsonl ---------------------------------------------------------------------------------------------------


def test_rows_are_lines_and_what_is_not_finite_is_left_out(tmp_path):
    sink = JsonLines(tmp_path / "metrics.jsonl", 0)
    sink([row(1, 0, a=math.nan, b=math.inf, c=0.1), row(1, 1, a=2)])
    assert read_rows(tmp_path / "metrics.jsonl") == [row(1, 0, c=0.1), row(1, 1, a=2)]  # before it is closed
    sink.close()
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2


@pytest.mark.parametrize("torn", ["", '{"iteration": 4, "st'])
def test_resuming_cuts_off_what_came_after_the_checkpoint(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(row(i, seed, x=1 / (i + 3))) + "\n" for i in (1, 2, 3) for seed in (0, 1)]
    path.write_text("".join(lines) + torn)
    sink = JsonLines(path, 2)
    assert path.read_text() == "".join(lines[:4])  # the same bytes, and nothing behind them
    sink([row(3, x=0.5)])
    sink.close()
    assert [(r["iteration"], r["seed"]) for r in read_rows(path)] == [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]


def test_a_torn_last_line_is_no_row(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row(1)) + "\n" + '{"iteration": 2')
    assert Run(tmp_path).metrics() == [row(1)]


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", '{"step": 3}', "7"])
def test_a_damaged_file_is_named_with_its_line(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row(1)) + "\n" + line + "\n")
    with pytest.raises(UsageError, match=r"metrics\.jsonl, line 2 is no row of metrics.*remove that line"):
        JsonLines(tmp_path / "metrics.jsonl", 1)
    with pytest.raises(UsageError, match="cannot be read.*folder of a run"):
        read_rows(tmp_path / "nowhere.jsonl")


# --- TensorBoard -----------------------------------------------------------------------------------------------------


def scalars(folder, tag):
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(e.step, e.value) for e in events.Scalars(tag)]


def test_tensorboard_has_a_tag_a_metric_and_a_folder_a_seed(tmp_path):
    sink = TensorBoard(tmp_path, {"seeds": [3, 4]})
    for i in (1, 2, 3):
        sink([row(i, 3, loss=0.5 * i), row(i, 4, loss=-0.25 * i, label="text")])
    sink.close()
    assert scalars(tmp_path / "tensorboard" / "seed-3", "loss") == [(10, 0.5), (20, 1.0), (30, 1.5)]
    assert scalars(tmp_path / "tensorboard" / "seed-4", "loss") == [(10, -0.25), (20, -0.5), (30, -0.75)]
    assert scalars(tmp_path / "tensorboard" / "seed-4", "steps_per_second")[0] == (10, 5.0)


def test_tensorboard_forgets_what_a_killed_process_wrote_after_the_checkpoint(tmp_path):
    first = TensorBoard(tmp_path, {"seeds": [0]})
    for i in (1, 2, 3, 4):
        first([row(i, x=1.0)])
    first.close()
    second = TensorBoard(tmp_path, {"seeds": [0]})  # resumed from the checkpoint of iteration 2
    for i in (3, 4, 5):
        second([row(i, x=2.0)])
    second.close()
    assert scalars(tmp_path / "tensorboard", "x") == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0), (50, 2.0)]


# --- Weights & Biases, trackio ---------------------------------------------------------------------------------------


class Fake(types.ModuleType):
    """A tracker with the calls that both packages share, noting what it is given."""

    def __init__(self, name: str):
        super().__init__(name)
        self.inits, self.logged, self.finished = [], [], 0

    def init(self, **options):
        self.inits.append(options)
        return self

    def log(self, numbers, step):
        self.logged.append((step, numbers))

    def finish(self):
        self.finished += 1


@pytest.fixture(params=["wandb", "trackio"])
def tracker(request, monkeypatch):
    fake = Fake(request.param)
    monkeypatch.setitem(sys.modules, request.param, fake)
    return fake


def test_trackers_get_config_and_metrics_and_are_finished(tracker, tmp_path):
    run = sf.train("ppo", "CartPole-v1", 96, run_dir=tmp_path / "mine", loggers=[tracker.__name__], **SETTINGS)
    (options,) = tracker.inits
    assert options["project"] == "surefoot" and options["resume"] == "allow"
    assert options["name"] == f"mine-{run.config['id']}"
    assert options["config"] == run.config
    assert options.get("id") == (run.config["id"] if tracker.__name__ == "wandb" else None)
    rows = run.metrics()
    assert [step for step, _ in tracker.logged] == [r["step"] for r in rows] == [32, 64, 96]
    for (_, numbers), kept in zip(tracker.logged, rows, strict=True):
        assert set(numbers) == set(kept) - {"step", "seed", "time"}
        assert numbers["entropy"] == kept["entropy"]
    assert tracker.finished == 1


def test_trackers_keep_seeds_apart_by_prefix(tracker, tmp_path):
    sf.train("ppo", "CartPole-v1", 32, num_seeds=2, run_dir=tmp_path / "r", loggers=[tracker.__name__], **SETTINGS)
    (_, numbers), *_ = tracker.logged
    assert {"seed-0/entropy", "seed-1/entropy"} <= set(numbers)
    assert all(name.startswith(("seed-0/", "seed-1/")) for name in numbers)


def test_a_resumed_run_goes_on_under_the_same_name(tracker, tmp_path):
    options = SETTINGS | {"run_dir": tmp_path / "r", "loggers": [tracker.__name__]}
    sf.train("ppo", "CartPole-v1", 96, callbacks=[lambda learner, rows: learner.iteration == 1], **options)
    sf.resume(tmp_path / "r")
    first, second = tracker.inits
    assert first == second
    assert [step for step, _ in tracker.logged] == [32, 64, 96]
    assert tracker.finished == 2


def test_two_runs_in_folders_of_one_name_are_two_runs(tracker, tmp_path):
    for place in ("a", "b"):
        sf.train("ppo", "CartPole-v1", 32, run_dir=tmp_path / place / "r", loggers=[tracker.__name__], **SETTINGS)
    assert len({options["name"] for options in tracker.inits}) == 2


def test_trackers_are_finished_when_a_run_breaks(tracker, tmp_path):
    def broken(learner, rows):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="^mine\n"):
        sf.train(
            "ppo", "CartPole-v1", 96, run_dir=tmp_path / "r", loggers=[tracker.__name__], callbacks=[broken], **SETTINGS
        )
    assert tracker.finished == 1


def test_a_tracker_that_cannot_start_says_how_and_leaves_nothing(tracker, tmp_path, monkeypatch):
    def refuse(**options):
        raise RuntimeError("No API key configured.")

    monkeypatch.setattr(tracker, "init", refuse)
    with pytest.raises(UsageError, match=rf"{tracker.__name__}.init failed \(RuntimeError: No API key.*Log in first"):
        sf.train("ppo", "CartPole-v1", 96, run_dir=tmp_path / "r", loggers=[tracker.__name__], **SETTINGS)
    assert not (tmp_path / "r").exists()


# --- refused before training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_missing_package_is_named_before_training(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # an import of it now fails
    with pytest.raises(UsageError, match=f"loggers='{name}' needs the package {name}.*pip install {name}"):
        sf.train("ppo", "CartPole-v1", 96, run_dir=tmp_path / "r", loggers=[name], **SETTINGS)
    assert not (tmp_path / "r").exists()


def test_an_unknown_logger_gets_the_nearest(tmp_path):
    with pytest.raises(UsageError, match="loggers='tensorbord' is unknown. Did you mean 'tensorboard'"):
        sf.train("ppo", "CartPole-v1", 96, run_dir=tmp_path / "r", loggers="tensorbord", **SETTINGS)
    assert not (tmp_path / "r").exists()
    check_loggers(())


def test_a_logger_that_is_gone_is_named_before_a_run_goes_on(tracker, tmp_path, monkeypatch):
    options = SETTINGS | {"run_dir": tmp_path / "r", "loggers": [tracker.__name__]}
    sf.train("ppo", "CartPole-v1", 96, callbacks=[lambda learner, rows: True], **options)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "r").rglob("*") if p.is_file()}
    monkeypatch.setitem(sys.modules, tracker.__name__, None)
    with pytest.raises(UsageError, match=f"pip install {tracker.__name__}"):
        sf.resume(tmp_path / "r")
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "r").rglob("*") if p.is_file()}


# --- progress --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_terminals_only(tmp_path, monkeypatch, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    found = list(sinks([], tmp_path, {"steps": 100, "seeds": [0]}, 0))
    assert [type(s).__name__ for s in found] == ["JsonLines"] + ["Progress"] * terminal
    for sink in found:
        sink.close()


def test_progress_shows_steps_speed_and_return_on_stderr(monkeypatch):
    out = io.StringIO()
    wanted = []

    def console(**options):
        wanted.append(options)
        return Console(file=out, force_terminal=True, width=100)

    monkeypatch.setattr("rich.console.Console", console)
    bar = logs.Progress(1000)
    bar([row(50, 0, return_mean=10.0), row(50, 1, return_mean=30.0)])
    bar._bar.refresh()
    shown = out.getvalue()
    bar.close()
    assert wanted == [{"stderr": True}]
    assert "500 steps" in shown and "5/s" in shown and "return 20.0" in shown


def test_without_a_terminal_training_is_silent(tmp_path, capfd):
    sf.train("ppo", "CartPole-v1", 64, run_dir=tmp_path / "r", **SETTINGS)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_real_package_takes_what_we_give(name, tmp_path, monkeypatch):
    """Where it is installed; elsewhere the fakes above stand for it."""
    pytest.importorskip(name)
    for variable, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "TRACKIO_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(variable, value)
    options = SETTINGS | {"run_dir": tmp_path / "r", "loggers": [name]}
    sf.train("ppo", "CartPole-v1", 96, callbacks=[lambda learner, rows: learner.iteration == 1], **options)
    assert [row["step"] for row in sf.resume(tmp_path / "r").metrics()] == [32, 64, 96]
