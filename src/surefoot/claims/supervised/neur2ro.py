"""Neur2RO's claim: a small learned second stage inside constraint generation finds choices near the best in seconds.

Two-stage knapsacks whose optimum is known: of eight items by listing, of twenty by constraint generation with exact
second stages. Every choice is read by its true worst case, never by the network. The controls are the same network in
the other formulation, whose cost is a prediction; the choice that is best without losses; and random choices.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.ambiguity.budgeted import Array
from surefoot.claims import given
from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Less,
    Mean,
    Measurements,
    Part,
    Published,
    Summary,
)
from surefoot.data.tables import read
from surefoot.envs.recourse import Family, Knapsack
from surefoot.envs.recourse.exact import optimum, second_stage, subsets, table, worst_case
from surefoot.envs.recourse.knapsack import choices, losses, parse
from surefoot.loops.common.run import make_learner
from surefoot.methods.supervised.neur2ro import Neur2RO
from surefoot.methods.supervised.neur2ro.generation import Known, known, listed_choice, solved_choice
from surefoot.methods.supervised.neur2ro.program import Program, value
from surefoot.models.set_model import SetModel
from surefoot.models.set_value import SetSizes, SetValue
from surefoot.seeding import derive, numpy_stream

FORMULATIONS = ("argmax", "max")
EPOCHS, TESTS = 40, 24
NOISE = {"oracle": 0.0, "noise": 0.05}  # as shares of the greatest second stage
SMALL = SetSizes(6, 4, 8, 3, 4)
ZIP = "knapsack_two_stage_instances.zip"
METHODS = {kind: Neur2RO(formulation=kind) for kind in FORMULATIONS}
FEW = {kind: Neur2RO(formulation=kind, learning_rate=3e-3) for kind in FORMULATIONS}


# --- what is exact -----------------------------------------------------------------------------------------------


def second_stages(seeds: Sequence[int]) -> float:
    """How far the dynamic programme is from a list of all plans, relative to it: the greatest of the seeds."""
    errors = []
    for seed in seeds:
        stream = numpy_stream(seed, "second stages")
        problem = Family(8).draw(stream)
        x, xi = choices(stream, 20, 8), losses(stream, 20, 8, problem.budget)
        listed = table(problem, xi)[np.arange(20), (x @ (1 << np.arange(8))).astype(int)]
        found = np.array([second_stage(problem, *one).value for one in zip(x, xi, strict=True)])
        errors.append(float(np.abs(found - listed).max() / np.abs(listed).max()))
    return max(errors)


def ranked(to: Known, x: Array, scenarios: Array) -> float:
    """The true cost of a choice at the scenario that the network ranks worst."""
    worst = to.predicted(torch.as_tensor(x), torch.as_tensor(scenarios)).argmax()
    return float(to.problem.first_stage(x)) + second_stage(to.problem, x, scenarios[worst]).value


def programs(seeds: Sequence[int]) -> dict[str, float]:
    """Random networks: how far the cost of HiGHS's choice is from that of the best one of a list, and how far the cost
    at the scenario ranked worst is above the worst case; relative to the cost, the greatest of the seeds."""
    found: dict[str, list[float]] = {"list": [], "bound": []}
    for seed in seeds:
        stream = numpy_stream(seed, "programs")
        problem = Family(6).draw(stream)
        torch.manual_seed(derive(seed, "weights"))
        network = SetValue(6, SMALL)
        network.fit_scales(torch.as_tensor(problem.items()), torch.tensor([-2000.0, 0.0]))
        to, scenarios = known(SetModel(network).network, problem), losses(stream, 3, 6, problem.budget)
        listed = ranked(to, listed_choice(to, scenarios, "argmax"), scenarios)
        solved = ranked(to, solved_choice(to, scenarios, "argmax", 0.0, 60.0), scenarios)
        found["list"].append(abs(solved - listed) / abs(listed))
        every = [ranked(to, x, scenarios) - worst_case(problem, x).value for x in subsets(6)[::7]]
        found["bound"].append(max(every) / abs(listed))
    return {name: max(x) for name, x in found.items()}


class Noisy:
    """The exact second stage in a network's place, with noise on every pair of choice and losses."""

    def __init__(self, problem: Knapsack, noise: float, seed: int) -> None:
        self.problem, self.seed = problem, seed
        self.scale = noise * abs(table(problem, np.zeros((1, len(problem)))).min())

    def choice(self, x: Tensor, items: Tensor) -> Tensor:
        return x

    losses = choice

    def joined(self, x: Tensor, xi: Tensor) -> Tensor:
        noise = [numpy_stream(self.seed, "noise", s).normal(size=len(x)) for s in range(len(xi))]
        return torch.as_tensor(table(self.problem, xi.numpy()).T + self.scale * np.stack(noise, -1))

    def unscaled(self, value: Tensor) -> Tensor:
        return value


