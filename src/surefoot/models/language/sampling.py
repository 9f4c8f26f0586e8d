"""How tokens are drawn from a model's distribution: truncated by rank or probability, and without repetitions.

The likelihood that an engine reports of a token is that of the distribution that it was drawn from, which is not the
model's if it is truncated. In training the gap between the two is measured in every step (`engine_gap`), and
`correction` weighs the tokens by it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from surefoot.hyperparameters import check, hyperparameter


@dataclass(frozen=True)
class Sampling:
    """The settings of sampling besides the temperature; by default tokens are drawn from the model's distribution. In
    the order in which they are applied (that of transformers and vLLM):"""

    repetition_penalty: float = hyperparameter(
        1.0, above=0, help="Divisor of the positive logits of tokens that occurred before, and factor of negative ones."
    )
    top_k: int | None = hyperparameter(None, low=1, help="Number of likeliest tokens to draw from; by default all.")
    top_p: float = hyperparameter(
        1.0, above=0, high=1, help="Probability of the smallest set of likeliest tokens to draw from."
    )
    min_p: float = hyperparameter(
        0.0, low=0, high=1, help="Minimum probability of a token relative to that of the likeliest one."
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def whole(self) -> bool:
        """Whether tokens are drawn from the model's own distribution."""
        return self == Sampling()

    def logits(
        self, logits: Float[Tensor, "rows vocabulary"], seen: Int[Tensor, "rows length"], valid: Tensor
    ) -> Float[Tensor, "rows vocabulary"]:
        """The logits (already divided by the temperature) of the distribution to draw from: −inf for tokens that are
        left out. `seen` are the tokens before, where `valid`."""
        if self.repetition_penalty != 1:
            logits = self._repeated(logits, seen, valid)
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, -1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.top_p < 1:
            ordered, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
            before = ordered.cumsum(-1, dtype=torch.float64) - ordered
            out = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= self.top_p)
            logits = logits.masked_fill(out, -torch.inf)
        if self.min_p > 0:
            floor = logits.amax(-1, keepdim=True) + torch.tensor(self.min_p).log()
            logits = logits.masked_fill(logits < floor, -torch.inf)
        return logits

    def _repeated(self, logits: Tensor, seen: Tensor, valid: Tensor) -> Tensor:
        occurred = torch.zeros_like(logits).scatter_add_(-1, seen, valid.to(logits.dtype)) > 0
        changed = torch.where(logits > 0, logits / self.repetition_penalty, logits * self.repetition_penalty)
        return torch.where(occurred, changed, logits)

    def named(self) -> dict[str, Any]:
        """The settings that are not the defaults, by name."""
        return {name: value for name, value in asdict(self).items() if value != getattr(Sampling(), name)}
