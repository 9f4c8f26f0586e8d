"""Capital budgeting: numbers by hand, worst cases against a list of what can be out of reach, and mistakes."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest
from scipy.optimize import linprog

from surefoot.data.tables import read as read_table
from surefoot.envs.recourse import CapitalBudgeting, Projects
from surefoot.envs.recourse.exact import optimum, second_stage, subsets, worst_case
from surefoot.errors import UsageError


def one(funds: float) -> CapitalBudgeting:
    """A project of cost 4 and revenue 1, each with a factor of its own."""
    return CapitalBudgeting([4.0], [1.0], [[1.0, 0.0]], [[0.0, 1.0]], funds)


def test_a_single_project():
    now, later = np.ones(1), np.zeros(1)
    assert second_stage(one(6.0), now, np.array([0.3, 0.2])).value == pytest.approx(-0.7)
    assert second_stage(one(6.0), later, np.array([0.3, 0.2])).value == pytest.approx(-0.8 * 0.7)
    assert worst_case(one(6.0), now).value == pytest.approx(-0.5)
    assert worst_case(one(6.0), later).value == pytest.approx(-0.4)
    assert optimum(one(6.0)).choice == 1
    # of 5 it can be paid later where ξ ≤ ¾, so that at worst nothing comes back; now it could cost 6
    assert second_stage(one(5.0), later, np.array([0.75, 1.0])).value == pytest.approx(-1.2)
    assert second_stage(one(5.0), later, np.array([0.76, 1.0])).value == 0
    found = worst_case(one(5.0), later)
    assert found.value == 0 and found.point[0] >= 0.75
    assert worst_case(one(5.0), now).value == np.inf == one(5.0).first_stage(now)


def test_instances_are_those_of_the_paper_with_factors_between_minus_one_and_one():
    stream = np.random.default_rng(0)
    problem = Projects(30).draw(stream)
    assert problem.cost.min() >= 1 and problem.cost.max() <= 10 and problem.uncertain == 4 == problem.budget
    assert problem.revenue == pytest.approx(problem.cost / 5) and problem.late == 0.8
    assert problem.funds == pytest.approx(problem.cost.sum() / 2)
    xi = stream.uniform(-1, 1, 4)
    for at, loadings, expected in (
        (problem.costs_at, problem.cost_loadings, problem.cost),
        (problem.revenues_at, problem.revenue_loadings, problem.revenue),
    ):
        assert loadings.sum(1) == pytest.approx(np.ones(30)) and loadings.min() >= 0
        assert at((1 + xi) / 2) == pytest.approx((1 + loadings @ xi / 2) * expected)
        assert at(problem.nominal()) == pytest.approx(expected)


def listed_worst(problem: CapitalBudgeting, x: np.ndarray) -> float:
    """The greatest value over every set of plans that is out of reach, a linear program each."""
    late = [y for y in subsets(len(problem)) if (x + y <= 1).all()]
    nothing, plans = late[0], late[1:]
    best = -np.inf
    for dear in chain.from_iterable(combinations(range(len(plans)), k) for k in range(len(plans) + 1)):
        cheap = [nothing, *(y for k, y in enumerate(plans) if k not in dear)]
        brought = [(x + problem.late * y) * problem.revenue for y in cheap]
        spent = [(x + plans[k]) * problem.cost for k in dear]
        rows = [[*(b @ problem.revenue_loadings), 1.0] for b in brought]
        rows += [[*(-s @ problem.cost_loadings), 0.0] for s in spent]
        limits = [-0.5 * b.sum() for b in brought] + [0.5 * s.sum() - problem.funds for s in spent]
        answer = linprog([0.0] * 4 + [-1.0], rows, limits, bounds=[(0, 1)] * 4 + [(None, None)])
        best = max(best, -answer.fun if answer.success else -np.inf)
    return best


def test_a_worst_case_is_that_of_every_set_of_plans_out_of_reach():
    for number in range(2):
        problem = Projects(3).draw(np.random.default_rng(number))
        for x in subsets(3)[:5]:
            expected = listed_worst(problem, x) if np.isfinite(problem.first_stage(x)) else np.inf
            assert worst_case(problem, x).value == pytest.approx(expected, abs=1e-4)


def test_samples_are_a_table_whose_target_is_the_value_of_both_stages():
    for n in (4, 10):  # from a list, and by a dynamic programme
        found = read_table(f"capital-budgeting:{n},instances=3,choices=2,losses=4,factors=3,seed=5")
        assert found.X.shape == (24, 5 * n) and np.isfinite(found.y).all() and (found.y <= 0).all()
        assert found.features[n : n + 3] == ("xi_cost0", "xi_revenue0", "xi_cost1")
        x, seen, known = found.X[:, :n], found.X[:, n : 3 * n].reshape(24, n, 2), found.X[:, 3 * n :].reshape(24, n, 2)
        cost, revenue = ((0.5 + seen) * known).transpose(2, 0, 1)
        spent, brought = (cost * x).sum(1), (revenue * x).sum(1)
        funds = known[:, :, 0].sum(1) / 2
        assert (spent <= funds).all() and (found.y <= -brought + 1e-9).all()
        assert (found.y >= -brought - 0.8 * (revenue * (1 - x)).sum(1) - 1e-9).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cost_loadings": [[0.5, 0.6]]}, "cost_loadings of every project must sum to 1"),
        ({"revenue_loadings": [[1.0]]}, r"revenue_loadings has the shape \(1, 1\); it must be \(1, 2\)"),
        ({"revenue": [-1.0]}, "revenue must be finite and not negative"),
        ({"late": 1.5}, "late=1.5 is not allowed"),
        ({"cost": []}, "cost has the shape"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(changes, words):
    given = {"cost": [4.0], "revenue": [1.0], "cost_loadings": [[1.0, 0.0]], "revenue_loadings": [[0.0, 1.0]]}
    with pytest.raises(UsageError, match=words):
        CapitalBudgeting(**{**given, "funds": 5.0, **changes})


def test_mistakes_in_the_text_of_samples_are_named():
    with pytest.raises(UsageError, match=r"'budget=0.2' is not one of its arguments"):
        read_table("capital-budgeting:8,budget=0.2")
    with pytest.raises(UsageError, match="factors=0 is not allowed"):
        read_table("capital-budgeting:8,factors=0")
