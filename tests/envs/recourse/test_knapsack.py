"""Two-stage knapsacks: numbers by hand, the second stage against HiGHS and a list, worst cases, files and samples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from surefoot.data.tables import read as read_table
from surefoot.envs.recourse import Family, Knapsack, read
from surefoot.envs.recourse.exact import optimum, second_stage, subsets, table, worst_case
from surefoot.envs.recourse.knapsack import KINDS, choices, losses
from surefoot.errors import UsageError

FILE = " 3 17.5 1\n 10 8 3 5 12\n 20 5 4 9 30\n 7 7 1 6 8\n"


def one(capacity: float) -> Knapsack:
    return Knapsack([10.0], [8.0], [3.0], [5.0], [12.0], capacity, 1.0)


def highs(problem: Knapsack, x: np.ndarray, xi: np.ndarray) -> float:
    n, loss = len(problem), problem.loss * xi
    rows = [
        LinearConstraint(np.concatenate([problem.weight, problem.repair])[None], ub=problem.capacity),
        LinearConstraint(np.hstack([-np.eye(n), np.eye(n)]), ub=0),
    ]
    most = Bounds(0, np.concatenate([x, np.ones(n)]))
    options = {"mip_rel_gap": 0.0}
    cost = np.concatenate([loss - problem.handback, -loss])
    return milp(cost, constraints=rows, integrality=np.ones(2 * n), bounds=most, options=options).fun


def drawn(number: int, n: int) -> tuple[Knapsack, np.ndarray, np.ndarray]:
    stream = np.random.default_rng(number)
    problem = Family(n).draw(stream)
    return problem, choices(stream, 1, n)[0], losses(stream, 1, n, problem.budget)[0]


def test_the_papers_single_item():
    x = np.ones(1)
    for capacity, half, worst in ((5.0, -8.0, -2.0), (8.0, -12.0, -10.0)):
        problem = one(capacity)
        assert second_stage(problem, x, np.array([0.5])).value == half
        assert worst_case(problem, x).value == pytest.approx(worst)
    assert second_stage(one(8.0), x, np.array([0.5])).states == 2  # repaired


def test_without_losses_a_repair_has_no_value_and_without_items_nothing_is_paid():
    for number in range(5):
        problem, x, xi = drawn(number, 7)
        plan = second_stage(problem, x, np.zeros(7))
        knapsack = milp(
            -problem.handback,
            constraints=LinearConstraint(problem.weight[None], ub=problem.capacity),
            integrality=np.ones(7),
            bounds=Bounds(0, x),
            options={"mip_rel_gap": 0.0},
        )
        assert plan.value == pytest.approx(knapsack.fun) == pytest.approx(-float(problem.handback @ (plan.states > 0)))
        assert second_stage(problem, np.zeros(7), xi).value == worst_case(problem, np.zeros(7)).value == 0
        assert optimum(problem).value <= 0


@pytest.mark.parametrize("n", [5, 8, 12])
def test_the_second_stage_is_that_of_highs_and_of_the_list(n):
    for number in range(4):
        problem, x, xi = drawn(number, n)
        plan = second_stage(problem, x, xi)
        place = int(x @ (1 << np.arange(n)))
        assert plan.value == pytest.approx(highs(problem, x, xi), abs=1e-6)
        assert plan.value == pytest.approx(table(problem, xi[None])[0, place], abs=1e-9)
        y, r = (plan.states > 0).astype(float), (plan.states > 1).astype(float)
        assert (r <= y).all() and (y <= x).all() and problem.weight @ y + problem.repair @ r <= problem.capacity
        loss = problem.loss * xi
        assert plan.value == pytest.approx(float((loss - problem.handback) @ y - loss @ r))


def test_the_dynamic_programme_is_exact_for_many_items():
    problem, x, xi = drawn(3, 40)
    assert second_stage(problem, x, xi).value == pytest.approx(highs(problem, x, xi), rel=1e-6)


def test_a_worst_case_is_above_all_losses_and_its_bounds_come_down_to_it():
    stream = np.random.default_rng(0)
    for number in range(4):
        problem, x, _ = drawn(number, 8)
        found, first = worst_case(problem, x), problem.first_stage(x)
        place = int(x @ (1 << np.arange(8)))
        assert found.point.sum() <= problem.budget + 1e-9
        assert found.value == pytest.approx(first + table(problem, found.point[None])[0, place], abs=1e-6)
        sampled = losses(stream, 300, 8, problem.budget)
        assert (first + table(problem, sampled)[:, place] <= found.value + 1e-6).all()
        assert all(a >= b - 1e-6 for a, b in zip(found.bounds, found.bounds[1:]))


def test_the_optimum_is_that_of_the_worst_cases_of_all_choices():
    for number in range(3):
        problem, _, _ = drawn(number, 5)
        worst = [worst_case(problem, x).value for x in subsets(5)]
        found = optimum(problem)
        assert found.value == pytest.approx(min(worst), abs=1e-4)
        assert worst_case(problem, found.choice).value == found.value


def test_a_file_is_read_and_its_mistakes_are_named(tmp_path):
    path = tmp_path / "RKP"
    path.write_text(FILE)
    problem = read(path)
    assert (len(problem), problem.capacity, problem.budget, problem.name) == (3, 17.5, 1, "RKP")
    assert problem.items()[0].tolist() == [5, 10, 8, 12, 3, 17.5]
    for text, words in (
        (FILE.replace(" 3 17", " 4 17"), "4 items are announced"),
        ("1 2\n", "is not a knapsack"),
        (FILE.replace("30", "x"), "is not a knapsack"),
        (FILE.replace("30", "-30"), "handback must be finite and not negative"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=words):
            read(path)
    with pytest.raises(UsageError, match="none cannot be read"):
        read(tmp_path / "none")


def test_families_draw_every_kind_and_refuse_others():
    for kind in KINDS:
        problem = Family(30, kinds=(kind,), fillings=(40.0,), losses=(1.0,), budgets=(0.1,)).draw(
            np.random.default_rng(0)
        )
        assert problem.capacity == pytest.approx(40 / 101 * problem.weight.sum()) and problem.budget == 3
        assert (problem.loss <= problem.profit).all() and (problem.handback >= 1.1 * problem.profit).all()
        spread = np.abs(problem.profit - problem.weight - (100 if kind in ("ASC", "SC") else 0)).max()
        assert {"UN": spread > 200, "WC": spread <= 50, "ASC": spread <= 1, "SC": spread < 1e-9}[kind]
    with pytest.raises(UsageError, match="'XX' is not known"):
        Family(kinds=("XX",))


def test_samples_are_a_table_whose_target_is_the_second_stage():
    for n in (4, 10):  # from a list, and by a dynamic programme
        found = read_table(f"knapsack:{n},instances=3,choices=2,losses=4,seed=5")
        assert found.X.shape == (24, 8 * n) and found.features[0] == "x0" and found.target == "value"
        for row, value in zip(found.X[::7], found.y[::7], strict=True):
            c, profit, loss, handback, t, C = row[2 * n :].reshape(n, 6).T
            problem = Knapsack(profit, loss, t, c, handback, C[0], 1.0)
            assert second_stage(problem, row[:n], row[n : 2 * n]).value == pytest.approx(value)
    again = read_table("knapsack:10,instances=3,choices=2,losses=4,seed=5")
    assert again.digest() == found.digest() != read_table("knapsack:10,instances=3,choices=2,losses=4").digest()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("knapsack:8,item=3", "'item=3' is not one of its arguments.*items"),
        ("knapsack:8,instances=many", "instances='many' is not allowed"),
        ("knapsack:0", "items=0 is not allowed"),
        ("knapsack:8,items=9", "'items=9' is not one"),
    ],
)
def test_mistakes_in_the_text_of_samples_are_named(text, words):
    with pytest.raises(UsageError, match=words):
        read_table(text)


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match=r"loss has the shape \(2,\)"):
        Knapsack([1.0], [1.0, 2.0], [1.0], [1.0], [1.0], 1.0, 1.0)
    with pytest.raises(UsageError, match="too many plans"):
        table(Family(13).draw(np.random.default_rng(0)), np.zeros((1, 13)))
