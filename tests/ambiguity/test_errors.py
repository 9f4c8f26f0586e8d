"""What a user can get wrong is said with its place and its remedy, before any work."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from surefoot import ambiguity as room
from surefoot.ambiguity import KL, Box, CVaR, Ellipsoid, Hellinger, Scenarios, TotalVariation, Wasserstein, worst_case
from surefoot.errors import UsageError

V, UNIFORM = np.array([1.0, 2.0, 4.0]), np.full(3, 1 / 3)


def says(*pieces: str):
    return pytest.raises(UsageError, match=".*".join(re.escape(piece) for piece in pieces))


def nominal(**changes: float) -> np.ndarray:
    rows = np.full((2, 4, 3), 1 / 3)
    for place, value in changes.items():
        rows[tuple(int(i) for i in place[1:])] = value
    return rows


def test_a_nominal_that_is_no_distribution():
    with says("nominal[1, 2, 0] = -0.1", "1 of 24", "renormalise"):
        worst_case(V, nominal(i120=-0.1), KL(0.1))
    with says("nominal[0, 3, 1] = nan"):
        worst_case(V, nominal(i031=np.nan), KL(0.1))
    with says("nominal[1, 0, 2] = inf"):
        worst_case(V, nominal(i102=np.inf), KL(0.1))
    with says("nominal[1, 1, :] sums to 1.1", "+0.1 from one", "1 of 8", "Divide each row"):
        worst_case(V, nominal(i110=1 / 3 + 0.1), KL(0.1))
    with says("nominal[:] sums to 0"):
        worst_case(V, np.zeros(3), KL(0.1))
    with says("nominal[:] sums to 3"):
        worst_case(V, np.ones(3, dtype=int), KL(0.1))


def test_an_empty_support_and_shapes_that_do_not_fit():
    with says("shape [2, 0]", "support is empty"):
        worst_case(np.zeros(0), np.zeros((2, 0)), KL(0.1))
    with says("values [3] and nominal [4]", "last axis"):
        worst_case(V, np.full(4, 0.25), KL(0.1))
    with says("values [2, 3] and nominal [4, 3]", "broadcast"):
        worst_case(np.zeros((2, 3)), np.full((4, 3), 1 / 3), KL(0.1))
    with says("radius or penalty [5]", "broadcast"):
        worst_case(V, np.full((4, 3), 1 / 3), KL(np.full(5, 0.1)))
    with says("values [] and"):
        worst_case(np.array(1.0), UNIFORM, KL(0.1))


def test_values_that_are_not_finite():
    with says("values[1] = nan", "finite"):
        worst_case(np.array([1.0, np.nan, 2.0]), UNIFORM, KL(0.1))
    with says("values[2] = -inf", "support='nominal'"):
        worst_case(np.array([1.0, 0.0, -np.inf]), UNIFORM, KL(0.1))


def test_values_whose_differences_may_overflow():
    with says("values[1, 0] = -1.7e+308", "between -1e+300 and 1e+300"):
        worst_case(np.array([[1.0, 2.0], [-1.7e308, 0.0]]), np.full(2, 0.5), KL(0.1))


def test_complex_numbers_are_refused():
    for one in (V + 1j, torch.tensor([1.0, 2.0, 4.0 + 0j])):
        with says("values is not an array of numbers", "complex", "real part"):
            worst_case(one, UNIFORM, KL(0.1))
    with says("nominal is not an array of numbers", "complex"):
        worst_case(V, UNIFORM + 0j, KL(0.1))
    with says("Wasserstein: cost", "complex"):
        Wasserstein(0.1, cost=np.zeros((2, 2), dtype=complex))


def test_messages_name_a_set_and_not_its_formula():
    with says("the Box was made for 2"):
        worst_case(V, UNIFORM, Box([0, 0], [1, 1]))
    with says("KL: the radius requires a gradient"):
        worst_case(V, UNIFORM, KL(torch.tensor(0.1, requires_grad=True)))


def test_what_is_no_ambiguity_set():
    with says("ambiguity='kl:0.1'", "parse"):
        worst_case(V, UNIFORM, "kl:0.1")


@pytest.mark.parametrize("cls", [KL, TotalVariation, Hellinger])
def test_radius_and_penalty(cls):
    with says(f"{cls.__name__}: radius=None and penalty=None", "exactly one"):
        cls()
    with says(f"{cls.__name__}: radius=0.1 and penalty=2.0", "exactly one"):
        cls(0.1, 2.0)
    with says(f"{cls.__name__}: radius=-0.1 is not allowed"):
        cls(-0.1)
    with says(f"{cls.__name__}: radius=nan"):
        cls(float("nan"))
    with says(f"{cls.__name__}: penalty=-1"):
        cls(penalty=-1)
    with says(f"{cls.__name__}: radius[1] = -2 is not allowed", "[0,"):
        worst_case(V, np.full((2, 3), 1 / 3), cls(np.array([0.1, -2.0])))
    with says(f"{cls.__name__}: radius[0] = nan"):
        worst_case(V, np.full((2, 3), 1 / 3), cls(torch.tensor([torch.nan, 0.1])))


def test_the_parts_of_a_mixture_are_checked_too():
    rows, half = np.full((2, 3), 1 / 3), (0.5, 0.5)
    with says("KL: radius[1] = -2 is not allowed"):
        worst_case(V, rows, room.Mixed((CVaR(0.1), KL(np.array([0.1, -2.0]))), half))
    with says("TotalVariation: penalty = nan"):
        nested = room.Mixed((KL(0.1), TotalVariation(penalty=torch.tensor(torch.nan))), half)
        worst_case(V, rows, room.Mixed((CVaR(0.1), nested), half))
    with says("radius or penalty [5]", "broadcast"):
        worst_case(V, rows, room.Mixed((KL(np.full(5, 0.1)), CVaR(0.1)), half))
    with says("3 outcomes", "made for 2"):
        boxes = [Box(lower=np.zeros(n), upper=np.ones(n)) for n in (3, 2)]
        worst_case(V, UNIFORM, room.Mixed(tuple(boxes), half))


def test_ranges_that_end():
    with says("Hellinger: radius=1.5", "[0, 1]"):
        Hellinger(1.5)
    with says("Contamination: radius=1.5", "[0, 1]"):
        room.Contamination(1.5)
    with says("CVaR: level=1.5", "[0, 1]"):
        CVaR(1.5)
    with says("Expectile: level=0.7", "maximise=True"):
        room.Expectile(0.7)
    with says("TotalVariation: support='some'", "'all', 'nominal'"):
        TotalVariation(0.1, support="some")
    with says("MixedVaR: low=0.8 is above high=0.2"):
        room.MixedVaR(0.8, 0.2)
    with says("Spectral: the spectrum sums to 0.9"):
        room.Spectral((0.5, 0.4))
    with says("Mixed: weights=(0.5, 0.4)"):
        room.Mixed((CVaR(0.1), CVaR(0.2)), (0.5, 0.4))


def test_boxes():
    with says("Box: the lower bounds of row [1] sum to 1.2", "at most 1", "Lower some"):
        Box(lower=np.array([[0.1, 0.1], [0.6, 0.6]]), upper=np.ones((2, 2)))
    with says("Box: the upper bounds sum to 0.6", "at least 1", "Raise some"):
        Box(lower=np.zeros(2), upper=np.array([0.3, 0.3]))
    with says("Box: the interval [0.5, 0.4] at [1]"):
        Box(lower=np.array([0.0, 0.5]), upper=np.array([1.0, 0.4]))
    with says("Box: lower [2] and upper [3]"):
        Box(lower=np.zeros(2), upper=np.ones(3))
    with says("3 outcomes", "made for 2"):
        worst_case(V, UNIFORM, Box(lower=np.zeros(2), upper=np.ones(2)))


def test_scenarios_costs_and_weights():
    with says("distributions[1, :] sums to 0.9"):
        Scenarios(distributions=np.array([[0.5, 0.5], [0.5, 0.4]]))
    with says("Scenarios: distributions [2]"):
        Scenarios(distributions=np.array([0.5, 0.5]))
    with says("Wasserstein: cost [2, 3] must be square"):
        Wasserstein(0.1, cost=np.zeros((2, 3)))
    with says("Wasserstein: cost[1, 1] = 2", "diagonal"):
        Wasserstein(0.1, cost=np.array([[0.0, 1.0], [1.0, 2.0]]))
    with says("Wasserstein: cost[0, 1] = -1"):
        Wasserstein(0.1, cost=np.array([[0.0, -1.0], [1.0, 0.0]]))
    with says("Ellipsoid: the least of the weights is 0"):
        Ellipsoid(0.1, weights=np.array([1.0, 0.0]))
    with says("made for 2"):
        worst_case(V, UNIFORM, Ellipsoid(0.1, weights=np.ones(2)))
    with says("leading axes [5] of Ellipsoid and values [4, 3]", "broadcast"):
        worst_case(np.ones((4, 3)), UNIFORM, Ellipsoid(0.1, weights=np.ones((5, 3))))


def test_a_radius_that_wants_a_gradient():
    radius = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    with says("radius requires a gradient", "penalty"):
        worst_case(torch.tensor(V), torch.tensor(UNIFORM), KL(radius))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("kll:0.1", "Did you mean 'kl'"),
        ("wassertein:0.1", "'wasserstein'"),
        ("", "kl:0.1"),
        ("kl", "has no size; write kl:0.1"),
        ("kl-penalty", "write kl-penalty:2"),
        ("kl:-1", "[0, inf)"),
        ("kl:1.2.3", "neither a number nor a word"),
        ("kl:0.1,2", "too many arguments"),
        ("kl:0.1,foo=3", "no hyperparameter 'foo'"),
        ("kl:1,radius=2", "twice"),
        ("kl:1,penalty=2", "exactly one"),
        ("cvar-penalty:1", "no penalty form"),
        ("wasserstein:0.1", "Wasserstein(cost=…)"),
        ("tv:0.1,support=some", "'all', 'nominal'"),
    ],
)
def test_text_that_names_no_set(text, answer):
    with says(answer):
        room.parse(text)


def test_text_that_names_one():
    assert room.parse("kl:0.1") == KL(0.1)
    assert room.parse(" tv:0.2 ") == TotalVariation(radius=0.2)
    assert room.parse("kl-penalty:2") == KL(penalty=2.0)
    assert room.parse("hellinger:0.1,support=nominal") == Hellinger(0.1, support="nominal")
    assert room.parse("mean-cvar:0.1,weight=0.3") == room.MeanCVaR(0.1, 0.3)
    assert room.parse("mean-cvar:weight=0.3") == room.MeanCVaR(weight=0.3)


def test_single_precision_rows_may_be_off_by_their_rounding():
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(10, 2000, generator=generator)
    rows /= rows.sum(-1, keepdim=True)
    worst_case(torch.randn(2000, generator=generator), rows, KL(0.1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_worst_case_of_rows_of_lower_precision_is_a_distribution(dtype):
    rows = torch.rand(10, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows /= rows.sum(-1, keepdim=True)
    found = worst_case(torch.ones(50, dtype=torch.float64), rows, TotalVariation(0.1))
    torch.testing.assert_close(found.value, torch.ones(10, dtype=torch.float64), rtol=0, atol=1e-14)
    made = Scenarios(distributions=rows).distributions
    torch.testing.assert_close(made.sum(-1), torch.ones(10, dtype=torch.float64), rtol=0, atol=1e-14)


def test_arrays_may_run_backwards_and_lists_are_arrays():
    p = np.array([0.5, 0.3, 0.2])
    cost = np.abs(V[:, None] - V)
    for forwards, backwards in (
        (KL(0.1), KL(0.1)),
        (Wasserstein(0.1, cost=cost), Wasserstein(0.1, cost=cost[::-1, ::-1])),
        (Ellipsoid(0.1, weights=V), Ellipsoid(0.1, weights=V[::-1])),
        (Box(lower=p / 2, upper=2 * p), Box(lower=p[::-1] / 2, upper=(2 * p)[::-1])),
    ):
        found, same = worst_case(V, p, forwards), worst_case(V[::-1], p[::-1], backwards)
        assert same.value == pytest.approx(found.value)
        assert worst_case(V.tolist(), p.tolist(), forwards).value == found.value
    radii = np.array([0.1, 0.2])
    both = worst_case(V, np.stack([p, p]), KL(radii[::-1])).value
    assert both.tolist() == [worst_case(V, p, KL(r)).value for r in (0.2, 0.1)]
    assert worst_case([[1, 2, 4], [1.5, 2, 4]], None, CVaR(0.5)).value.dtype == np.float64


def test_what_is_no_array_of_numbers():
    with says("nominal is not an array of numbers", "lists of equal length"):
        worst_case([1, 2, 4], [[0.2, 0.3, 0.5], [0.5, 0.5]], KL(0.1))
    with says("values is not an array of numbers"):
        worst_case(["a", "b"], None, KL(0.1))
    with says("values is not an array of numbers"):
        worst_case(None, None, KL(0.1))
    with says("Box: lower is not an array of numbers"):
        Box(lower=[[0.1], [0.2, 0.3]], upper=[1.0])
