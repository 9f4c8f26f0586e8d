"""Laws of all two-stage problems: linear programs, lists, knapsacks of states and worst cases say the same."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from surefoot.envs.recourse import Family, Problem, Projects
from surefoot.envs.recourse.exact import optimum, second_stage, subsets, table, worst_case

FAMILIES = {"knapsack": Family, "capital budgeting": Projects}


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def drawn(family, number: int, n: int) -> tuple[Problem, np.ndarray, np.ndarray, np.random.Generator]:
    stream = np.random.default_rng(number)
    problem = family(n).draw(stream)
    return problem, problem.choices(stream, 1)[0], problem.scenarios(stream, 1)[0], stream


def place(x: np.ndarray) -> int:
    return int(x @ (1 << np.arange(len(x))))


def highs(problem: Problem, x: np.ndarray, xi: np.ndarray) -> float:
    """The second stage of a choice by the problem's own linear program."""
    n, paid, always = len(problem), problem.paid(xi), problem.rows()
    rows = [LinearConstraint(one.matrix, ub=one.limits + 1e-9) for one in (always, paid.rows) if len(one.limits)]
    ends = (np.concatenate([x, np.full(problem.planned, end)]) for end in (0.0, 1.0))
    cost = np.concatenate([paid.of_choice, paid.of_plan])
    whole = np.ones(n + problem.planned)
    return milp(cost, constraints=rows, integrality=whole, bounds=Bounds(*ends), options={"mip_rel_gap": 0.0}).fun


@pytest.mark.parametrize("n", [4, 7, 12])
def test_a_second_stage_is_the_same_by_states_by_a_list_and_by_highs(family, n):
    for number in range(3):
        problem, x, xi, _ = drawn(family, number, n)
        plan = second_stage(problem, x, xi)
        assert plan.value == pytest.approx(table(problem, xi[None])[0, place(x)], abs=1e-9)
        assert plan.value == pytest.approx(highs(problem, x, xi), rel=1e-6, abs=1e-6)
        least, most = problem.bounds()
        assert least <= plan.value <= most


def test_choices_and_what_is_seen_are_of_the_set(family):
    problem, _, _, stream = drawn(family, 1, 9)
    x, xi = problem.choices(stream, 30), problem.scenarios(stream, 30)
    assert np.isfinite(problem.first_stage(x)).all() and set(np.unique(x)) == {0.0, 1.0}
    assert problem.first_stage(x) == pytest.approx(x @ problem.costs())
    always = problem.rows()
    assert (x @ always.matrix[:, :9].T <= always.limits + 1e-9).all()
    for some in (xi, problem.nominal()[None]):
        assert some.min() >= 0 and some.max() <= 1 and (some.sum(-1) <= problem.budget + 1e-9).all()
        seen = some @ problem.sight()
        assert seen.min() >= 0 and seen.max() <= 1 + 1e-12 and seen.shape[1] % 9 == 0
    assert problem.items().shape == (9, len(problem.known)) and seen.shape[1] == 9 * len(problem.seen)


def test_no_plan_costs_more_than_elsewhere_by_more_than_it_says(family):
    problem, x, _, stream = drawn(family, 2, 6)
    plans = []
    for xi in problem.scenarios(stream, 40):
        states = second_stage(problem, x, xi).states
        taken = [states > 0, states > 1][: problem.planned // len(problem)]
        plans.append(np.concatenate([x, *taken]))
    paid = [problem.paid(xi) for xi in problem.scenarios(stream, 40)]
    costs = np.array([np.concatenate([one.of_choice, one.of_plan]) @ np.array(plans).T for one in paid])
    for one, cost in zip(paid, costs, strict=True):
        assert (cost - costs.min(0) <= one.excess + 1e-9).all()


def test_a_worst_case_is_above_every_scenario_and_is_that_of_its_own(family):
    for number in range(3):
        problem, x, _, stream = drawn(family, number, 6)
        found, first = worst_case(problem, x), problem.first_stage(x)
        assert found.value == pytest.approx(first + second_stage(problem, x, found.point).value)
        assert found.point.min() >= 0 and found.point.max() <= 1 and found.point.sum() <= problem.budget + 1e-9
        sampled = first + table(problem, problem.scenarios(stream, 400))[:, place(x)]
        assert sampled.max() <= found.value + 1e-6 * abs(found.value)
        assert all(a >= b - 1e-6 for a, b in zip(found.bounds, found.bounds[1:]))


def test_the_optimum_is_the_least_worst_case_of_all_choices(family):
    for number in range(2):
        problem, *_ = drawn(family, number, 4)
        worst = [worst_case(problem, x).value for x in subsets(4)]
        found = optimum(problem)
        assert found.value == pytest.approx(min(worst), rel=1e-5, abs=1e-4)
        assert worst_case(problem, found.choice).value == found.value
