"""A run that was killed goes on to the bit; damaged, foreign and unwritable files are refused with nothing lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

import surefoot as sf
from surefoot import cli
from surefoot.errors import UsageError
from surefoot.loops.common import checkpoint
from surefoot.loops.common.run import Run
from surefoot.methods.control.ppo import PPO
from surefoot.methods.control.spo import SPO

CLOCK = ("time", "steps_per_second")
SETTINGS = {"num_envs": 4, "num_steps": 32, "minibatch_size": 32, "epochs": 2, "hidden": (16,)}


def rows(run: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in Run(run).metrics()]


def final_state(run: Path) -> dict:
    place = checkpoint.latest(run)
    assert place is not None
    return load_file(place / "state.safetensors")


def same_bits(one: Path, other: Path) -> None:
    assert rows(one) == rows(other)
    a, b = final_state(one), final_state(other)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].numpy().tobytes() == b[name].numpy().tobytes(), name


def stop_at(iteration: int):
    return lambda learner, rows: learner.iteration == iteration


@pytest.mark.parametrize(
    ("method", "env", "options"),
    [
        ("ppo", "CartPole-v1", {"backend": "gymnasium"}),
        ("ppo", "CartPole-v1", {"backend": "envpool"}),
        ("ppo", "Hopper-v5", {"backend": "envpool", "penalty": "adaptive"}),
        ("spo", "Hopper-v5", {"backend": "gymnasium", "num_seeds": 2, "anneal": True}),
        ("ppo", "surefoot/MemoryCue-v0", {"core": "gru"}),
        ("ppo", "surefoot/MaskedAction-v0", {"core": "lstm"}),
    ],
)
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, method, env, options):
    sizes = {"num_steps": 16, "steps": 64 * 6, "checkpoint_every": 128}
    settings = SETTINGS | sizes | {"loggers": (), "seed": 3} | options
    sf.train(method, env, run_dir=tmp_path / "whole", **settings)
    sf.train(method, env, run_dir=tmp_path / "cut", callbacks=[stop_at(3)], **settings)
    assert len(rows(tmp_path / "cut")) < len(rows(tmp_path / "whole"))
    sf.resume(tmp_path / "cut")
    same_bits(tmp_path / "whole", tmp_path / "cut")


def flags(run: Path, steps: int) -> list[str]:
    sizes = ["--num-envs", "4", "--num-steps", "64", "--epochs", "4", "--checkpoint-every", "512", "--compile", "off"]
    return ["train", "ppo", "--env", "CartPole-v1", *sizes, "--run-dir", str(run), "--steps", str(steps)]


def command(run: Path, steps: int) -> list[str]:
    return [sys.executable, "-m", "surefoot.cli", *flags(run, steps)]


def test_kill_minus_nine_at_any_moment(tmp_path):
    steps = 256 * 14
    cli.main(flags(tmp_path / "whole", steps))
    process = subprocess.Popen(
        command(tmp_path / "killed", steps), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    metrics = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while (not metrics.exists() or metrics.read_text().count("\n") < 5) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < len(rows_whole_lines(metrics)) < 14
    cli.main(["train", "--resume", str(tmp_path / "killed")])
    same_bits(tmp_path / "whole", tmp_path / "killed")


def rows_whole_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def test_a_run_killed_before_its_second_checkpoint_goes_on_twice(tmp_path):
    """The log of actions begins anew, or the second resume would play back what the first run did."""
    about = {"num_envs": 2, "num_steps": 16, "minibatch_size": 16, "seed": 3, "steps": 96, "loggers": ()}
    sf.train("ppo", "Pendulum-v1", run_dir=tmp_path / "whole", **about)
    cut = sf.train("ppo", "Pendulum-v1", run_dir=tmp_path / "cut", callbacks=[stop_at(2)], **about)
    for place in checkpoint.found(cut.path)[1:]:
        shutil.rmtree(place)
    assert (cut.path / "actions.bin").stat().st_size > 0
    sf.resume(cut.path, callbacks=[stop_at(1)])
    sf.resume(cut.path)
    same_bits(tmp_path / "whole", tmp_path / "cut")


def test_control_c_ends_with_a_checkpoint(tmp_path):
    process = subprocess.Popen(
        [*command(tmp_path / "run", 10**7), "--backend", "gymnasium"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while (not metrics.exists() or metrics.read_text().count("\n") < 3) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "steps" in out
    _, facts = checkpoint.read(checkpoint.latest(tmp_path / "run"))
    assert facts["iteration"] == len(rows(tmp_path / "run"))
    assert sf.load(tmp_path / "run").facts["ended"] == "interrupted"


@pytest.fixture
def finished(tmp_path) -> Path:
    sf.train("ppo", "CartPole-v1", 512, run_dir=tmp_path / "run", loggers=(), checkpoint_every=256, **SETTINGS)
    return tmp_path / "run"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_is_passed_over_for_the_older_one_and_said(finished, tmp_path):
    whole = shutil.copytree(finished, tmp_path / "whole")
    older, newest = checkpoint.found(finished)
    flip(newest / "state.safetensors")
    assert checkpoint.latest(finished) == older
    with pytest.warns(UserWarning, match=f"{newest.name}/state.safetensors is damaged: .*resumed from {older}"):
        sf.resume(finished)
    same_bits(whole, finished)
    assert [p.name for p in checkpoint.found(finished)] == [older.name, newest.name]
    assert len(list((finished / "checkpoints").glob(f"damaged-{newest.name}-*"))) == 1


@pytest.mark.parametrize("content", ["{not json", '{"format": "something-else"}', "[]"])
def test_a_foreign_checkpoint_is_passed_over(finished, tmp_path, content):
    whole = shutil.copytree(finished, tmp_path / "whole")
    (checkpoint.latest(finished) / "meta.json").write_text(content)
    with pytest.warns(UserWarning, match="meta.json is damaged: .*resumed from .*00000002"):
        sf.resume(finished)
    same_bits(whole, finished)


def test_where_all_checkpoints_are_damaged_that_is_said_and_nothing_is_touched(finished):
    for place in checkpoint.found(finished):
        flip(place / "meta.json")
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    with pytest.raises(UsageError, match="has no undamaged checkpoint.*00000004/meta.json.*00000002/meta.json"):
        sf.resume(finished)
    assert before == {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}


def test_checkpoint_of_another_method_or_network_is_refused(finished):
    config = json.loads((finished / "config.json").read_text())
    config["hyperparameters"]["hidden"] = [8, 8]
    (finished / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"was written with hidden=\[16\], config.json says hidden=\[8, 8\]"):
        sf.resume(finished)


def test_a_checkpoint_of_other_types_is_refused(finished):
    """Its checksums are right: somebody wrote it so."""
    place, state, facts = checkpoint.newest(finished)
    facts = {k: v for k, v in facts.items() if k not in ("format", "sha256", "meta_sha256")}
    checkpoint.write(finished, {**state, "weights": state["weights"].double()}, facts)
    with pytest.raises(UsageError, match="does not fit this method, network or number of seeds: weights differ"):
        sf.resume(finished)


def test_shortened_action_log_is_refused(finished):
    log = finished / "actions.bin"
    os.truncate(log, log.stat().st_size - 1)
    with pytest.raises(UsageError, match="log of actions is damaged"):
        sf.resume(finished)


def test_existing_folder_is_refused(finished):
    before = sorted(p.name for p in finished.iterdir())
    with pytest.raises(UsageError, match="exists and is not empty.*--resume"):
        sf.train("ppo", "CartPole-v1", 512, run_dir=finished, **SETTINGS)
    assert sorted(p.name for p in finished.iterdir()) == before


def test_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    """A file size limit stands in for a full disk: the write fails half-way, as it would there."""
    run, limits = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(learner, rows):
        if learner.iteration == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))

    settings = SETTINGS | {"loggers": (), "checkpoint_every": 128}
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises((UsageError, OSError), match="Nothing .*|File too large"):
            sf.train("ppo", "CartPole-v1", 128 * 6, run_dir=run, callbacks=[full], **settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    _, facts = checkpoint.read(checkpoint.latest(run))
    assert facts["iteration"] == 2
    sf.resume(run)
    sf.train("ppo", "CartPole-v1", 128 * 6, run_dir=tmp_path / "whole", **settings)
    same_bits(tmp_path / "whole", run)


def test_a_run_goes_on_as_it_began(tmp_path):
    cli.main(flags(tmp_path / "run", 512))
    for given, message in [
        ({"method": SPO()}, "was started with 'ppo', not with 'spo'"),
        ({"method": PPO(epochs=1)}, "was started with .*epochs=4.* not with .*epochs=1"),
        ({"env": "CartPole-v0"}, "env='CartPole-v0' is not this run's environment, 'CartPole-v1'"),
    ]:
        with pytest.raises(UsageError, match=message):
            sf.resume(tmp_path / "run", **given)


def test_a_run_that_was_cut_off_says_how_to_go_on(tmp_path):
    cli.main(flags(tmp_path / "run", 512))
    shutil.rmtree(tmp_path / "run" / "agent")
    with pytest.raises(UsageError, match="stopped before it saved an agent; resume it with: surefoot train --resume"):
        sf.evaluate(tmp_path / "run")
