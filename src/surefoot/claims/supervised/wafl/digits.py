"""The miniature: digits of scikit-learn with pixels in [0, 1], and 20 clients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from surefoot.claims.parts import Measurements, Summary
from surefoot.claims.supervised.wafl.clients import holders, trained
from surefoot.data.tables import Table, read
from surefoot.methods.supervised.wafl import WAFL
from surefoot.models.row_network import RowModel
from surefoot.perturbations.ascent import ascend
from surefoot.seeding import numpy_stream

CLIENTS, HELD, ROUNDS = 20, 450, 30
SETTING: dict[str, Any] = {"scale": "unit", "learning_rate": 0.5, "participation": 0.5}
MODELS: dict[str, dict[str, Any]] = {"linear": {}, "network": {"hidden": (64,)}}
DECAYS, TUNING = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), range(2000, 2002)
RADIUS, STEPS, NOISE = 1.0, 20, 0.3


@cache
def digits() -> Table:
    return read("sklearn:digits")


def split(seed: int) -> tuple[Table, Table]:
    """The rows to learn from, dealt to the clients that may hold their digit, and 450 others."""
    table, stream = digits(), numpy_stream(seed, "split")
    order = stream.permutation(len(table))
    train, test = table.rows(order[HELD:]), table.rows(order[:HELD])
    clients = np.zeros(len(train), dtype=int)
    for digit in range(10):
        mine = np.flatnonzero(train.y == digit)
        clients[mine] = np.resize(holders(digit, CLIENTS), len(mine))
    return Table(train.X, train.y, shape=train.shape, clients=clients), test


def figures(model: RowModel, table: Table, seed: int) -> dict[str, float]:
    """Accuracies of a model on rows as they are, attacked and noisy."""
    x, y = model.scaled(table.X), torch.from_numpy(model.encoded(table))

    def accuracy(seen: torch.Tensor) -> float:
        with torch.no_grad():
            return float((model.answer(seen).argmax(-1) == y).double().mean())

    radius = torch.full((len(table),), RADIUS, dtype=torch.float64)
    moves = ascend(lambda m: model.damage(x + m["x"], y), {"x": torch.zeros_like(x)}, radius, "l2", STEPS)["x"]
    noise = NOISE * torch.from_numpy(numpy_stream(seed, "noise").normal(size=x.shape))
    found = {"clean": accuracy(x), "attacked": accuracy(x + moves), "noisy": accuracy(x + noise)}
    return found | {"norm": float(model.vector.norm())}


def arm(kind: str, way: dict[str, Any], seeds: Sequence[int]) -> dict[str, list[float]]:
    """The figures of a way to train a kind of model, seed by seed."""
    found: list[dict[str, float]] = []
    for seed in seeds:
        table, test = split(seed)
        found.append(figures(trained(WAFL(**{**SETTING, **MODELS[kind], **way}), table, seed, ROUNDS), test, seed))
    return {name: [one[name] for one in found] for name in found[0]}


def decayed(kind: str, seeds: Sequence[int]) -> dict[str, Any]:
    """FedAvg with the weight decay whose weights have the norm nearest to that of WAFL's, on two other seeds."""
    target = np.mean(arm(kind, {}, TUNING)["norm"])
    norms = [float(np.mean(arm(kind, {"penalty": math.inf, "weight_decay": d}, TUNING)["norm"])) for d in DECAYS]
    best = DECAYS[int(np.argmin(np.abs(np.log(np.array(norms) / target))))]
    return {"decay": best, "norms": norms, **arm(kind, {"penalty": math.inf, "weight_decay": best}, seeds)}


def of_digits(found: Measurements) -> Summary:
    series: dict[str, Any] = {}
    for kind in MODELS:
        for way in ("WAFL", "FedAvg", "decay"):
            piece = found[f"{way}, {kind}"]
            series |= {f"{name}, {way}, {kind}": piece[name] for name in ("clean", "attacked", "noisy", "norm")}
        series[f"decay, {kind}"] = found[f"decay, {kind}"]["decay"]
    return series
