"""Every ball and penalty against the same problem in 60 digits, where doubles are least to be trusted.

Probabilities down to 1e-300, radii from 1e-18 to 1e5, values from 1e-300 to 1e300, ties and near ties. The truth is
written down from the optimality conditions: one root for the smooth divergences, enumeration for the polyhedral ones.
Every distribution found is measured in 60 digits too: it attains the value, and lies within the ball.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
from mpmath import mpf

from surefoot.ambiguity import (
    KL,
    L1,
    ChiSquare,
    Contamination,
    Ellipsoid,
    Hellinger,
    LInfinity,
    ReverseKL,
    TotalVariation,
    Wasserstein,
    worst_case,
)

mpmath.mp.dps = 60
Row = list[Any]
EPS = mpf(10) ** -45


def root(function: Callable[[Any], Any], low: Any, high: Any) -> Any:
    """Where an increasing function of a positive number is 0, by its logarithm: false position and bisections."""
    a, b = mpmath.log(low), mpmath.log(high)
    fa, fb = function(mpmath.exp(a)), function(mpmath.exp(b))
    if fa >= 0 or fb <= 0:
        return mpmath.exp(a if fa >= 0 else b)
    for step in range(400):
        straight = (a * fb - b * fa) / (fb - fa)
        middle = (a + b) / 2 if step % 3 == 0 or not a < straight < b else straight
        f = function(mpmath.exp(middle))
        if f == 0 or b - a < EPS:
            return mpmath.exp(middle)
        if f < 0:
            a, fa, fb = middle, f, fb / 2
        else:
            b, fb, fa = middle, f, fa / 2
    raise AssertionError("no root")


def total(rows: Any) -> Any:
    return mpmath.fsum(rows)


# --- the divergences as the textbooks write them ---------------------------------------------------------------------


def kl(q: Row, p: Row) -> Any:
    """With Σq = Σp no term of q·log(q/p) − q + p is negative, so no digits are lost."""
    return total(a * mpmath.log(a / b) - a + b if a > 0 else b for a, b in zip(q, p) if b > 0)


def chi_square(q: Row, p: Row) -> Any:
    return total((a - b) ** 2 / b for a, b in zip(q, p) if b > 0)


def reverse_kl(q: Row, p: Row) -> Any:
    return mpf("inf") if any(a == 0 < b for a, b in zip(q, p)) else kl(p, q)


def hellinger(q: Row, p: Row) -> Any:
    return total((mpmath.sqrt(a) - mpmath.sqrt(b)) ** 2 for a, b in zip(q, p)) / 2


# --- the smooth ones: a path of distributions from the nominal to the lowest outcome ---------------------------------


def scaled(weights: Row) -> Row:
    every = total(weights)
    return [w / every for w in weights]


def along(kind: str, gaps: Row, p: Row) -> Callable[[Any], Row]:
    """The worst case by its strength s: the tilt e^(−s·g) or 1/(g + 1/s)^k, or the projection of p − s·g."""
    if kind == "kl":
        return lambda s: scaled([b * mpmath.exp(-s * g) for g, b in zip(gaps, p)])
    if kind == "ellipsoid":
        return lambda s: projected([b - s * g for g, b in zip(gaps, p)])
    power = {"reverse-kl": 1, "hellinger": 2}[kind]
    return lambda s: scaled([b / (g + 1 / s) ** power if b > 0 else mpf(0) for g, b in zip(gaps, p)])


def projected(x: Row) -> Row:
    """(x + η)₊ with the η that makes it sum to one: the greatest x have mass, as many as stay positive."""
    descending = sorted(x, reverse=True)
    shifts = [(1 - total(descending[: k + 1])) / (k + 1) for k in range(len(x))]
    eta = next(e for k, e in reversed(list(enumerate(shifts))) if descending[k] + e > 0)
    return [max(a + eta, 0) for a in x]


def smooth_ball(kind: str, gaps: Row, p: Row, radius: Any) -> Any:
    span = max(g for g, b in zip(gaps, p) if b > 0 or kind == "ellipsoid") or mpf(1)
    path, measure = along(kind, [g / span for g in gaps], p), DIVERGENCES[kind]
    farthest = path(mpf(10) ** 900)
    reached = measure(farthest, p)
    if reached > radius:
        low, high = mpmath.sqrt(radius) / 100, mpf(10) ** 900
        s = root(lambda s: mpmath.log(max(measure(path(s), p), mpf(10) ** -500) / radius), low, high)
        return total(a * g for a, g in zip(path(s), gaps))
    # A row that cannot produce the lowest outcome itself spends what is left of the ball on mass sent there.
    kept = {"reverse-kl": mpmath.exp(reached - radius), "hellinger": ((1 - radius) / (1 - reached)) ** 2}.get(kind, 1)
    return kept * total(a * g for a, g in zip(farthest, gaps))


def chi_square_ball(gaps: Row, p: Row, radius: Any) -> Any:
    """q = p·(a − b·g) on the outcomes up to each gap, of the one divergence that is allowed: the least that is ≥ 0."""
    found = []
    for most in {g for g, b in zip(gaps, p) if b > 0}:
        inside = [(g, b) for g, b in zip(gaps, p) if g <= most and b > 0]
        mass = total(b for _, b in inside)
        mean = total(b * g for g, b in inside) / mass
        variance = total(b * (g - mean) ** 2 for g, b in inside) / mass
        left = radius - (1 - mass) / mass  # what is not spent on leaving the others out
        slope = mpmath.sqrt(left / (mass * variance)) if variance > 0 and left >= 0 else mpf(0)
        if left >= 0 and 1 / mass >= slope * (most - mean):
            found.append(mean - mass * variance * slope)
    return min(found)


def smooth_penalty(kind: str, gaps: Row, p: Row, price: Any) -> Any:
    wide = mpf(10) ** -1000, mpf(10) ** 1000
    if kind == "kl":
        return -price * mpmath.log(total(b * mpmath.exp(-g / price) for g, b in zip(gaps, p)))
    if kind == "ellipsoid":
        q = along(kind, gaps, p)(1 / (2 * price))
    elif kind == "chi-square":
        level = root(lambda a: total(b * max(a - g, 0) for g, b in zip(gaps, p)) - 2 * price, *wide)
        q = [b * max(level - g, 0) / (2 * price) for g, b in zip(gaps, p)]
    else:
        power = {"reverse-kl": 1, "hellinger": 2}[kind]

        def tilt(w: Any) -> Row:
            return [b * (price / (power * (g + w))) ** power if b > 0 else mpf(0) for g, b in zip(gaps, p)]

        q = tilt(root(lambda w: 1 - total(tilt(w)), *wide))
        q[gaps.index(0)] += max(1 - total(q), 0)
    return total(a * g for a, g in zip(q, gaps)) + price * DIVERGENCES[kind](q, p)


# --- the polyhedral ones: what is linear in pieces has its ends at a corner ------------------------------------------


def transport_penalty(cost: list[Row], gaps: Row, p: Row, price: Any) -> Any:
    """Each outcome goes where value and price of the way are least together."""
    return total(b * min(g + price * c for g, c in zip(gaps, row)) for b, row in zip(p, cost))


def transport_ball(cost: list[Row], gaps: Row, p: Row, radius: Any) -> Any:
    """The greatest of penalty(λ) − λ·radius over the λ at which some outcome changes its way."""
    prices = {mpf(0)}
    for row in cost:
        ways = list(zip(row, gaps))
        prices |= {(g - h) / (d - c) for c, g in ways for d, h in ways if c < d and g > h}
    return max(transport_penalty(cost, gaps, p, price) - price * radius for price in prices)


def bounded_ball(gaps: Row, p: Row, radius: Any) -> Any:
    """L∞: every probability as low as it may be, the rest from the lowest outcome on, as much as each may have."""
    least = [max(b - radius, 0) for b in p]
    left, value = 1 - total(least), total(a * g for a, g in zip(least, gaps))
    for g, a, b in sorted(zip(gaps, least, p)):
        more = min(left, b + radius - a)
        left, value = left - more, value + more * g
    return value


def bounded_penalty(gaps: Row, p: Row, price: Any) -> Any:
    """min over the radius, convex and linear in pieces: by trisection."""
    low, high = mpf(0), mpf(1)
    for _ in range(330):
        a, b = (2 * low + high) / 3, (low + 2 * high) / 3
        lower = bounded_ball(gaps, p, a) + price * a <= bounded_ball(gaps, p, b) + price * b
        low, high = (low, b) if lower else (a, high)
    return min(bounded_ball(gaps, p, r) + price * r for r in (low, high))


def moving(p: Row, cost: Any) -> list[Row]:
    """The cost of moving mass from each outcome to each."""
    if isinstance(cost, np.ndarray):
        return [[mpf(float(c)) for c in row] for row in cost]
    return [[mpf(0) if j == k else mpf(cost) for k in range(len(p))] for j in range(len(p))]


DIVERGENCES: dict[str, Callable[[Row, Row], Any]] = {
    "kl": kl,
    "chi-square": chi_square,
    "reverse-kl": reverse_kl,
    "hellinger": hellinger,
    "ellipsoid": lambda q, p: total((a - b) ** 2 for a, b in zip(q, p)),
    "total-variation": lambda q, p: total(abs(a - b) for a, b in zip(q, p)) / 2,
    "l1": lambda q, p: total(abs(a - b) for a, b in zip(q, p)),
    "l-infinity": lambda q, p: max(abs(a - b) for a, b in zip(q, p)),
    "contamination": lambda q, p: 1 - min(a / b for a, b in zip(q, p) if b > 0),
}
SMOOTH = ("kl", "chi-square", "reverse-kl", "hellinger", "ellipsoid")
COSTS = {"total-variation": 1.0, "l1": 2.0}
MAKE: dict[str, Callable[..., Any]] = {
    "kl": lambda support, **form: KL(**form),
    "chi-square": lambda support, **form: ChiSquare(**form),
    "reverse-kl": ReverseKL,
    "hellinger": Hellinger,
    "ellipsoid": Ellipsoid,
    "total-variation": TotalVariation,
    "l1": L1,
    "l-infinity": LInfinity,
    "contamination": Contamination,
}


def truth(kind: str, form: str, v: Row, p: Row, strength: Any, cost: Any = None) -> Any:
    """The least value for outcomes that may all have mass."""
    least = min(v)
    gaps = [a - least for a in v]
    mean = total(a * b for a, b in zip(gaps, p))
    if (form == "radius" and strength == 0) or max(gaps) == 0:
        return least + mean
    if kind == "chi-square" and form == "radius":
        return least + chi_square_ball(gaps, p, strength)
    if kind in SMOOTH:
        return least + (smooth_ball if form == "radius" else smooth_penalty)(kind, gaps, p, strength)
    if kind == "l-infinity":
        return least + (bounded_ball if form == "radius" else bounded_penalty)(gaps, p, strength)
    if kind == "contamination":
        return least + ((1 - strength) * mean if form == "radius" else min(mean, strength))
    ways = moving(p, COSTS[kind] if cost is None else cost)
    return least + (transport_ball if form == "radius" else transport_penalty)(ways, gaps, p, strength)
