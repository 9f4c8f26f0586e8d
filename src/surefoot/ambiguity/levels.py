"""Sets whose worst case is cut off at a level of the values, for many rows that share these values.

Their duals look for the level α with the most to say in terms of F(α) = E(α − v)₊^k alone, k = 1 (CVaR, total
variation) or 2 (χ²). F at a few levels is a product of the nominal with a few columns, and says between which two of
them the best level of a row lies. Between two levels F is a polynomial of degree k, which its values at the levels
give, plus what the few outcomes between them add; only these are looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from surefoot.ambiguity.core import Plan

ROUNDING = 1e-15  # of F, in units of its size
TOLERANCE = 1e-10  # what rounding may change in a value, in units of the span of the values
FEWEST = 32  # outcomes from which levels can pay


class Dual(NamedTuple):
    """A concave function of the level and of F, whose greatest value over the levels is wanted.

    value: (level, F, strength). For k = 2 also, for the piece of F on which F' /2 = mass·α − first and F = mass·α² −
    2·first·α + second — rising: (F'/2, F, strength) -> whether the function still rises; best: (mass, first, second,
    strength) -> the level where it stops; change: (F, strength) -> by how much the value changes with F.
    """

    degree: int
    value: Callable[[Tensor, Tensor, Tensor], Tensor]
    rising: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    best: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None
    change: Callable[[Tensor, Tensor], Tensor] | None = None


# The sum of the lowest `share` of the mass, each draw times its value: max_α share·α − E(α − v)₊.
LOWEST_SHARE = Dual(1, lambda level, f, share: share * level - f)


# The two forms of χ², by their dual: max_α α − √((1 + radius)·F) and max_α α − F/(4·penalty) − penalty.
CHI_SQUARE_BALL = Dual(
    2,
    lambda level, f, radius: level - ((1 + radius) * f).sqrt(),
    lambda slope, f, radius: f >= (1 + radius) * slope * slope,
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
    """Where a row's dual is greatest: its value, its place among the outcomes, F there and its rounding, `[R, 1]`."""

    value: Tensor
    place: Tensor
    f: Tensor
    rounding: Tensor


def peak(
    dual: Dual,
    start: Tensor,
    y: Tensor,
    p: Tensor,
    below: Callable[..., tuple[tuple[Tensor, ...], Tensor]],
    end: Tensor,
    size: Tensor,
) -> Peak:
    """The greatest value at a level from `start` on, where outcomes lie `y ≥ 0` above it in ascending order.

    p: `[R, k]` their probabilities; below: (the sums over them up to each one, of p·yⁱ) -> the coefficients `[R, 1]` of
    the polynomial in y by which all lower outcomes enter F, and the rounding of F; end: how far above `start` the
    search ends; size: the strength of the dual.
    """
    sums = [p.cumsum(-1)]
    for _ in range(dual.degree):
        p = p * y
        sums.append(p.cumsum(-1))
    low, rounding = below(*sums)
    if dual.degree == 1:
        # share·(start + y) − F(y), with F(y) = low₀ + low₁·y + Σ p·(y − y_i)₊
        value, place = torch.addcmul(sums[1], y, (size - low[1]) - sums[0]).max(-1, keepdim=True)
        return Peak(value + (size * start - low[0]), place, value, rounding)
    assert dual.rising and dual.best
    low = (low[0] + rounding, *low[1:])  # so that the dual rises where F is 0
    mass, first, second = sums[0].add_(low[2]), sums[1].sub_(0.5 * low[1]), sums[2].add_(low[0])
    slope = mass * y - first
    f = torch.addcmul(second, y, slope - first)
    last = dual.rising(slope, f, size).sum(-1, keepdim=True)  # so many outcomes lie below the best level
    place = (last - 1).clamp(min=0)
    at_start = last == 0
    mass = torch.where(at_start, low[2], mass.gather(-1, place))
    first = torch.where(at_start, -0.5 * low[1], first.gather(-1, place))
    second = torch.where(at_start, low[0], second.gather(-1, place))
    y = y.expand_as(p)
    least = torch.where(at_start, 0.0, y.gather(-1, place))
    most = torch.where(last == p.shape[-1], end, y.gather(-1, last.clamp(max=p.shape[-1] - 1))).minimum(end)
    level = torch.where(mass > 0, dual.best(mass, first, second, size), most).maximum(least).minimum(most)
    f = (level * (mass * level - 2 * first) + second).clamp(min=0)
    return Peak(dual.value(start + level, f, size), place, f, rounding)


