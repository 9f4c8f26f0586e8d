"""The survey's statements that can be checked: where overestimation comes from, and what the interventions are.

The survey reports no experiment. Its interventions must reduce to the algorithm that they change, and the formulas of
overestimation that it builds on must hold: the largest of m noisy estimates of equal values, the least possible error,
and the double estimator. The miniature lets Q-learning and double Q-learning meet the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
    Part,
    Published,
    Summary,
    Within,
)
from surefoot.methods.control.dqn import DQN
from surefoot.methods.robust.generalization_survey import GeneralizationSurvey, mixed
from surefoot.objectives.bootstrap import soft_value
from surefoot.seeding import numpy_stream, torch_stream

ACTIONS = (2, 4, 10)


def expected(actions: int) -> float:
    """E[max] of `actions` uniform errors in [−1, 1] (Thrun and Schwartz 1993)."""
    return (actions - 1) / (actions + 1)


# --- exact ---------------------------------------------------------------------------------------------------------


def noisy_maxima(seeds: Sequence[int]) -> dict[str, list[float]]:
    """The largest of m noisy estimates of equal values, and the double estimator, less what the theory says."""
    found: dict[str, list[float]] = {f"{name}, {m}": [] for m in ACTIONS for name in ("single", "double")}
    for seed in seeds:
        draw = numpy_stream(seed, "noisy maxima")
        for m in ACTIONS:
            first, second = draw.uniform(-1, 1, (2, 40_000, m))
            found[f"single, {m}"].append(float(first.max(1).mean()) - expected(m))
            found[f"double, {m}"].append(float(second[np.arange(len(second)), first.argmax(1)].mean()))
    return found


def least_error(seeds: Sequence[int]) -> dict[str, float]:
    """By how much the largest of zero-mean errors of mean square 1 exceeds √(1/(m − 1)), at least, and where all but
    one are equal (van Hasselt et al. 2016, Theorem 1)."""
    slack, equal = np.inf, 0.0
    for m in ACTIONS:
        bound = np.sqrt(1 / (m - 1))
        for seed in seeds:
            error = numpy_stream(seed, "zero-mean errors").normal(size=(200, m))
            error -= error.mean(1, keepdims=True)
            error /= np.sqrt((error**2).mean(1, keepdims=True))
            slack = min(slack, float((error.max(1) - bound).min()))
        tight = np.append(np.full(m - 1, bound), -(m - 1) * bound)
        equal = max(equal, abs(float((tight**2).mean()) - 1), abs(float(tight.mean())))
    return {"slack": slack, "attained": equal}


class Tables:
    """Values in place of networks: two states' worth of Q and of its target."""

    def __init__(self, generator: torch.Generator, same: bool = False) -> None:
        self.now = torch.randn(2, 64, 4, generator=generator, dtype=torch.float64)
        self.copy = self.now if same else torch.randn(2, 64, 4, generator=generator, dtype=torch.float64)

    def target(self, _: str, which: int) -> Tensor:
        return self.copy[which]

    def fixed(self, _: str, which: int) -> Tensor:
        return self.now[which]


def reductions(seeds: Sequence[int]) -> dict[str, float]:
    """Largest differences between an intervention where it is neutral and the algorithm that it changes."""
    found: dict[str, float] = dict.fromkeys(["soft", "hard", "double", "mix", "identity"], 0.0)
    for seed in seeds:
        g = torch_stream(seed, "tables")
        w: Any = Tables(g)
        batch: Any = {"observation": 0, "next_observation": 1, "action": torch.randint(4, (64,), generator=g)}
        batch |= {k: torch.rand(64, generator=g, dtype=torch.float64) for k in ("reward", "discount")}
        plain = DQN().target(w, batch)
        soft = batch["reward"] + batch["discount"] * soft_value(w.copy[1], 0.03)
        same: Any = Tables(g, same=True)
        hard = GeneralizationSurvey(munchausen=0.0, temperature=1e-9).target(w, batch)
        ones, partner = torch.ones(64, dtype=torch.float64), torch.randperm(64, generator=g)
        half = mixed(plain, 0.5 * ones, partner) - (plain + plain[partner]) / 2
        for name, difference in {
            "soft": GeneralizationSurvey(munchausen=0.0).target(w, batch) - soft,
            "hard": hard - plain,
            "double": DQN(double=True).target(same, batch) - DQN().target(same, batch),
            "mix": half,
            "identity": mixed(plain, ones, partner) - plain,
        }.items():
            found[name] = max(found[name], float(difference.abs().max()))
    return found


def of_exact(found: Measurements) -> Summary:
    return {**found["maxima"], **found["least error"], **{f"{k} target": v for k, v in found["reductions"].items()}}


