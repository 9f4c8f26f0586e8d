"""Numbers of the papers that use the operator, worked out for them independently of this code."""

from __future__ import annotations

import numpy as np
import pytest

from surefoot.ambiguity import (
    KL,
    ChiSquare,
    Contamination,
    CVaR,
    Entropic,
    ExponentialSpectral,
    Extremile,
    MeanCVaR,
    MixedVaR,
    TotalVariation,
    VaR,
    worst_case,
    worst_case_value,
)

# Two states, two actions: nominal kernel [s, a, s'] and rewards [s, a] of the robust-MDP checks.
P = np.array([[[0.7, 0.3], [0.2, 0.8]], [[0.5, 0.5], [0.9, 0.1]]])
R = np.array([[1.0, 0.4], [0.0, 0.6]])


def close(found, truth, tolerance=1e-6):
    np.testing.assert_allclose(found, truth, rtol=0, atol=tolerance)


def test_regularized_rmdp_worst_kernel_and_policy_value():
    """Entropic risk β = 2 (arXiv:2306.11626) of the policy π at γ = 0.9: a fixed point, and the worst kernel."""
    policy, gamma, beta = np.array([[0.6, 0.4], [0.3, 0.7]]), 0.9, 2.0
    v = np.zeros(2)
    for _ in range(400):
        q = R + gamma * worst_case_value(v, P, KL(penalty=1 / beta))
        v = (policy * q).sum(-1)
    close(v, [6.263565, 5.994317])
    close(q, [[6.549934, 5.834012], [5.499929, 6.206198]])
    kernel = worst_case(v, P, KL(penalty=1 / beta)).distribution
    close(kernel, [[[0.576593, 0.423407], [0.127328, 0.872672]], [[0.368538, 0.631462], [0.840067, 0.159933]]])
    paid = (kernel * np.log(kernel / P)).sum(-1) / beta
    close((policy * (R + gamma * (kernel @ v + paid))).sum(-1), v, 1e-12)


def test_regularized_rmdp_optimal_values_from_neutral_to_the_support_minimum():
    betas = np.array([0.0, 0.1, 1.0, 2.0, 10.0, 100.0, np.inf])
    with np.errstate(divide="ignore"):
        ambiguity = KL(penalty=(1 / betas)[:, None, None])
    v = np.zeros((7, 2))
    for _ in range(400):
        v = (R + 0.9 * worst_case_value(v[:, None, None, :], P, ambiguity)).max(-1)
    close(v[:, 0], [9.084746, 9.075289, 8.988830, 8.890945, 8.114210, 6.597345, 6.4])
    close(v[[0, 3, 6], 1], [8.745763, 8.561767, 6.0])


def test_r2pvi_penalties():
    """arXiv:2411.18612: values, worst factors and the level of χ² at λ = 0.8; the limits of λ."""
    v, p = np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.3, 0.2])
    close(worst_case(v, p, TotalVariation(penalty=0.8)).value, 1.4, 1e-12)
    kl = worst_case(v, p, KL(penalty=0.8))
    close(kl.value, 1.421219)
    weights = p * np.exp(-v / 0.8)
    close(kl.distribution, weights / weights.sum(), 1e-12)
    chi_square = worst_case(v, p, ChiSquare(penalty=0.8))
    close(chi_square.value, 1.516406)
    close(chi_square.distribution, [0.7421875, 0.2578125, 0.0], 1e-12)
    p = np.array([0.0, 0.8, 0.2])
    for make, least in ((TotalVariation, 1.0), (KL, 2.0), (ChiSquare, 2.0)):
        close(worst_case(v, p, make(penalty=1e12)).value, p @ v)
        close(worst_case(v, p, make(penalty=1e-12)).value, least)


def test_dr_rpo_total_variation_ball_with_a_fail_state():
    """arXiv:2510.14246: radius 1 with a fail state of value 0 leaves nothing; radius ρ is the dual over α."""
    v, p, rho = np.array([0.0, 1.0, 2.5]), np.array([0.1, 0.6, 0.3]), 0.6
    assert worst_case(v, p, TotalVariation(1.0)).value == 0
    levels = np.linspace(0, 3, 3001)
    dual = (np.minimum(v, levels[:, None]) @ p - rho * levels).max()
    close(worst_case(v, p, TotalVariation(rho)).value, dual, 1e-12)


def average_reward(ambiguity) -> tuple[float, np.ndarray]:
    """Robust relative value iteration: g* and Q with the mean of its entries equal to g*."""
    q = np.zeros((2, 2))
    for _ in range(300):
        v = q.max(-1)
        q = R + worst_case_value(v - v[0], P, ambiguity)
    v = q.max(-1)
    g = (R + worst_case_value(v, P, ambiguity)).max(-1)[0] - v[0]
    q = R - g + worst_case_value(v, P, ambiguity)
    return g, q + g - q.mean()


@pytest.mark.parametrize(
    ("ambiguity", "gain", "q"),
    [
        (Contamination(0.0), 0.9, [[1.441667, 0.675], [0.375, 1.108333]]),
        (Contamination(0.2), 0.848276, [[1.382759, 0.644828], [0.327586, 1.037931]]),
        (Contamination(0.4), 0.792857, [[1.319643, 0.6125], [0.276786, 0.9625]]),
        (TotalVariation(0.1), 0.866667, [[1.408333, 0.641667], [0.341667, 1.075]]),
        (TotalVariation(0.2), 0.833333, [[1.375, 0.608333], [0.308333, 1.041667]]),
    ],
)
def test_robust_average_reward(ambiguity, gain, q):
    """arXiv:2305.10504: g* and Q of the two-state problem."""
    found, values = average_reward(ambiguity)
    close(found, gain)
    close(values, q)


