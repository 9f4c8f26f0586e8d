"""The augmentations among which the policy of AROID chooses: groups of options, of which one each is applied in turn.

The first option of every group changes nothing. Sizes are shares of an image, so that they fit one of any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

Rows = Float[Tensor, "rows ..."]
SHIFT = 1 / 8  # of a side
ANGLES = (0.0, -20.0, -10.0, 10.0, 20.0)
CONTRASTS = (1.0, 0.6, 0.8, 1.2, 1.4)
PATCHES = (0.0, 1 / 4, 3 / 8)  # of a side; of a vector the square of it, the same area


def shifted(x: Rows, choice: Int[Tensor, "rows"], uniform: Float[Tensor, "rows draws"]) -> Rows:
    """Images moved up, down, left or right by an eighth of the side, zeros behind them."""
    down, right = (max(1, round(SHIFT * side)) for side in x.shape[-2:])
    ways = ((0, 0), (0, -down), (0, down), (-right, 0), (right, 0))
    return torch.stack([F.pad(x, (a, -a, b, -b)) for a, b in ways])[choice, torch.arange(len(x), device=x.device)]


def rotated(x: Rows, choice: Int[Tensor, "rows"], uniform: Float[Tensor, "rows draws"]) -> Rows:
    """Images turned about their middle, bilinear between pixels and zero beyond them."""
    angle = torch.tensor(ANGLES, dtype=x.dtype, device=x.device)[choice] * (math.pi / 180)
    (height, width), none = x.shape[-2:], torch.zeros_like(angle)
    across = torch.stack([angle.cos(), -angle.sin() * height / width, none], -1)
    along = torch.stack([angle.sin() * width / height, angle.cos(), none], -1)
    grid = F.affine_grid(torch.stack([across, along], 1), list(x.shape), align_corners=False)
    return torch.where(_as(choice == 0, x), x, F.grid_sample(x, grid, align_corners=False))


def contrasted(x: Rows, choice: Int[Tensor, "rows"], uniform: Float[Tensor, "rows draws"]) -> Rows:
    """Rows with their distances from their own mean made smaller or larger."""
    mean = _as(x.flatten(1).mean(1), x)
    factor = _as(torch.tensor(CONTRASTS, dtype=x.dtype, device=x.device)[choice], x)
    return torch.where(_as(choice == 0, x), x, mean + factor * (x - mean))


def erased(x: Rows, choice: Int[Tensor, "rows"], uniform: Float[Tensor, "rows draws"]) -> Rows:
    """Images with a rectangle at a random place set to zero."""
    gone = torch.ones((), dtype=torch.bool, device=x.device)
    for axis, side in ((-2, x.shape[-2]), (-1, x.shape[-1])):
        sizes = torch.tensor([round(share * side) for share in PATCHES], device=x.device)[choice]
        first, pixel = (uniform[:, axis] * (side - sizes + 1)).floor(), torch.arange(side, device=x.device)
        covered = (pixel >= first[:, None]) & (pixel < (first + sizes)[:, None])
        gone = gone & (covered[:, None, :, None] if axis == -2 else covered[:, None, None, :])
    return torch.where(gone, 0.0, x)


def dropped(x: Rows, choice: Int[Tensor, "rows"], uniform: Float[Tensor, "rows draws"]) -> Rows:
    """Vectors with some features, drawn at random, set to zero."""
    share = torch.tensor(PATCHES, dtype=x.dtype, device=x.device)[choice] ** 2
    return torch.where(uniform < share[:, None], 0.0, x)


def _as(values: Tensor, x: Tensor) -> Tensor:
    """Values `[rows]` with as many axes as x."""
    return values.view(-1, *[1] * (x.dim() - 1))


@dataclass(frozen=True)
class Group:
    """Options of which one is applied: `apply(x, choice [rows], uniform [rows, draws]) -> x`."""

    name: str
    options: tuple[str, ...]
    apply: Callable[[Tensor, Tensor, Tensor], Tensor]


_CONTRAST = Group("contrast", tuple(f"×{c:g}" for c in CONTRASTS), contrasted)
_IMAGES = (
    Group("shift", ("none", "up", "down", "left", "right"), shifted),
    Group("rotate", tuple(f"{a:g}°" for a in ANGLES), rotated),
    _CONTRAST,
    Group("erase", tuple(f"{100 * p**2:.0f}%" for p in PATCHES), erased),
)
_VECTORS = (_CONTRAST, Group("drop", tuple(f"{100 * p**2:.0f}%" for p in PATCHES), dropped))


def groups_of(shape: tuple[int, ...]) -> tuple[Group, ...]:
    """The groups for rows of a shape, in the order in which they are applied: four for images `(channels, height,
    width)`; vectors have a contrast and features to drop."""
    return _IMAGES if len(shape) == 3 else _VECTORS


def sizes_of(shape: tuple[int, ...]) -> list[int]:
    """The number of options of every group."""
    return [len(group.options) for group in groups_of(shape)]


def draws_of(shape: tuple[int, ...]) -> int:
    """How many uniform numbers a row needs for what its choices leave open."""
    return 2 if len(shape) == 3 else shape[0]


def augmented(x: Rows, choice: Int[Tensor, "rows groups"], uniform: Float[Tensor, "rows draws"]) -> Rows:
    """Rows `[rows, ...]` after the chosen option of every group."""
    for group, mine in zip(groups_of(tuple(x.shape[1:])), choice.unbind(-1), strict=True):
        x = group.apply(x, mine, uniform)
    return x
