"""Checks of values and nominal distributions; errors name the place and the remedy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from surefoot.ambiguity.arrays import TOLERANCE
from surefoot.ambiguity.contract import Array, Problem
from surefoot.errors import UsageError

LARGEST = 1e300  # maximum size of values: sums and differences of a few of them are finite


def check_nominal(nominal: Tensor, name: str = "nominal") -> None:
    """Raise `UsageError` unless every row of the last axis is a distribution."""
    if nominal.ndim == 0 or nominal.shape[-1] == 0:
        raise UsageError(
            f"{name} has shape {list(nominal.shape)}, so its support is empty; the last axis must hold the "
            "probabilities of at least one outcome."
        )
    if not nominal.is_floating_point():
        nominal = nominal.double()
    # The sum detects every NaN and infinity, so a valid nominal is read only twice.
    total = nominal.sum(-1, dtype=torch.promote_types(nominal.dtype, torch.float64))
    off = (total - 1).abs()
    if bool((off <= TOLERANCE[nominal.dtype]).all()) and not bool((nominal < 0).any()):
        return
    wrong = ~torch.isfinite(nominal) | (nominal < 0)
    if wrong.any():
        place = _first(wrong)
        raise UsageError(
            f"{name}[{_index(place)}] = {nominal[place].item():g} is not a probability; entries must be finite and "
            f">= 0 ({int(wrong.sum())} of {nominal.numel()} are not). Clip and renormalise the rows, or correct the "
            "model that produced them."
        )
    worst = _first(off == off.max())
    raise UsageError(
        f"{name}[{_index((*worst, ':'))}] sums to {total[worst].item():.9g}, {total[worst].item() - 1:+.3g} from one; "
        f"every row of the last axis must sum to one ({int((off > TOLERANCE[nominal.dtype]).sum())} of {off.numel()} "
        "do not). Divide each row by its sum if the weights are right but not normalised."
    )


def check_values(values: Tensor) -> None:
    """Raise `UsageError` unless all values and their differences are finite."""
    if not values.numel():
        return
    least, most = values.aminmax()  # NaN if there is one
    if bool((least >= -LARGEST) & (most <= LARGEST)):
        return
    wrong = ~torch.isfinite(values)
    if not wrong.any():
        place = _first(values.abs() > LARGEST)
        raise UsageError(
            f"values[{_index(place)}] = {values[place].item():g} is not allowed; values must lie between "
            f"-{LARGEST:g} and {LARGEST:g}. Divide all of them, and a penalty, by the same number."
        )
    place = _first(wrong)
    raise UsageError(
        f"values[{_index(place)}] = {values[place].item()} is not allowed; values must be finite. Give padding any "
        "finite value and the nominal probability 0, with support='nominal'."
    )


def checked(values: Tensor, nominal: Tensor, ambiguity: Problem, strength: Any) -> None:
    """Raise `UsageError` unless the operator supports these inputs."""
    check_nominal(nominal)
    shapes = f"values {list(values.shape)} and nominal {list(nominal.shape)}"
    if values.ndim == 0 or values.shape[-1] != nominal.shape[-1]:
        raise UsageError(
            f"{shapes} do not fit; the last axis of both are the outcomes and must be equally long, such as values [n] "
            "or [..., n] with nominal [..., n]."
        )
    for part in ambiguity.parts:
        if part.outcomes not in (None, values.shape[-1]):
            raise UsageError(
                f"{shapes} have {values.shape[-1]} outcomes, but the {type(part).__name__} was made for "
                f"{part.outcomes}; the last axes must be equally long."
            )
    check_values(values)
    leading = _broadcast((values.shape[:-1], nominal.shape[:-1]), f"the leading axes of {shapes}")
    for part in ambiguity.parts:
        axes = f"the leading axes {list(part.leading)} of {type(part).__name__} and {shapes}"
        leading = _broadcast((leading, part.leading), axes)
        own = strength if part is ambiguity else part.strength
        if isinstance(own, Array):
            own = torch.as_tensor(own)
            part.check_strength(own)
            leading = _broadcast((leading, own.shape), f"the radius or penalty {list(own.shape)} and {shapes}")


def _broadcast(shapes: tuple[torch.Size, ...], what: str) -> torch.Size:
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        raise UsageError(
            f"{what} do not broadcast; each axis must be equally long or 1, counted from the last. Insert axes with "
            "[:, None] where needed."
        ) from None


def _first(wrong: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in wrong.nonzero()[0])


def _index(place: tuple[Any, ...]) -> str:
    return ", ".join(map(str, place))