def without_network(noise: float, seeds: Sequence[int]) -> dict[str, list[float]]:
    """The error in % of both formulations with the exact second stage and noise on it, the mean of two instances."""
    found: dict[str, list[float]] = {kind: [] for kind in FORMULATIONS}
    for seed in seeds:
        problems = [Family(5).draw(numpy_stream(seed, "small instances", i)) for i in range(2)]
        for kind, errors in found.items():
            errors.append(float(np.mean([error(p, _generated(p, kind, noise, seed)) for p in problems])))
    return found


def _generated(problem: Knapsack, kind: str, noise: float, seed: int, most: int = 12) -> Array:
    """The choice that constraint generation with exact losses ends with."""
    to: Any = Known(Noisy(problem, noise, seed), problem, torch.empty(0))  # type: ignore[arg-type]
    scenarios = np.empty((0, len(problem)))
    while True:
        x = listed_choice(to, scenarios, kind)
        xi = worst_case(problem, x).point
        if len(scenarios) == most or (len(scenarios) and np.abs(scenarios - xi).sum(-1).min() < 1e-9):
            return x
        scenarios = np.vstack([scenarios, xi])


def error(problem: Knapsack, x: Array) -> float:
    """How far the worst case of a choice is above the least one, in % of it."""
    least = optimum(problem).value
    return 100 * (worst_case(problem, x).value - least) / abs(least)


def of_exact(found: Measurements) -> Summary:
    return {
        "error of second stages": found["second stages"],
        "error of programs": found["programs"]["list"],
        "excess over the worst case": found["programs"]["bound"],
        "error with an oracle": max(max(values) for values in found["oracle"].values()),
        **{f"error with noise, {kind}": values for kind, values in found["noise"].items()},
    }


# --- eight items, our miniature --------------------------------------------------------------------------------------


def trained(method: Neur2RO, data: str, seed: int, epochs: int) -> SetModel:
    """A network on samples."""
    learner = make_learner(method, read(data), [seed], epochs)
    for _ in range(epochs):
        learner.iterate()
    return learner.agent()


def decided(seeds: Sequence[int]) -> dict[str, list[list[float]]]:
    """The error in % of every arm on fresh instances, and the number of scenarios of both formulations; a row a seed."""
    found: dict[str, list[list[float]]] = {}
    for seed in seeds:
        model = trained(FEW["argmax"], f"knapsack:8,losses=10,seed={seed}", seed, EPOCHS)
        for number in range(TESTS):
            stream = numpy_stream(seed, "test instances", number)
            problem = Family(8).draw(stream)
            for name, cost in _arms(model, problem, stream, seed).items():
                rows = found.setdefault(name, [])
                rows += [[]] if number == 0 else []
                rows[-1].append(cost)
    return found


def _arms(model: SetModel, problem: Knapsack, stream: np.random.Generator, seed: int) -> dict[str, float]:
    """The error of every arm on one instance."""
    least, n, row = optimum(problem).value, len(problem), dict[str, float]()
    chosen = {"nominal": listed_choice(known(model.network, problem), np.empty((0, n)), "argmax")}
    for kind in FORMULATIONS:
        found = FEW[kind].decide(model, problem, seed)
        chosen[kind], row[f"scenarios, {kind}"] = found.choice, float(len(found.scenarios))
    costs = {name: worst_case(problem, x).value for name, x in chosen.items()}
    costs["random"] = float(np.median([worst_case(problem, x).value for x in choices(stream, 9, n)]))
    return row | {name: 100 * (cost - least) / abs(least) for name, cost in costs.items()}


