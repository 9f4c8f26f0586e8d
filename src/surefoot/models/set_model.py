"""A learned second stage of two-stage problems, saved as safetensors and JSON.

A row of features is a choice x (n), what of ξ is seen beside every item (n times `entries`), then what is known of
every item (n times `features`), as in the tables of `surefoot.envs.recourse.sampled`; n may differ from row set to row
set, since items are summed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.hyperparameters import build
from surefoot.models.saved import described, read_agent, write_agent
from surefoot.models.set_value import SetSizes, SetValue

FORMAT = "surefoot-set-value-1"


class SetModel:
    """The value of a second stage, predicted. `network` is in float64 and scales what it is given."""

    loop: ClassVar[str] = "supervised"  # the kind of what it was trained in
    classes: ClassVar[None] = None

    def __init__(self, network: SetValue, facts: dict[str, Any] | None = None) -> None:
        self.network, self.facts = network.double().eval().requires_grad_(False), facts or {}

    def __repr__(self) -> str:
        return described(self, f"choices and ξ of items with {self.network.features} numbers each → value")

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The value of every row `[k]`, in the units of the problem."""
        with torch.no_grad():
            rows = torch.as_tensor(np.asarray(X, dtype=np.float64))
            x, xi, items = divided(rows, Widths(self.network.entries, self.network.features))
            return self.network.unscaled(self.network(x, xi, self.network.scaled(items))).numpy()

    def losses(self, table: Table) -> np.ndarray:
        """Half the squared error of every row `[k]`, as a share of the range of values in training."""
        return 0.5 * ((self.predict(table.X) - table.y) / float(self.network.spread)) ** 2

    def probabilities(self, X: np.ndarray) -> np.ndarray:
        """There are none."""
        raise UsageError("a model of numbers has no probabilities of classes.")

    def save(self, folder: str | Path) -> Path:
        """Write `agent.safetensors` and `agent.json` into a folder."""
        about = {"sizes": dataclasses.asdict(self.network.sizes), "entries": self.network.entries}
        about["features"] = self.network.features
        tensors = {name: x.contiguous() for name, x in self.network.state_dict().items()}
        return write_agent(folder, {"format": FORMAT, **about, **self.facts}, tensors)

    @classmethod
    def load(cls, folder: str | Path) -> SetModel:
        """The model that `save` wrote. Reads tensors and JSON only; no code is run.

        Raises:
            UsageError: the folder has no such model, or a damaged one.
        """
        description, tensors = read_agent(folder, FORMAT)
        try:
            sizes, *widths = (description.pop(name) for name in ("sizes", "entries", "features"))
            if any(type(x) is not int or x < 1 for x in widths) or not isinstance(sizes, dict):
                raise ValueError("entries and features must be whole numbers from 1 on, and sizes be named")
            entries, features = widths
            with torch.device("meta"):  # sizes are compared before memory is taken
                made = SetValue(features, build(SetSizes, sizes), entries)
            wanted = {name: x.shape for name, x in made.state_dict().items()}
            if wanted != {name: x.shape for name, x in tensors.items()}:
                raise ValueError("the tensors do not fit the network")
            if not all(bool(torch.isfinite(x).all()) for x in tensors.values()):
                raise ValueError("the weights must be finite")
            made.double().load_state_dict(tensors, assign=True)
            return cls(made, description)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise UsageError(f"{folder} is damaged: it does not hold the model in agent.json ({error}).") from error


class Widths(NamedTuple):
    """How many numbers of ξ are seen beside every item, and how many are known of it."""

    entries: int
    features: int

    @classmethod
    def of(cls, names: Sequence[str]) -> Widths:
        """Those of a table, by the names of its columns: x0, x1, … of choices, then xi…, then all others.

        Raises:
            UsageError: they are not those of a two-stage problem.
        """
        n = sum(bool(re.fullmatch(r"x\d+", name)) for name in names)
        seen = sum(name.startswith("xi") for name in names)
        if not n or not seen or seen % n or not (known := len(names) - n - seen) or known % n:
            raise UsageError(
                f"X has {len(names)} features, {n} of them named as choices x0, x1, … and {seen} as xi…; a two-stage "
                "problem has both and more for every item. Give data=knapsack:8 or data=capital-budgeting:8, made so."
            )
        return cls(seen // n, known // n)


def divided(X: Tensor, widths: Widths) -> tuple[Tensor, Tensor, Tensor]:
    """Choices `[..., n]`, what is seen of ξ `[..., n·entries]`, and items `[..., n, features]`, of rows.

    Raises:
        UsageError: the rows have another number of features.
    """
    each = 1 + sum(widths)
    n, rest = divmod(X.shape[-1], each)
    if rest:
        raise UsageError(f"X has {X.shape[-1]} features; this two-stage problem has {each} for every item.")
    end = (1 + widths.entries) * n
    return X[..., :n], X[..., n:end], X[..., end:].unflatten(-1, (n, widths.features))
