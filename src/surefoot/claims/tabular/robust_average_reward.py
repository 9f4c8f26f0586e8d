"""Robust RVI's claim: nominal samples are enough to find the best average reward in the worst world.

In the trap, risky work earns 0.8 a step in the nominal world and 0.39 in the worst one of a KL ball; safe work earns 0.7
in both. Robust and plain RVI Q-learning, which differ in the set alone, learn from as many samples. Beside it, both
algorithms on two and on three states for the five sets of the paper, against the exact solver.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from scipy.stats import multinomial

from surefoot.ambiguity import KL, Ambiguity, ChiSquare, Contamination, TotalVariation, Wasserstein, worst_case_value
from surefoot.claims.parts import (
    Claim,
    Exact,
    Experiment,
    Less,
    Mean,
    Measurements,
    More,
    Part,
    Share,
    ShareDifference,
    Summary,
    Within,
)
from surefoot.envs.tabular import TabularMDP, resolve
from surefoot.envs.tabular.policies import uniform_policy
from surefoot.methods.tabular.robust_average_reward import RobustRVI, RobustRVITD
from surefoot.methods.tabular.robust_average_reward.multilevel import Draws, Levels, worst
from surefoot.seeding import numpy_stream
from surefoot.solvers import evaluate_policy, solve

TRAP, THREE = resolve("trap"), resolve("garnet:3,2,3,seed=4")
MDPS = {"two": resolve("two-state"), "three": THREE}
BALL = KL(0.05)
ARMS = {"robust": RobustRVI(BALL), "plain": RobustRVI(Contamination(0.0))}
UPDATES, SHORT, TAIL, SHOWN = 20_000, 2_000, 0.1, 40
SETS: dict[str, Ambiguity] = {
    "contamination": Contamination(0.2),
    "total variation": TotalVariation(0.1),
    "chi-square": ChiSquare(0.1),
    "KL": BALL,
}
STATE = torch.arange(3, dtype=torch.float64)
LINE = Wasserstein(cost=(STATE - STATE[:, None]).abs(), radius=0.1)  # with costs of 0 and 1 it is total variation
FIVE: dict[str, Ambiguity] = {**SETS, "Wasserstein": LINE}
ALGORITHMS: dict[str, type[RobustRVI]] = {"Q-learning": RobustRVI, "TD": RobustRVITD}


def learn(method: RobustRVI, mdp: TabularMDP, updates: int, seeds: Sequence[int]) -> dict[str, Any]:
    """All seeds side by side, which gives each the tables that it has alone; f of the last tenth, and the curve."""
    rows, levels = method.rows(mdp), Levels(method.psi, method.cap)
    table = torch.stack([method.start(mdp, seed)["table"] for seed in seeds])
    gains = torch.empty(updates, len(seeds), dtype=torch.float64)
    streams = []
    for n in range(updates):
        if n % method.batch == 0:
            streams = [numpy_stream(seed, "next states", n // method.batch) for seed in seeds]
        drawn = [levels.draw(rows.probability, stream) for stream in streams]
        laws, weights = (torch.stack(parts, 1) for parts in zip(*((one.laws, one.weights) for one in drawn)))
        table = method.update(mdp, rows, table, Draws(laws, weights, drawn[0].samples), n)
        gains[n] = method.gain(mdp, table)
    every = updates // SHOWN
    return {
        "gain": gains[-round(TAIL * updates) :].mean(0).tolist(),
        "curve": np.round(gains[every - 1 :: every].mean(1).numpy(), 4).tolist(),
        "updates": list(range(every, updates + 1, every)),
        "policy": [method.policy(mdp, {"table": one})[0].argmax().item() for one in table],
    }


def gains(mdp: TabularMDP, ambiguity: Ambiguity) -> dict[str, Any]:
    """The exact worst-case average rewards: the best, which Q-learning is after, and the uniform policy's, for TD."""
    uniform = evaluate_policy(mdp, uniform_policy(mdp), ambiguity, criterion="average", tolerance=1e-10)
    best = solve(mdp, ambiguity, criterion="average", tolerance=1e-10)
    return {"Q-learning": best.gain, "TD": uniform.gain}


# --- what is exact -----------------------------------------------------------------------------------------------

SWEEPS, FEW, CAP, DRAWS = 40, 150, 6, 20_000
LAW, VALUE, SHIFT = (0.5, 0.3, 0.2), torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64), TotalVariation(0.2)


def fixed_points(seeds: Sequence[int]) -> dict[str, float]:
    """How far f is from the exact gain once updates with exact worst cases have settled, on three states."""
    off = {}
    for name, ambiguity in FIVE.items():
        for kind, algorithm in ALGORITHMS.items():
            method = algorithm(ambiguity)
            rows, table = method.rows(THREE), method.start(THREE, 0)["table"]
            weights = torch.ones(1, *rows.probability.shape[:-1], dtype=torch.float64)
            for _ in range(SWEEPS):
                table = method.update(THREE, rows, table, Draws(rows.probability[None], weights, weights[0]), 1)
            off[f"{kind}, {name}"] = abs(float(method.gain(THREE, table)) - gains(THREE, ambiguity)[kind])
    return off


