"""The laws that every ambiguity set and risk measure keeps, whoever adds it: the sets are read from the registry.

A new set that cannot be made from a radius or a penalty alone gives an example in `HOLDING_ARRAYS`; a new risk measure
gives one in `RISKS`, with the axioms of coherence that it breaks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from surefoot import ambiguity as room
from surefoot.ambiguity import (
    KL,
    Ambiguity,
    Box,
    CVaR,
    Divergence,
    Ellipsoid,
    Hellinger,
    Mixed,
    Scenarios,
    Wasserstein,
    parse,
    worst_case,
    worst_case_value,
)
from surefoot.ambiguity.core import REGISTRY
from surefoot.ambiguity.mixtures import Given
from surefoot.ambiguity.moves import Supported

N = 5
COST = np.abs(np.subtract.outer(np.arange(N), np.arange(N))) ** 1.5
WEIGHTS = np.array([0.5, 1.0, 2.0, 0.1, 1.0])
LOWER, UPPER = np.array([0.0, 0.1, 0.0, 0.05, 0.2]), np.array([0.3, 0.1, 1.0, 0.4, 0.6])
SCENARIOS = np.array([[0.2, 0.2, 0.2, 0.2, 0.2], [0.0, 0.0, 0.5, 0.5, 0.0], [0.9, 0.0, 0.0, 0.0, 0.1]])
HOLDING_ARRAYS: dict[str, dict[str, Any]] = {
    "wasserstein": {"cost": COST},
    "ellipsoid": {"weights": WEIGHTS},
    "box": {"lower": LOWER, "upper": UPPER},
    "scenarios": {"distributions": SCENARIOS},
}
# The example of a risk measure, and the axioms that it breaks.
RISKS: dict[str, tuple[Ambiguity, set[str]]] = {
    "cvar": (room.CVaR(0.3), set()),
    "var": (room.VaR(0.3), {"superadditive"}),
    "mean-cvar": (room.MeanCVaR(0.3, 0.6), set()),
    "mixed-var": (room.MixedVaR(0.4, 0.7, 0.5), {"superadditive"}),
    "extremile": (room.Extremile(2.5), set()),
    "exponential-spectral": (room.ExponentialSpectral(3.0), set()),
    "spectral": (room.Spectral((0.5, 0.3, 0.2)), set()),
    "entropic": (room.Entropic(2.0), {"homogeneous", "superadditive"}),
    "mean-variance": (room.MeanVariance(1.5), {"monotone", "homogeneous", "superadditive"}),
    "mean-deviation": (room.MeanDeviation(1.5), {"monotone"}),
    "expectile": (room.Expectile(0.2), set()),
    "priced": (room.Priced(room.CVaR(0.3), 0.2), {"homogeneous", "superadditive"}),
    "mixed": (room.Mixed((room.CVaR(0.2), room.Expectile(0.3), room.KL(0.1)), (0.5, 0.2, 0.3)), set()),
}
SETS = {name: cls for name, cls in REGISTRY.items() if issubclass(cls, Divergence)}
BALLS = {name: cls for name, cls in SETS.items() if not issubclass(cls, Given)}  # sets that grow from the nominal
SUPPORTED = {name: cls for name, cls in BALLS.items() if issubclass(cls, Supported)}
each_set = pytest.mark.parametrize("name", SETS)
each_ball = pytest.mark.parametrize("name", BALLS)
each_risk = pytest.mark.parametrize("name", RISKS)


def value_of_worst_case(*arguments: Any, **settings: Any) -> Any:
    return worst_case(*arguments, **settings).value


def make(name: str, **fields: Any) -> Any:
    return SETS[name](**HOLDING_ARRAYS.get(name, {}), **fields)


def largest(name: str) -> float:
    """A radius at which the set holds every distribution that it ever can."""
    return 1.0 if name in ("contamination", "hellinger") else 1e6


def test_every_set_and_risk_is_covered():
    assert set(REGISTRY) == set(SETS) | set(RISKS)


# Batches of values with ties and nominals with zeros, of moderate size: the extremes have tests of their own.
ROWS = 8
number = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(-3, 3).map(lambda x: round(x, 3)))
some_values = arrays(float, (ROWS, N), elements=number, fill=st.nothing())
some_radii = arrays(float, ROWS, elements=st.floats(1e-3, 1.0), fill=st.nothing())
some_penalties = arrays(float, ROWS, elements=st.floats(1e-2, 10.0), fill=st.nothing())


@st.composite
def distributions(draw: Any) -> np.ndarray:
    weights = draw(arrays(float, (ROWS, N), elements=st.integers(0, 20), fill=st.nothing()))
    weights[weights.sum(-1) == 0, 2] = 1.0
    return weights / weights.sum(-1, keepdims=True)


quick = settings(max_examples=12)


def expected(q: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (q * v).sum(-1)


def divergence(ambiguity: Any, q: np.ndarray, p: np.ndarray) -> np.ndarray:
    return ambiguity.divergence(torch.tensor(q), torch.tensor(p)).numpy()


def close(found: Any, truth: Any, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(found, truth, rtol=0, atol=tolerance)


# ---------------------------------------------------------------------------------------------------------------------
# Balls and penalties.


@each_ball
@quick
@given(some_values, distributions(), some_radii)
def test_the_worst_case_of_a_ball_is_feasible_and_attains_the_value(name, v, p, radius):
    ambiguity = make(name, radius=radius)
    value, q = worst_case(v, p, ambiguity)
    assert (q >= 0).all()
    close(q.sum(-1), 1, 1e-12)
    close(value, expected(q, v), 1e-10)
    assert (divergence(ambiguity, q, p) <= radius * (1 + 1e-7) + 1e-9).all()


@each_set
@quick
@given(some_values, distributions(), some_penalties)
def test_a_penalised_value_is_the_expectation_and_the_price(name, v, p, penalty):
    ambiguity = make(name, penalty=penalty)
    value, q = worst_case(v, p, ambiguity)
    assert (q >= 0).all()
    close(q.sum(-1), 1, 1e-12)
    if name in BALLS:
        close(value, expected(q, v) + penalty * divergence(ambiguity, q, p), 1e-8)
    else:
        moved = (q != p).any(-1)
        close(value, expected(q, v) + np.where(moved, penalty, 0), 1e-8)


@each_ball
@quick
@given(some_values, distributions(), distributions(), some_penalties)
def test_no_distribution_of_the_ball_is_worse(name, v, p, q, penalty):
    """Weak duality on the primal side: what is found is below every q of the set, and below every q with its price."""
    away = divergence(make(name, radius=0.5), q, p)
    reached = np.isfinite(away)
    v, p, q, away, penalty = v[reached], p[reached], q[reached], away[reached], penalty[reached]
    assert (worst_case_value(v, p, make(name, radius=np.minimum(away, largest(name)))) <= expected(q, v) + 1e-8).all()
    assert (worst_case_value(v, p, make(name, penalty=penalty)) <= expected(q, v) + penalty * away + 1e-8).all()


@each_ball
@quick
@given(some_values, distributions(), some_radii, some_penalties)
def test_every_multiplier_gives_a_lower_bound_of_the_ball(name, v, p, radius, penalty):
    """Weak duality on the dual side: penalty(λ) − λ·radius ≤ ball(radius)."""
    lower = worst_case_value(v, p, make(name, penalty=penalty)) - penalty * radius
    assert (lower <= worst_case_value(v, p, make(name, radius=radius)) + 1e-9).all()


@each_ball
def test_the_best_multiplier_closes_the_gap(name):
    """Strong duality on one instance, over a fine grid of multipliers."""
    v, p = np.array([0.3, 1.0, -0.2, 0.7, 0.1]), np.array([0.3, 0.2, 0.1, 0.4, 0.0])
    grid = np.geomspace(1e-3, 1e2, 20_000)
    penalised = worst_case_value(v, p, make(name, penalty=grid))
    assert (penalised - 0.1 * grid).max() == pytest.approx(worst_case(v, p, make(name, radius=0.1)).value, abs=1e-4)


@each_ball
@quick
@given(some_values, distributions(), some_radii, some_radii)
def test_the_value_falls_with_the_radius_and_rises_with_the_penalty(name, v, p, one, other):
    low, high = np.minimum(one, other), np.maximum(one, other)
    far, near = (worst_case_value(v, p, make(name, radius=radius)) for radius in (high, low))
    assert (far <= near + 1e-12).all() and (near <= expected(p, v) + 1e-12).all()
    cheap, dear = (worst_case_value(v, p, make(name, penalty=penalty)) for penalty in (low, high))
    assert (cheap <= dear + 1e-12).all() and (dear <= expected(p, v) + 1e-12).all()


@each_ball
@quick
@given(some_values, distributions())
def test_no_radius_is_the_nominal_to_the_bit_and_so_is_an_infinite_penalty(name, v, p):
    value, q = worst_case(v, p, make(name, radius=0.0))
    close(value, expected(p, v), 1e-14)
    np.testing.assert_array_equal(q, p)
    value, q = worst_case(v, p, make(name, penalty=float("inf")))
    close(value, expected(p, v), 1e-14)
    close(q, p, 1e-14)


@pytest.mark.parametrize("support", ["all", "nominal"])
@each_ball
@quick
@given(some_values, distributions())
def test_saturation_is_the_essential_minimum(name, support, v, p):
    fields = {"support": support} if name in SUPPORTED else {}
    allowed = (p > 0) | (name in SUPPORTED and support == "all")
    least = np.where(allowed, v, np.inf).min(-1)
    for ambiguity in (make(name, radius=largest(name), **fields), make(name, penalty=0.0, **fields)):
        value, q = worst_case(v, p, ambiguity)
        close(value, least, 1e-12)
        assert (np.where(v > least[:, None], q, 0).sum(-1) < 1e-12).all()
        assert (q[~allowed] == 0).all()


@each_set
@quick
@given(some_values, distributions(), some_radii, st.floats(-100, 100), st.floats(0.01, 100))
def test_translation_and_homogeneity(name, v, p, strength, shift, scale):
    for form, scaled in (("radius", strength), ("penalty", scale * strength)):
        plain, other = make(name, **{form: strength}), make(name, **{form: scaled})
        value = worst_case_value(v, p, plain)
        close(worst_case_value(v + shift, p, plain), value + shift, 1e-10)
        close(worst_case_value(scale * v, p, other), scale * value, 1e-9 * max(scale, 1))


@each_set
@quick
@given(some_values, some_values, distributions(), some_radii)
def test_monotone_and_concave_in_the_values(name, v, other, p, strength):
    four = np.stack([v, other, (v + other) / 2, np.maximum(v, other)])
    for form in ("radius", "penalty"):
        at_v, at_other, between, above = worst_case_value(four, p, make(name, **{form: strength}))
        assert (between >= (at_v + at_other) / 2 - 1e-9).all()
        assert (above >= np.maximum(at_v, at_other) - 1e-9).all()


# ---------------------------------------------------------------------------------------------------------------------
# Risk measures.


@each_risk
@quick
@given(some_values, some_values, distributions(), st.floats(-100, 100), st.floats(0.01, 100))
def test_the_axioms_of_coherence(name, v, other, p, shift, scale):
    """In the sign of rewards: superadditive; with `maximise`, r(losses) is subadditive."""
    risk, broken = RISKS[name]
    value = risk(v, p).value
    close(risk(v + shift, p).value, value + shift)
    assert (value <= expected(p, v) + 1e-9).all() or name in ("var", "mixed-var")
    if "homogeneous" not in broken:
        close(risk(scale * v, p).value, scale * value, 1e-9 * max(scale, 1))
    if "monotone" not in broken:
        assert (risk(np.maximum(v, other), p).value >= value - 1e-9).all()
    if "superadditive" not in broken:
        assert (risk(v + other, p).value >= value + risk(other, p).value - 1e-9).all()
        most = risk(v, p, maximise=True).value + risk(other, p, maximise=True).value
        assert (risk(v + other, p, maximise=True).value <= most + 1e-9).all()


@pytest.mark.parametrize("maximise", [False, True])
@pytest.mark.parametrize("weight", [0.5, 2.0])
@pytest.mark.parametrize("value", [0.1, 0.2, 1 / 3, 0.7, 1e6 + 0.1, 1e-300])
def test_equal_values_have_no_deviation_to_divide_by(value, weight, maximise):
    """Their mean rounds to another number than theirs; what is left must not be taken for a deviation."""
    for count in range(1, 40):
        same = np.full(count, value)
        for risk in (room.MeanDeviation(weight), room.MeanVariance(weight), room.Expectile(0.2), room.ChiSquare(0.3)):
            found = risk(same, maximise=maximise)
            assert found.value == pytest.approx(value, rel=1e-15)
            close(found.weights, 1 / count, 1e-15)


@pytest.mark.parametrize("chance", [1e-10, 1e-20, 1e-100, 1e-300])
def test_a_deviation_that_one_rare_outcome_makes(chance):
    """v = 1, and 0 with a chance p: the deviation is √(p(1 − p)), and its weight p + c·√(p(1 − p))."""
    values, nominal = np.array([1.0, 0.0, 1.0, 1.0]), np.array([0.1, chance, 0.2, 0.7 - chance])
    found = room.MeanDeviation(0.5)(values, nominal)
    spread = 0.5 * np.sqrt(chance * (1 - chance))
    assert found.value == pytest.approx(1 - chance - spread, abs=1e-15)
    assert found.weights[1] == pytest.approx(chance + spread, rel=1e-9)
    close(found.weights.sum(), 1, 1e-15)


@pytest.mark.parametrize("scale", [1e-290, 1e290])
def test_homogeneous_risks_at_any_scale(scale):
    values, nominal = np.array([0.3, 1.0, -0.2, 0.7]), np.array([0.3, 0.2, 0.1, 0.4])
    for risk, broken in RISKS.values():
        if "homogeneous" not in broken:
            plain, other = risk(values, nominal), risk(scale * values, nominal)
            assert other.value / scale == pytest.approx(plain.value, rel=1e-12), risk
            close(other.weights, plain.weights, 1e-12)


def test_arrays_come_first_where_a_set_is_made_of_them():
    values, nominal = np.array([0.0, 1.0]), np.array([0.5, 0.5])
    assert worst_case_value(values, nominal, Box([0.1, 0.2], [0.8, 0.9])) == pytest.approx(0.2)
    assert worst_case_value(values, nominal, Box([0.1, 0.2], [0.8, 0.9], radius=0.5)) == pytest.approx(0.35)
    assert worst_case_value(values, nominal, Scenarios([[0.3, 0.7], [0.9, 0.1]])) == pytest.approx(0.1)


COUNTEREXAMPLES = {
    # A better best outcome makes these worse; the nominal is (1/2, 1/2).
    ("mean-variance", "monotone"): ([0.0, 1.0], [0.0, 5.0]),
    ("mean-deviation", "monotone"): ([0.0, 1.0], [0.0, 5.0]),
}


@each_risk
def test_an_axiom_that_is_said_to_be_broken_is_broken(name):
    risk, broken = RISKS[name]
    rng = np.random.default_rng(0)
    if "monotone" in broken:
        less, more = map(np.array, COUNTEREXAMPLES[name, "monotone"])
        assert (more >= less).all() and risk(more).value < risk(less).value - 0.1
    if "homogeneous" in broken:
        v = np.array([0.0, 1.0])
        assert abs(risk(3 * v).value - 3 * risk(v).value) > 0.1
    if "superadditive" in broken:
        v, w = rng.integers(0, 3, size=(2, 2000, N)).astype(float)
        assert (risk(v + w).value < risk(v).value + risk(w).value - 1e-3).any()


@each_risk
@quick
@given(some_values, distributions())
def test_weights_sum_to_one_and_reproduce_a_homogeneous_risk(name, v, p):
    risk, broken = RISKS[name]
    found = risk(v, p)
    close(found.weights.sum(-1), 1, 1e-12)
    if "homogeneous" not in broken:
        close(expected(found.weights, v), found.value, 1e-10)
    if "monotone" not in broken:
        assert (found.weights >= -1e-15).all()


# ---------------------------------------------------------------------------------------------------------------------
# All of them.

EVERY: dict[str, Callable[[], Ambiguity]] = {
    **{f"{name}-ball": lambda name=name: make(name, radius=0.2) for name in SETS},
    **{f"{name}-penalty": lambda name=name: make(name, penalty=0.7) for name in SETS},
    **{name: lambda name=name: RISKS[name][0] for name in RISKS},
}
every = pytest.mark.parametrize("make_one", EVERY.values(), ids=EVERY)


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(3, 1, N, generator=generator, dtype=torch.float64)
    nominal = torch.rand(4, N, generator=generator, dtype=torch.float64)
    nominal[1, 2:4] = 0
    return values, nominal / nominal.sum(-1, keepdim=True)


@every
def test_a_batch_is_its_rows_and_the_maximum_mirrors_the_minimum(make_one, batch):
    values, nominal = batch
    ambiguity = make_one()
    found = worst_case(values, nominal, ambiguity)
    assert found.value.shape == (3, 4) and found.distribution.shape == (3, 4, N)
    mirrored = worst_case(-values, nominal, ambiguity, maximise=True)
    torch.testing.assert_close(mirrored.value, -found.value, rtol=0, atol=0)
    for i in range(3):
        for j in range(4):
            row = worst_case(values[i, 0], nominal[j], ambiguity)
            torch.testing.assert_close(row.value, found.value[i, j], rtol=0, atol=1e-12)
            torch.testing.assert_close(row.distribution, found.distribution[i, j], rtol=0, atol=1e-9)
            assert worst_case_value(values[i, 0], nominal[j], ambiguity) == row.value


@every
def test_numpy_torch_and_single_precision_agree(make_one, batch):
    values, nominal = batch
    ambiguity = make_one()
    found = worst_case(values, nominal, ambiguity)
    from_numpy = worst_case(values.numpy(), nominal.numpy(), ambiguity)
    assert isinstance(from_numpy.value, np.ndarray) and isinstance(from_numpy.distribution, np.ndarray)
    np.testing.assert_array_equal(from_numpy.value, found.value.numpy())
    np.testing.assert_array_equal(from_numpy.distribution, found.distribution.numpy())
    single = worst_case(values.float(), nominal.float(), ambiguity)
    assert single.value.dtype == single.distribution.dtype == torch.float32
    torch.testing.assert_close(single.value.double(), found.value, rtol=0, atol=1e-5)


@every
def test_the_distribution_is_the_gradient(make_one, batch):
    values, nominal = batch
    ambiguity = make_one()
    leaf = values.clone().requires_grad_()
    for one in (worst_case_value, value_of_worst_case):
        for maximise in (False, True):
            function = partial(one, nominal=nominal, ambiguity=ambiguity, maximise=maximise)
            assert torch.autograd.gradcheck(function, (leaf,), eps=1e-6, atol=1e-5, fast_mode=True)
    (gradient,) = torch.autograd.grad(worst_case(leaf, nominal, ambiguity).value.sum(), leaf)
    expected = worst_case(values, nominal, ambiguity).distribution.sum(1, keepdim=True)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


@every
def test_vmap_is_a_batch(make_one, batch):
    values, nominal = batch
    ambiguity = make_one()
    found = worst_case(values, nominal, ambiguity)
    mapped = torch.func.vmap(lambda v: worst_case(v, nominal, ambiguity).value)(values)
    torch.testing.assert_close(mapped, found.value, rtol=0, atol=1e-14)
    both = torch.func.vmap(lambda v, p: worst_case(v, p, ambiguity).value, in_dims=(0, 1))(
        values[:, 0], nominal.T[:, :3]
    )
    torch.testing.assert_close(both, found.value.diagonal(), rtol=0, atol=1e-14)
    for one in (worst_case_value, value_of_worst_case):
        gradients = torch.func.vmap(torch.func.grad(lambda v, one=one: one(v, nominal, ambiguity).sum()))(values[:, 0])
        torch.testing.assert_close(gradients, found.distribution.sum(1), rtol=0, atol=1e-12)


@every
def test_it_prints_and_goes_to_json_and_back(make_one, batch):
    values, nominal = batch
    ambiguity = make_one()
    again = Ambiguity.from_dict(json.loads(json.dumps(ambiguity.to_dict())))
    assert (
        type(again) is type(ambiguity) and str(again) == str(ambiguity) and "{" not in str(ambiguity).replace("{ q", "")
    )
    torch.testing.assert_close(
        worst_case_value(values, nominal, again), worst_case_value(values, nominal, ambiguity), rtol=0, atol=0
    )


@each_set
def test_a_penalty_has_the_divergence_as_its_gradient(name, batch):
    values, nominal = batch
    penalty = torch.tensor([0.3, 0.5, 0.7, 0.9], dtype=torch.float64, requires_grad=True)
    for maximise in (False, True):
        for one in (worst_case_value, value_of_worst_case):

            def value(strength, one=one, maximise=maximise):
                return one(values, nominal, make(name, penalty=strength), maximise=maximise)

            assert torch.autograd.gradcheck(value, (penalty,), fast_mode=True)


@each_set
def test_radii_may_differ_by_row_and_make_sweeps(name, batch):
    values, nominal = batch
    radii = torch.tensor([0.0, 0.1, 0.4, 1.0], dtype=torch.float64)
    by_row = worst_case(values, nominal, make(name, radius=radii)).value
    sweep = worst_case(values, nominal, make(name, radius=radii[:, None, None])).value
    assert by_row.shape == (3, 4) and sweep.shape == (4, 3, 4)
    mapped = torch.func.vmap(lambda r: worst_case(values, nominal, make(name, radius=r)).value)(radii)
    torch.testing.assert_close(mapped, sweep, rtol=0, atol=1e-14)
    for j, radius in enumerate(radii.tolist()):
        alone = worst_case(values, nominal, make(name, radius=radius)).value
        torch.testing.assert_close(sweep[j], alone, rtol=0, atol=1e-12)
        torch.testing.assert_close(by_row[:, j], alone[:, j], rtol=0, atol=1e-12)


def test_names_of_sets_are_read_by_parse():
    for name in SETS:
        if name not in ("box", "scenarios", "wasserstein"):
            assert parse(f"{name}:0.25") == SETS[name](radius=0.25)
            assert parse(f"{name}-penalty:0.25") == SETS[name](penalty=0.25)


@pytest.mark.parametrize("chance", [1e-100, 1e-104, 1e-250, 1e-300])
def test_hellinger_stays_within_its_ball(chance):
    values, nominal = torch.tensor([1.0, 0.0]).double(), torch.tensor([1.0, chance]).double()
    assert float(Hellinger(0.001)(values, nominal).value) == pytest.approx(0.998001, abs=1e-9)


@pytest.mark.parametrize("count", [3, 5])  # as many as the rows, and others
def test_vmap_goes_over_values_beside_a_set_for_each_row(count):
    g = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    nominal = drawn(4).softmax(-1)
    for one in (
        Box(lower=nominal * drawn(3, 4), upper=nominal * (1 + drawn(3, 4))),
        Scenarios(distributions=drawn(3, 2, 4).softmax(-1)),
        Ellipsoid(0.1, weights=drawn(3, 4)),
        Wasserstein(0.1, cost=drawn(3, 4, 4) * (1 - torch.eye(4).double())),
        Mixed((KL(drawn(3)), CVaR(0.5)), (0.5, 0.5)),
    ):
        values = drawn(count, 4)
        each = [worst_case(v, nominal, one).value for v in values]
        mapped = torch.func.vmap(lambda v, one=one: worst_case(v, nominal, one).value)(values)
        assert mapped.shape == (count, 3)
        torch.testing.assert_close(mapped, torch.stack(each), rtol=0, atol=1e-14)
        torch.testing.assert_close(mapped, worst_case(values[:, None], nominal, one).value, rtol=0, atol=1e-14)


def test_vmap_goes_over_values_beside_a_radius_for_each_row():
    values, nominal = torch.randn(3, 4).double(), torch.randn(3, 4).double().softmax(-1)
    radius = torch.tensor([0.1, 0.2, 0.3]).double()
    together = torch.func.vmap(lambda v, p: KL(radius)(v, p).value)(values, nominal)
    torch.testing.assert_close(together, torch.stack([KL(radius)(v, p).value for v, p in zip(values, nominal)]))