# --- Q-learning in one state ---------------------------------------------------------------------------------------

GAMMA, STEPS, RATE = 0.9, 3000, 0.1


def learned(double: bool, actions: int, seeds: Sequence[int]) -> list[float]:
    """The largest value, in the mean of the last half, that tabular learning finds in a state whose actions all lead
    back to it and pay uniform noise in [−1, 1]; the truth is 0. All seeds at once."""
    draws = [numpy_stream(seed, f"q-learning {actions}") for seed in seeds]
    rewards = np.stack([d.uniform(-1, 1, STEPS) for d in draws], 1)
    actions_taken = np.stack([d.integers(0, actions, STEPS) for d in draws], 1)
    sides = np.stack([d.integers(0, 2, STEPS) for d in draws], 1) * double
    q, rows, found = np.zeros((2, len(seeds), actions)), np.arange(len(seeds)), []
    for reward, action, side in zip(rewards, actions_taken, sides, strict=True):
        own, other = q[side, rows], q[(1 - side) * double, rows]
        following = other[rows, own.argmax(1)]
        q[side, rows, action] += RATE * (reward + GAMMA * following - own[rows, action])
        found.append((q.mean(0) if double else q[0]).max(1))
    return np.mean(found[STEPS // 2 :], 0).tolist()


def of_learning(found: Measurements) -> Summary:
    return {name: np.array(values) for name, values in found.items()}


ROOM = Gate(
    "room",
    lambda summary: float(np.mean(summary["single, 10"])) > 0.1,
    "Q-learning overestimates ten equal actions by more than 0.1",
)

CLAIM = Claim(
    slug="generalization-survey",
    sentence="The maximum over noisy values inflates them, more for more actions, and two estimators do not; the survey's "
    "interventions are the plain algorithm where they are neutral.",
    source="Korkmaz 2024, the discussion of value overestimation; no experiment is reported",
    method=GeneralizationSurvey,
    experiments={
        "exact": Experiment(
            "mechanism",
            {"maxima": noisy_maxima, "least error": least_error, "reductions": reductions},
            seeds=8,
            minutes=0.02,
            setting="uniform errors on 2, 4 and 10 equal values, 40,000 draws a seed; targets on random tables",
            arms={"Munchausen": GeneralizationSurvey(), "double": GeneralizationSurvey(munchausen=None, double=True)},
            summary=of_exact,
        ),
        "one state": Experiment(
            "miniature",
            {
                f"{name}, {m}": partial(learned, double, m)
                for name, double in (("single", False), ("double", True))
                for m in ACTIONS
            },
            seeds=100,
            minutes=0.05,
            setting=f"one state, 2, 4 or 10 actions that pay uniform noise, γ = {GAMMA}, {STEPS:,} steps at rate {RATE}; the "
            "largest value found, whose truth is 0",
            summary=of_learning,
            differs=("ours: the survey has no experiment", "tables of one state, no network"),
        ),
    },
    parts=(
        *(
            Part(
                f"the largest of {m} noisy values is too large by (m − 1)/(m + 1)",
                "primary",
                "exact",
                Mean(f"single, {m}"),
                Within(0.01),
                published=Published(0.0, "formula of Thrun and Schwartz 1993, as deviation from it", "recalled"),
            )
            for m in ACTIONS
        ),
        Part("the double estimator is not", "primary", "exact", Mean("double, 10"), Within(0.01)),
        Part("no error is below √(C/(m − 1))", "primary", "exact", Exact("slack"), More(-1e-12, -1e-12)),
        Part("and that is attained", "secondary", "exact", Exact("attained"), Less(1e-12, 1e-12)),
        Part("Munchausen with α = 0 is soft DQN", "primary", "exact", Exact("soft target"), Less(1e-9, 1e-9)),
        Part("and DQN as τ → 0", "primary", "exact", Exact("hard target"), Less(1e-6, 1e-6)),
        Part("double Q with one network is DQN", "secondary", "exact", Exact("double target"), Less(1e-12, 1e-12)),
        Part("mixreg mixes labels linearly", "secondary", "exact", Exact("mix target"), Less(1e-12, 1e-12)),
        Part("and with λ = 1 changes nothing", "secondary", "exact", Exact("identity target"), Less(1e-12, 1e-12)),
        Part(
            "Q-learning overestimates more with ten actions than with two",
            "primary",
            "one state",
            Difference("single, 10", "single, 2"),
            More(),
            (ROOM,),
        ),
        Part(
            "double Q-learning overestimates less",
            "primary",
            "one state",
            Difference("single, 10", "double, 10"),
            More(),
            (ROOM,),
        ),
    ),
    not_run="A survey: it reports no experiment, so there is no instance. The card's gridworld with 1 to 256 training "
    "contexts is not built.",
)
