"""Contrastive losses of pairs: in a batch of B pairs, how far the views of other rows are from being taken for a row's
own.

Similarities S are `[..., B, B]`, of the first view of row i with the second of row j. What is about anchors is
`[..., 2, B, B]` or `[..., 2, B]`: first the first views, which look for their second, then the second ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def margins(similarity: Tensor) -> Tensor:
    """How much more alike anchor i is to the other view of row j than to its own: S_ij − S_ii and S_ji − S_ii."""
    own = similarity.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    return torch.stack([similarity - own, similarity.mT - own], -3)


def of_others(x: Tensor, fill: float) -> Tensor:
    """The entries j ≠ i, with `fill` at j = i."""
    return x.masked_fill(torch.eye(x.shape[-1], dtype=torch.bool), fill)


def log_means(excess: Tensor, floor: float = 0.0) -> Tensor:
    """log(floor + mean over j ≠ i of exp(excess_ij)) `[..., 2, B]`, for B ≥ 2."""
    found = of_others(excess, -math.inf).logsumexp(-1) - math.log(excess.shape[-1] - 1)
    return torch.logaddexp(found, torch.full_like(found, math.log(floor))) if floor > 0 else found


def averaged(kept: Tensor, new: Tensor, rate: Tensor) -> Tensor:
    """The logarithm of (1 − rate)·exp(kept) + rate·exp(new); `new` where nothing finite is kept, as at first."""
    mixed = torch.logaddexp(kept + (1 - rate).log(), new + rate.log())
    return torch.where(kept.isfinite(), mixed, new)
