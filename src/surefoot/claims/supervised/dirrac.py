"""DiRRAc's claim: a change chosen against the worst case of the classifiers' moments is accepted by those trained later.

The paper's synthetic data. Two normal classes in the plane; classifiers of tomorrow are logistic regressions, without an
intercept, on data whose class 0 has moved, spread, or both. Some of them are known, others judge the changes. The control
is a move of the same length straight across today's boundary, so that only the direction differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from surefoot.ambiguity import ChiSquare, worst_case
from surefoot.ambiguity.gelbrich import worst_probability
from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Less,
    Mean,
    Measurements,
    More,
    Part,
    Published,
    Summary,
    Within,
)
from surefoot.methods.supervised.dirrac import DiRRAc
from surefoot.seeding import numpy_stream

SHIFTS = {"mean": (1.5, 1.0), "covariance": (0.0, 2.0), "both": (1.5, 2.0)}  # of class 0: move, standard deviation
KNOWN = {"mean": 40, "covariance": 20, "both": 40}  # classifiers whose moments are known
JUDGES = {"mean": 100, "covariance": 800, "both": 100}
BUDGETS = {0.001: (0.7796, 0.8442), 0.02: (0.8572, 0.9207), 0.1: (0.9482, 0.9717), 0.2: (0.9822, 0.9885)}  # published
ROWS, OF_CLASS, NEWTON = 10, 500, 10


def sample(stream: np.random.Generator, count: int, move: float = 0.0, deviation: float = 1.0) -> np.ndarray:
    """Data sets of class 0, then class 1, `[count, 1000, 2]`."""
    X = stream.normal(size=(count, 2 * OF_CLASS, 2))
    X[:, :OF_CLASS] = deviation * X[:, :OF_CLASS] + [-3.0 + move, -3.0]
    X[:, OF_CLASS:] += 3.0
    return X


def logistic(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """½‖θ‖² + Σ log(1 + exp(−y·θᵀx)) minimised by Newton's method, for data sets `[m, n, 2]` and labels ±1 `[n]`."""
    theta, signed = np.zeros((len(X), 2)), X * y[:, None]
    for _ in range(NEWTON):
        p = 1 / (1 + np.exp((signed @ theta[..., None])[..., 0]))
        hessian = X.transpose(0, 2, 1) @ (X * (p * (1 - p))[..., None]) + np.eye(2)
        slope = theta - (p[:, None] @ signed)[:, 0]
        theta = theta - np.linalg.solve(hessian, slope[..., None])[..., 0]
    return theta


def classifiers(seed: int, counts: dict[str, int], name: str) -> tuple[np.ndarray, list[str]]:
    """Classifiers on shifted data `[m, 3]`, the intercept 0 last, and the shift of each."""
    y, found = np.repeat([-1.0, 1.0], OF_CLASS), []
    for kind, count in counts.items():
        found.append(logistic(sample(numpy_stream(seed, f"{name}, {kind}"), count, *SHIFTS[kind]), y))
    theta = np.vstack(found)
    return np.hstack([theta, np.zeros((len(theta), 1))]), [k for k, count in counts.items() for _ in range(count)]


