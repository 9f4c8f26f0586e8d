"""One writer per run folder: a file lock that the operating system releases when its process ends for any reason."""

from __future__ import annotations

import errno
import fcntl
import functools
import json
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from surefoot.errors import UsageError, printable
from surefoot.loops.common.folder import Run

Function = TypeVar("Function", bound=Callable[..., Any])
NAME = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # the file system does not support locks


@contextmanager
def training(run: Path) -> Iterator[None]:
    """Hold an exclusive lock on the folder of a run, as training requires.

    Raises:
        UsageError: another process trains or evaluates in the folder; the message names it.
        OSError: the folder cannot be written to.
    """
    with _holding(_locked(run, fcntl.LOCK_EX), run, "training"):
        yield


def evaluation(function: Function) -> Function:
    """Make a function of a policy hold a shared lock on the folder if the policy is a run or its folder, so that other
    evaluations may run but training may not. A folder that cannot be written to is not locked.

    Raises:
        UsageError: another process trains in the folder; the message names it.
    """

    @functools.wraps(function)
    def held(policy: Any, *arguments: Any, **named: Any) -> Any:
        number, policy = None, policy.path if isinstance(policy, Run) else policy
        if isinstance(policy, (str, Path)) and (Path(policy) / "config.json").is_file():
            with suppress(OSError):
                number = _locked(Path(policy), fcntl.LOCK_SH)
        if number is None:
            return function(policy, *arguments, **named)
        with _holding(number, Path(policy), "an evaluation"):
            return function(policy, *arguments, **named)

    return cast(Function, held)


@contextmanager
def _holding(number: int, run: Path, what: str) -> Iterator[None]:
    try:
        about = {"pid": os.getpid(), "host": socket.gethostname(), "what": what}
        os.ftruncate(number, 0)
        os.pwrite(number, json.dumps({**about, "since": time.strftime("%Y-%m-%d %H:%M:%S")}).encode(), 0)
        yield
    finally:
        with suppress(OSError):  # the last holder removes it while nobody else can acquire it
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(run / NAME)
        os.close(number)


def _locked(run: Path, kind: int) -> int:
    """The descriptor of the locked file."""
    while True:
        number = os.open(run / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            fcntl.flock(number, kind | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(number), os.stat(run / NAME)):
                    return number
            os.close(number)  # its holder removed it after it was opened: try again
        except BlockingIOError as error:
            holder = _holder(number)
            os.close(number)
            raise UsageError(
                f"{run} is in use by {holder}. Wait until that has ended, or stop it. While a run is being trained, "
                f"{run}/agent and copies of the folder can be evaluated."
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(number)
                raise
            warnings.warn(f"{run} cannot be locked ({error}); let no other process write to it.", stacklevel=5)
            return number


def _holder(number: int) -> str:
    """The holder of the lock according to the file."""
    try:
        about = json.loads(os.pread(number, 1000, 0))
        words = "process {pid} on {host} ({what}, since {since})".format(**about)
        return printable(words)
    except (ValueError, KeyError, TypeError, OSError):
        return "another process"
