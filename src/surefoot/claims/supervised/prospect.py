"""Prospect's claim: with tables of losses and gradients, neither the bias of batches nor their variance is left.

All solvers minimise the same objective, each at its best step size, and are read by their gap to the minimum of L-BFGS.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from surefoot.claims import given
from surefoot.claims.finite_sums import curve, minimum, passes_to, tuned
from surefoot.claims.parts import (
    Claim,
    Exact,
    Experiment,
    Gate,
    Less,
    LogRatio,
    Mean,
    Measurements,
    More,
    Part,
    Published,
    Summary,
)
from surefoot.data.tables import Table, read
from surefoot.loops.finite_sum import solvers
from surefoot.loops.finite_sum.problem import Problem, weigh
from surefoot.methods.supervised.prospect import Prospect
from surefoot.seeding import numpy_stream

PAPER: dict[str, Any] = {"fit_intercept": False, "solver": "prospect"}
TEN = float(np.log(10))


# --- what is exact -----------------------------------------------------------------------------------------------

SMALL, SMALL_BATCH = Prospect(**PAPER), 8
SMALL_STEPS = {"prospect": (0.01,), "sgd": (3e-3, 0.01, 0.03)}


def small() -> Problem:
    """60 samples of five features with heavy-tailed noise."""
    stream = numpy_stream(0, "samples of the mechanism")
    X = stream.normal(size=(60, 5))
    return SMALL.problem(Table(X, X @ np.arange(1.0, 6.0) / 3 + stream.standard_t(3, size=60)))


def identities(seeds: Sequence[int]) -> dict[str, float]:
    """At a random W: how far the mean step is from the gradient, with fresh tables and from a batch of 8; and how much
    steps differ at the minimum with fresh tables."""
    problem = small()
    W = numpy_stream(1, "weights").normal(size=(5, 1))
    losses, slopes = problem.some(W)
    tables = {"W": W, "losses": losses, "rho": weigh(problem.ambiguity, losses).q, "slopes": slopes}
    gradient = problem.at(W).gradient

    def steps(state: solvers.State) -> np.ndarray:
        """The step of every sample, without that on the norm."""
        size = 1e-3
        after = [solvers.prospect(problem, state, np.array([i]), size, 0)["W"] for i in range(60)]
        return np.stack([(state["W"] - w * (1 + size * problem.mu)) / size + problem.mu * state["W"] for w in after])

    stream, batches = numpy_stream(2, "batches"), []
    for _ in range(4000):
        which = stream.permutation(60)[:SMALL_BATCH]
        some, slope = problem.some(W, which)
        batches.append(problem.X[which].T @ (weigh(problem.ambiguity, some).q[:, None] * slope) + problem.mu * W)
    stale = {**tables, "rho": np.roll(tables["rho"], 7), "slopes": np.roll(slopes, 3, axis=0)}
    lbfgs = solvers.SOLVERS["lbfgs"]
    state = lbfgs.start(problem)
    for _ in range(200):
        state = lbfgs.epoch(problem, state, np.arange(0), 0.0, 0)
    losses, slopes = problem.some(best := state["W"])
    fresh = {"W": best, "losses": losses, "rho": weigh(problem.ambiguity, losses).q, "slopes": slopes}
    size = float(np.linalg.norm(gradient))
    return {
        "bias": float(np.linalg.norm(steps(stale).mean(0) - gradient)) / size,
        "bias of batches": float(np.linalg.norm(np.mean(batches, 0) - gradient)) / size,
        "spread at the minimum": float(np.abs(steps(fresh)).max()),
    }


def descent(name: str, seeds: Sequence[int]) -> list[list[float]]:
    """The best curve of the step sizes, a seed each."""
    problem = small()
    least = minimum(problem)
    found = [[curve(problem, name, step, seed, 60, least, SMALL_BATCH) for seed in seeds] for step in SMALL_STEPS[name]]
    return min(found, key=lambda curves: float(np.mean([c[-10:] for c in curves])))


def of_small(found: Measurements) -> Summary:
    logs = {name: np.log10([c[-1] for c in found[name]]) for name in SMALL_STEPS}
    return {**found["identities"], **{f"log10 of the last gap, {name}": x for name, x in logs.items()}}


# --- diabetes ----------------------------------------------------------------------------------------------------

GRID, EPOCHS, ARMS = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1), 32, ("prospect", "sgd", "lsvrg", "saddle-saga")
COSTS = (1.0, 0.1)


def diabetes(nu: float) -> Problem:
    """The diabetes data of scikit-learn, features and target standardised."""
    table = read("sklearn:diabetes")
    X = (table.X - table.X.mean(0)) / table.X.std(0)
    y = (table.y - table.y.mean()) / table.y.std()
    return Prospect(shift_cost=nu, **PAPER).problem(Table(X, y))


def on_diabetes(nu: float, name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """A solver at its best step size."""
    grid = tuple(10 * step for step in GRID) if name == "sgd" else GRID
    return tuned(diabetes(nu), name, grid, seeds, EPOCHS)


def of_diabetes(found: Measurements) -> Summary:
    series: dict[str, Any] = {}
    for nu in COSTS:
        for name in ARMS:
            arm = found[f"{name}, ν = {nu:g}"]
            series[f"gap, {name}, ν = {nu:g}"] = [c[-1] for c in arm["curves"]]
            series[f"inside, {name}, ν = {nu:g}"] = arm["inside"]
        curves = np.log(found[f"prospect, ν = {nu:g}"]["curves"])
        series[f"log gap at half time, ν = {nu:g}"] = curves[:, EPOCHS // 2 - 1] - curves[:, -1]
    return series


def inside(nu: float, *names: str) -> Gate:
    """Whether the best step sizes of some arms lie inside their grids."""

    def holds(summary: Summary) -> bool:
        return all(summary[f"inside, {name}, ν = {nu:g}"] == 1.0 for name in names)

    return Gate("grid", holds, f"the step sizes of {' and '.join(names)} at ν = {nu:g} lie inside their grids")


# --- the paper's own: yacht --------------------------------------------------------------------------------------

WIDE = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3)
YACHT_ARMS = ("prospect", "sgd", "srda", "lsvrg", "saddle-saga")
RISKS = {"cvar:0.5": (0.751863, 0.194196), "extremile:2": (0.739739, 0.194189), "esrm:1": (0.651658, 0.191365)}
GOLDEN = (0.155885593, 0.0392709942, 0.00433862009, 0.00777206457, 0.00348271948, 0.00157183641, 4.15887702e-4,
          4.44163342e-4, 5.48724504e-4, 2.31388994e-4)  # fmt: skip


def yacht(risk: str = "cvar:0.5") -> Problem:
    """The paper's 244 rows of the UCI yacht data: its split, standardised as there."""
    data = np.loadtxt(given.file("yacht.txt", "UCI yacht hydrodynamics, numbers between blanks"))[2:]
    order = np.random.RandomState(42).permutation(len(data))
    train = data[order[int(np.ceil(0.2 * len(data))) :]]
    X, y = train[:, :-1], train[:, -1]
    table = Table((X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std(ddof=1))
    return Prospect(risk=risk, **PAPER).problem(table)


def levels(seeds: Sequence[int]) -> dict[str, list[float]]:
    """F at zero and its minimum, for each risk."""
    problems = {risk: yacht(risk) for risk in RISKS}
    return {risk: [one.at(one.start()).objective, minimum(one)] for risk, one in problems.items()}


def golden(seeds: Sequence[int]) -> list[float]:
    """The gaps of the first ten epochs with the samples that the authors' code draws with seeds 1 and 2, their mean."""
    problem, found = yacht(), []
    least = minimum(problem)
    for seed in (1, 2):
        state, stream = solvers.tables(problem), np.random.RandomState(seed)
        gaps = []
        for _ in range(len(GOLDEN)):
            state = solvers.prospect(problem, state, stream.randint(0, 244, 244), 0.03, 0)
            gaps.append(problem.at(state["W"]).objective - least)
        found.append(gaps)
    return (np.mean(found, 0) / (problem.at(problem.start()).objective - least)).tolist()


def on_yacht(name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """A solver at its best step size, 64 epochs."""
    return tuned(yacht(), name, WIDE, seeds, 64)


def of_yacht(found: Measurements) -> Summary:
    errors = [abs(x - y) for risk, known in RISKS.items() for x, y in zip(found["levels"][risk], known, strict=True)]
    # Their minimum is that of a solver with a tolerance: a common offset below 3e-9 is taken out.
    off = np.array(found["golden"]) - np.array(GOLDEN)
    series: dict[str, Any] = {"error of F": max(errors), "distance from the stored run": float(np.ptp(off))}
    series["offset of the stored minimum"] = float(np.abs(off.mean()))
    for name in YACHT_ARMS:
        each = solvers.SOLVERS[name].passes
        curves = found[name]["curves"]
        series[f"log10 of the last gap, {name}"] = np.log10([c[-1] for c in curves])
        series[f"passes to 1e-4, {name}"] = [passes_to(c, 1e-4, each) for c in curves]
        series[f"inside, {name}"] = found[name]["inside"]
    return series


def inside_wide(*names: str) -> Gate:
    """Whether the best step sizes of some arms lie inside the paper's grid."""

    def holds(summary: Summary) -> bool:
        return all(summary[f"inside, {name}"] == 1.0 for name in names)

    return Gate("grid", holds, f"the step sizes of {' and '.join(names)} lie inside the paper's grid")


SAYS = "abstract: 2-3× faster than baselines such as stochastic gradient and stochastic saddle-point methods"


CLAIM = Claim(
    slug="prospect",
    sentence="Prospect converges linearly to the minimum of a smoothed spectral risk with one step size, where SGD on "
    "batches stalls and weights that are frozen for an epoch are slow when the shift cost is small.",
    source="Mehta et al. 2023, abstract; stored runs of the official code",
    method=Prospect,
    experiments={
        "a small sum": Experiment(
            "mechanism",
            {"identities": identities} | {name: partial(descent, name) for name in SMALL_STEPS},
            seeds=3,
            minutes=0.1,
            setting="60 samples, 5 features, Student-t noise; CVaR 0.5, ν = 1, l2 = 1; 60 epochs; SGD in batches of 8 at "
            "the best of three step sizes",
            arms={"prospect": SMALL},
            summary=of_small,
        ),
        "diabetes": Experiment(
            "miniature",
            {f"{name}, ν = {nu:g}": partial(on_diabetes, nu, name) for nu in COSTS for name in ARMS},
            seeds=8,
            minutes=8.5,
            setting="scikit-learn's diabetes data (442 × 10, standardised), CVaR 0.5, l2 = 1, ν = 1 and 0.1; 32 epochs; "
            "seven step sizes from 0.0001 to 0.1 (for SGD from 0.001 to 1), the best on seeds 2000 and 2001",
            arms={f"prospect, ν = {nu:g}": Prospect(shift_cost=nu, **PAPER) for nu in COSTS},
            summary=of_diabetes,
            differs=(
                "another data set and half of the paper's grid of step sizes",
                "weights of batches pay ν·b, not ν·n, which is fairer to SGD",
                "8 seeds; tuned on two others",
            ),
        ),
        "yacht": Experiment(
            "instance",
            {"levels": levels, "golden": golden} | {name: partial(on_yacht, name) for name in YACHT_ARMS},
            seeds=8,
            minutes=8,
            setting="UCI yacht (244 × 6), the paper's split and standardisation; CVaR 0.5, ν = 1, l2 = 1; 64 epochs; the "
            "paper's twelve step sizes, the best on seeds 2000 and 2001",
            arms={"prospect": Prospect(**PAPER)},
            summary=of_yacht,
            differs=(
                "one of the paper's data sets",
                "tuned on other seeds than those that are judged; 8 seeds",
                "weights of batches pay ν·b, not ν·n, which is fairer to SGD",
            ),
        ),
    },
    parts=(
        Part(
            "the mean step is the gradient, however stale the gradients in the table",
            "primary",
            "a small sum",
            Exact("bias"),
            Less(1e-9, against=1e-6),
        ),
        Part("the mean step of a batch of 8 is not", "secondary", "a small sum", Exact("bias of batches"), More(0.02)),
        Part(
            "at the minimum no sample moves it",
            "primary",
            "a small sum",
            Exact("spread at the minimum"),
            Less(1e-5, against=1e-2),
        ),
        Part(
            "Prospect reaches a millionth of the first gap",
            "primary",
            "a small sum",
            Mean("log10 of the last gap, prospect"),
            Less(-6.0, against=-4.0),
        ),
        Part(
            "SGD stalls above a hundred-thousandth",
            "secondary",
            "a small sum",
            Mean("log10 of the last gap, sgd"),
            More(-5.0, against=-6.0),
        ),
        *(
            Part(
                f"ten times below SGD, ν = {nu:g}",
                "primary",
                "diabetes",
                LogRatio(f"gap, sgd, ν = {nu:g}", f"gap, prospect, ν = {nu:g}"),
                More(TEN),
                gates=(inside(nu, "prospect", "sgd"),),
                says=SAYS,
            )
            for nu in COSTS
        ),
        Part(
            "ten times below LSVRG, ν = 0.1",
            "primary",
            "diabetes",
            LogRatio("gap, lsvrg, ν = 0.1", "gap, prospect, ν = 0.1"),
            More(TEN),
            gates=(inside(0.1, "prospect", "lsvrg"),),
        ),
        Part(
            "LSVRG at ν = 1",
            "exploratory",
            "diabetes",
            LogRatio("gap, lsvrg, ν = 1", "gap, prospect, ν = 1"),
            More(TEN),
        ),
        *(
            Part(
                f"SaddleSAGA at ν = {nu:g}",
                "exploratory",
                "diabetes",
                LogRatio(f"gap, saddle-saga, ν = {nu:g}", f"gap, prospect, ν = {nu:g}"),
                More(TEN),
            )
            for nu in COSTS
        ),
        Part(
            "no plateau: the gap falls in the second half, ν = 0.1",
            "secondary",
            "diabetes",
            Mean("log gap at half time, ν = 0.1"),
            More(TEN / 2),
        ),
        Part(
            "F at zero and its minimum are the stored ones",
            "primary",
            "yacht",
            Exact("error of F"),
            Less(1e-6, against=1e-4),
        ),
        Part(
            "the first ten epochs are those of the authors' stored run",
            "primary",
            "yacht",
            Exact("distance from the stored run"),
            Less(1e-8, against=1e-4),
        ),
        Part(
            "Prospect reaches 1e-8",
            "primary",
            "yacht",
            Mean("log10 of the last gap, prospect"),
            Less(-8.0, against=-6.0),
            gates=(inside_wide("prospect"),),
            published=Published(-8.0, "stored runs, yacht, CVaR 0.5, at most", "read", n=2),
        ),
        Part(
            "SGD stalls above 1e-3",
            "primary",
            "yacht",
            Mean("log10 of the last gap, sgd"),
            More(-3.0, against=-4.0),
            gates=(inside_wide("sgd"),),
            published=Published(float(np.log10(6.1e-3)), "stored runs, yacht, CVaR 0.5", "read", n=2),
        ),
        Part(
            "SRDA stalls above 1e-3",
            "secondary",
            "yacht",
            Mean("log10 of the last gap, srda"),
            More(-3.0, against=-4.0),
            published=Published(float(np.log10(6.0e-3)), "stored runs, yacht, CVaR 0.5", "read", n=2),
        ),
        Part(
            "half the passes of LSVRG to 1e-4",
            "primary",
            "yacht",
            LogRatio("passes to 1e-4, lsvrg", "passes to 1e-4, prospect"),
            More(float(np.log(1.5))),
            gates=(inside_wide("prospect", "lsvrg"),),
            published=Published(float(np.log(26 / 13)), "stored runs, yacht, CVaR 0.5", "read", n=2),
        ),
        Part(
            "fewer passes than SaddleSAGA to 1e-4",
            "secondary",
            "yacht",
            LogRatio("passes to 1e-4, saddle-saga", "passes to 1e-4, prospect"),
            More(),
            gates=(inside_wide("prospect", "saddle-saga"),),
            published=Published(float(np.log(14 / 13)), "stored runs, yacht, CVaR 0.5", "read", n=2),
            says=SAYS,
        ),
    ),
    amended=(
        "The step sizes of the first run on diabetes began at 0.001, which was the best one for LSVRG at ν = 0.1, so that "
        "its part was void; they begin at 0.0001 now, for all solvers.",
    ),
)
