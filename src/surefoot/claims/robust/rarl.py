"""RARL's claim: a policy that was trained against a learned adversary stands where one that was not falls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Less,
    Measurements,
    More,
    NoWorse,
    Part,
    Summary,
    Within,
)
from surefoot.claims.robust.against_adversaries import measured, room, series
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.trpo import TRPO
from surefoot.methods.robust.rarl import RARL

# --- two games whose solutions are known ---------------------------------------------------------------------------

MATCHING = torch.tensor([[2.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)  # equilibrium (0.4, 0.6) for both, value 0.2


def saddle(eta: float, steps: int, updates: str) -> float:
    """How far gradient steps on f(x, y) = xy go from (1, 0), x going down and y up, relative to the start."""
    x, y = 1.0, 0.0
    for _ in range(steps):
        new = x - eta * y
        y = y + eta * (x if updates == "simultaneous" else new)
        x = new
    return float(np.hypot(x, y))


def cycling(eta: float, steps: int) -> dict[str, Any]:
    """Alternating exact policy-gradient steps of two softmax players of `MATCHING`, by the probability of the first action:
    the distance from the equilibrium early and late, the time average of both players, and its value."""
    logits, path = np.array([0.5, -0.5]), np.empty((steps, 2))
    payoff = MATCHING.numpy()
    for t in range(steps):
        for player, sign in ((0, 1.0), (1, -1.0)):
            p, q = 1 / (1 + np.exp(-logits))
            x, y = np.array([p, 1 - p]), np.array([q, 1 - q])
            gains = payoff @ y if player == 0 else payoff.T @ x
            slope = (p if player == 0 else q) * (1 - (p if player == 0 else q)) * (gains[0] - gains[1])
            logits[player] += sign * eta * slope
        path[t] = 1 / (1 + np.exp(-logits))
    distances = np.linalg.norm(path - 0.4, axis=1)
    half = steps // 2
    average = path.mean(0)
    x, y = np.array([average[0], 1 - average[0]]), np.array([average[1], 1 - average[1]])
    return {
        "first distance": float(distances[:half].max()),
        "last distance": float(distances[half:].max()),
        "average": tuple(average.tolist()),
        "value": float(x @ payoff @ y),
    }


ETA, STEPS = 0.1, 400


def games(seeds: Sequence[int]) -> dict[str, Any]:
    """Both games."""
    return {
        "simultaneous": saddle(ETA, STEPS, "simultaneous"),
        "alternate": saddle(ETA, STEPS, "alternate"),
        "matching": cycling(0.03, 20_000),
    }


def of_games(found: Measurements) -> Summary:
    facts = found["games"]
    growth, cycle = (1 + ETA**2) ** (STEPS / 2), facts["matching"]
    return {
        "relative error of the growth": abs(facts["simultaneous"] / growth - 1),
        "norm, alternating": facts["alternate"],
        "distance kept": cycle["last distance"] / cycle["first distance"],
        "error of the average": float(np.abs(np.subtract(cycle["average"], 0.4)).max()),
    }


# --- a frozen adversary without force -------------------------------------------------------------------------------

ENV = "InvertedPendulum-v5"
SMALL: dict[str, Any] = {"num_envs": 4, "num_steps": 64, "minibatch_size": 64, "hidden": (16,), "epochs": 2}


def unforced(seeds: Sequence[int]) -> float:
    """Largest distance of the protagonist's weights from TRPO's after two updates, the adversary having no force."""
    game = make_learner(RARL(**SMALL, fraction=0.0, adversary_turns=0), ENV, list(seeds), 10**5)
    alone = make_learner(TRPO(**SMALL), ENV, list(seeds), 10**5, backend="gymnasium")
    try:
        for _ in range(2):
            game.iterate()
            alone.iterate()
        return float((game.players["protagonist"].vector - alone.vector).abs().max())
    finally:
        game.close()
        alone.close()


# --- the pendulum, and the paper's tasks ----------------------------------------------------------------------------


PENDULUM: dict[str, Any] = {"num_envs": 8, "num_steps": 500, "minibatch_size": 250, "gamma": 0.99}
ARMS: dict[str, Any] = {"rarl": RARL(**PENDULUM, fraction=1.0), "trpo": TRPO(**PENDULUM)}
PUSH = "force:5,body=pole"
PAPER: dict[str, Any] = {**RARL.presets["mujoco-2017"]}
INSTANCE: dict[str, Any] = {"rarl": RARL(**PAPER), "trpo": TRPO(**PAPER)}
LONG = 12_500_000  # steps of the protagonist: 500 batches of 25,000
TORSO = "param:torso.mass=1.83..5.5"  # half to one and a half of the nominal mass
SHARES = {"rarl": 2, "trpo": 1}  # of the steps, of which RARL's adversary takes half


ROOM = Gate(
    "room", partial(room, "trpo"), "TRPO's mean return is at least 200, and the adversary takes a tenth of it or more"
)


def hopper(role: Any, name: str, series_name: str, test: Any, says: str) -> Part:
    return Part(name, role, "Hopper", Difference(f"{series_name}, rarl", f"{series_name}, trpo"), test, says=says)


CLAIM = Claim(
    slug="rarl",
    sentence="A policy that is trained together with an adversary that pushes it withstands adversaries and other physics, "
    "and loses nothing where there are none.",
    source="Pinto et al. 2017, abstract and section 4.2 (Figures 2, 4 and 5 to 7)",
    method=RARL,
    experiments={
        "games": Experiment(
            "mechanism",
            {"games": games},
            seeds=1,
            minutes=0.05,
            setting="f(x, y) = xy with steps of 0.1; the matrix game [[2, −1], [−1, 1]] with alternating exact policy gradients",
            arms={"rarl": RARL()},
            summary=of_games,
        ),
        "no force": Experiment(
            "mechanism",
            {"no force": unforced},
            seeds=1,
            minutes=0.05,
            setting="InvertedPendulum-v5, two updates against a frozen adversary whose force is 0",
            arms={"rarl": RARL(**SMALL, fraction=0.0, adversary_turns=0)},
            summary=lambda found: {"distance": found["no force"]},
        ),
        "pendulum": Experiment(
            "miniature",
            {arm: partial(measured, ARMS[arm], ENV, share * 120_000, PUSH, 60_000, "param:pole.mass=1..31", 10)
                for arm, share in SHARES.items()},
            seeds=8,
            minutes=25.0,
            setting="InvertedPendulum-v5, forces of up to 5 N along x and z on the pole, 30 batches of 4000 steps for each "
            "player; the final policy without disturbance, against an adversary trained by PPO for 60k steps, and over "
            "10 masses of the pole from 1 to 31 kg",
            arms=ARMS,
            summary=series,
            differs=("30 iterations of 4000 steps in place of 100 of 25,000", "InvertedPendulum-v5 in place of v1"),
        ),
        "Hopper": Experiment(
            "instance",
            {
                arm: partial(
                    measured, INSTANCE[arm], "Hopper-v5", share * LONG, "force:5,body=foot", 1_000_000, TORSO, 11
                )
                for arm, share in SHARES.items()
            },
            seeds=8,
            minutes=960.0,
            setting="Hopper-v5, 500 iterations of 25,000 steps for each player, a fraction of 0.25 of 5 N; the final policy "
            "without disturbance, against an adversary trained for 1M steps at 5 N, and over 11 masses of the torso",
            arms=INSTANCE,
            summary=series,
            differs=(
                "v5 in place of v1; 8 seeds in place of 50; bootstrapping at truncation",
                "a neural critic in place of linear features; no grid search of TRPO's settings and of the fraction",
                "the adversary of the measurement is PPO's",
            ),
        ),
    },
    parts=(
        Part(
            "simultaneous steps leave a saddle by √(1 + η²) each", "primary", "games",
            Exact("relative error of the growth"), Less(1e-9, 1e-6),
        ),
        Part("alternating steps stay near it", "primary", "games", Exact("norm, alternating"), Less(1.2, 2.0)),
        Part("in a matrix game they cycle: the distance does not shrink", "primary", "games", Exact("distance kept"),
             More(0.8, 0.5)),
        Part("their average is the equilibrium", "secondary", "games", Exact("error of the average"), Within(0.01)),
        Part("without force the protagonist is TRPO's, to the bit", "primary", "no force", Exact("distance"), Within(0.0)),
        Part(
            "RARL has the higher return against an adversary trained afresh", "primary", "pendulum",
            Difference("attacked, rarl", "attacked, trpo"), More(), gates=(ROOM,), says="section 4.2, Figure 4",
        ),
        Part(
            "without disturbance it is as good", "primary", "pendulum", Difference("nominal, rarl", "nominal, trpo"),
            NoWorse(50.0), says="section 4.2: the pendulum ties",
        ),
        Part(
            "its mean over masses is higher", "exploratory", "pendulum", Difference("mean, rarl", "mean, trpo"), More(),
            says="section 4.2, Figure 5",
        ),
        hopper("primary", "Hopper: a higher return without disturbance", "nominal", More(), "section 4.2, Figure 2"),
        hopper("primary", "Hopper: a higher return against a trained adversary", "attacked", More(), "Figure 4"),
        hopper("primary", "Hopper: a higher mean over masses", "mean", More(), "Figures 5 to 7"),
    ),
)  # fmt: skip
