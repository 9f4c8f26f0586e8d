"""Killed at any step of writing, a run loses nothing that a checkpoint had, and can be begun again or resumed."""

from __future__ import annotations

import builtins
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

import surefoot as sf
from surefoot import cli
from surefoot.errors import UsageError
from surefoot.loops.common import checkpoint, lock
from surefoot.loops.common.run import Run

SETTINGS = {"env": "garnet:4,2,2,horizon=3", "loggers": (), "seed": 1, "steps": 2, "checkpoint_every": 1}
CLOCK = ("time", "steps_per_second")


def begin(run, **changes):
    return sf.train("dynamic-pg", run_dir=run, **{**SETTINGS, **changes})


def rows(run):
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in Run(run).metrics()]


def final(run):
    place, state, _ = checkpoint.newest(run)
    return place.name, {name: x.numpy().tobytes() for name, x in state.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = begin(tmp_path_factory.mktemp("whole") / "run").path
    return rows(run), final(run)


class Killer:
    """Ends the process before its n-th call that changes the disk."""

    CALLS = ((os, "replace"), (os, "fsync"), (os, "unlink"), (os, "mkdir"), (os, "rmdir"), (os, "ftruncate"))

    def __init__(self, at: int) -> None:
        self.left = at
        for place, name in (*self.CALLS, (shutil, "rmtree"), (builtins, "open")):
            setattr(place, name, self.deadly(getattr(place, name), name))

    def deadly(self, function, name):
        def call(*arguments, **named):
            if name == "open" and not {*"wax+"} & {*str((arguments + ("r",))[1])}:
                return function(*arguments, **named)
            self.left -= 1
            if not self.left:
                os._exit(9)
            return function(*arguments, **named)

        return call


def killed(act, at: int) -> bool:
    """Run something in a process that is killed before its `at`-th change of the disk; whether it came to that."""
    child = os.fork()
    if not child:
        Killer(at)
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
        try:
            act()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_new_run_that_is_killed_is_begun_again_or_resumed(tmp_path, whole):
    for at in itertools.count(1):
        run = tmp_path / f"run-{at}"
        if not killed(lambda run=run: begin(run), at):
            break
        if checkpoint.latest(run) is None and (at % 2 or not (run / "config.json").exists()):
            begin(run)  # nothing was lost, and nothing is in the way
        else:
            sf.resume(run)
        assert (rows(run), final(run)) == whole, at
        assert not [p.name for p in run.rglob(".*") if p.name == lock.NAME]
    assert at > 40


@pytest.mark.parametrize("damaged", [False, True])
def test_a_resumed_run_that_is_killed_keeps_what_it_was_resumed_from(tmp_path, whole, damaged):
    cut, kept = begin(tmp_path / "cut", callbacks=lambda learner, _: learner.iteration == 1).path, 1
    if damaged:
        (checkpoint.latest(cut) / "state.safetensors").write_bytes(b"")
        kept = 0
    for at in itertools.count(1, 1 + damaged):
        run = shutil.copytree(cut, tmp_path / f"run-{at}")

        if not killed(lambda run=run: sf.resume(run), at):
            break
        last = checkpoint.latest(run)
        assert last is not None and int(last.name) >= kept, at
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the damaged one is passed over
            sf.resume(run)
        assert (rows(run), final(run)) == whole, at
    assert at > 15


def test_of_a_checkpoint_that_is_replaced_one_of_the_two_stays(tmp_path):
    facts = {"iteration": 7, "steps": 7, "logged": 0, "seeds": [0]}
    for at in itertools.count(1):
        run = tmp_path / f"run-{at}"
        checkpoint.write(run, {"x": torch.zeros(3)}, facts)
        if not killed(lambda run=run: checkpoint.write(run, {"x": torch.ones(3)}, facts), at):
            break
        _, state, _ = checkpoint.newest(run)
        assert state["x"].tolist() in ([0.0] * 3, [1.0] * 3)
        checkpoint.write(run, {"x": torch.full((3,), 2.0)}, facts)
        assert checkpoint.newest(run).state["x"].tolist() == [2.0] * 3
        assert [p.name for p in (run / "checkpoints").iterdir()] == ["00000007"]
    assert at > 5


def test_a_checkpoint_that_is_there_already_is_not_written_again(tmp_path, monkeypatch):
    run = begin(tmp_path / "run").path
    before = {p: p.stat().st_mtime_ns for p in (run / "checkpoints").rglob("*")}
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: pytest.fail("something was removed"))
    sf.resume(run)
    assert before == {p: p.stat().st_mtime_ns for p in (run / "checkpoints").rglob("*")}


def test_killed_for_good_before_the_first_checkpoint(tmp_path, whole):
    """A real SIGKILL, while the first checkpoint is written."""
    run = tmp_path / "run"
    child = os.fork()
    if not child:
        checkpoint.write = lambda *_: signal.pause()
        begin(run)
    deadline = time.monotonic() + 60
    while not (run / "config.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    other = shutil.copytree(run, tmp_path / "other")
    with pytest.raises(UsageError, match="exists and is not empty"):
        begin(other, seed=2)
    assert begin(run).finished and (rows(run), final(run)) == whole
    assert sf.resume(other).finished and (rows(other), final(other)) == whole


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(tmp_path):
    run = begin(tmp_path / "run").path
    shutil.rmtree(run / "checkpoints")
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(UsageError, match="exists and is not empty"):
        begin(run)
    with pytest.raises(UsageError, match="has no checkpoint, so there is nothing to resume"):
        sf.resume(run)
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}


# --- signals ---------------------------------------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys
import surefoot as sf
from pathlib import Path

def press(learner, rows):
    if learner.iteration == 2:
        os.kill(os.getpid(), getattr(signal, sys.argv[2]))

signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    sf.train("dynamic-pg", "garnet:4,2,2,horizon=3", 50, seed=1, run_dir=sys.argv[1], loggers=(), callbacks=press)
    print("went on")
finally:
    print("cleaned up")
"""


@pytest.mark.parametrize(("name", "code", "ended"), [("SIGTERM", 143, "terminated"), ("SIGINT", -2, "interrupted")])
def test_a_signal_ends_the_script_too_after_a_checkpoint(tmp_path, name, code, ended):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run"), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert done.stdout == "cleaned up\n"
    assert sf.load(tmp_path / "run").facts["ended"] == ended
    assert checkpoint.latest(tmp_path / "run").name == "00000002"
    assert "surefoot train --resume" in done.stderr or name == "SIGTERM"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_line_says_where_it_ended_and_how_to_resume(tmp_path, capsys, number):
    def press(learner, rows):
        signal.raise_signal(number)

    run = tmp_path / "run"
    before, sf_train = signal.getsignal(number), sf.api.train
    flags = ["train", "dynamic-pg", "--env", "garnet:4,2,2,horizon=3", "--run-dir", str(run), "--steps", "9"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("surefoot.api.train", lambda *a, **k: sf_train(*a, callbacks=press, **k))
        with pytest.raises(SystemExit) as exit:
            cli.main([*flags, "--loggers"])
    out, err = capsys.readouterr()
    assert exit.value.code == 128 + number and err == ""
    assert out.startswith(f"{run}: 1 iterations") and f"next: surefoot resume {run} · " in out
    assert signal.getsignal(number) is before
    assert "\n# dynamic-pg on garnet:4,2,2,horizon=3\n" in Path(run, "agent", "README.md").read_text()
