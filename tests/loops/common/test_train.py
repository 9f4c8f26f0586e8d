"""The outer loop on a learner that learns nothing: what ends it, what it keeps, and what it says when it breaks."""

from __future__ import annotations

import errno
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import torch

from surefoot.envs import EnvError
from surefoot.errors import UsageError
from surefoot.loops.common import checkpoint
from surefoot.loops.common.train import train


class Counter:
    """Ten steps an iteration for two seeds; the weights count them. `at` maps an iteration to what happens in it."""

    def __init__(self, at=None):
        self.seeds, self.iteration, self.vector, self.at = [5, 6], 0, torch.zeros(2, 3), at or {}

    @property
    def steps(self):
        return 10 * self.iteration

    def iterate(self):
        self.at.get(self.iteration + 1, lambda: None)()
        self.iteration += 1
        self.vector = self.vector + 1
        return [{"count": self.iteration}, {"count": -self.iteration}]

    def state(self):
        return {"weights": self.vector}

    def lost(self):
        return [seed for seed, vector in zip(self.seeds, self.vector) if not torch.isfinite(vector).all()]

    def flush(self):
        return self.steps


class Kept:
    """A sink that remembers."""

    def __init__(self):
        self.rows = []

    def __call__(self, rows):
        self.rows += [dict(row) for row in rows]

    def close(self):
        pass


def raising(error):
    def act(*_):
        raise error

    return act


def kept(run):
    return [int(place.name) for place in checkpoint.found(run)]


def test_rows_carry_counters_and_clock(tmp_path):
    sink, before = Kept(), time.time()
    assert train(Counter(), tmp_path, 30, sinks=[sink], checkpoint_every=100) == "finished"
    assert [(r["iteration"], r["step"], r["seed"], r["count"]) for r in sink.rows] == [
        (i, 10 * i, seed, sign * i) for i in (1, 2, 3) for seed, sign in ((5, 1), (6, -1))
    ]
    assert all(before <= r["time"] <= time.time() and r["steps_per_second"] > 0 for r in sink.rows)


@pytest.mark.parametrize(("total", "iterations"), [(1, 1), (10, 1), (11, 2), (35, 4)])
def test_it_ends_at_the_first_batch_that_reaches_the_total(tmp_path, total, iterations):
    learner = Counter()
    train(learner, tmp_path, total, sinks=[], checkpoint_every=1000)
    assert learner.iteration == iterations


@pytest.mark.parametrize(("every", "expected"), [(10, [1, 2, 3, 4, 5, 6, 7]), (20, [2, 4, 6, 7]), (25, [3, 6, 7])])
def test_checkpoints_are_written_at_the_start_at_intervals_and_at_the_end(tmp_path, monkeypatch, every, expected):
    written, write = [], checkpoint.write

    def noting(run, state, facts):
        written.append(facts["iteration"])
        assert (state["weights"] == facts["iteration"]).all()
        return write(run, state, facts)

    monkeypatch.setattr(checkpoint, "write", noting)
    train(Counter(), tmp_path, 70, sinks=[], checkpoint_every=every)
    assert sorted({*written}) == [0, *expected]
    assert kept(tmp_path) == expected[-2:]  # the newest two stay


def test_a_checkpoint_says_what_it_belongs_to(tmp_path):
    train(Counter(), tmp_path, 20, sinks=[], checkpoint_every=10, facts={"method": "ppo"})
    _, facts = checkpoint.read(checkpoint.latest(tmp_path))
    wanted = {"method": "ppo", "iteration": 2, "steps": 20, "logged": 20, "seeds": [5, 6]}
    assert {name: facts[name] for name in wanted} == wanted


def test_callbacks_see_the_learner_may_add_metrics_and_end_the_run(tmp_path):
    sink, seen = Kept(), []

    def adds(learner, rows):
        rows[0]["extra"] = 7.0

    def ends(learner, rows):
        return learner.iteration == 3

    def sees(learner, rows):
        seen.append((learner.iteration, rows[0]["extra"], rows[0]["step"]))

    reason = train(Counter(), tmp_path, 100, sinks=[sink], callbacks=[adds, ends, sees], checkpoint_every=1000)
    assert reason == "stopped"
    assert seen == [(1, 7.0, 10), (2, 7.0, 20), (3, 7.0, 30)]  # every callback is called, also after one said stop
    assert [row.get("extra") for row in sink.rows] == [7.0, None] * 3
    assert kept(tmp_path) == [0, 3]


def test_a_time_limit_ends_with_a_checkpoint(tmp_path):
    learner = Counter({2: lambda: time.sleep(0.3)})
    assert train(learner, tmp_path, 1000, sinks=[], checkpoint_every=10**6, time_limit=0.25) == "stopped"
    assert learner.iteration == 2
    assert kept(tmp_path) == [0, 2]
    assert train(Counter(), tmp_path / "roomy", 50, sinks=[], checkpoint_every=1000, time_limit=60) == "finished"


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_after_the_iteration_under_way(tmp_path, number):
    before = signal.getsignal(number)
    learner, sink = Counter({2: lambda: signal.raise_signal(number)}), Kept()
    ending = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert train(learner, tmp_path, 1000, sinks=[sink], checkpoint_every=10**6) == ending
    assert learner.iteration == 2 and len(sink.rows) == 4
    assert kept(tmp_path) == [0, 2]
    assert signal.getsignal(number) is before


