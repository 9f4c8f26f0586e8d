"""A spectral risk with a price on the divergence: Prospect's numbers, and a convex program without pools."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy.special import kl_div

from surefoot.ambiguity import KL, ChiSquare, CVaR, ExponentialSpectral, Extremile, MeanCVaR, Priced, VaR, worst_case
from surefoot.ambiguity.conventions import price_of_shift, radius_of_samples
from surefoot.ambiguity.core import Ambiguity
from surefoot.errors import UsageError

LOSSES = np.array([0.2, 1.0, 0.5, 2.0, 1.5])


def risk(risk: Ambiguity, nu: float, divergence: str = "chi-square", losses: np.ndarray = LOSSES):
    """The greatest risk by the paper's shift cost."""
    price = price_of_shift(nu) if divergence == "chi-square" else nu
    return worst_case(losses, None, Priced(risk, price, divergence), maximise=True)


@pytest.mark.parametrize(
    ("spectral", "nu", "divergence", "weights", "value"),
    [
        (CVaR(0.5), 1.0, "chi-square", (0.032, 0.192, 0.092, 0.392, 0.292), 1.2532),
        (CVaR(0.5), 0.1, "chi-square", (0, 0.2, 0, 0.4, 0.4), 1.56),
        (CVaR(0.5), 0.0, "chi-square", (0, 0.2, 0, 0.4, 0.4), 1.6),
        (Extremile(2.0), 1.0, "chi-square", (0.05, 0.2, 0.11, 0.36, 0.28), 1.2485),
        (Extremile(2.0), 0.1, "chi-square", (0.04, 0.2, 0.12, 0.36, 0.28), 1.392),
        (Extremile(2.0), 2.0, "kl", (0.124552, 0.185809, 0.144708, 0.306347, 0.238584), 1.147195),
        (Extremile(2.0), 1.0, "kl", (0.078682, 0.175109, 0.106209, 0.36, 0.28), 1.242031),
    ],
)
def test_the_numbers_of_the_paper(spectral, nu, divergence, weights, value):
    found = risk(spectral, nu, divergence)
    np.testing.assert_allclose(found.weights, weights, atol=1e-6)
    assert found.value == pytest.approx(value, abs=1e-6)


def test_spectra():
    def greatest_last(given: Ambiguity, n: int) -> list[float]:
        return Priced(given).spectrum(np.full(n, 1 / n))[::-1].tolist()

    assert greatest_last(CVaR(0.5), 5) == pytest.approx([0, 0, 0.2, 0.4, 0.4])
    assert greatest_last(Extremile(2.0), 4) == pytest.approx([1 / 16, 3 / 16, 5 / 16, 7 / 16])
    expected = [0.165296, 0.212244, 0.272527, 0.349932]
    assert greatest_last(ExponentialSpectral(1.0), 4) == pytest.approx(expected, abs=1e-6)


def test_while_no_rank_binds_the_weights_are_linear_in_the_losses():
    q = risk(CVaR(0.5), 1.0).weights
    np.testing.assert_allclose(q, 0.2 + (LOSSES - LOSSES.mean()) / 5, atol=1e-12)


@pytest.mark.parametrize("divergence", ["chi-square", "kl"])
def test_an_infinite_price_leaves_the_mean_and_a_risk_that_is_the_mean_always_does(divergence):
    assert risk(CVaR(0.2), np.inf, divergence).value == pytest.approx(LOSSES.mean())
    assert risk(CVaR(0.2), 1e9, divergence).value == pytest.approx(LOSSES.mean(), abs=1e-8)
    np.testing.assert_allclose(risk(CVaR(1.0), 0.3, divergence).weights, 0.2, atol=1e-12)


def test_without_bounds_on_the_ranks_it_is_the_price_alone():
    for divergence, set_of in (("chi-square", ChiSquare), ("kl", KL)):
        ours, theirs = (
            worst_case(LOSSES, None, one, maximise=True)
            for one in (Priced(CVaR(0.0), 0.7, divergence), set_of(penalty=0.7))
        )
        assert ours.value == pytest.approx(theirs.value, abs=1e-12)
        np.testing.assert_allclose(ours.weights, theirs.weights, atol=1e-12)