def test_robust_average_reward_support_functions():
    v, p = np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.3, 0.2])
    close(worst_case(v, p, TotalVariation(0.2)).value, 1.3, 1e-12)
    close(worst_case(v, p, KL(0.1)).value, 1.438827)
    work, pit = np.array([0.95, 0.05]), np.array([0.2, 0.8])
    for radius, fall, escape, gain in [
        (0.02, 0.099119, 0.124396, 0.556545),
        (0.05, 0.132199, 0.085166, 0.391810),
        (0.1, 0.172949, 0.046212, 0.210859),
    ]:
        found = worst_case(np.array([1.0, 0.0]), np.stack([work, pit]), KL(radius)).distribution
        close([found[0, 1], found[1, 0]], [fall, escape])
        close(found[1, 0] / (found[1, 0] + found[0, 1]), gain)


def test_ecrm_cvar_and_its_mixture_with_the_mean():
    """arXiv:2301.10932 writes tail levels of costs: level α is the share 1 − α here, and costs are maximised."""
    cost, p = np.array([0.0, 10.0]), np.array([0.9, 0.1])
    for alpha, cvar, mixture in [(0, 1, 1), (0.5, 2, 1.5), (0.8, 5, 3), (0.9, 10, 5.5), (0.95, 10, 5.5)]:
        close(CVaR(1 - alpha)(cost, p, maximise=True).value, cvar, 1e-12)
        close(MeanCVaR(1 - alpha, 0.5)(cost, p, maximise=True).value, mixture, 1e-12)


def test_ecrm_the_best_eta_is_the_value_at_risk():
    rng = np.random.default_rng(0)
    cost, p, alpha = rng.integers(0, 20, size=12).astype(float), rng.dirichlet(np.ones(12)), 0.8
    eta = np.unique(cost)
    loss = eta + (np.maximum(cost - eta[:, None], 0) @ p) / (1 - alpha)
    # The lower α-quantile of the costs is minus the upper one of −cost; without a tie at α the two are one.
    assert VaR(alpha)(cost, p).value == eta[loss.argmin()]
    close(CVaR(1 - alpha)(cost, p, maximise=True).value, loss.min(), 1e-12)


def test_prospect_spectra():
    """arXiv:2310.13863 writes spectra for ascending losses; `maximise` gives them in this order."""
    ascending = np.arange(5.0)
    close(CVaR(0.5)(ascending, maximise=True).weights, [0, 0, 0.2, 0.4, 0.4], 1e-12)
    close(Extremile(2.0)(ascending[:4], maximise=True).weights, np.array([1, 3, 5, 7]) / 16, 1e-12)
    esrm = ExponentialSpectral(1.0)(ascending[:4], maximise=True).weights
    close(esrm, [0.165296, 0.212244, 0.272527, 0.349932])
    close(CVaR(0.5)(np.array([0.2, 1.0, 0.5, 2.0, 1.5]), maximise=True).value, 1.6, 1e-12)


def test_drrho_excess_losses():
    """arXiv:2505.06699: its χ² is half of ours and its radii are ρ/n; excess losses, n = 4."""
    excess = np.array([0.1, -0.2, 0.4, 0.0])

    def worst(ambiguity):
        return worst_case(excess, np.full(4, 0.25), ambiguity, maximise=True)

    close(worst(ChiSquare(2 * 0.1 / 4)).value, 0.123412)
    close(worst(ChiSquare(2 * 0.1 / 4)).distribution, [0.256455, 0.178995, 0.333915, 0.230635])
    close(worst(ChiSquare(2 * 0.5 / 4)).value, 0.183253)
    close(worst(ChiSquare(2 * 2.0 / 4)).value, 0.286852)
    close(worst(ChiSquare(2 * 2.0 / 4)).distribution, [0.240883, 0, 0.656908, 0.102208])
    temperatures = np.array([10, 1, 0.1, 0.01])
    close(worst(KL(penalty=temperatures)).value, [0.0773491, 0.0988780, 0.268191, 0.386137])
    close(worst(KL(penalty=1.0)).distribution, [0.250281, 0.185412, 0.337844, 0.226463])
    close(worst(KL(0.2)).value, 0.213702)
    close(worst(CVaR(2 / 4)).value, 0.25)
    close(0.343503 * np.log(np.mean(np.exp(excess / 0.343503))) + 0.343503 * 0.2, worst(KL(0.2)).value)


def test_group_robust_weights_are_those_of_the_entropic_risk():
    """arXiv:2405.20304: exponentiated-gradient weights of cumulative losses, step size η."""
    first = Entropic(0.5)(np.array([0.9, 0.3]), maximise=True)
    close(first.weights, [0.574443, 0.425557])
    close(first.weights @ [0.9, 0.3], 0.644666)
    second = Entropic(0.5)(np.array([0.9 + 0.8, 0.3 + 0.35]), maximise=True)
    close(second.weights, [0.628316, 0.371684])


def test_riskpo_quantile_ranges_of_a_normal():
    """arXiv:2510.00911: CVaR_0.2 of N(0, 1) is −1.399810 and RVaR from 0.2 to 0.8 is 0."""
    from scipy.stats import norm

    n = 200_000
    sample = norm.ppf((np.arange(n) + 0.5) / n)
    close(CVaR(0.2)(sample).value, -1.399810, 1e-4)
    close(MixedVaR(0.2, 0.8, 0.0)(sample).value, 0, 1e-9)
    close(MixedVaR(0.2, 0.8, 1.5)(sample).value, 1.5 * -1.399810 / 2.5, 1e-4)
