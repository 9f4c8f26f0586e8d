"""A policy of independent choices, one from every group of options: drawing, log-probabilities, and their diversity.

Logits `[..., options]` hold those of all groups in a row; `sizes` says how many each has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def drawn(
    logits: Float[Tensor, "... options"], gumbel: Float[Tensor, "... options"], sizes: Sequence[int]
) -> Int[Tensor, "... groups"]:
    """A choice in every group, by Gumbel's trick with noise as large as the logits."""
    return torch.stack([x.argmax(-1) for x in (logits + gumbel).split(list(sizes), -1)], -1)


def log_probability(
    logits: Float[Tensor, "... options"], choice: Int[Tensor, "... groups"], sizes: Sequence[int]
) -> Float[Tensor, "..."]:
    """The log-probability of the choices of all groups together."""
    parts = zip(logits.split(list(sizes), -1), choice.unbind(-1), strict=True)
    return torch.stack([x.log_softmax(-1).gather(-1, c.unsqueeze(-1)).squeeze(-1) for x, c in parts]).sum(0)


def diversity(logits: Float[Tensor, "rows options"], sizes: Sequence[int], band: tuple[float, float]) -> Tensor:
    """A penalty on probabilities outside a band around that of a uniform choice, the mean over groups:

        [Σ over p > m(1 + u) of log p − Σ over p < m(1 − l) of log p] / number of both,   m = 1/options, band = (l, u)

    over rows and options. Descent lowers those above and raises those below; 0 where all are within.
    """
    lower, upper = band
    found = []
    for part, n in zip(logits.split(list(sizes), -1), sizes, strict=True):
        logs = part.log_softmax(-1)
        p = logs.detach().exp()
        sign = (p > (1 + upper) / n).to(logs.dtype) - (p < (1 - lower) / n).to(logs.dtype)
        found.append((sign * logs).sum() / sign.abs().sum().clamp(min=1))
    return torch.stack(found).mean()


def entropy_share(logits: Float[Tensor, "rows options"], sizes: Sequence[int]) -> Tensor:
    """The mean entropy of the choices as a share of that of uniform ones."""
    logs = [x.log_softmax(-1) for x in logits.split(list(sizes), -1)]
    most = torch.tensor([float(n) for n in sizes]).log().sum()
    return torch.stack([-(x.exp() * x).sum(-1) for x in logs]).sum(0).mean() / most
