"""Two processes take the step that one takes, sharded or not; a killed run of theirs is gone on with to the bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("transformers", reason="language models need surefoot[language]")
pytest.importorskip("peft", reason="adapters need surefoot[language]")

from distributed_cases import CASES

import surefoot as sf
from surefoot import Run, cli
from surefoot.loops.common import checkpoint, distributed
from surefoot.models.language.nano import Nano, fresh

HERE = Path(__file__).parent
CLOCK = ("time", "steps_per_second")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder in which the processes of `distributed_launcher` have left what they did."""
    place = tmp_path_factory.mktemp("distributed")
    fresh(Nano(width=16, layers=2, heads=2, context=48, warmup=0), seed=1).save(place / "model")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "SUREFOOT_CACHE": str(place / "cache")}
    launcher = subprocess.Popen(
        [sys.executable, str(HERE / "distributed_launcher.py"), str(place)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = launcher.communicate(timeout=200)
        assert launcher.returncode == 0, said
    finally:
        with suppress(ProcessLookupError):  # all have ended, unless one waits for another that has failed
            os.killpg(launcher.pid, signal.SIGKILL)
    return place


@pytest.fixture(scope="module")
def found(place):
    """Weights and metrics after one iteration of every case: of one process, and of both of two that have all of the
    model each ("none") or a part of it ("full")."""
    return {path.stem: load_file(path) for path in place.glob("*.safetensors")}


@pytest.mark.parametrize("sharding", ["none", "full"])
@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_step_of_one(case, sharding, found):
    step, names = f"{case}/step", [f"two-{sharding}-{rank}" for rank in (0, 1)]
    assert found["one-none-0"][step].abs().max() > 1e-3
    for name in names:
        torch.testing.assert_close(found[name][step], found["one-none-0"][step], rtol=1e-5, atol=1e-5)
    assert torch.equal(*(found[name][step] for name in names))


@pytest.mark.parametrize("sharding", ["none", "full"])
@pytest.mark.parametrize("case", CASES)
def test_metrics_are_those_of_the_whole_batch(case, sharding, found):
    names = [name for name in found["one-none-0"] if name.startswith(f"{case}/row/")]
    assert f"{case}/row/grad_norm" in names
    for name in names:
        for rank in (0, 1):
            mine = found[f"two-{sharding}-{rank}"][name]
            torch.testing.assert_close(mine, found["one-none-0"][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_each_process_holds_its_part_of_a_sharded_model(case, found):
    weights = found["one-none-0"][f"{case}/held"]
    parts = [found[f"two-full-{rank}"][f"{case}/held"] for rank in (0, 1)]
    assert sum(parts) == weights == found["two-none-1"][f"{case}/held"]
    assert max(parts) < 0.6 * weights


def test_a_run_of_two_processes_is_one_folder(place):
    kept = Run(place / "shell")
    assert kept.finished and [row["iteration"] for row in kept.metrics()] == [1, 2, 3]
    assert len(list((place / "cache" / "nano").iterdir())) == 1
    assert kept.agent().texts(["1+1="], max_tokens=2)


def state(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(checkpoint.latest(run))[0]


def rows(run: Path) -> list[dict]:
    return [{name: x for name, x in row.items() if name not in CLOCK} for row in Run(run).metrics()]


def close(run: Path, whole: Path) -> None:
    """The same weights and metrics to rounding."""
    for mine, other in zip(rows(run), rows(whole), strict=True):
        texts = {name for name, x in mine.items() if isinstance(x, str)}
        assert mine.keys() == other.keys() and all(mine[name] == other[name] for name in texts)
        assert {name: x for name, x in mine.items() if name not in texts} == pytest.approx(
            {name: x for name, x in other.items() if name not in texts}, rel=1e-4, abs=1e-5
        )
    mine, other = state(run), state(whole)
    assert mine.keys() == other.keys()
    for name, x in other.items():
        torch.testing.assert_close(mine[name], x, rtol=1e-4, atol=1e-5)


def test_two_processes_go_on_to_the_bit(place):
    mine, other = state(place / "killed"), state(place / "whole")
    assert rows(place / "killed") == rows(place / "whole") and mine.keys() == other.keys()
    assert all(torch.equal(mine[name], x) for name, x in other.items())


def test_one_process_killed_at_any_moment_goes_on_from_the_shell(place, monkeypatch):
    assert 0 < checkpoint.read(checkpoint.latest(place / "killed-writing"))[1]["iteration"] < 15
    monkeypatch.chdir(place)
    cli.main(["train", "--resume", "killed-writing"])
    mine, other = state(place / "killed-writing"), state(place / "written")
    assert rows(place / "killed-writing") == rows(place / "written") and mine.keys() == other.keys()
    assert all(torch.equal(mine[name], x) for name, x in other.items())


def test_a_sharded_model_goes_on_and_is_kept_whole(place):
    from transformers import AutoModelForCausalLM

    close(place / "sharded", place / "whole")
    agent = AutoModelForCausalLM.from_pretrained(place / "sharded" / "agent").state_dict()
    saved = {name.removeprefix("weights/"): x for name, x in state(place / "sharded").items() if "weights/" in name}
    assert saved.pop("critic.weight").any() and saved.pop("critic.bias").any()  # it learns, and is of the run alone
    assert saved and all(torch.equal(agent[name], x) for name, x in saved.items())


def test_one_process_goes_on_alone(place, monkeypatch):
    assert checkpoint.latest(place / "alone").name == "00000002" and len(rows(place / "alone")) == 3
    monkeypatch.chdir(place)
    sf.resume(place / "alone", trust=True)
    close(place / "alone", place / "whole")


def test_alone_everything_is_the_identity():
    x = torch.arange(6).view(3, 2)
    assert (distributed.rank(), distributed.world_size(), distributed.block(5)) == (0, 1, slice(0, 5))
    assert distributed.gather(x) is x and torch.equal(distributed.share(x), x)
    assert distributed.gather_row({"a": 1.0}) == [{"a": 1.0}]
    assert distributed.anywhere(True) and not distributed.anywhere(False)