def of_decided(found: Measurements) -> Summary:
    series: dict[str, Any] = {}
    for name, rows in found["decided"].items():
        series[f"median, {name}"], series[f"mean, {name}"] = np.median(rows, 1).tolist(), np.mean(rows, 1).tolist()
    return series


# --- twenty items, the public instances ------------------------------------------------------------------------------


def public() -> list[Knapsack]:
    """The public uncorrelated instances of twenty items."""
    path = given.file(ZIP, "github.com/borisdetienne/RobustDecomposition, TwoStageRobustKnapsack, as one archive")
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if "/RKP_UN_n20_" in name and "MACOSX" not in name)
        return [parse(archive.read(name).decode(), name.rpartition("/")[2]) for name in names]


@cache
def least_of_public() -> tuple[float, ...]:
    """The optimum of every instance."""
    return tuple(by_copies(problem) for problem in public())


def by_copies(problem: Knapsack, tolerance: float = 1e-5) -> float:
    """The least worst case, by constraint generation with a copy of the second stage for every scenario, in HiGHS."""
    n, best, program = len(problem), np.inf, Program()
    x, cost = program.variables(n, whole=True), program.variables(1, -problem.handback.sum(), 0.0)
    aim, xi = x.times((problem.handback - problem.profit)[None]).plus(cost), np.zeros(n)
    while True:
        y, r = program.variables(n, whole=True), program.variables(n, whole=True)
        program.require(y.plus(x.times(-np.eye(n))), most=0.0)
        program.require(r.plus(y.times(-np.eye(n))), most=0.0)
        program.require(y.times(problem.weight[None]).plus(r.times(problem.repair[None])), most=problem.capacity)
        loss = problem.loss * xi
        own = y.times((loss - problem.handback)[None]).plus(r.times(-loss[None]))
        program.require(cost.plus(own.times(-np.eye(1))), least=0.0)
        solution = program.minimise(aim, gap=1e-6, time_limit=600)
        worst = worst_case(problem, value(x, solution).round())
        best = min(best, worst.value)
        if best - float(value(aim, solution)[0]) <= tolerance * abs(best):
            return best
        xi = worst.point


def on_public(seeds: Sequence[int]) -> dict[str, list[float]]:
    """The error in % of both formulations on every public instance, by a network of the first seed."""
    model = trained(METHODS["argmax"], "knapsack:20,instances=60,losses=50,seed=7", seeds[0], 500)
    found: dict[str, list[float]] = {kind: [] for kind in FORMULATIONS}
    for problem, least in zip(public(), least_of_public(), strict=True):
        for kind, errors in found.items():
            cost = worst_case(problem, METHODS[kind].decide(model, problem, seeds[0]).choice).value
            errors.append(100 * (cost - least) / abs(least))
    return found


def of_public(found: Measurements) -> Summary:
    series: dict[str, Any] = {f"error, {kind}": values for kind, values in found["decided"].items()}
    return series | {f"median, {kind}": float(np.median(values)) for kind, values in found["decided"].items()}


ROOM = Gate(
    "room",
    lambda summary: float(np.mean(summary["median, random"])) > 10.0,
    "random choices are off by more than 10 %",
)