def five_gains(seeds: Sequence[int]) -> dict[str, float]:
    """The best worst-case average reward on three states, for each set."""
    return {name: gains(THREE, ambiguity)["Q-learning"] for name, ambiguity in FIVE.items()}


def estimates(seeds: Sequence[int]) -> dict[str, Any]:
    """Multilevel estimates of a worst case, levels up to CAP: their mean and the samples that they take, one number a
    seed; and the exact means of the plain estimates from one and from 2^(CAP+1) samples."""
    nominal = torch.tensor(LAW, dtype=torch.float64).expand(DRAWS, 3)
    found: dict[str, Any] = {"mean": [], "samples": []}
    for seed in seeds:
        draws = Levels(0.5, CAP).draw(nominal, numpy_stream(seed, "multilevel"))
        found["mean"].append(float(worst(VALUE, draws, SHIFT).mean()))
        found["samples"].append(float(draws.samples.double().mean()))
    for samples in (1, 2 ** (CAP + 1)):
        counts = np.array(
            [(i, j, samples - i - j) for i, j in product(range(samples + 1), repeat=2) if i + j <= samples]
        )
        chance = multinomial.pmf(counts, samples, LAW)
        plain = worst_case_value(VALUE.expand(len(counts), 3), torch.from_numpy(counts / samples), SHIFT)
        found[f"from {samples}"] = float(chance @ plain.numpy())
    return found


def early(arm: str, seeds: Sequence[int]) -> list[int]:
    """Whether each seed works safely in the trap after 150 updates."""
    return learn(ARMS[arm], TRAP, FEW, seeds)["policy"]


def worth(seeds: Sequence[int]) -> dict[str, Any]:
    """The average rewards of risky and safe work in the nominal and in the worst world."""
    worlds = {"nominal": Contamination(0.0), "worst": BALL}
    return {
        name: [evaluate_policy(TRAP, [action, 0], one, criterion="average").gain for action in (0, 1)]
        for name, one in worlds.items()
    }


def of_exact(found: Measurements) -> Summary:
    seen, many = found["estimates"], 2 ** (CAP + 1)
    return {
        "distance from the exact gain": max(found["fixed points"].values()),
        "least distance of two sets": min(np.diff(sorted(found["five gains"].values()))),
        "risky less safe, nominal": -np.diff(found["worth"]["nominal"])[0],
        "safe less risky, worst": np.diff(found["worth"]["worst"])[0],
        "bias beyond that of the cap": np.array(seen["mean"]) - seen[f"from {many}"],
        "bias of one sample": seen["from 1"] - seen[f"from {many}"],
        "samples less cap + 2": np.array(seen["samples"]) - CAP - 2,
        "safe, robust": found["robust"],
        "safe, plain": found["plain"],
    }


# --- learned -----------------------------------------------------------------------------------------------------


def trapped(arm: str, seeds: Sequence[int]) -> dict[str, Any]:
    """20,000 updates in the trap; the worst-case average rewards of the policies beside them."""
    found = learn(ARMS[arm], TRAP, UPDATES, seeds)
    worst_case = [evaluate_policy(TRAP, [a, 0], BALL, criterion="average").gain for a in found["policy"]]
    return {**found, "worst case": worst_case}


def best_in_trap(seeds: Sequence[int]) -> Any:
    return solve(TRAP, BALL, criterion="average").gain


def of_trap(found: Measurements) -> Summary:
    safe = {arm: [int(action == 1) for action in found[arm]["policy"]] for arm in ("robust", "plain")}
    return {
        "f less the best gain": np.array(found["robust"]["gain"]) - found["best gain"],
        **{f"safe, {arm}": works for arm, works in safe.items()},
        "risky, plain": [1 - works for works in safe["plain"]],
    }


