"""GRAD's claim: the coupling in time limits an attack, and populations find an equilibrium that latest opponents miss.

Exact: a walk whose step is perturbed by a number that changes slowly, by dynamic programming; random matrix games, in which
best responses are exact. The miniature is a double integrator whose force drifts, under attackers that are trained anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Less,
    Mean,
    Measurements,
    More,
    NoWorse,
    Part,
    Summary,
)
from surefoot.claims.robust.drifting_integrator import ARMS, ATTACKERS, scores
from surefoot.methods.robust.grad import GRAD
from surefoot.methods.robust.tc_rmdp.drift import Drift, drift_values
from surefoot.seeding import numpy_stream
from surefoot.solvers.matrix_game import equilibrium, exploitability

# --- the walk --------------------------------------------------------------------------------------------------------

EDGE, GAMMA = 4, 0.9


def walk(size: int, change: int, action: torch.Tensor | None = None) -> Drift:
    """Values `[perturbations, places]` of the walk x' = x + a + p within ±4, a in {−1, 0, 1}, whose reward is −|x'|.

    The perturbation p in {−size, …, size} changes by at most `change` a step. The agent commits to an action, then the
    adversary moves p; both see x and the p before. The value of a policy `action [perturbations, places]` if one is given.
    """
    places, shifts = torch.arange(-EDGE, EDGE + 1), torch.arange(-size, size + 1)
    kernels = torch.zeros(len(shifts), len(places), 3, len(places), dtype=torch.float64)
    for k, p in enumerate(shifts):
        for a in range(3):
            after = (places + a - 1 + p).clamp(-EDGE, EDGE) + EDGE
            kernels[k, torch.arange(len(places)), a, after] = 1.0
    here = -places.abs().double()
    found = drift_values(kernels, here.unsqueeze(1).expand(-1, 3), GAMMA, change, action)
    return Drift((found.value - here) / GAMMA, found.action)  # rewards are those of the place after the step


def value(size: int, change: int, place: int = 0) -> float:
    """The value at a place, before the first perturbation."""
    return float(walk(size, change).value[size, place + EDGE])


def coupled(_: Sequence[int]) -> dict[str, list[float]]:
    """Values by the change `[0, …, 4]` for perturbations of size 1 and 2, and of policies made for another change."""
    free = walk(2, 4)  # the best policy against perturbations that change at will, where they change by one
    return {
        "size 1": [value(1, change) for change in range(5)],
        "size 2": [value(2, change) for change in range(5)],
        "made for free ones": [float(walk(2, 1, free.action).value[2, EDGE])],
    }


def of_coupled(found: Measurements) -> Summary:
    one, two = (np.array(found["walk"][f"size {size}"]) for size in (1, 2))
    return {
        "rise with the change": max(np.diff(one).max(), np.diff(two).max()),
        "rise with the size": (two - one).max(),
        "uncoupled beyond twice the size": float(np.ptp(one[2:])),
        "what the coupling saves": two[1] - two[4],
        "gain of knowing the coupling": two[1] - found["walk"]["made for free ones"][0],
    }


# --- matrix games ----------------------------------------------------------------------------------------------------

ACTIONS = 12


def double_oracle(payoffs: np.ndarray, row: int = 0, column: int = 0) -> list[float]:
    """The exploitability of the mixtures of growing populations, before every pair of exact best responses, until neither
    is new."""
    rows, columns, gaps = [row], [column], []
    while True:
        found = equilibrium(payoffs[np.ix_(rows, columns)])
        x, y = np.zeros(payoffs.shape[0]), np.zeros(payoffs.shape[1])
        np.add.at(x, rows, found.row)
        np.add.at(y, columns, found.column)
        gaps.append(exploitability(payoffs, x, y))
        best = int((payoffs @ y).argmax()), int((x @ payoffs).argmin())
        if gaps[-1] <= 1e-9 or (best[0] in rows and best[1] in columns):
            return gaps
        rows.append(best[0])
        columns.append(best[1])


def games(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Random games of 12 × 12: exploitability at the end and epochs of the double oracle, and the least and the last
    exploitability of as many best responses to the latest opponent only."""
    found: dict[str, list[float]] = {"last": [], "epochs": [], "latest": [], "latest, best of all": []}
    for seed in seeds:
        payoffs = numpy_stream(seed, "game").normal(size=(ACTIONS, ACTIONS))
        gaps = double_oracle(payoffs)
        row, column, met = 0, 0, []
        for _ in gaps:
            met.append(exploitability(payoffs, np.eye(ACTIONS)[row], np.eye(ACTIONS)[column]))
            row, column = int(payoffs[:, column].argmax()), int(payoffs[row].argmin())
        found["last"].append(gaps[-1])
        found["epochs"].append(float(len(gaps)))
        found["latest"].append(met[-1])
        found["latest, best of all"].append(min(met))
    return found


