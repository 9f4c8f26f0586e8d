"""Several processes that train one model: each does its share of the work, and all end up with the same result.

`torchrun` (or `accelerate launch`) starts them; in a single process, every function here is the identity. Only tensors
are communicated, nothing is pickled: by gloo on CPUs, by NCCL between GPUs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Row = dict[str, float]


def start() -> None:
    """Connect to the other processes, if there are any; call it before the model is made."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


def rank() -> int:
    """The rank of this process; process 0 writes the files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def block(count: int) -> slice:
    """This process's contiguous slice of `count` items; `gather` joins the slices in order."""
    ends = [count * i // world_size() for i in (rank(), rank() + 1)]
    return slice(*ends)


def share(rows: Tensor) -> Tensor:
    """Every n-th row starting at the rank, for n processes: an even share of the work if rows are sorted by length."""
    return rows[rank() :: world_size()]


def gather(x: Tensor) -> Tensor:
    """The rows of all processes concatenated, `[sum of rows, ...]`; processes may have different numbers of rows."""
    if world_size() == 1:
        return x
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(x)]))
    padded = x.new_zeros(int(max(counts)), *x.shape[1:])
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


def add(tensors: Iterable[Tensor]) -> None:
    """Replace every tensor by its sum over the processes."""
    if world_size() > 1:
        for work in [dist.all_reduce(x, async_op=True) for x in tensors]:
            work.wait()  # type: ignore[union-attr]


def add_gradients(weights: Iterable[Tensor]) -> None:
    """Sum the gradients; a process that has none for a weight contributes 0."""
    if world_size() > 1:
        weights = list(weights)
        for weight in weights:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        add([weight.grad for weight in weights if weight.grad is not None])


def gather_row(row: Mapping[str, float]) -> list[Row]:
    """The metrics of every process; their names may differ."""
    if world_size() == 1:
        return [dict(row)]
    text = torch.frombuffer(bytearray(json.dumps(dict(row)).encode() + b"\n"), dtype=torch.uint8)
    return [json.loads(line) for line in bytes(gather(text).tolist()).splitlines()]


def agree(tensors: Iterable[Tensor]) -> None:
    """Give every process the values of process 0."""
    if world_size() > 1:
        with torch.no_grad():
            for x in tensors:
                dist.broadcast(x, 0)


def whole(x: Any) -> Tensor:
    """The full tensor of a sharded one, to be called in all processes; any other tensor unchanged."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def part(x: Tensor, like: Any) -> Tensor:
    """This process's shard of a tensor that all processes have, sharded `like` another; the inverse of `whole`."""
    if not hasattr(like, "full_tensor"):
        return x
    from torch.distributed.tensor import distribute_tensor  # its import takes seconds

    return distribute_tensor(x.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def largest(count: int) -> int:
    """The largest of the processes' numbers."""
    if world_size() == 1:
        return count
    found = torch.tensor([count])
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return bool(largest(int(flag)))


def wait() -> None:
    """Wait until all processes arrive here."""
    if world_size() > 1:
        anywhere(False)


@contextmanager
def first() -> Iterator[None]:
    """Process 0 runs the block before the others, which then find its results in a cache."""
    if rank() > 0:
        wait()
    yield
    if rank() == 0:
        wait()