def converged(states: str, name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """f of both algorithms after 2,000 updates, and the exact gains."""
    mdp, ambiguity = MDPS[states], FIVE[name]
    exact = gains(mdp, ambiguity)
    found = {kind: learn(algorithm(ambiguity), mdp, SHORT, seeds)["gain"] for kind, algorithm in ALGORITHMS.items()}
    return {"best": exact["Q-learning"], "uniform": exact["TD"], **found}


def of_sets(found: Measurements) -> Summary:
    """Per seed, the largest error of f over the sets."""
    errors = {
        kind: [np.abs(np.array(seen[kind]) - seen[target]) for seen in found.values()]
        for kind, target in (("Q-learning", "best"), ("TD", "uniform"))
    }
    return {f"largest error, {kind}": np.max(each, 0) for kind, each in errors.items()}


def largest_error(experiment: str, kind: str, sets: str) -> Part:
    """That f comes to the exact worst-case average reward, whatever the set."""
    return Part(
        f"{kind} comes to the exact gain for {sets}",
        "primary",
        experiment,
        Mean(f"largest error, {kind}"),
        Less(0.05, against=0.1),
    )


RATES = "steps (n+1)^−0.7, levels up to 8; f is its mean over the last tenth of the updates"
CLAIM = Claim(
    slug="robust-average-reward",
    sentence="From samples of the nominal world alone, robust RVI TD and Q-learning converge to the worst-case average "
    "reward of a policy and to the best one, for contamination, total variation, χ², KL and Wasserstein sets.",
    source="Wang et al. 2023, abstract",
    method=RobustRVI,
    experiments={
        "exact": Experiment(
            "mechanism",
            {
                "fixed points": fixed_points,
                "five gains": five_gains,
                "estimates": estimates,
                "worth": worth,
                "robust": partial(early, "robust"),
                "plain": partial(early, "plain"),
            },
            seeds=8,
            minutes=0.06,
            setting="three states, five sets of radius 0.1, 0.2 or 0.05 (Wasserstein with the distances of a line): 40 "
            "updates with exact worst cases; 20,000 multilevel estimates of one worst case, levels up to 6; the trap "
            "after 150 updates",
            arms=ARMS,
            summary=of_exact,
        ),
        "trap": Experiment(
            "miniature",
            {arm: partial(trapped, arm) for arm in ARMS} | {"best gain": best_in_trap},
            seeds=10,
            minutes=4,
            setting=f"a state with risky and safe work and a pit, KL ball of 0.05; 20,000 updates, {RATES}",
            arms=ARMS,
            summary=of_trap,
            differs=("a trap of ours in place of the recycling robot",),
        ),
        "two states": Experiment(
            "miniature",
            {name: partial(converged, "two", name) for name in SETS},
            seeds=10,
            minutes=2,
            setting=f"two states, two actions; 2,000 updates, {RATES}; Q-learning, and TD of the uniform policy",
            arms={f"{kind}, {name}": a(one) for kind, a in ALGORITHMS.items() for name, one in SETS.items()},
            summary=of_sets,
            differs=("two states in place of Garnet's 30", "four of the five sets"),
        ),
        "three states": Experiment(
            "miniature",
            {name: partial(converged, "three", name) for name in FIVE},
            seeds=10,
            minutes=2,
            setting=f"Garnet of 3 states and 2 actions; 2,000 updates, {RATES}; Q-learning, and TD of the uniform policy",
            arms={f"{kind}, {name}": a(one) for kind, a in ALGORITHMS.items() for name, one in FIVE.items()},
            summary=of_sets,
            differs=("three states in place of Garnet's 30",),
        ),
    },
    parts=(
        Part(
            "with exact worst cases f settles on the exact gain",
            "primary",
            "exact",
            Exact("distance from the exact gain"),
            Less(1e-6, against=1e-3),
        ),
        Part("five sets are five", "secondary", "exact", Exact("least distance of two sets"), More(1e-3, against=1e-3)),
        Part(
            "multilevel estimates have the bias of the most samples alone",
            "primary",
            "exact",
            Mean("bias beyond that of the cap"),
            Within(0.03),
        ),
        Part(
            "one sample would be biased upwards",
            "secondary",
            "exact",
            Exact("bias of one sample"),
            More(0.03, against=0.0),
        ),
        Part(
            "an estimate takes cap + 2 samples on average",
            "secondary",
            "exact",
            Mean("samples less cap + 2"),
            Within(0.5),
        ),
        Part("risky work pays in the nominal world", "secondary", "exact", Exact("risky less safe, nominal"), More()),
        Part("safe work pays in the worst world", "secondary", "exact", Exact("safe less risky, worst"), More()),
        Part(
            "after 150 updates robust works safely, plain riskily",
            "primary",
            "exact",
            ShareDifference("safe, robust", "safe, plain"),
            More(),
        ),
        Part(
            "robust works safely, plain riskily",
            "primary",
            "trap",
            ShareDifference("safe, robust", "safe, plain"),
            More(),
        ),
        Part("robust mostly works safely", "secondary", "trap", Share("safe, robust"), More(0.5, against=0.5)),
        Part("plain mostly works riskily", "secondary", "trap", Share("risky, plain"), More(0.5, against=0.5)),
        Part("f comes to the best gain of the trap", "primary", "trap", Mean("f less the best gain"), Within(0.05)),
        *(largest_error("two states", kind, "four sets") for kind in ALGORITHMS),
        *(largest_error("three states", kind, "all five sets") for kind in ALGORITHMS),
    ),
    not_run="no number of the paper is known to us; its Garnet of 30 states and 20 actions would take minutes a set",
    amended=(
        "The parts of the trap and of two states were declared on 2026-11-30 over measurements of 2026-11-26, which an "
        "earlier judge had summed up in one word.",
        "A fifth set on two states, Wasserstein with costs of 0 and 1, was total variation once more and is left out; "
        "three states, with the distances of a line as costs, were added.",
    ),
)
