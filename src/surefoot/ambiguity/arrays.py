"""Conversion of input: lists and arrays of any layout to tensors, rows of any precision to distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.errors import UsageError

# Maximum deviation of a row's sum from one: the rounding error of a normalised row of a few thousand entries.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-1}


def tensor(given: Any, name: str, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
    """The input as a tensor; lists are converted by NumPy, to float64 if they hold fractions.

    Raises `UsageError` for input that is not an array of numbers.
    """
    try:
        array = (
            given if isinstance(given, Tensor) else np.asarray(given, order="C")
        )  # torch does not support negative strides
        if torch.is_complex(array) if isinstance(array, Tensor) else np.iscomplexobj(array):
            raise TypeError("it is complex; take its real part if that is intended")
        return torch.as_tensor(array, dtype=dtype, device=device)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{name} is not an array of numbers ({error}); give a tensor, a NumPy array, or lists of equal length."
        ) from error


def normalised(rows: Tensor) -> Tensor:
    """Rows in float64; rows of lower precision that sum to one within it are renormalised, others are unchanged."""
    if rows.dtype == torch.float64 or rows.dtype not in TOLERANCE:
        return rows.double()
    exact = rows.double()
    total = exact.sum(-1, keepdim=True)
    return exact / torch.where((total - 1).abs() <= TOLERANCE[rows.dtype], total, 1.0)
