"""The leader of the regularised past: closed numbers, independent solvers, laws of the simplex, and rates."""

from __future__ import annotations

import math

import cvxpy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import brentq

from surefoot.methods.tabular.best_of_both_worlds import ftrl
from surefoot.methods.tabular.best_of_both_worlds.ftrl import (
    REGULARIZERS,
    LogBarrier,
    Shannon,
    Tsallis,
    entropic,
    entropy,
    leader,
)

STEPS = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
KINDS = {
    "tsallis": lambda losses, rate: leader(losses, root=rate),
    "log-barrier": lambda losses, rate: leader(losses, root=0.0, barrier=rate),
    "both": lambda losses, rate: leader(losses, root=rate, barrier=rate / 10),
    "shannon": entropic,
}
every_kind = pytest.mark.parametrize("kind", KINDS)
losses_of = arrays(np.float64, st.integers(1, 12), elements=st.floats(-1e6, 1e6, allow_subnormal=False))
rates = st.floats(1e-6, 1e6)


def f64(x) -> torch.Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


# --- the leader ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "rate", "expected"),
    [
        ("tsallis", 1.0, (0.695504, 0.206783, 0.097712)),
        ("tsallis", 2.0, (0.534814, 0.286762, 0.178424)),
        ("shannon", 1.0, (0.665241, 0.244728, 0.090031)),
        ("shannon", 2.0, (0.506480, 0.307196, 0.186324)),
        ("log-barrier", 1.0, (0.451606, 0.311108, 0.237286)),
    ],
)
def test_known_numbers(kind, rate, expected):
    torch.testing.assert_close(KINDS[kind](STEPS, f64(rate)), f64(expected), rtol=0, atol=6e-7)