def level_plan(
    dual: Dual,
    values: Tensor,
    sample: Tensor,
    strength: Tensor | None,
    own: Callable[[Any], Tensor],
    worst: Callable[[Tensor, Tensor, Any], Tensor],
) -> Plan | None:
    """The plan for a dual of values from 0 to 1; None for so few outcomes that there is no room for levels.

    own: the set's strength -> the dual's; worst: (greatest values of the dual `[R, 1]`, nominal, the set's strength) ->
    the least values `[R, 1]`, NaN where they are not known.
    """
    n = len(values)
    if n < FEWEST:
        return None
    x, order = ((values - values.min()) / (values.max() - values.min())).sort()
    none, tiny = x.new_zeros(len(sample), 1), x.new_full((len(sample), 1), 1e-30)
    everything = dual, x[:1], x, sample[:, order], lambda *_: ((none, none, none), tiny), none + torch.inf
    seen = peak(*everything, own(strength)).place
    first, step, count = _levels(int(seen.min()), int(seen.max()), n, dual.degree)
    node = first + step * torch.arange(count, device=x.device)  # places of the levels; −1 is below all outcomes
    level = x[node.clamp(min=0)]
    columns = torch.empty(n, count, dtype=x.dtype, device=x.device)
    columns[order] = (level - x[:, None]).clamp(min=0) ** dual.degree
    # Of the levels below, at and above each but the outermost ones: the outcomes between, and how far above they lie.
    between = node[:-2, None] + 1 + torch.arange(2 * step, device=x.device)
    outcome, distance = order[between], x[between] - level[:-2, None]
    at_bottom, at_top = first == -1, int(node[-1]) == n - 1

    def finish(f: Tensor, nominal: Tensor, strength: Tensor | None) -> tuple[Tensor, Tensor]:
        size = own(strength)
        best = dual.value(level, f, size).argmax(-1)
        certain = ((best > 0) | at_bottom) & ((best < count - 1) | at_top)
        cell = (best - 1).clamp(0, count - 3)
        y, p = distance[cell], nominal.gather(-1, outcome[cell])
        at = f.gather(-1, cell[:, None] + torch.arange(3, device=f.device))
        middle, far = y[:, step - 1, None], y[:, -1:]
        # Else rounding could have moved the best level out of the cell.
        certain &= (torch.minimum(middle, far - middle) > 1e-6 * far).squeeze(-1)

        def below(*sums: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            return _polynomial(at, middle, far, [(one[:, step - 1, None], one[:, -1:]) for one in sums])

        end = torch.where((cell == count - 3) & at_top, torch.inf, far.squeeze(-1))[:, None]
        found = peak(dual, level[cell][:, None], y, p, below, end, size)
        value = worst(found.value, nominal, strength).squeeze(-1)
        if dual.change:
            rounding = torch.maximum(ROUNDING * found.f, found.rounding)
            certain &= (dual.change(found.f, size) * rounding <= TOLERANCE).squeeze(-1)
        return value, certain & torch.isfinite(value)

    return Plan(columns, finish, revisits=True)


def chi_square_plan(penalised: bool, values: Tensor, sample: Tensor, strength: Tensor) -> Plan | None:
    """χ²: by mean and variance alone if all rows of the sample keep all their outcomes, else by levels."""
    least, span = values.min(), values.max() - values.min()
    unit = span if penalised else 1.0
    centre = (sample @ values).mean()
    y = (values - centre) / span

    def finish(moments: Tensor, nominal: Tensor, strength: Tensor | None) -> tuple[Tensor, Tensor]:
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
    if finish(sample @ columns, sample, strength)[1].all():
        return Plan(columns, finish)
    dual = CHI_SQUARE_PENALTY if penalised else CHI_SQUARE_BALL
    return level_plan(dual, values, sample, strength, lambda s: s / unit, lambda found, *_: least + span * found)


def _levels(lowest: int, highest: int, n: int, degree: int) -> tuple[int, int, int]:
    """The place of the first level, the step from level to level and their count, for best levels in this range."""
    margin = 2 + 2 * (highest - lowest) // 5
    low, high = max(-1, lowest - margin), min(n - 1, highest + margin)
    # More levels cost more in the product, fewer leave more outcomes to look up: nanoseconds a row, as measured.
    count = min((8, 16, 24), key=lambda m: 0.2 * n * (m / 8 - 1) + (10 + 5 * degree) * 2 * (high - low) / (m - 1))
    step = min(-(-(high - low) // (count - 1)), n // (count - 1))
    return min(low, n - 1 - step * (count - 1)), step, count


def _polynomial(
    at: Tensor, middle: Tensor, far: Tensor, sums: list[tuple[Tensor, Tensor]]
) -> tuple[tuple[Tensor, ...], Tensor]:
    """What the outcomes up to the level below add to F, as coefficients in the distance from it, and the rounding of F.

    at: `[R, 3]` F at the level below, at the one in the `middle` and at the `far` one, which lie `[R, 1]` above it;
    sums: over the outcomes up to these two, of p·yⁱ.
    """
    constant, mass = at[:, :1], sums[0][1]
    if len(sums) == 2:
        return (constant, (at[:, 2:] - constant - (far * mass - sums[1][1])) / far), constant
    slopes = []
    for i, distance in enumerate((middle, far)):
        mass, first, second = (one[i] for one in sums)
        between = distance * (distance * mass - 2 * first) + second
        slopes.append((at[:, i + 1, None] - constant - between) / distance)
    square = (slopes[1] - slopes[0]) / (far - middle)
    rounding = ROUNDING * far * far * (at[:, 2:] + far * far * mass) / (middle * (far - middle))
    return (constant, slopes[0] - square * middle, square), rounding
