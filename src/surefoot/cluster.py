"""Independent pieces of work on a Ray cluster: `on="ray"` is one on this machine, `on="ray:ADDRESS"` another's.

A piece is a function of its arguments and computes on as many threads as it would here, so that its result is the same
to the bit wherever it runs. A piece whose worker dies is run again. What a piece reads and writes are files, so folders
must be on a disk that all machines of the cluster share.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from surefoot.errors import UsageError

T = TypeVar("T")
RETRIES = 3  # of a piece whose worker died


def spread(function: Callable[..., T], pieces: Sequence[tuple[Any, ...]], on: str = "") -> list[T]:
    """The results of a function of each piece's arguments, in their order: one after another here, or on a cluster.

    Args:
        function: called with the arguments of each piece.
        pieces: the arguments of each piece.
        on: "" for this process, "ray" or "ray:ADDRESS".

    Raises:
        UsageError: `on` is not known, Ray is not installed or the cluster cannot be reached, or a piece raised it.
    """
    if not on:
        return [function(*piece) for piece in pieces]
    import torch

    ray, threads = connected(on), torch.get_num_threads()
    task = ray.remote(num_cpus=threads, max_retries=RETRIES)(_alone)
    waiting = [task.remote(threads, os.getcwd(), [*sys.path], [ray.put((function, piece))]) for piece in pieces]
    found = []
    for result, mistake in ray.get(waiting):
        if mistake is not None:
            raise mistake
        found.append(result)
    return found


def width(on: str) -> int:
    """The number of pieces that a cluster computes at once; 1 here."""
    if not on:
        return 1
    import torch

    return max(1, int(connected(on).cluster_resources().get("CPU", 1)) // torch.get_num_threads())


def connected(on: str) -> Any:
    """Ray, connected to the cluster; one that this process is connected to already is used.

    Raises:
        UsageError: `on` is not known, Ray is not installed, or the cluster cannot be reached.
    """
    kind, _, address = on.partition(":")
    if kind != "ray":
        raise UsageError(f"on={on!r} is not allowed; it must be 'ray', or 'ray:ADDRESS' of a cluster.")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UsageError("on='ray' needs Ray: pip install 'surefoot[scale]'.") from error
    if not ray.is_initialized():
        here: dict[str, Any] = {} if address else {"include_dashboard": False}
        try:
            ray.init(address=address or None, log_to_driver=False, logging_level=logging.ERROR, **here)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UsageError(f"on={on!r}: the cluster cannot be reached ({error}).") from error
    return ray


def _alone(threads: int, folder: str, path: list[str], work: list[Any]) -> tuple[Any, UsageError | None]:
    """The result of one piece in a worker, or the user's mistake that it found. The piece is fetched once the user's
    own modules are found as they are found here."""
    import ray
    import torch

    torch.set_num_threads(threads)
    os.chdir(folder)
    sys.path[:] = [*sys.path, *(place for place in path if place not in sys.path)]
    try:
        function, piece = ray.get(work[0])
        return function(*piece), None
    except UsageError as mistake:
        return None, UsageError(str(mistake))
