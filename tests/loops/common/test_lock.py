"""One writer for each run folder: who comes second is told who is there, and a crash leaves nothing locked."""

from __future__ import annotations

import errno
import fcntl
import os
import signal

import pytest

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common import lock
from surefoot.loops.common.run import Run

SETTINGS = {"env": "garnet:4,2,2,horizon=3", "loggers": (), "seed": 1}


@pytest.fixture
def run(tmp_path):
    return sf.train("dynamic-pg", steps=2, run_dir=tmp_path / "run", **SETTINGS).path


def files(run):
    return {p.relative_to(run): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != lock.NAME}


def test_a_folder_in_use_is_refused_and_nothing_in_it_changes(run):
    before = files(run)
    words = rf"is in use by process {os.getpid()} on .* \(training, since 20"
    with lock.training(run):
        for act in (
            lambda: sf.resume(run),
            lambda: sf.resume(run, steps=+3),
            lambda: sf.evaluate(run, episodes=1),
            lambda: sf.stress(run, perturb="sticky-action:0..0.1", points=2, episodes=1),
        ):
            with pytest.raises(UsageError, match=words) as raised:
                act()
            assert "\n" not in str(raised.value)
        assert files(run) == before
    assert not (run / lock.NAME).exists()
    sf.resume(run, steps=+2)
    assert len(Run(run).metrics()) == 4


def test_a_run_is_locked_from_its_first_file_to_its_last(tmp_path):
    seen = []

    def second(learner, rows):
        with pytest.raises(UsageError, match=f"in use by process {os.getpid()}"):
            sf.resume(tmp_path / "run")
        with pytest.raises(UsageError, match="exists and is not empty|in use by"):
            sf.train("dynamic-pg", steps=3, run_dir=tmp_path / "run", **SETTINGS)
        seen.append(learner.iteration)

    sf.train("dynamic-pg", steps=3, run_dir=tmp_path / "run", callbacks=second, **SETTINGS)
    assert seen == [1, 2, 3]
    assert [row["iteration"] for row in Run(tmp_path / "run").metrics()] == [1, 2, 3]


def test_evaluations_do_not_exclude_each_other_but_training(run):
    @lock.evaluation
    def evaluate(policy, inner):
        return inner()

    def trains():
        with pytest.raises(UsageError, match=r"\(an evaluation, since"):
            sf.resume(run)
        return sf.evaluate(run, episodes=1)["episodes"]

    assert evaluate(run, lambda: evaluate(str(run), trains)) == 1
    assert not (run / lock.NAME).exists()


def test_a_killed_process_leaves_nothing_locked(run):
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        with lock.training(run):
            os.write(tell, b"1")
            signal.pause()
    try:
        assert os.read(ready, 1) == b"1"
        with pytest.raises(UsageError, match=rf"is in use by process {child} on "):
            sf.resume(run)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert (run / lock.NAME).exists()
    assert sf.resume(run).finished
    assert not (run / lock.NAME).exists()


def test_who_waited_for_a_file_that_was_removed_takes_the_new_one(run, monkeypatch):
    """Between opening and locking the former holder may remove the file; another could then lock a new one."""
    real, held = fcntl.flock, []

    def late(number, kind):
        if not held:
            held.append(number)
            (run / lock.NAME).unlink()
        return real(number, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    with lock.training(run):
        monkeypatch.undo()
        with pytest.raises(UsageError, match="in use by"), lock.training(run):
            pass


def test_a_file_system_without_locks_is_warned_of(run, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.warns(UserWarning, match="cannot be locked .*No locks available.*let no other process write to it"):
        assert sf.resume(run).finished


def test_a_lock_that_points_elsewhere_is_not_followed(run, tmp_path):
    (tmp_path / "mine").write_text("mine")
    (run / lock.NAME).symlink_to(tmp_path / "mine")
    with pytest.raises(UsageError, match="could not be written"):
        sf.resume(run)
    assert sf.evaluate(run, episodes=1)["episodes"] == 1
    assert (tmp_path / "mine").read_text() == "mine"


FORGED = b'{"pid": "\\u001b[2J", "host": 1, "what": 2, "since": 3}'


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", FORGED, b"\xff"])
def test_a_holder_that_cannot_be_read_is_another_process(run, content):
    number = os.open(run / lock.NAME, os.O_RDWR | os.O_CREAT)
    os.write(number, content)
    fcntl.flock(number, fcntl.LOCK_EX)
    try:
        with pytest.raises(UsageError, match="is in use by (another )?process") as raised:
            sf.resume(run)
        assert "\x1b" not in str(raised.value)
    finally:
        os.close(number)