@pytest.mark.parametrize("divergence", ["chi-square", "kl"])
@pytest.mark.parametrize("spectral", [CVaR(0.3), Extremile(2.5), ExponentialSpectral(2.0), MeanCVaR(0.2, 0.5)], ids=str)
@pytest.mark.parametrize("price", [0.05, 0.3, 3.0])
def test_a_convex_program_agrees_also_for_unequal_probabilities(spectral, price, divergence):
    """max q·ℓ − λ·D over q(A) ≤ Φ(p(A)) for every one of the 2^n sets A."""
    stream = np.random.default_rng(3)
    losses, p = stream.normal(size=6), (stream.dirichlet(np.ones(6)) + 0.1) / 1.6
    found = worst_case(losses, p, Priced(spectral, price, divergence), maximise=True)
    q = cp.Variable(6)
    sets = np.array([[bool(k >> i & 1) for i in range(6)] for k in range(1, 63)])
    limits = spectral.cumulative(torch.as_tensor(sets @ p)).numpy()
    paid = cp.sum(cp.square(q - p) / p) if divergence == "chi-square" else cp.sum(cp.kl_div(q, p))
    program = cp.Problem(cp.Maximize(losses @ q / price - paid), [q >= 0, cp.sum(q) == 1, sets @ q <= limits])
    program.solve(solver=cp.CLARABEL)
    best = np.maximum(q.value, 0)
    paid = np.sum((best - p) ** 2 / p) if divergence == "chi-square" else np.sum(kl_div(best, p))
    assert found.value == pytest.approx(losses @ best - price * paid, abs=1e-6)
    np.testing.assert_allclose(found.weights, q.value, atol=1e-4)


@pytest.mark.parametrize("divergence", ["chi-square", "kl"])
def test_weights_are_in_the_hull_monotone_and_unmoved_by_a_constant(divergence):
    stream = np.random.default_rng(0)
    for nu in (1e-3, 0.1, 1.0, 10.0):
        losses = np.round(stream.normal(size=40), 1)  # with ties
        q = risk(Extremile(3.0), nu, divergence, losses).weights
        assert q.sum() == pytest.approx(1) and (q >= 0).all()
        assert (np.diff(q[np.argsort(losses, kind="stable")]) >= -1e-12).all()
        np.testing.assert_allclose(risk(Extremile(3.0), nu, divergence, losses + 7).weights, q, atol=1e-12)
        spectrum = Priced(Extremile(3.0)).spectrum(np.full(40, 1 / 40))
        assert (np.cumsum(np.sort(q)[::-1]) <= np.cumsum(spectrum) + 1e-12).all()


def test_the_gradient_is_the_weights():
    losses = torch.tensor(LOSSES, requires_grad=True)
    for divergence in ("chi-square", "kl"):
        value = worst_case(losses, None, Priced(CVaR(0.3), 0.4, divergence), maximise=True).value
        assert torch.autograd.gradcheck(
            lambda x, d=divergence: worst_case(x, None, Priced(CVaR(0.3), 0.4, d), maximise=True).value, losses
        )
        assert value.requires_grad


@pytest.mark.parametrize("divergence", ["chi-square", "kl"])
def test_a_price_far_below_the_losses_keeps_its_digits(divergence):
    losses = np.array([1e8, 1e8 + 1, -3e8, 0.0])
    found = worst_case(losses, None, Priced(CVaR(0.5), 1e-6, divergence), maximise=True)
    np.testing.assert_allclose(found.weights, [0.5, 0.5, 0, 0], atol=1e-12)


@pytest.mark.parametrize("divergence", ["chi-square", "kl"])
def test_a_price_of_zero_is_the_risk(divergence):
    losses = np.random.default_rng(1).normal(size=101)
    ours, theirs = (
        worst_case(losses, None, one, maximise=True) for one in (Priced(CVaR(0.3), 0.0, divergence), CVaR(0.3))
    )
    assert ours.value == pytest.approx(float(theirs.value), abs=1e-12)
    np.testing.assert_allclose(ours.weights, theirs.weights, atol=1e-14)


def test_sizes_of_other_papers():
    q = np.array([0.4, 0.3, 0.2, 0.1])
    chi_square = float(ChiSquare(1.0).divergence(torch.tensor(q), torch.full((4,), 0.25, dtype=torch.float64)))
    assert price_of_shift(3.0) * chi_square == pytest.approx(3.0 * 4 / 2 * np.sum((q - 0.25) ** 2))
    rho = 4 * np.sum((4 * q - 1) ** 2) / 8  # on the boundary of its ball
    assert radius_of_samples(rho, 4) == pytest.approx(chi_square)


def test_only_a_coherent_spectral_risk_can_be_priced():
    for wrong in (VaR(0.2), KL(0.1)):
        with pytest.raises(UsageError, match="give a coherent spectral risk"):
            Priced(wrong)
    with pytest.raises(UsageError, match="price=-1"):
        Priced(CVaR(0.1), -1.0)
