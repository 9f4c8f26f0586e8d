"""Sets whose worst case is cut off at a level of the values, for many rows that share these values.

Their duals are maximised over a level α and depend only on F(α) = E(α − v)₊^k, k = 1 (CVaR, total variation) or 2 (χ²).
A sample of the rows shows among which outcomes the best level lies. All outcomes below these enter F as a polynomial of
degree k, whose coefficients are products of the nominal with k + 1 columns; only the probabilities of these few are
looked up, and summed in ascending order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from surefoot.ambiguity.contract import NO_OUTCOMES, Plan

ROUNDING = 1e-15  # relative rounding error of F
TOLERANCE = 1e-10  # maximum effect of rounding on a value, in units of the span of the values
INSIDE = 1e-6  # distance to the ends of the looked-up range, in that unit: rounding moves no level so far
FEWEST = 32  # minimum number of outcomes for which looking up a part can pay off


class Dual(NamedTuple):
    """A concave function of the level and of F, to be maximised over the levels.

    value: (level, F, strength). For k = 2 also, for the piece of F on which F'/2 = mass·α − first and F = mass·α² −
    2·first·α + second — rising: (F'/2, which it may overwrite, F, strength) -> whether the function still rises; best:
    (mass, first, second, strength) -> the level where it stops; change: (F, strength) -> the derivative of the value
    with respect to F.
    """

    degree: int
    value: Callable[[Tensor, Tensor, Tensor], Tensor]
    rising: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    best: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None
    change: Callable[[Tensor, Tensor], Tensor] | None = None


# The sum over the lowest `share` of the mass, weighted by the values: max_α share·α − E(α − v)₊.
LOWEST_SHARE = Dual(1, lambda level, f, share: share * level - f)


# The two forms of χ², by their dual: max_α α − √((1 + radius)·F) and max_α α − F/(4·penalty) − penalty.
CHI_SQUARE_BALL = Dual(
    2,
    lambda level, f, radius: level - ((1 + radius) * f).sqrt(),
    lambda slope, f, radius: f >= slope.square_().mul_(1 + radius),
    lambda mass, first, second, radius: (
        first / mass
        + ((second / mass - (first / mass) ** 2).clamp(min=0) / ((1 + radius) * mass - 1).clamp(min=0)).sqrt()
    ),
    lambda f, radius: ((1 + radius) / f).sqrt() / 2,
)
CHI_SQUARE_PENALTY = Dual(
    2,
    lambda level, f, penalty: level - f / (4 * penalty) - penalty,
    lambda slope, f, penalty: slope < 2 * penalty,
    lambda mass, first, second, penalty: (2 * penalty + first) / mass,
    lambda f, penalty: 1 / (4 * penalty).expand_as(f),
)


class Peak(NamedTuple):
    """The maximum of a row's dual: its value, its index among the outcomes, F there and its error, `[R, 1]`."""

    value: Tensor
    place: Tensor
    f: Tensor
    rounding: Tensor


def peak(
    dual: Dual, start: Tensor, y: Tensor, p: Tensor, below: Sequence[Tensor], size: Tensor, scratch: Tensor
) -> Peak:
    """The greatest value at a level from `start` on, where outcomes `[w]` lie `y ≥ 0` above it in ascending order.

    p: `[R, w]` their probabilities, which are overwritten; below: `[R, 1]` Σ p·(start − v)^j over all lower outcomes,
    j = 0, 1 (, 2); size: the strength of the dual; scratch: `[4, R, w]`, because allocating memory takes longer than
    the sums that fill it.
    """
    mass = torch.cumsum(p, -1, out=scratch[0])
    first = torch.cumsum(p.mul_(y), -1, out=scratch[1])
    if dual.degree == 1:
        # share·(start + y) − F(y), with F(y) = below₁ + below₀·y + Σ p·(y − y_i)₊
        value, place = first.addcmul_(y, mass.neg_().add_(size - below[0])).max(-1, keepdim=True)
        return Peak(value + (size * start - below[1]), place, value, torch.zeros_like(value))
    assert dual.rising and dual.best
    mass, first = mass.add_(below[0]), first.sub_(below[1])
    rounding = ROUNDING * (below[2] + y[-1] * (2 * below[1] + y[-1] * mass[:, -1:]))
    second = p.mul_(y).cumsum_(-1).add_(below[2] + rounding)  # so that the dual increases where F is 0
    slope = torch.mul(mass, y, out=scratch[2]).sub_(first)
    f = torch.sub(slope, first, out=scratch[3]).mul_(y).add_(second)
    last = dual.rising(slope, f, size).sum(-1, keepdim=True)  # number of outcomes below the best level
    place = (last - 1).clamp(min=0)
    mass, first, second = (one.gather(-1, place) for one in (mass, first, second))
    ends = torch.cat([y, y.new_tensor([torch.inf])])
    least, most = ends[place], ends[place + 1]
    level = torch.where(mass > 0, dual.best(mass, first, second, size), most).maximum(least).minimum(most)
    f = (level * (mass * level - 2 * first) + second).clamp(min=0)
    return Peak(dual.value(start + level, f, size), place, f, rounding.maximum(ROUNDING * f))


def level_plan(
    dual: Dual,
    values: Tensor,
    sample: Tensor,
    strength: Tensor | None,
    own: Callable[[Any], Tensor],
    worst: Callable[[Tensor, Tensor, Any], Tensor],
    besides: Tensor = NO_OUTCOMES,
) -> Plan | None:
    """The plan for a dual of values from 0 to 1; None if there are too few outcomes for a part of them to save work.

    own: the set's strength -> the dual's; worst: (greatest values of the dual `[R, 1]`, probabilities `[R, w]` of the
    outcomes `besides` `[w]`, the set's strength) -> the minimum values `[R, 1]`, NaN where they are unknown.
    """
    n = len(values)
    if n < FEWEST:
        return None
    x, order = ((values - values.min()) / (values.max() - values.min())).sort()
    powers = torch.arange(dual.degree + 1, device=x.device)
    nothing = x.new_zeros(len(powers), len(sample), 1)
    scratch = x.new_empty(4, len(sample), n)
    seen = peak(dual, x[0], x, sample[:, order], list(nothing), own(strength), scratch).place
    margin = 2 + 2 * int(seen.max() - seen.min()) // 5
    low, high = max(0, int(seen.min()) - margin), min(n, int(seen.max()) + margin + 1)
    scratch = x.new_empty(4, 0, high - low)
    start, distance = x[low], x[low:high] - x[low]
    columns = torch.zeros(n, len(powers) if low else 0, dtype=x.dtype, device=x.device)
    columns[order[:low]] = (start - x[:low, None]) ** powers[: columns.shape[-1]]

    def finish(products: Tensor, probabilities: Tensor, strength: Tensor | None) -> tuple[Tensor, Tensor]:
        size = own(strength)
        below = products if low else products.new_zeros(len(products), len(powers))
        nonlocal scratch
        if scratch.shape[1] < len(products):
            scratch = probabilities.new_empty(4, len(products), high - low)
        room = scratch[:, : len(products)]
        found = peak(dual, start, distance, probabilities[:, : high - low], below.split(1, -1), size, room)
        value = worst(found.value, probabilities[:, high - low :], strength)
        level = distance[found.place]
        certain = ((level > INSIDE) | (low == 0)) & ((distance[-1] - level > INSIDE) | (high == n))
        if dual.change:
            certain &= dual.change(found.f, size) * found.rounding <= TOLERANCE
        return value.squeeze(-1), (certain & torch.isfinite(value)).squeeze(-1)

    return Plan(columns, finish, torch.cat([order[low:high], besides]))


def chi_square_plan(penalised: bool, values: Tensor, sample: Tensor, strength: Tensor) -> Plan | None:
    """χ²: by mean and variance alone if all rows of the sample keep all their outcomes, else by levels."""
    least, span = values.min(), values.max() - values.min()
    unit = span if penalised else 1.0
    centre = (sample @ values).mean()
    y = (values - centre) / span

    def finish(moments: Tensor, _: Tensor, strength: Tensor | None) -> tuple[Tensor, Tensor]:
        assert strength is not None
        mean, second = moments.split(1, -1)
        variance = (second - mean * mean).clamp(min=0)
        size = strength / unit
        if penalised:
            lost, change, below = variance / (4 * size), 1 / (4 * size), y.max() - mean <= 2 * size
        else:
            lost, change = (size * variance).sqrt(), (size / variance).sqrt() / 2
            below = (y.max() - mean) ** 2 * size <= variance
        certain = below & (ROUNDING * change <= TOLERANCE)
        return (centre + span * (mean - lost)).squeeze(-1), certain.squeeze(-1).expand(len(mean))

    columns = torch.stack([y, y * y], -1)
    if finish(sample @ columns, sample[:, :0], strength)[1].all():
        return Plan(columns, finish)
    dual = CHI_SQUARE_PENALTY if penalised else CHI_SQUARE_BALL
    return level_plan(dual, values, sample, strength, lambda s: s / unit, lambda found, *_: least + span * found)
