"""Masks of noise: a Beta variate for every cell, and how cells are painted on an image."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

EDGE = 1e-4  # cells stay this far from 0 and 1, where densities are infinite
TRIES = 4  # proposals for a Gamma variate; all are refused once in 10⁵ cells or less, and then it is the mode


def cells_of(shape: tuple[int, ...], grid: int) -> tuple[int, ...]:
    """The cells of a mask for rows of a shape: at most `grid` a side of an image, one a feature of a vector."""
    return tuple(min(grid, side) for side in shape[1:]) if len(shape) == 3 else (math.prod(shape),)


def random_numbers(shape: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
    """What `drawn` needs for masks of a shape: two Gamma variates a cell, with spare proposals."""
    normal = torch.randn(2, TRIES, *shape, generator=generator)
    return {"normal": normal, "uniform": torch.rand(2, TRIES + 1, *shape, generator=generator)}


def drawn(log_a: Tensor, log_b: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
    """Masks `[...]` from Beta(a, b) by the random numbers `[2, tries, ...]`: every cell has its own, so that none
    depends on how many another needed.

    G₁/(G₁ + G₂) of two Gamma variates by Marsaglia and Tsang (2000), of shape a + 1 times U^(1/a).
    """
    first, second = (_log_gamma_variate(x.exp(), n, u) for x, n, u in zip((log_a, log_b), normal, uniform, strict=True))
    return torch.sigmoid(first - second).clamp(EDGE, 1 - EDGE)


def _log_gamma_variate(shape: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
    d = shape + 2 / 3
    log_v, logs = torch.zeros_like(shape), uniform.clamp(min=1e-30).log()
    for x, log_u in zip(normal.flip(0), logs[1:].flip(0), strict=True):  # the first proposal that is accepted stays
        root = 1 + x / (9 * d).sqrt()
        proposed = 3 * root.clamp(min=1e-30).log()
        accepted = (root > 0) & (log_u < x**2 / 2 + d * (1 - root**3 + proposed))
        log_v = torch.where(accepted, proposed, log_v)
    return d.log() + log_v + logs[0] / shape


def painted(mask: Float[Tensor, "... cells"], shape: tuple[int, ...], grid: int, blur: int, sigma: float) -> Tensor:
    """What rows of a shape are multiplied by: cells spread over their pixels and blurred, `[..., 1, height, width]`,
    the same for all channels; for vectors the cells themselves."""
    if len(shape) != 3:
        return mask.view(*mask.shape[:-1], *shape)
    cells = cells_of(shape, grid)
    down, across = (spread(side, n, blur, sigma).to(mask) for side, n in zip(shape[1:], cells, strict=True))
    return (down @ mask.view(*mask.shape[:-1], *cells) @ across.T).unsqueeze(-3)


def spread(side: int, cells: int, blur: int, sigma: float) -> Float[Tensor, "side cells"]:
    """The matrix that spreads cells along a side of pixels, each to the nearest, and blurs them there by a Gaussian
    kernel of an odd number of pixels, reflected at the ends."""
    pixel = torch.arange(side)
    nearest = torch.zeros(side, cells, dtype=torch.float64)
    nearest[pixel, pixel * cells // side] = 1
    offset = torch.arange(blur) - blur // 2
    weight = torch.exp(-0.5 * (offset.double() / sigma) ** 2)
    period = max(1, 2 * (side - 1))
    place = (pixel.unsqueeze(1) + offset) % period
    place = torch.minimum(place, period - place) if side > 1 else torch.zeros_like(place)
    blurred = torch.zeros(side, side, dtype=torch.float64)
    blurred.scatter_add_(1, place, (weight / weight.sum()).expand(side, blur).clone())
    return blurred @ nearest
