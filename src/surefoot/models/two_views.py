"""Encoders of two views of every row, and the model of pairs that is saved and used.

A row holds both views side by side: its first features are the first view, the others the second.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.hyperparameters import build
from surefoot.models.functional import Flat
from surefoot.models.row_network import RowNetwork
from surefoot.models.saved import described, read_agent, write_agent
from surefoot.objectives.contrastive import log_means, margins

FORMAT = "surefoot-two-views-1"
GALLERY = 1000  # most rows among which a row's other view is looked for


class TwoViews(nn.Module):
    """Embeddings `[batch, width]` of length 1 of both views of rows `[batch, ...]`."""

    def __init__(self, network: RowNetwork, sizes: tuple[int, int], width: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.one, self.other = (network.make((size,), width) for size in sizes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        one, other = x.flatten(1).split(self.sizes, -1)
        return F.normalize(self.one(one), dim=-1), F.normalize(self.other(other), dim=-1)


class PairModel:
    """Two trained encoders.

    vector: the weights; sizes: features of the first and of the second view; width: of embeddings; scale: what is
    subtracted from the features of a row and what they are multiplied by, `[d]` each; temperature: of its loss.
    """

    loop: ClassVar[str] = "supervised"  # the kind of what it was trained in
    classes: ClassVar[None] = None

    def __init__(
        self,
        network: RowNetwork,
        sizes: tuple[int, int],
        width: int,
        vector: Tensor,
        scale: tuple[np.ndarray, np.ndarray],
        temperature: float,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.network, self.sizes, self.width, self.vector = network, sizes, width, vector
        self.scale, self.temperature, self.facts = scale, temperature, facts or {}
        with torch.device("meta"):  # its own parameters are never used
            self._flat = Flat(TwoViews(network, sizes, width))

    def __repr__(self) -> str:
        return described(self, f"views of {self.sizes[0]} and {self.sizes[1]} features → {self.width} numbers")

    def embed(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings `[n, width]`, of length 1, of the first and of the second views of rows."""
        X, d = np.asarray(X, dtype=np.float64), sum(self.sizes)
        if X.ndim < 2 or math.prod(X.shape[1:]) != d:
            raise UsageError(
                f"X has the shape {list(X.shape)}; this model was trained on views of {self.sizes[0]} and "
                f"{self.sizes[1]} features side by side, so it must be [samples, {d}]."
            )
        shift, factor = self.scale
        with torch.no_grad():
            x = torch.from_numpy((X.reshape(len(X), d) - shift) * factor)
            one, other = self._flat(self.vector.double(), x)
        return one.numpy(), other.numpy()

    def predict(self, X: Any) -> np.ndarray:
        """For every row, the place of the row whose second view is most like its first, `[n]`."""
        one, other = self.embed(X)
        return np.concatenate([(one[block] @ other.T).argmax(1) for block in _blocks(len(one))])

    def probabilities(self, X: Any) -> np.ndarray:
        """The softmax of similarities by the temperature: the chance that row j's second view belongs to row i's first,
        `[n, n]`."""
        one, other = self.embed(X)
        return torch.from_numpy(one @ other.T / self.temperature).softmax(-1).numpy()

    def losses(self, table: Table) -> np.ndarray:
        """The contrastive loss of every row among at most 1,000 of the table, `[n]`: τ·log of the mean over the other
        rows of exp(margin/τ), the mean of both views as anchors. 0 for a row alone."""
        found = [np.zeros(1) if len(s) == 1 else self._losses(s) for s in self._galleries(table)]
        return np.concatenate(found)

    def _losses(self, similarity: np.ndarray) -> np.ndarray:
        excess = margins(torch.from_numpy(similarity)) / self.temperature
        return self.temperature * log_means(excess).mean(0).numpy()

    def figures(self, table: Table) -> dict[str, float]:
        """`retrieval`: the share of views whose other view is the most similar among at most 1,000 rows."""
        found = [s.argmax(axis) == np.arange(len(s)) for s in self._galleries(table) for axis in (0, 1)]
        return {"retrieval": float(np.concatenate(found).mean())}

    def _galleries(self, table: Table) -> list[np.ndarray]:
        """The similarities `[m, m]` within blocks of rows."""
        one, other = self.embed(table.X)
        return [one[block] @ other[block].T for block in _blocks(len(one))]

    def save(self, folder: str | Path) -> Path:
        """Write `agent.safetensors` and `agent.json` into a folder."""
        about = {"network": dataclasses.asdict(self.network), "sizes": list(self.sizes), "width": self.width}
        about["temperature"] = self.temperature
        shift, factor = (torch.from_numpy(x).contiguous() for x in self.scale)
        tensors = {"weights": self.vector.contiguous(), "shift": shift, "factor": factor}
        return write_agent(folder, {"format": FORMAT, **about, **self.facts}, tensors)

    @classmethod
    def load(cls, folder: str | Path) -> PairModel:
        """The model that `save` wrote. Reads tensors and JSON only; no code is run.

        Raises:
            UsageError: the folder has no such model, or a damaged one.
        """
        about, tensors = read_agent(folder, FORMAT)
        try:
            network, sizes, width, temperature = (about.pop(n) for n in ("network", "sizes", "width", "temperature"))
            named = {k: tuple(x) if isinstance(x, list) else x for k, x in network.items()}
            return cls._checked(build(RowNetwork, named), sizes, width, temperature, tensors, about)
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise UsageError(f"{folder} is damaged: it does not hold the model in agent.json ({error}).") from error

    @classmethod
    def _checked(
        cls,
        network: RowNetwork,
        sizes: Any,
        width: Any,
        temperature: Any,
        tensors: dict[str, Tensor],
        facts: dict[str, Any],
    ) -> PairModel:
        """The model, if its parts fit together; a `ValueError` otherwise."""
        whole = [*sizes, width] if isinstance(sizes, list) and len(sizes) == 2 else []
        if not whole or not all(type(n) is int and 0 < n < 2**20 for n in whole):
            raise ValueError(f"sizes={sizes!r} with width={width!r} is not allowed")
        if type(temperature) is not float or not 0 < temperature < math.inf:
            raise ValueError(f"temperature={temperature!r} is not allowed")
        with torch.device("meta"):
            size = sum(p.numel() for p in TwoViews(network, (sizes[0], sizes[1]), width).parameters())
        weights = tensors["weights"]
        scale = (tensors["shift"].double().numpy(), tensors["factor"].double().numpy())
        numbers = all(np.isfinite(x).all() for x in (*scale, weights.numpy()))
        if not numbers or weights.shape != (size,) or any(x.shape != (sum(sizes),) for x in scale):
            raise ValueError(
                f"{list(weights.shape)} weights and the scales must be finite and fit the network of {size}"
            )
        return cls(network, (sizes[0], sizes[1]), width, weights, scale, temperature, facts)


def _blocks(count: int) -> list[np.ndarray]:
    """The places of rows in blocks of equal size, of at most 1,000 each."""
    return np.array_split(np.arange(count), math.ceil(count / GALLERY))
