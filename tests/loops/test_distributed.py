"""Two processes take the step that one takes, and leave one run behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot import Run
from surefoot.loops import distributed

HERE = Path(__file__).parent
WORKER = HERE / "distributed_worker.py"
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def together(processes: int, *command: str, **env: str) -> None:
    """Run a command in that many processes, as torchrun would."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    common = {**ENV, **env, "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        for process in started:
            said, _ = process.communicate(timeout=100)
            assert process.returncode == 0, said
    finally:
        for process in started:
            process.kill()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Weights and metrics after one iteration of every case, of one process and of both of two."""
    folder = tmp_path_factory.mktemp("distributed")
    together(1, str(WORKER), str(folder / "one"))
    together(2, str(WORKER), str(folder / "two"))
    return {name: load_file(folder / f"{name}.safetensors") for name in ("one-0", "two-0", "two-1")}


GROUPS = ("grpo", "grpo-pieces", "dapo", "bnpo", "gpg", "delta-l", "hpt", "rebel", "sft")
CASES = (*GROUPS, "ppo-critic", "ppo-critic-pieces")


@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_step_of_one(case, found):
    step = f"{case}/step"
    assert found["one-0"][step].abs().max() > 1e-3
    for rank in ("two-0", "two-1"):
        torch.testing.assert_close(found[rank][step], found["one-0"][step], rtol=1e-5, atol=1e-5)
    assert torch.equal(found["two-0"][step], found["two-1"][step])


@pytest.mark.parametrize("case", CASES)
def test_metrics_are_those_of_the_whole_batch(case, found):
    names = [name for name in found["one-0"] if name.startswith(f"{case}/row/")]
    assert f"{case}/row/grad_norm" in names
    for name in names:
        for rank in ("two-0", "two-1"):
            torch.testing.assert_close(found[rank][name], found["one-0"][name], rtol=1e-4, atol=1e-6)


def test_a_run_of_two_processes_is_one_folder(tmp_path):
    run = tmp_path / "run"
    sizes = ["--prompts", "3", "--samples", "4", "--max-tokens", "4", "--nano-warmup", "20", "--steps", "3"]
    command = ["-m", "surefoot.cli", "train", "grpo", "--task", "arithmetic", *sizes, "--run-dir", str(run)]
    together(2, *command, SUREFOOT_CACHE=str(tmp_path / "cache"))
    kept = Run(run)
    assert kept.finished and [row["iteration"] for row in kept.metrics()] == [1, 2, 3]
    assert len(list((tmp_path / "cache" / "nano").iterdir())) == 1
    assert kept.agent().texts(["1+1="], max_tokens=2)


def test_alone_everything_is_the_identity():
    x = torch.arange(6).view(3, 2)
    assert (distributed.rank(), distributed.world_size(), distributed.block(5)) == (0, 1, slice(0, 5))
    assert distributed.gather(x) is x and torch.equal(distributed.share(x), x)
    assert distributed.gather_row({"a": 1.0}) == [{"a": 1.0}]
    assert distributed.anywhere(True) and not distributed.anywhere(False)
