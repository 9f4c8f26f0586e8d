"""Multilevel worst cases: the mean is that of the plug-in at the cap, computed exactly, and the cost is as promised."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multinomial

from surefoot.ambiguity import KL, Contamination, TotalVariation
from surefoot.ambiguity.operator import solve
from surefoot.errors import UsageError
from surefoot.methods.tabular.robust_average_reward.multilevel import Draws, Levels, worst
from surefoot.seeding import numpy_stream

P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
V = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)


def plug_in(ambiguity, samples):
    """E σ of the empirical law of so many samples, by summing over all of them."""
    counts = torch.tensor([(i, j, samples - i - j) for i in range(samples + 1) for j in range(samples + 1 - i)])
    weight = torch.from_numpy(multinomial(samples, P.numpy()).pmf(counts.numpy()))
    return float(
        weight @ solve(V.expand(len(counts), 3), counts.double() / samples, ambiguity, ambiguity.strength).value
    )


def drawn(ambiguity, levels, number=40_000):
    draws = levels.draw(P.expand(number, 3), numpy_stream(0, "draws"))
    return draws, worst(V.expand(number, 3), draws, ambiguity)


@pytest.mark.parametrize(
    ("ambiguity", "samples", "value"),
    [
        (TotalVariation(0.2), 2, 1.606),
        (TotalVariation(0.2), 1, 1.72),
        (KL(0.1), 1, 1.9),
        (TotalVariation(0.2), 128, 1.32828),
    ],
    ids=str,
)
def test_the_plug_in_of_the_card(ambiguity, samples, value):
    assert plug_in(ambiguity, samples) == pytest.approx(value, abs=5e-5)


@pytest.mark.parametrize("ambiguity", [TotalVariation(0.2), KL(0.1), Contamination(0.3)], ids=str)
@pytest.mark.parametrize(("psi", "cap"), [(0.5, 0), (0.5, 4), (0.6, 3)])
def test_the_mean_is_that_of_the_plug_in_at_the_cap(ambiguity, psi, cap):
    _, found = drawn(ambiguity, Levels(psi, cap))
    error = float(found.std()) / len(found) ** 0.5
    assert float(found.mean()) == pytest.approx(plug_in(ambiguity, 2 ** (cap + 1)), abs=4 * error)
    assert error < 0.04


def test_a_linear_functional_needs_no_level_above_the_first_sample():
    draws, found = drawn(Contamination(0.3), Levels(), 1000)
    torch.testing.assert_close(found, 0.7 * draws.laws[0] @ V + 0.3, rtol=0, atol=1e-9)


def test_the_cost_is_two_more_than_the_cap():
    for cap in (6, 8):
        samples = Levels(cap=cap).draw(P.expand(200_000, 3), numpy_stream(1, "draws")).samples.double()
        assert float(samples.mean()) == pytest.approx(cap + 2, abs=0.3)
        assert samples.min() == 2 and samples.max() == 2 ** (cap + 1)


def test_levels_have_a_law():
    for levels in (Levels(), Levels(0.3, 5), Levels(0.7, 0)):
        assert levels.probability(np.arange(levels.cap + 1)).sum() == pytest.approx(1, abs=1e-15)
    assert Levels(0.3, 5).probability(np.array([0, 4, 5])).tolist() == pytest.approx([0.3, 0.3 * 0.7**4, 0.7**5])


def test_the_laws_of_a_draw_belong_together():
    laws, weights, samples = Levels(cap=5).draw(P.expand(2000, 2, 3), numpy_stream(2, "draws"))
    one, every, even, odd = laws
    assert laws.shape == (4, 2000, 2, 3) and weights.shape == (4, 2000, 2)
    torch.testing.assert_close(every, (even + odd) / 2, rtol=0, atol=1e-15)
    assert bool((one.sum(-1) == 1).all()) and bool(((one == 1).sum(-1) == 1).all())
    assert bool((even[one == 1] > 0).all())  # the first sample is one of the even ones
    assert bool((even * samples[..., None] / 2 % 1 == 0).all())
    torch.testing.assert_close(weights[1:].sum(0), torch.zeros_like(weights[0]), rtol=0, atol=0)
    torch.testing.assert_close(one.mean((0, 1)), P, rtol=0, atol=0.04)


def test_a_set_without_ambiguity_averages_the_samples_apart_from_rounding():
    draws, found = drawn(KL(0.0), Levels(), 500)
    assert isinstance(draws, Draws)
    torch.testing.assert_close(found, draws.laws[0] @ V, rtol=0, atol=1e-9)


@pytest.mark.parametrize("wrong", [{"psi": 0.0}, {"psi": 1.0}, {"cap": -1}])
def test_what_is_no_law_is_refused(wrong):
    with pytest.raises(UsageError, match="Levels: "):
        Levels(**wrong)
