"""All that `test_distributed` looks at, made in the folder that is named: processes that meet one another, forked from
one that has loaded everything, which takes longer than what they do."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import distributed_cases as cases
import distributed_runs as runs
import peft  # noqa: F401 (loaded here for all)
import torch
from transformers.models.llama import modeling_llama  # noqa: F401

from surefoot import cli
from surefoot.loops.group_rollout import language, sharding  # noqa: F401


def started(count: int, do: Callable[[], None]) -> list[int]:
    """The ids of that many processes that do something together, with the variables that torchrun would set."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}
    return [os.fork() or done(do, {**place, "RANK": str(i), "LOCAL_RANK": str(i)}) for i in range(count)]


def done(do: Callable[[], None], env: dict[str, str]) -> NoReturn:
    """Do something as one of several processes, which then ends."""
    failed = 1
    try:
        os.environ.update(env)
        torch.set_num_threads(1)
        do()
        failed = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(failed)


def together(count: int, do: Callable[[], None]) -> None:
    """Have something done, by all of the processes."""
    for _ in started(count, do):
        if os.wait()[1]:
            raise SystemExit(1)  # whoever has started this one ends the others


def cut(do: Callable[[], None]) -> None:
    """Have something begun by two processes, of which the second is killed; the first then ends with an error."""
    ends = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in started(2, do)]
    assert ends == [1, -signal.SIGKILL], ends


def killed_at_any_moment(do: Callable[[], None], until: Path) -> None:
    """Have something begun by one process that is killed some time after a file or folder has come into being."""
    (process,) = started(1, do)
    while not until.exists():
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    together(1, partial(cases.main, "one"))
    together(2, partial(cases.main, "two"))
    sizes = ["--prompts", "3", "--max-tokens", "4", "--nano-warmup", "2", "--steps", "3"]
    together(2, partial(cli.main, ["train", "sft", "--task", "arithmetic", *sizes, "--run-dir", "shell"]))
    together(2, partial(runs.begin, "whole"))
    cut(partial(runs.begin, "killed", callbacks=[runs.kill_the_second]))
    together(2, runs.go_on)
    together(1, partial(cli.main, runs.written("written")))
    checkpoint = Path("killed-writing", "checkpoints", "00000003")
    killed_at_any_moment(partial(cli.main, runs.written("killed-writing")), checkpoint)