@pytest.mark.parametrize(("kind", "power", "x"), [("tsallis", 0.5, -1.199085), ("log-barrier", 1.0, -2.214320)])
def test_the_multiplier_is_the_one_of_a_bracketing_search(kind, power, x):
    p = KINDS[kind](STEPS, f64(1.0))
    torch.testing.assert_close(STEPS - p**-power, torch.full_like(STEPS, x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("root", "barrier"), [(1, 0), (0, 1), (1, 0.3)])
def test_against_bracketing_searches_on_random_and_degenerate_rows(root, barrier):
    generator = np.random.default_rng(0)
    for trial in range(200):
        n = int(generator.integers(1, 12))
        losses = generator.normal(size=n) * 10.0 ** generator.integers(-3, 5)
        losses[generator.random(n) < 0.3] = losses[0]  # ties
        w, c = (10.0 ** generator.uniform(-3, 3, n) * weight for weight in (root, barrier))
        found = leader(f64(losses), f64(w), f64(c) if barrier else None).numpy()

        def probabilities(t, losses=losses, w=w, c=c):
            x = losses - losses.min() + t
            return ((w + np.sqrt(w**2 + 4 * c * x)) / (2 * x)) ** 2

        gap = losses - losses.min()
        low, high = (w + c - gap).max(), (w * math.sqrt(n) + c * n - gap).max()
        t = (
            low
            if n == 1 or high <= low
            else brentq(lambda t: probabilities(t).sum() - 1, low * (1 - 1e-12), high, xtol=1e-300, rtol=1e-15)
        )
        np.testing.assert_allclose(found, probabilities(t), atol=1e-9, rtol=1e-9, err_msg=f"{trial}")


@every_kind
def test_against_a_convex_solver(kind):
    generator = np.random.default_rng(1)
    for _ in range(8):
        n = int(generator.integers(2, 6))
        losses, rate = generator.normal(size=n) * 3, float(10 ** generator.uniform(-0.5, 1))
        p = cvxpy.Variable(n)
        held = {
            "tsallis": -2 * rate * cvxpy.sum(cvxpy.sqrt(p)),
            "log-barrier": -rate * cvxpy.sum(cvxpy.log(p)),
            "both": -2 * rate * cvxpy.sum(cvxpy.sqrt(p)) - rate / 10 * cvxpy.sum(cvxpy.log(p)),
            "shannon": -rate * cvxpy.sum(cvxpy.entr(p)),
        }[kind]
        best = cvxpy.Problem(cvxpy.Minimize(losses @ p + held), [cvxpy.sum(p) == 1])
        best.solve(solver="CLARABEL")
        np.testing.assert_allclose(KINDS[kind](f64(losses), f64(rate)).numpy(), p.value, atol=1e-4)

        def value(q, losses=losses, rate=rate):
            terms = {
                "tsallis": -2 * rate * np.sqrt(q),
                "log-barrier": -rate * np.log(q),
                "shannon": rate * q * np.log(q),
            }
            terms["both"] = terms["tsallis"] + terms["log-barrier"] / 10
            return float((losses * q + terms[kind]).sum())

        feasible = np.clip(p.value, 1e-12, None)
        assert value(KINDS[kind](f64(losses), f64(rate)).numpy()) <= value(feasible / feasible.sum()) + 1e-9


@every_kind
@given(losses=losses_of, rate=rates, shift=st.floats(-1e3, 1e3))
@settings(max_examples=60, deadline=None)
def test_laws_of_the_simplex(kind, losses, rate, shift):
    losses, rate = f64(losses), f64(rate)
    p = KINDS[kind](losses, rate)
    assert bool((p >= 0).all()) and float(p.sum()) == pytest.approx(1, abs=1e-12)
    order = losses.argsort()
    assert bool((p[order].diff() <= 1e-15).all()), "a greater loss must not get a greater probability"
    grid = torch.round(losses * 1024) / 1024  # so that adding a constant rounds nothing away
    torch.testing.assert_close(
        KINDS[kind](grid + round(shift * 8) / 8, rate), KINDS[kind](grid, rate), rtol=1e-6, atol=1e-12
    )
    equal = KINDS[kind](torch.full_like(losses, shift), rate)
    torch.testing.assert_close(equal, torch.full_like(losses, 1 / len(losses)), rtol=1e-12, atol=0)


@every_kind
def test_slow_rates_are_uniform_and_fast_ones_take_the_least(kind):
    torch.testing.assert_close(KINDS[kind](STEPS, f64(1e9)), torch.full_like(STEPS, 1 / 3), rtol=0, atol=1e-8)
    torch.testing.assert_close(KINDS[kind](STEPS, f64(1e-9)), f64([1.0, 0, 0]), rtol=0, atol=4e-9)


@every_kind
def test_what_is_not_allowed_has_no_probability_and_changes_nothing(kind):
    barred = f64([0.0, math.inf, 1.0, 2.0, math.inf])
    p = KINDS[kind](barred, f64(1.0))
    torch.testing.assert_close(p[[0, 2, 3]], KINDS[kind](STEPS, f64(1.0)), rtol=1e-14, atol=0)
    assert p[1] == 0 and p[4] == 0


@pytest.mark.parametrize("kind", ["tsallis", "log-barrier", "both"])
def test_a_dozen_rounds_are_enough(kind, monkeypatch):
    draw = np.random.default_rng(3)
    losses = f64(draw.normal(size=(500, 8)) * 10.0 ** draw.integers(-3, 6, (500, 1)))
    rate = f64(10.0 ** draw.uniform(-3, 3, (500, 1)))
    found = KINDS[kind](losses, rate)
    monkeypatch.setattr(ftrl, "ROUNDS", 12)
    assert torch.equal(KINDS[kind](losses, rate), found)


def test_rows_are_solved_each_for_itself():
    losses = torch.randn(5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 20
    rate = torch.rand(5, 4, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 10 + 0.1
    for kind in KINDS.values():
        together = kind(losses, rate)
        alone = torch.stack([kind(x, r) for x, r in zip(losses.flatten(0, 1), rate.flatten(0, 1))]).view_as(losses)
        torch.testing.assert_close(together, alone, rtol=1e-13, atol=0)


def test_a_barrier_keeps_updates_within_half_and_double():
    generator = torch.Generator().manual_seed(2)
    losses = torch.randn(200, 4, dtype=torch.float64, generator=generator) * 50
    step = torch.rand(200, 4, dtype=torch.float64, generator=generator)
    barrier = f64(2.0)
    before, after = leader(losses, f64(0.1), barrier), leader(losses + step, f64(0.1), barrier)
    assert bool((after <= 2 * before).all()) and bool((after >= before / 2).all())
    bare = leader(losses + 50 * step, f64(0.1)) / leader(losses, f64(0.1))
    assert float(bare.max()) > 2  # which the root alone does not


# --- rates -----------------------------------------------------------------------------------------------------------


def test_tsallis_rates_are_the_root_of_the_summed_inverse_visits():
    rule, rate, total = Tsallis(1.5, 0.5), f64([1.5, 1.5]), torch.zeros(2, dtype=torch.float64)
    for visits in (f64([1.0, 0.2]), f64([0.5, 0.01]), f64([0.9, 1.0])):
        rate, total = rule.entered(rate, visits), total + 1 / visits
        torch.testing.assert_close(rate, 1.5 + 0.5 * total.sqrt(), rtol=1e-14, atol=0)


def test_shannon_rates_are_the_summed_formula():
    rule, rate, seen = Shannon(2.0, 0.7), f64([2.0]), torch.zeros(2, 1, dtype=torch.float64)
    inverse = share = 0.0
    expected = 2.0
    for visits, policy in ((0.5, [0.5, 0.5]), (0.1, [0.9, 0.1]), (1.0, [1.0, 0.0])):
        rate, seen = rule.left(rate, seen, f64([policy]), f64([visits]), torch.zeros(1, 2), 0)
        inverse += 1 / visits
        share += -sum(p * math.log(p) for p in policy if p) / (visits * math.log(2))
        expected += 0.7 / visits / math.sqrt(1 + share) / math.sqrt(inverse)
        assert float(rate) == pytest.approx(expected, rel=1e-13)


def test_log_barrier_rates_move_with_the_spread_of_what_is_lost():
    rule, rate = LogBarrier(1.0, 1.0), f64([[1.0, 2.0]])
    policy, estimate = f64([[0.25, 0.75]]), f64([[4.0, 0.0]])
    after, _ = rule.left(rate, f64(0.0), policy, f64([1.0]), estimate, 0)
    expected = [1 + 1.0 * 0.25**2 * 3**2 / math.log(3), 2 + 0.5 * 0.75**2 * 1 / math.log(3)]
    torch.testing.assert_close(after, f64([expected]), rtol=1e-14, atol=0)
    constant, _ = rule.left(rate, f64(0.0), policy, f64([1.0]), f64([[3.0, 3.0]]), 0)
    assert torch.equal(constant, rate)


@pytest.mark.parametrize("name", ["tsallis", "shannon"])
def test_a_policy_that_has_decided_pays_next_to_nothing(name):
    rule, decided, open_ = REGULARIZERS[name](1.0, 1.0), f64([[0.0, 1.0, 0.0]]), f64([[1 / 3] * 3])
    one = f64([1.0])
    smallest = 3 / 1001 if name == "tsallis" else 0.0
    assert float(rule.cost(one, decided, one, 1000)) == pytest.approx(smallest, abs=1e-15)
    assert float(rule.cost(one, open_, one, 1000)) > 1


def test_entropy_counts_nothing_for_what_is_never_taken():
    assert float(entropy(f64([0.5, 0.5, 0.0]))) == pytest.approx(math.log(2), rel=1e-15)
