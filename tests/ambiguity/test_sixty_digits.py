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

from surefoot.ambiguity import KL, Wasserstein, worst_case
from surefoot.ambiguity.core import REGISTRY

mpmath.mp.dps = 60
Row = list[Any]
EPS = mpf(10) ** -30


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
        # e^−10000 is nothing beside 1e-300, and to take it of a far greater number costs as many digits.
        return lambda s: scaled([b * mpmath.exp(-s * g) if s * g < 10_000 else mpf(0) for g, b in zip(gaps, p)])
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
    for _ in range(110):
        a, b = (2 * low + high) / 3, (low + 2 * high) / 3
        lower = bounded_ball(gaps, p, a) + price * a <= bounded_ball(gaps, p, b) + price * b
        low, high = (low, b) if lower else (a, high)
    return min(bounded_ball(gaps, p, r) + price * r for r in (low, high))


def moved_share(q: Row, p: Row) -> Any:
    return total(abs(a - b) for a, b in zip(q, p)) / 2


DIVERGENCES: dict[str, Callable[[Row, Row], Any]] = {
    "kl": kl,
    "chi-square": chi_square,
    "reverse-kl": reverse_kl,
    "hellinger": hellinger,
    "ellipsoid": lambda q, p: total((a - b) ** 2 for a, b in zip(q, p)),
    "total-variation": moved_share,
    "l1": lambda q, p: 2 * moved_share(q, p),
    "l-infinity": lambda q, p: max(abs(a - b) for a, b in zip(q, p)),
    "contamination": lambda q, p: 1 - min(a / b for a, b in zip(q, p) if b > 0),
}
CHANGE: dict[str, Callable[[Any, Any], Any]] = {  # by how much q·∂D/∂q at most, for what rounding may change in D
    "kl": lambda q, p: q * abs(mpmath.log(q / p)) if q > 0 else 0,
    "chi-square": lambda q, p: 2 * q * abs(q - p) / p,
    "reverse-kl": lambda q, p: p,
    "hellinger": lambda q, p: abs(q - mpmath.sqrt(p * q)) / 2,
    "ellipsoid": lambda q, p: 2 * q * abs(q - p),
}
SMOOTH = tuple(CHANGE)
COSTS = {"total-variation": 1, "l1": 2}
LIMITS = {"hellinger": 1.0, "contamination": 1.0}
kinds = pytest.mark.parametrize("kind", DIVERGENCES)


def truth(kind: str, form: str, v: Row, p: Row, strength: Any, cost: list[Row] | None = None) -> Any:
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
    if cost is None:
        cost = [[mpf(COSTS[kind]) * (j != k) for k in range(len(p))] for j in range(len(p))]
    return least + (transport_ball if form == "radius" else transport_penalty)(cost, gaps, p, strength)


# --- what is tried ---------------------------------------------------------------------------------------------------

COUNT, N = 24, 4