def today(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Today's classifier `[2]`, and the first ten rows `[10, 2]` that it rejects of a tenth held out."""
    stream = numpy_stream(seed, "today")
    X, order, y = sample(stream, 1)[0], stream.permutation(2 * OF_CLASS), np.repeat([-1.0, 1.0], OF_CLASS)
    held, kept = order[: OF_CLASS // 5], order[OF_CLASS // 5 :]
    theta = logistic(X[None, kept], y[kept])[0]
    return theta, X[held][X[held] @ theta < 0][:ROWS]


@cache
def known(seed: int) -> tuple[np.ndarray, list[str]]:
    """The classifiers whose moments are known."""
    return classifiers(seed, KNOWN, "known")


def moved(seed: int, budget: float, iterations: int = 10) -> dict[str, np.ndarray]:
    """The rows that DiRRAc changes within a budget, as many moved as far across today's boundary, and the nearest flip."""
    theta, X = today(seed)
    method = DiRRAc(radius=0.0, cost="l2", budget=budget, iterations=iterations)
    found = method.fit(*known(seed)).recourse(X)
    across = theta / np.linalg.norm(theta)
    flip = (1e-9 - X @ across)[:, None] * across
    return {"dirrac": found.rows, "control": X + found.cost[:, None] * across, "flip": X + flip}


# --- what is exact -----------------------------------------------------------------------------------------------


def closed_form(seeds: Sequence[int]) -> dict[str, float]:
    """How far the closed forms are from the maximum over points of the disc's edge: the greatest of the seeds."""
    errors: dict[str, list[float]] = {"any distribution": [], "normal": []}
    turn = torch.linspace(0, 2 * torch.pi, 400_001, dtype=torch.float64)
    for seed in seeds:
        a, b, share = torch.as_tensor(numpy_stream(seed, "disc").uniform([0.5, 0.2, 0.1], [3.0, 2.0, 0.9]))
        c = share * a
        m, s = a + c * turn.cos(), (b + c * turn.sin()).clamp_min(0)
        most = {"any distribution": (s**2 / (s**2 + m**2)).max(), "normal": torch.special.ndtr(-(m / s)).max()}
        for kind, greatest in most.items():
            errors[kind].append(abs(float(worst_probability(a, b, c, normal=kind == "normal") - greatest)))
    return {kind: max(found) for kind, found in errors.items()}


def shares(seeds: Sequence[int]) -> float:
    """How far the worst case over uncertain shares is from mean + √(ε·variance), the greatest of the seeds."""
    errors = []
    for seed in seeds:
        f, p = numpy_stream(seed, "probabilities").uniform(0.2, 0.6, size=3), np.array([0.4, 0.2, 0.4])
        value = worst_case(torch.as_tensor(f), torch.as_tensor(p), ChiSquare(0.05), maximise=True).value
        errors.append(abs(float(value) - p @ f - np.sqrt(0.05 * (p @ f**2 - (p @ f) ** 2))))
    return float(max(errors))


def worst(seeds: Sequence[int]) -> dict[str, list[float]]:
    """The worst probability of rejection of changed rows at a budget of 0.1, the mean of the rows, a number a seed."""
    found: dict[str, list[float]] = {"dirrac": [], "control": [], "flip": []}
    for seed in seeds:
        fitted = DiRRAc(radius=0.0, cost="l2").fit(*known(seed))
        for name, rows in moved(seed, 0.1, iterations=3).items():
            found[name].append(float(fitted.probability(rows).mean()))
    return found


def of_exact(found: Measurements) -> Summary:
    return {
        "error of the closed form": found["closed form"]["any distribution"],
        "error of the closed form, normal": found["closed form"]["normal"],
        "error of the expansion": found["shares"],
        **{f"worst, {name}": values for name, values in found["worst"].items()},
    }


# --- the paper's synthetic data ------------------------------------------------------------------------------------


def accepted(budget: float, seeds: Sequence[int]) -> dict[str, list[float]]:
    """The mean acceptance of changed rows by 1,000 later classifiers, a number a seed."""
    found: dict[str, list[float]] = {"dirrac": [], "control": [], "flip": []}
    for seed in seeds:
        judges = judging(seed)
        for name, rows in moved(seed, budget).items():
            found[name].append(float((rows @ judges.T >= 0).mean()))
    return found


@cache
def judging(seed: int) -> np.ndarray:
    """The classifiers that judge, `[1000, 2]`."""
    return classifiers(seed, JUDGES, "judges")[0][:, :2]


def of_accepted(found: Measurements) -> Summary:
    series: dict[str, Any] = {}
    for budget, published in BUDGETS.items():
        for name, values in found[f"accepted, {budget:g}"].items():
            series[f"{name}, {budget:g}"] = values
        level = np.asarray(found[f"accepted, {budget:g}"]["dirrac"]) - np.mean(published)
        series[f"dirrac − published, {budget:g}"] = level.tolist()
    return series


CLAIM = Claim(
    slug="dirrac",
    sentence="A change chosen against the worst case of the classifiers' moments is accepted by most classifiers that "
    "are trained on shifted data later, at hardly more cost than the nearest change.",
    source="Nguyen, Bui, Nguyen 2023, Section 5 and Figures 7 and 9",
    method=DiRRAc,
    experiments={
        "worst cases": Experiment(
            "mechanism",
            {"closed form": closed_form, "shares": shares, "worst": worst},
            seeds=4,
            minutes=0.08,
            setting="random discs, maximised over 400,001 points of the edge; random probabilities; and the rows of the "
            "synthetic data, three steps, judged by the worst case itself",
            arms={"dirrac": DiRRAc(radius=0.0, cost="l2", iterations=3)},
            summary=of_exact,
        ),
        "synthetic data": Experiment(
            "instance",
            {f"accepted, {budget:g}": partial(accepted, budget) for budget in BUDGETS},
            seeds=30,
            minutes=13.0,
            setting="classes N(−3·1, I) and N(3·1, I), 500 rows each; class 0 later moved by 1.5, of covariance 4·I, or "
            "both; logistic regressions without intercept, C = 1; moments of 40, 20 and 40 of them; ρ = 0, ℓ2 cost; ten "
            "rejected rows a seed, 100, 800 and 100 later classifiers judge",
            arms={f"budget {budget:g}": DiRRAc(radius=0.0, cost="l2", budget=budget) for budget in BUDGETS},
            summary=of_accepted,
            differs=("30 data sets in place of one", "the first trial of a step is as long as the budget"),
        ),
    },
    parts=(
        Part(
            "the closed form is the maximum over the disc",
            "primary",
            "worst cases",
            Exact("error of the closed form"),
            Less(1e-8, against=1e-4),
        ),
        Part(
            "that of normal distributions too",
            "primary",
            "worst cases",
            Exact("error of the closed form, normal"),
            Less(1e-8, against=1e-4),
        ),
        Part(
            "uncertain shares add the deviation of the groups",
            "secondary",
            "worst cases",
            Exact("error of the expansion"),
            Less(1e-8, against=1e-4),
        ),
        Part(
            "a lower worst probability than the same length across today's boundary",
            "primary",
            "worst cases",
            Difference("worst, dirrac", "worst, control"),
            Less(),
        ),
        *(
            Part(
                f"accepted more often than the same length across today's boundary, budget {budget:g}",
                "primary",
                "synthetic data",
                Difference(f"dirrac, {budget:g}", f"control, {budget:g}"),
                More(0.05),
            )
            for budget in BUDGETS
        ),
        Part(
            "accepted far more often than the nearest flip, budget 0.1",
            "secondary",
            "synthetic data",
            Difference("dirrac, 0.1", "flip, 0.1"),
            More(0.3),
        ),
        *(
            Part(
                f"level of the two published curves, budget {budget:g}",
                "secondary",
                "synthetic data",
                Mean(f"dirrac − published, {budget:g}"),
                Within(0.1),
                published=Published(0.0, f"Figures 9 and 7: {low:g} and {high:g}, one data set each", "read"),
            )
            for budget, (low, high) in BUDGETS.items()
        ),
    ),
    amended=(
        "Before its record of 2026-12-01 the mechanism went from ten steps of the method to three, to save time, after a "
        "look at seeds 1000 to 1003 and at a run on seeds 0 to 3 (−0.578).",
    ),
)
