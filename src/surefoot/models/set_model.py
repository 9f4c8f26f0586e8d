"""A learned second stage of two-stage problems, saved as safetensors and JSON.

A row of features is a choice x (n), losses ξ (n), then what is known of every item (n times `features`), as in the
tables of `surefoot.envs.recourse.sampled`; n may differ from row set to row set, since items are summed.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.hyperparameters import build
from surefoot.models.saved import described, read_agent, write_agent
from surefoot.models.set_value import SetSizes, SetValue

FORMAT = "surefoot-set-value-1"
KNOWN = 6  # numbers that are known of an item


class SetModel:
    """The value of a second stage, predicted. `network` is in float64 and scales what it is given."""

    loop: ClassVar[str] = "supervised"  # the kind of what it was trained in
    classes: ClassVar[None] = None

    def __init__(self, network: SetValue, facts: dict[str, Any] | None = None) -> None:
        self.network, self.facts = network.double().eval().requires_grad_(False), facts or {}

    def __repr__(self) -> str:
        return described(self, f"choices and losses of items with {self.network.features} numbers each → value")

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The value of every row `[k]`, in the units of the problem."""
        with torch.no_grad():
            x, xi, items = divided(torch.as_tensor(np.asarray(X, dtype=np.float64)), self.network.features)
            return self.network.unscaled(self.network(x, xi, self.network.scaled(items))).numpy()

    def losses(self, table: Table) -> np.ndarray:
        """Half the squared error of every row `[k]`, as a share of the range of values in training."""
        return 0.5 * ((self.predict(table.X) - table.y) / float(self.network.spread)) ** 2

    def probabilities(self, X: np.ndarray) -> np.ndarray:
        """There are none."""
        raise UsageError("a model of numbers has no probabilities of classes.")

    def save(self, folder: str | Path) -> Path:
        """Write `agent.safetensors` and `agent.json` into a folder."""
        about = {"sizes": dataclasses.asdict(self.network.sizes), "features": self.network.features}
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
            sizes, features = description.pop("sizes"), description.pop("features")
            if type(features) is not int or features < 1 or not isinstance(sizes, dict):
                raise ValueError(f"features={features!r} is not allowed")
            with torch.device("meta"):  # sizes are compared before memory is taken
                made = SetValue(features, build(SetSizes, sizes))
            wanted = {name: x.shape for name, x in made.state_dict().items()}
            if wanted != {name: x.shape for name, x in tensors.items()}:
                raise ValueError("the tensors do not fit the network")
            if not all(bool(torch.isfinite(x).all()) for x in tensors.values()):
                raise ValueError("the weights must be finite")
            made.double().load_state_dict(tensors, assign=True)
            return cls(made, description)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise UsageError(f"{folder} is damaged: it does not hold the model in agent.json ({error}).") from error


def divided(X: Tensor, known: int = KNOWN) -> tuple[Tensor, Tensor, Tensor]:
    """Choices and losses `[..., n]`, and items `[..., n, known]`, of rows `[..., (2 + known)·n]`.

    Raises:
        UsageError: the rows have another number of features.
    """
    n, rest = divmod(X.shape[-1], 2 + known)
    if rest:
        raise UsageError(
            f"X has {X.shape[-1]} features; a two-stage problem has {2 + known} for every item: x and ξ of all items, "
            f"then {known} of each. Give data=knapsack:8, or rows made by surefoot.envs.recourse.sampled."
        )
    return X[..., :n], X[..., n : 2 * n], X[..., 2 * n :].unflatten(-1, (n, known))