def rows(seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Values and nominals `[COUNT, N]`, one kind after another."""
    rng = np.random.default_rng(seed)
    i = np.arange(COUNT)
    values = rng.normal(size=(COUNT, N))
    values[i % 4 == 1] = rng.integers(0, 3, size=(COUNT // 4, N))  # ties
    values[i % 4 == 2, -1] = values[i % 4 == 2, 0] + 10 ** rng.uniform(-15, -3, size=COUNT // 4)  # near ties
    values[i % 8 == 3] = 10 ** rng.uniform(-20, 0, size=(COUNT // 8, N))
    values[i % 6 == 5] *= 10 ** rng.uniform(-290, 300, size=(COUNT // 6, 1))
    depth = np.array([300, 30, 2, 60])[i // 4 % 4]
    nominal = 10 ** (-depth[:, None] * rng.random((COUNT, N)))
    nominal[i, rng.integers(0, N, size=COUNT)] = 1
    nominal[i % 7 == 6, 1] = 0
    nominal[i % 12 == 7] = rng.choice([1, 0.5, 1e-300, 1e-54, 1e-17], size=(COUNT // 12, N)) + np.eye(N)[3]
    return values, nominal / nominal.sum(-1, keepdims=True), rng


def exact(row: Any) -> Row:
    return [mpf(float(x)) for x in row]


def made(kind: str, support: str, **form: Any) -> Any:
    return REGISTRY[kind](**form) if kind in ("kl", "chi-square") else REGISTRY[kind](support=support, **form)


def strengths(kind: str, form: str, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    most = np.log10(LIMITS.get(kind, 1e5)) if form == "radius" else 5
    return 10 ** rng.uniform(-18, most, size=COUNT) * (1.0 if form == "radius" else np.ptp(v, axis=-1))


@pytest.mark.parametrize("support", ["all", "nominal"])
@pytest.mark.parametrize("form", ["radius", "penalty"])
@kinds
def test_values_and_distributions(kind, form, support):
    if kind in ("kl", "chi-square") and support == "all":
        pytest.skip("these stay in the support")
    v, p, rng = rows(len(kind) + 2 * len(form))
    strength = strengths(kind, form, v, rng)
    ambiguity = made(kind, support, **{form: strength})
    found = worst_case(v, p, ambiguity)
    best = worst_case(-v, p, ambiguity, maximise=True)
    np.testing.assert_array_equal(best.value, -found.value)
    np.testing.assert_array_equal(best.distribution, found.distribution)
    assert (found.distribution >= 0).all()
    for i in range(COUNT):
        allowed = np.flatnonzero((p[i] > 0) | (support == "all"))
        assert set(np.flatnonzero(found.distribution[i])) <= set(allowed)
        values, nominal, q = exact(v[i, allowed]), scaled(exact(p[i, allowed])), exact(found.distribution[i, allowed])
        unit = max(values) - min(values) + mpf(2) ** -9 * max(abs(x) for x in values)  # the rounding of values as such
        size, value = mpf(strength[i]), mpf(found.value[i])
        case = f"row {i}: {v[i]} {p[i]} {form} {strength[i]}"
        assert abs(value - truth(kind, form, values, nominal, size)) <= 2e-12 * unit, case
        assert abs(total(q) - 1) <= 1e-15, case
        q = scaled(q)
        paid = DIVERGENCES[kind](q, nominal)
        attained = total(a * b for a, b in zip(q, values)) + (size * paid if form == "penalty" and paid > 0 else 0)
        assert abs(attained - value) <= 2e-12 * unit, case
        if form == "radius":
            change = CHANGE.get(kind, lambda q, p: mpf(1))
            rounding = total(change(a, b) for a, b in zip(q, nominal) if a + b > 0 and (b > 0 or support == "all"))
            assert paid <= size * (1 + 1e-9) + 1e-15 * rounding, case


@kinds
def test_the_value_falls_with_the_radius_and_rises_with_the_penalty(kind):
    """At every step of a fine grid, where the mass of rare outcomes grows by many orders of magnitude."""
    v, p, _ = rows(5)
    grid = np.geomspace(1e-18, 1e5, 400)
    radii = np.minimum(grid, LIMITS.get(kind, np.inf))[:, None]
    span = np.ptp(v, axis=-1)
    rounding = 1e-14 * (span + abs(v).max(-1))
    falling = worst_case(v, p, made(kind, "nominal", radius=radii)).value
    assert (np.diff(falling, axis=0) <= rounding).all()
    assert (
        np.diff(worst_case(v, p, made(kind, "nominal", penalty=grid[:, None] * span)).value, axis=0) >= -rounding
    ).all()


def test_transport_in_sixty_digits():
    v, p, rng = rows(8)
    apart = np.abs(np.subtract.outer(np.arange(N), np.arange(N)))
    for power, form in ((1, "radius"), (2, "penalty"), (0.5, "radius"), (1, "penalty")):
        cost = 10 ** rng.uniform(-3, 3) * apart**power
        strength = strengths("wasserstein", form, v, rng)
        found = worst_case(v, p, Wasserstein(cost=cost, **{form: strength}))
        for i in range(COUNT):
            values = exact(v[i])
            unit = max(values) - min(values)
            right = truth("wasserstein", form, values, scaled(exact(p[i])), mpf(strength[i]), [exact(c) for c in cost])
            assert abs(mpf(found.value[i]) - right) <= 1e-12 * unit, (i, form, power)
            if form == "radius":
                attained = total(a * b for a, b in zip(exact(found.distribution[i]), values))
                assert abs(attained - mpf(found.value[i])) <= 1e-12 * unit, (i, form, power)


@pytest.mark.parametrize("chance", [1e-17, 1e-26, 1e-50, 1e-300])
def test_a_rare_outcome_in_a_kl_ball(chance):
    """Two outcomes: q of the worse solves q·log(q/p) + (1 − q)·log((1 − q)/(1 − p)) = radius; the value is 1 − 2q."""
    for radius in (1e-6, 0.01, 1.0, 30.0):
        values, nominal = np.array([1.0, -1.0]), np.array([1 - chance, chance])
        rest = 1 - mpf(chance)

        def surplus(q: Any, rest: Any = rest, radius: float = radius) -> Any:
            return q * mpmath.log(q / mpf(chance)) + (1 - q) * mpmath.log((1 - q) / rest) - radius

        everything = -mpmath.log(mpf(chance)) <= radius
        q = 1 if everything else root(surplus, mpf(chance), 1 - mpf(10) ** -50)
        found = worst_case(values, nominal, KL(radius))
        assert abs(found.value - float(1 - 2 * q)) < 1e-12
        assert abs(found.distribution @ values - found.value) < 1e-12


@pytest.mark.parametrize("kind", ["kl", "chi-square", "total-variation", "contamination"])
@pytest.mark.parametrize("form", ["radius", "penalty"])
@pytest.mark.parametrize("scale", [1e-290, 1.0, 1e290])
def test_many_rows_that_share_their_values(kind, form, scale):
    """Rows of a sharp softmax, solved together by a plan, against some of them alone."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(600, 230)) * 10 ** rng.uniform(0, 2.2, size=(600, 1))
    nominal = np.exp(logits - logits.max(-1, keepdims=True))
    nominal /= nominal.sum(-1, keepdims=True)
    values = scale * rng.normal(size=230)
    for strength in (1e-12, 0.3):
        ambiguity = made(kind, "nominal", **{form: strength * (1 if form == "radius" else scale)})
        together, alone = (worst_case(values, few, ambiguity).value for few in (nominal, nominal[::30]))
        np.testing.assert_allclose(together[::30] / scale, alone / scale, rtol=0, atol=1e-9 * np.ptp(values / scale))
