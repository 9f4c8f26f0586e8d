"""What one of several processes does with a run: begin it, or go on with it."""

from __future__ import annotations

import os
import shutil
import signal
from typing import Any

import surefoot as sf
from surefoot.loops.common import distributed

SETTINGS = {
    "task": "arithmetic:digits=1",
    "model": "model",
    "reward": "distributed_runs:digits",
    "prompts": 3,
    "samples": 4,
    "max_tokens": 4,
    "epochs": 2,
    "kl": 0.1,
    "learning_rate": 1e-3,
    "steps": 5,
    "checkpoint_every": 1,
    "loggers": (),
    "seed": 3,
}


def digits(completions, **fields):
    """The share of digits."""
    return [sum(x.isdigit() for x in c) / max(1, len(c)) - 0.01 * len(c) for c in completions]


def begin(run: str, **settings: Any) -> None:
    """Train from the start."""
    sf.train("ppo-critic", run_dir=run, **SETTINGS, **settings)


def kill_the_second(learner: Any, rows: list[dict[str, float]]) -> None:
    """In the third iteration, of which the first process then logs a row but keeps no checkpoint."""
    if learner.iteration == 3 and distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def written(run: str) -> list[str]:
    """The command that begins a run of one process."""
    flags = ["--task", "arithmetic:digits=1", "--model", "model", "--prompts", "4", "--learning-rate", "0.01"]
    flags += ["--max-tokens", "4", "--checkpoint-every", "1", "--steps", "15", "--seed", "3"]
    return ["train", "sft", *flags, "--run-dir", run]


def go_on() -> None:
    """Resume a run that was killed, and a copy of it with a sharded model; another copy is left as it is."""
    distributed.start()
    if distributed.rank() == 0:
        shutil.copytree("killed", "alone")
        shutil.copytree("killed", "sharded")
    distributed.wait()
    sf.resume("killed", trust=True)
    sf.resume("sharded", sharding="full", trust=True)
