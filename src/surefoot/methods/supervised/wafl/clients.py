"""A round of federated learning: clients train on their own rows from the server's weights, which become their mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.seeding import numpy_stream

if TYPE_CHECKING:
    from surefoot.loops.supervised.learner import SupervisedLearner


@dataclass(frozen=True)
class Clients:
    """The rows of every client, by place, and the clients' weights λ, summing to one."""

    names: tuple[str, ...]
    rows: tuple[np.ndarray, ...]
    weights: np.ndarray

    def of_rows(self) -> np.ndarray:
        """The weight of every row in the mixture, `[n]`."""
        found = np.zeros(sum(map(len, self.rows)))
        for rows, weight in zip(self.rows, self.weights, strict=True):
            found[rows] = weight / len(rows)
        return found


def in_clients(table: Table, mixture: tuple[float, ...] | None = None) -> Clients:
    """The clients of a table, one if it names none.

    Raises:
        UsageError: there are not as many clients as weights.
    """
    owners = np.zeros(len(table), dtype=int) if table.clients is None else table.clients
    names, owner = np.unique(owners, return_inverse=True)
    rows = tuple(np.flatnonzero(owner == i) for i in range(len(names)))
    weights = np.array([len(one) for one in rows] if mixture is None else mixture, dtype=np.float64)
    if len(weights) != len(names):
        raise UsageError(
            f"mixture={mixture!r} has {len(weights)} weights, but {table.name} has {len(names)} clients; give one each."
        )
    return Clients(tuple(map(str, names.tolist())), rows, weights / weights.sum())


def nearest_source(distances: np.ndarray) -> np.ndarray:
    """The weights λ `[m]` with the least Σ λ_i·distance_i: all of it on the nearest source, the first of equals."""
    return np.eye(len(distances))[int(np.argmin(distances))]


def round_of(learner: SupervisedLearner, clients: Clients, share: float, epochs: int) -> None:
    """One round of every seed. Each draws its own clients; their weights are scaled to a sum of one."""
    count = max(1, int(share * len(clients.names)))
    drawn = [_drawn(seed, learner.iteration, len(clients.names), count) for seed in learner.seeds]
    parts = np.stack([clients.weights[one] for one in drawn])
    parts = torch.from_numpy(parts / parts.sum(1, keepdims=True)).to(learner.device)
    server = learner.weights
    mean = {name: torch.zeros_like(x, dtype=torch.float64) for name, x in server.items()}
    for turn in range(count):
        learner.weights = {name: x.clone() for name, x in server.items()}
        _trained(learner, clients, [one[turn] for one in drawn], epochs)
        for name, x in learner.weights.items():
            mean[name] += parts[:, turn, None] * x
    learner.weights = {name: mean[name].to(x.dtype) for name, x in server.items()}
    learner.forget()


def _drawn(seed: int, iteration: int, clients: int, count: int) -> np.ndarray:
    """The clients of a round, in the order of their names."""
    if count == clients:
        return np.arange(clients)
    return np.sort(numpy_stream(seed, "clients", iteration).choice(clients, count, replace=False))


def _trained(learner: SupervisedLearner, clients: Clients, who: list[int], epochs: int) -> None:
    """Train one client of every seed on its own rows. Where the clients of several seeds have other numbers of rows,
    the smaller ones' batches are filled with rows of weight 0, and a client that is done keeps its weights."""
    learner.forget()
    plans = [
        _batches(clients, one, seed, learner.iteration, epochs, learner.method.batch_size)
        for one, seed in zip(who, learner.seeds, strict=True)
    ]
    for turn in range(max(map(len, plans))):
        given = [plan[turn] if turn < len(plan) else np.zeros(0, dtype=int) for plan in plans]
        size = max(map(len, given))
        index = np.stack([np.pad(one, (0, size - len(one))) for one in given])
        weight = np.stack([np.arange(size) < len(one) for one in given])
        before = learner.weights
        learner.update(index, weight)
        working = torch.from_numpy(weight.any(1)).to(learner.device).unsqueeze(1)
        learner.weights = {name: torch.where(working, x, before[name]) for name, x in learner.weights.items()}


def _batches(clients: Clients, who: int, seed: int, iteration: int, epochs: int, size: int) -> list[np.ndarray]:
    """The batches of a client's epochs: the order of its rows depends on its name, not on its place."""
    stream, rows = numpy_stream(seed, f"rows of client {clients.names[who]}", iteration), clients.rows[who]
    found: list[np.ndarray] = []
    for _ in range(epochs):
        order = rows[stream.permutation(len(rows))]
        found += [order[start : start + size] for start in range(0, len(rows), size)]
    return found