@pytest.fixture
def interruptible():
    """Ctrl-C raises `KeyboardInterrupt`, also where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_one_ends_at_once(tmp_path, interruptible):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    learner = Counter({2: twice})
    with pytest.raises(KeyboardInterrupt):
        train(learner, tmp_path, 1000, sinks=[], checkpoint_every=10**6)
    assert learner.iteration == 1
    assert kept(tmp_path) == [0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_runs_in_a_thread_where_signals_are_somebody_elses(tmp_path):
    results = []
    thread = threading.Thread(
        target=lambda: results.append(train(Counter(), tmp_path, 20, sinks=[], checkpoint_every=9))
    )
    thread.start()
    thread.join(30)
    assert results == ["finished"]


# --- what breaks -----------------------------------------------------------------------------------------------------

FULL = OSError(errno.ENOSPC, "No space left on device")
RESUMES = "Nothing before the checkpoint {last} is lost; resume from it with: surefoot train --resume {run}"
MENDED = "The last checkpoint is {last}. Once the environment is fixed, resume with: surefoot train --resume {run}"
BREAKS = {
    "the environment": (
        EnvError("Environment 1 failed in step()."),
        EnvError,
        r"Environment 1 failed in step\(\)\. ",
        MENDED,
    ),
    "its numbers": (UsageError("reward is nan."), UsageError, r"reward is nan\. ", "The last checkpoint is {last}."),
    "a worker": (
        EOFError(),
        EnvError,
        r"A worker process of the environments died \(EOFError\)\. .*backend='gymnasium'",
        RESUMES,
    ),
    "its pipe": (
        ConnectionResetError(),
        EnvError,
        r"A worker process of the environments died \(ConnectionReset",
        RESUMES,
    ),
    "the action log": (
        OSError(errno.ENOSPC, "No space left on device"),
        UsageError,
        r"actions\.bin could not .*No space",
        RESUMES,
    ),
}


@pytest.mark.parametrize("case", BREAKS)
def test_what_breaks_in_an_iteration_names_the_checkpoint_and_resuming_where_that_can_help(tmp_path, case):
    error, kind, words, advice = BREAKS[case]
    with pytest.raises(kind, match=words) as raised:
        train(Counter({4: raising(error)}), tmp_path, 100, sinks=[], checkpoint_every=20)
    assert raised.value.__cause__ is error
    assert str(raised.value).endswith(advice.format(last=tmp_path / "checkpoints" / "00000002", run=tmp_path))
    assert "\n" not in str(raised.value)
    assert kept(tmp_path) == [0, 2]


@pytest.mark.parametrize("case", BREAKS)
def test_what_breaks_in_the_first_iteration_does_not_praise_an_empty_checkpoint(tmp_path, case):
    error, kind, words, advice = BREAKS[case]
    with pytest.raises(kind, match=words) as raised:
        train(Counter({1: raising(error)}), tmp_path, 100, sinks=[], checkpoint_every=20)
    told = str(raised.value)
    assert "Nothing had been trained yet" in told and "lost" not in told and "00000000" not in told
    assert ("--resume" in told) == ("{run}" in advice)


def test_a_sink_that_cannot_write_says_what_is_kept(tmp_path):
    full = raising(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(
        UsageError, match=r"metrics could not be written: .*No space.* Nothing had been trained yet; start it.*--resume"
    ):
        train(Counter(), tmp_path, 100, sinks=[full], checkpoint_every=20)


def test_an_action_log_that_cannot_be_made_durable_says_so(tmp_path):
    learner = Counter()
    learner.flush = raising(FULL)
    with pytest.raises(UsageError, match=r"actions\.bin could not be written: .*Nothing had been trained yet"):
        train(learner, tmp_path, 100, sinks=[], checkpoint_every=20)


def test_what_callbacks_add_is_written_as_plain_numbers(tmp_path):
    def add(_, rows):
        rows[0] |= {"a": np.float32(0.5), "b": torch.tensor(2), "c": np.array(1.5), "d": "text", "e": None}

    sink = Kept()
    train(Counter(), tmp_path, 10, sinks=[sink], callbacks=[add], checkpoint_every=100)
    assert {name: sink.rows[0][name] for name in "abcde"} == {"a": 0.5, "b": 2, "c": 1.5, "d": "text", "e": None}
    assert type(sink.rows[0]["a"]) is float and type(sink.rows[0]["b"]) is int
    with pytest.raises(UsageError, match=r"A callback put x=array\(\[1, 2\]\) into a row of metrics; give a number"):
        train(
            Counter(),
            tmp_path,
            10,
            sinks=[],
            callbacks=[lambda _, r: r[1].update(x=np.array([1, 2]))],
            checkpoint_every=9,
        )


def test_a_callbacks_own_error_is_its_own(tmp_path):
    for error in (OSError("mine"), RuntimeError("mine")):
        learner, sink = Counter(), Kept()
        with pytest.raises(type(error), match=r"^mine\nNothing before the checkpoint .*00000001 is lost"):
            train(learner, tmp_path, 100, sinks=[sink], callbacks=[raising(error)], checkpoint_every=100)
        assert [row["iteration"] for row in sink.rows] == [1, 1]
        shutil.rmtree(tmp_path / "checkpoints")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_end_the_run_before_they_are_kept(tmp_path, bad):
    learner, sink = Counter(), Kept()
    learner.at[3] = lambda: learner.vector[1].fill_(bad)
    with pytest.raises(
        UsageError, match=rf"weights of seed 6 .* after 30 steps.* {tmp_path}.*00000002\..*learning_rate"
    ):
        train(learner, tmp_path, 100, sinks=[sink], checkpoint_every=10)
    assert len(sink.rows) == 4
    state, _ = checkpoint.read(checkpoint.latest(tmp_path))
    assert torch.isfinite(state["weights"]).all()