CLAIM = Claim(
    slug="neur2ro",
    sentence="A small network that predicts the second stage, inside constraint generation, finds choices within a few "
    "percent of the best worst case; their cost has to be the true one at the scenario that it ranks worst.",
    source="Dumouchelle, Julien, Kurtz, Khalil 2023, Section 5 and released results",
    method=Neur2RO,
    experiments={
        "exact": Experiment(
            "mechanism",
            {
                "second stages": second_stages,
                "programs": programs,
                **{name: partial(without_network, noise) for name, noise in NOISE.items()},
            },
            seeds=8,
            minutes=0.07,
            setting="random instances of eight and six items, random networks of three scenarios; the exact second stage "
            "of five items in the network's place, as it is and with noise of 5 % of its greatest value",
            arms=METHODS,
            summary=of_exact,
        ),
        "eight items": Experiment(
            "miniature",
            {"decided": decided},
            seeds=8,
            minutes=5.0,
            setting="250 instances of 8 items, Γ/n of 0.2, 0.3 or 0.4, 10 choices and 10 losses of each; 40 epochs of step "
            "0.003; 24 fresh instances a seed, choices by listing, losses by ascent, judged by the exact worst case",
            arms=FEW,
            summary=of_decided,
            differs=("eight items; the paper's instances have 20 to 80", "25,000 samples in place of 250,000"),
        ),
        "public instances": Experiment(
            "instance",
            {"decided": on_public},
            seeds=1,
            minutes=15.0,
            setting="the 18 public uncorrelated instances of 20 items; 60 random instances of 20 items of all kinds, 10 "
            "choices and 50 losses of each; the paper's network, 500 epochs, choices by HiGHS",
            arms=METHODS,
            summary=of_public,
            differs=(
                "a network of 20 items alone, on 30,000 samples; the paper's learns from 250,000 of 20 to 80 items",
                "losses by projected ascent",
                "the last network of a run, not the best on held-out samples",
            ),
        ),
    },
    parts=(
        Part(
            "the dynamic programme is the list of all plans",
            "primary",
            "exact",
            Exact("error of second stages"),
            Less(1e-9, against=1e-6),
        ),
        Part(
            "HiGHS finds the choice of the list",
            "primary",
            "exact",
            Exact("error of programs"),
            Less(1e-6, against=1e-4),
        ),
        Part(
            "the cost at the scenario ranked worst is never above the worst case",
            "primary",
            "exact",
            Exact("excess over the worst case"),
            Less(1e-6, against=1e-4),
        ),
        Part(
            "with an oracle for a network both formulations find the optimum",
            "primary",
            "exact",
            Exact("error with an oracle"),
            Less(1e-4, against=1e-2),
        ),
        Part(
            "with noise on the oracle, the true cost of the ranked scenario chooses better than the prediction",
            "exploratory",
            "exact",
            Difference("error with noise, argmax", "error with noise, max"),
            Less(),
        ),
        *(
            Part(
                f"better than {words}, {figure} of the instances",
                "primary" if figure == "median" else "secondary",
                "eight items",
                Difference(f"{figure}, argmax", f"{figure}, {other}"),
                Less(),
                gates=(ROOM,),
            )
            for figure in ("median", "mean")
            for other, words in (("nominal", "the choice without losses"), ("max", "the prediction as cost"))
        ),
        Part(
            "within 3 % of the best worst case, median of the instances",
            "secondary",
            "eight items",
            Mean("median, argmax"),
            Less(3.0, against=3.0),
            gates=(ROOM,),
        ),
        Part(
            "within 3 % of the optimum, median of the instances",
            "primary",
            "public instances",
            Exact("median, argmax"),
            Less(3.0, against=3.0),
            published=Published(1.417, "released results, uncorrelated, n = 20, median", "read"),
        ),
        Part(
            "better than the prediction as cost on the public instances",
            "primary",
            "public instances",
            Difference("error, argmax", "error, max"),
            Less(),
        ),
    ),
    not_run="the weakly correlated instances of 20 items (published median 1.582 %), whose optimum our exact "
    "method does not find within two minutes each; all instances of 30 to 80 items, for which the paper's network "
    "learns from 250,000 samples (about half an hour) and whose optima are known from branch and price of up to three "
    "hours each; and capital budgeting (published median 1.105 % for ten projects), of which only a pilot was run: six "
    "projects, 12,000 samples, 40 epochs, 16 instances of development seeds, exact worst cases. There the median error "
    "was 9.2 % by the true cost, 16.0 % by the prediction as cost, 7.6 % without a network and 6.8 % for random choices.",
)
