"""Many rows that share their values: the plans that read the nominal once, held to the same sets row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from surefoot.ambiguity import (
    KL,
    L1,
    Box,
    ChiSquare,
    Contamination,
    CVaR,
    Entropic,
    Hellinger,
    LInfinity,
    TotalVariation,
    shared,
    worst_case,
    worst_case_value,
)
from surefoot.ambiguity.operator import solve

ROWS, N = 640, 300


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=stream(seed), dtype=torch.float64)


def normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)


def dense() -> Tensor:
    return normalised(-uniform(ROWS, N).log())


def concentrated() -> Tensor:
    """From nearly even rows to rows with one probability of nearly one."""
    return normalised(uniform(ROWS, N) ** (10 ** torch.linspace(-1, 3, ROWS, dtype=torch.float64))[:, None] + 1e-290)


def scattered() -> Tensor:
    """Few successors, from one up to nine; some rows are certain."""
    weights = torch.zeros(ROWS, N, dtype=torch.float64)
    where = torch.randint(0, N, (ROWS, 9), generator=stream(1))
    return normalised(
        weights.scatter_(1, where, uniform(ROWS, 9, seed=2) * (torch.arange(ROWS) % 9 + 1)[:, None].gt(torch.arange(9)))
    )


def banded() -> Tensor:
    """Narrow and wide bumps all over the states, with underflow to 0 far away."""
    centre = torch.randint(0, N, (ROWS, 1), generator=stream(3))
    width = 10 ** (2 * uniform(ROWS, 1, seed=4))
    return normalised(torch.exp(-0.5 * ((torch.arange(N) - centre) / width) ** 2))


NOMINALS = {one.__name__: one for one in (dense, concentrated, scattered, banded)}
normal = torch.randn(N, generator=stream(5), dtype=torch.float64)
VALUES = {
    "normal": normal,
    "shifted": 1e3 + 1e-2 * normal,
    "ties": (normal * 2).round(),
    "two": (normal > 0.8).double(),
    "outlier": torch.cat([normal[:-1], normal.new_tensor([-300.0])]),
    "smooth": torch.linspace(0, 9, N, dtype=torch.float64).sin(),
}
BY_ROW = torch.linspace(0, 1, ROWS, dtype=torch.float64)
SETS = [
    *(Contamination(r, support=s) for r in (0.0, 0.2, BY_ROW) for s in ("all", "nominal")),
    Contamination(penalty=0.3),
    *(TotalVariation(r, support=s) for r in (0.0, 1e-9, 0.15, 0.999, 7.0, BY_ROW) for s in ("all", "nominal")),
    TotalVariation(penalty=0.4),
    TotalVariation(penalty=0.4, support="nominal"),
    L1(0.3),
    L1(penalty=0.3),
    *(CVaR(level) for level in (0.0, 1e-6, 0.05, 0.5, 1.0)),
    *(KL(r) for r in (0.0, 1e-14, 1e-6, 0.05, 0.7, 4.0, 50.0, BY_ROW)),
    *(KL(penalty=c) for c in (0.0, 1e-4, 0.5, 1e5, float("inf"), BY_ROW)),
    Entropic(2.0),
    *(ChiSquare(r) for r in (0.0, 1e-14, 1e-6, 0.1, 1.5, 40.0, 1e6, BY_ROW)),
    *(ChiSquare(penalty=c) for c in (0.0, 1e-4, 0.5, 1e5, float("inf"), BY_ROW)),
]


def by_row(values: Tensor, nominal: Tensor, ambiguity: Any, some: slice) -> Tensor:
    """What the set makes of some of the rows, without plans."""
    strength = ambiguity.strength
    if strength is not None:
        strength = torch.as_tensor(strength, dtype=torch.float64).expand(len(nominal))[some, None]
    return ambiguity.solve(values[None], nominal[some], strength).value


PAIRS = [(values, nominal) for nominal in NOMINALS for values in VALUES]


@pytest.mark.parametrize("pair", range(len(PAIRS)), ids=["-".join(pair) for pair in PAIRS])
def test_shared_values_give_what_each_row_gives(pair):
    """Every set on a third of the pairs of values and nominals, a third of the rows each, of every block some."""
    values, nominal = PAIRS[pair]
    some = slice(pair // 3 % 3, None, 3)
    v, p = VALUES[values], NOMINALS[nominal]()
    span = float(v.max() - v.min())
    for ambiguity in SETS[pair % 3 :: 3]:
        found = solve(v, p, ambiguity, ambiguity.strength).value
        off = (found[some] - by_row(v, p, ambiguity, some)).abs().max()
        assert off <= 1e-9 * span, (str(ambiguity), off)


PLAIN = [Contamination(0.2), TotalVariation(0.1), L1(0.2), CVaR(0.2), KL(0.1), KL(1.0), KL(penalty=0.5)]
PLAIN += [ChiSquare(0.1), ChiSquare(2.0), ChiSquare(penalty=0.3)]


@pytest.mark.parametrize("ambiguity", PLAIN, ids=str)
def test_plans_leave_few_rows_of_a_dense_kernel(ambiguity):
    strength = None if ambiguity.strength is None else torch.tensor([[ambiguity.strength]], dtype=torch.float64)
    _, left = shared.solve_shared(normal, dense(), ambiguity, strength)
    assert len(left) < 0.03 * ROWS


@pytest.mark.parametrize("columns", [0, 1, 3, 8, 16])
@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_looked_up_of_rows(monkeypatch, columns, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    p, right, outcomes = dense()[:603], uniform(N, columns, seed=6), torch.tensor([5, 0, N - 1])
    products, probabilities = shared.looked_up(p, right, outcomes)
    torch.testing.assert_close(products, p @ right, rtol=0, atol=1e-14)
    assert torch.equal(probabilities, p[:, outcomes])


@pytest.mark.parametrize("ambiguity", [TotalVariation(0.1), KL(0.3), ChiSquare(2.0), Hellinger(0.1)], ids=str)
def test_axes_strengths_and_the_maximum(ambiguity):
    """A kernel [S, A, n] with a radius for each action, minimum and maximum, values and distributions."""
    p = dense().reshape(-1, 4, N)
    by_action = type(ambiguity)(ambiguity.radius * torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64))
    found = worst_case(normal, p, by_action)
    assert found.value.shape == p.shape[:2] and found.distribution.shape == p.shape
    torch.testing.assert_close((found.distribution @ normal), found.value, rtol=0, atol=1e-9)
    full = type(ambiguity)(by_action.radius.expand(p.shape[:2]))
    torch.testing.assert_close(worst_case_value(normal, p, full), found.value, rtol=0, atol=1e-9)
    mirrored = worst_case_value(-normal, p, by_action, maximise=True)
    torch.testing.assert_close(-mirrored, found.value, rtol=0, atol=1e-12)
    few = worst_case(normal, p[:5], by_action)
    torch.testing.assert_close(few.value, found.value[:5], rtol=0, atol=1e-9)
    torch.testing.assert_close(few.distribution, found.distribution[:5], rtol=0, atol=1e-9)


def test_two_threads_find_what_one_does():
    before = torch.get_num_threads()
    for ambiguity in (TotalVariation(0.1), KL(BY_ROW), ChiSquare(2.0)):
        found = solve(normal, dense(), ambiguity, ambiguity.strength).value
        try:
            torch.set_num_threads(2)
            again = solve(normal, dense(), ambiguity, ambiguity.strength).value
        finally:
            torch.set_num_threads(before)
        torch.testing.assert_close(again, found, rtol=0, atol=1e-10)


def test_rows_with_their_own_values_and_sets_with_their_own_arrays():
    """Successors of a sparse kernel, cut into blocks; a box for each row, which must stay whole."""
    p, v = normalised(uniform(30_000, 6)), uniform(30_000, 6, seed=7)
    for ambiguity in (KL(0.2), TotalVariation(0.2), LInfinity(0.1), CVaR(0.3)):
        value, q = worst_case(v, p, ambiguity)
        ends = [0, 1, 21_844, 21_845, 21_846, 29_999]
        alone = worst_case(v[ends], p[ends], ambiguity)
        torch.testing.assert_close(value[ends], alone.value, rtol=0, atol=1e-12)
        torch.testing.assert_close(q[ends], alone.distribution, rtol=0, atol=1e-12)
    box = Box(lower=0.5 * p, upper=torch.ones_like(p))
    least = (0.5 * p * v).sum(-1) + 0.5 * v.amin(-1)
    torch.testing.assert_close(worst_case_value(v, p, box), least, rtol=0, atol=1e-12)


def test_equal_values_are_the_value():
    for ambiguity in (KL(0.1), TotalVariation(0.2), ChiSquare(penalty=1.0), CVaR(0.0)):
        assert (worst_case_value(torch.full((N,), 2.5), dense(), ambiguity) - 2.5).abs().max() < 1e-12


@pytest.mark.parametrize("outcomes", [2, 3, 8, 31, 32, 40])
@pytest.mark.parametrize("ambiguity", [TotalVariation(0.2), ChiSquare(2.0), ChiSquare(penalty=0.1), KL(0.3)], ids=str)
def test_many_rows_of_few_outcomes(ambiguity, outcomes):
    g = torch.Generator().manual_seed(0)
    nominal = torch.rand(150_000 // outcomes, outcomes, generator=g, dtype=torch.float64)
    nominal /= nominal.sum(1, keepdim=True)
    values = torch.rand(outcomes, generator=g, dtype=torch.float64)
    together, apart = worst_case_value(values, nominal, ambiguity), worst_case_value(values, nominal[:300], ambiguity)
    torch.testing.assert_close(together[:300], apart, rtol=0, atol=1e-9)