def of_games(found: Measurements) -> Summary:
    one = found["games"]
    return {
        "largest exploitability at the end": max(one["last"]),
        "most epochs": max(one["epochs"]),
        "latest opponents": np.array(one["latest"]),
        "latest opponents, least": np.array(one["latest, best of all"]),
    }


# --- the double integrator -------------------------------------------------------------------------------------------


def integrator(arm: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Returns by attacker, one a seed."""
    found = [scores(arm, seed) for seed in seeds]
    return {kind: [one[kind] for one in found] for kind in ("none", *ATTACKERS)}


def of_integrator(found: Measurements) -> Summary:
    series = {f"{arm}, natural": np.array(one["none"]) for arm, one in found.items()}
    worst = {f"{arm}, worst": np.min([one[kind] for kind in ATTACKERS], axis=0) for arm, one in found.items()}
    return series | worst


def stands(summary: Summary) -> bool:
    return float(np.mean(summary["PPO, natural"])) > -20


ROOM = Gate("control", stands, "PPO reaches a return of −20 without an attack")

CLAIM = Claim(
    slug="grad",
    sentence="Coupling in time limits what perturbations do, and playing against populations makes an agent robust to "
    "coupled and uncoupled ones alike.",
    source="Liang et al. 2024, abstract and definition 3.2; only the abstract, the introduction and reviews were read",
    method=GRAD,
    experiments={
        "walk": Experiment(
            "mechanism",
            {"walk": coupled},
            seeds=1,
            minutes=0.01,
            setting="a walk on nine places whose steps are perturbed by a number of at most 1 or 2; γ = 0.9, exact",
            arms={"GRAD": GRAD()},
            summary=of_coupled,
        ),
        "games": Experiment(
            "mechanism",
            {"games": games},
            seeds=20,
            minutes=0.03,
            setting="zero-sum matrix games of 12 × 12 normal payoffs, exact best responses",
            arms={"GRAD": GRAD()},
            summary=of_games,
        ),
        "double integrator": Experiment(
            "miniature",
            {arm: partial(integrator, arm) for arm in ARMS},
            seeds=8,
            minutes=25,
            setting="a double integrator of 100 steps, forces of half the control's size that change by a fifth of that a "
            "step; 176k steps of both players together, then attackers of 32k steps that change by a tenth, a fifth, or at "
            "will",
            arms=ARMS,
            summary=of_integrator,
            differs=(
                "a double integrator in place of five MuJoCo tasks",
                "five epochs of 16k steps a side",
                "attackers are PPO's best responses; no gradient-based ones, since forces are perturbed",
            ),
        ),
    },
    parts=(
        Part(
            "the value never rises with the change that is allowed",
            "primary",
            "walk",
            Exact("rise with the change"),
            Less(1e-9, 1e-9),
        ),
        Part("nor with the size", "secondary", "walk", Exact("rise with the size"), Less(1e-9, 1e-9)),
        Part(
            "a change of twice the size is uncoupled",
            "primary",
            "walk",
            Exact("uncoupled beyond twice the size"),
            Less(1e-9, 1e-9),
            says="a large ε̄ gives back the uncoupled setting (reviews)",
        ),
        Part("the coupling saves return", "secondary", "walk", Exact("what the coupling saves"), More(1.0)),
        Part(
            "a policy made for free perturbations gives some of it away",
            "exploratory",
            "walk",
            Exact("gain of knowing the coupling"),
            More(),
        ),
        Part(
            "populations end at an equilibrium",
            "primary",
            "games",
            Exact("largest exploitability at the end"),
            Less(1e-6, 1e-6),
            says="convergence, inherited from PSRO (reviews)",
        ),
        Part("latest opponents do not", "secondary", "games", Mean("latest opponents"), More(0.5)),
        Part("not even at their best", "exploratory", "games", Mean("latest opponents, least"), More(0.1)),
        Part(
            "worst return: above PPO's",
            "primary",
            "double integrator",
            Difference("GRAD, worst", "PPO, worst"),
            More(),
            gates=(ROOM,),
            says="abstract: existing methods are vulnerable to coupled perturbations",
        ),
        Part(
            "worst return: at least that of latest opponents",
            "primary",
            "double integrator",
            Difference("GRAD, worst", "latest, worst"),
            NoWorse(2.0),
            gates=(ROOM,),
            says="abstract: more robust against standard and coupled perturbations",
        ),
        Part(
            "natural return: as good as PPO's",
            "secondary",
            "double integrator",
            Difference("GRAD, natural", "PPO, natural"),
            NoWorse(3.0),
            gates=(ROOM,),
        ),
    ),
    not_run="Its numbers were not found. Five MuJoCo tasks with 5 epochs of 400k steps, attackers of 200k steps, are about 30 "
    "core-minutes a seed and method.",
)
