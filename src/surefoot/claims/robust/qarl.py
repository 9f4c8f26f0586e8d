"""QARL's claim: an adversary that becomes rational by and by leaves a protagonist that withstands more."""

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
from surefoot.methods.robust.qarl import QARL
from surefoot.methods.robust.qarl.curriculum import advanced
from surefoot.methods.robust.qarl.quantal import equilibrium

# --- quantal responses in a matrix game, and the curriculum without a bound ------------------------------------------

PAYOFF = torch.tensor([[2.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
NASH = 0.2
RATIONAL = 0.02  # the protagonist's temperature
FALLING = np.geomspace(10.0, 0.02, 40).tolist()  # the adversary's
PATH = (43.2936, 37.0807, 31.3609, 26.1336, 21.3980, 17.1531, 13.3979, 10.1307, 7.3496, 5.0516, 3.2317, 1.8805, 1.0)


def annealing(seeds: Sequence[int]) -> list[float]:
    """What the protagonist is guaranteed at the equilibria of falling temperatures of the adversary."""
    return [equilibrium(PAYOFF, RATIONAL, alpha).guaranteed(PAYOFF) for alpha in FALLING]


def paced(seeds: Sequence[int]) -> list[float]:
    """The concentrations of a curriculum whose bound is always met."""
    k, path = 50.0, []
    while k > 1.0 and len(path) < 50:
        k = advanced(k, 1.0, 1000.0, 0.5, -np.inf, np.full(30, 0.05), np.ones(30))
        path.append(k)
    return path


def of_games(found: Measurements) -> Summary:
    values, path = found["annealing"], found["paced"]
    return {
        "rise of the guarantee": values[-1] - values[0],
        "largest fall on the way": float(max(0.0, -np.diff(values).min())),
        "gap to the value": NASH - values[-1],
        "updates": float(len(path)),
        "error of the path": float(np.abs(np.subtract(path[: len(PATH)], PATH[: len(path)])).max()),
    }


# --- the pendulum -----------------------------------------------------------------------------------------------------

ENV, STEPS = "InvertedPendulum-v5", 60_000
SMALL: dict[str, Any] = {
    "hidden": (64, 64), "batch_size": 128, "learning_rate": 1e-3, "actor_learning_rate": 1e-3, "learning_starts": 2000,
    "train_every": 2, "log_every": 500, "fraction": 1.0, "bound": 50.0, "pairs": 10,
}  # fmt: skip
ARMS: dict[str, Any] = {
    name: QARL(**SMALL, curriculum=curriculum)
    for name, curriculum in (("qarl", "self-paced"), ("linear", "linear"), ("rarl", "fixed"))
}
CHEETAH = "HalfCheetah-v5"
INSTANCE: dict[str, Any] = {"qarl": QARL(bound=100.0), "rarl": QARL(bound=100.0, curriculum="fixed")}
TORSO = "param:torso.mass=3..9,friction=0.25..4.75"
ROOM = Gate(
    "room", partial(room, "rarl"), "the fixed arm's mean return is at least 200; its adversary takes a tenth or more"
)

CLAIM = Claim(
    slug="qarl",
    sentence="Training against an adversary whose rationality grows by a curriculum gives a higher return against a rational "
    "adversary, and in other physics, than training against a rational one from the start.",
    source="Reddi et al. 2023, abstract",
    method=QARL,
    experiments={
        "games": Experiment(
            "mechanism",
            {"annealing": annealing, "paced": paced},
            seeds=1,
            minutes=0.03,
            setting="the matrix game [[2, −1], [−1, 1]] at 40 temperatures of the adversary from 10 to 0.02, the "
            "protagonist's being 0.02; the curriculum from 50 to 1 with ε = 0.5 and no bound",
            arms={"qarl": QARL()},
            summary=of_games,
        ),
        "pendulum": Experiment(
            "miniature",
            {
                arm: partial(measured, method, ENV, STEPS, "force:5,body=pole", 60_000, "param:pole.mass=1..31", 10)
                for arm, method in ARMS.items()
            },
            seeds=8,
            minutes=30.0,
            setting="InvertedPendulum-v5, forces of up to 5 N on the pole, 60 turns of 500 steps for each player; the final "
            "policy without disturbance, against an adversary trained by PPO for 60k steps, and over 10 masses of the pole",
            arms=ARMS,
            summary=series,
            differs=(
                "60k steps in place of 1M; 64×64 networks, learning rates of 1e-3; pairs of 10 episodes, a bound of 50",
                "Gymnasium's pendulum, which ends when it falls, in place of dm_control's tasks",
            ),
        ),
        "HalfCheetah": Experiment(
            "instance",
            {
                arm: partial(measured, method, CHEETAH, 1_000_000, "force:1,body=torso/bfoot/ffoot", 250_000, TORSO, 11)
                for arm, method in INSTANCE.items()
            },
            seeds=8,
            minutes=1000.0,
            setting="HalfCheetah-v5, 200 turns of 2500 steps for each player, forces of up to 1 N on the torso and both feet, "
            "three layers of 256; the final policy without disturbance, against an adversary trained for 250k steps, and "
            "over 11 × 11 masses of the torso and factors of friction",
            arms=INSTANCE,
            summary=series,
            differs=(
                "Gymnasium's HalfCheetah-v5 with its own reward and horizon in place of dm_control's cheetah run",
                "turns in steps in place of episodes; three episodes a cell in place of one",
            ),
        ),
    },
    parts=(
        Part("an adversary made rational raises the protagonist's guarantee", "primary", "games",
             Exact("rise of the guarantee"), More(0.5, 0.0)),
        Part("to the value of the game", "primary", "games", Exact("gap to the value"), Within(0.005)),
        Part("at no step does it fall by more than a thousandth", "secondary", "games", Exact("largest fall on the way"),
             Less(1e-3, 0.1)),
        Part("the curriculum's concentrations are those of the recursion", "primary", "games", Exact("error of the path"),
             Less(1e-4, 1e-3)),
        Part(
            "the curriculum has the higher return against an adversary trained afresh", "primary", "pendulum",
            Difference("attacked, qarl", "attacked, rarl"), More(), gates=(ROOM,), says="abstract",
        ),
        Part(
            "its mean over masses is higher", "secondary", "pendulum", Difference("mean, qarl", "mean, rarl"), More(),
            says="abstract: robustness",
        ),
        Part(
            "without disturbance it is as good", "secondary", "pendulum", Difference("nominal, qarl", "nominal, rarl"),
            NoWorse(50.0),
        ),
        Part(
            "by return it is as good as by time", "exploratory", "pendulum",
            Difference("attacked, qarl", "attacked, linear"), NoWorse(50.0),
        ),
        Part("HalfCheetah: a higher mean over masses and frictions", "primary", "HalfCheetah",
             Difference("mean, qarl", "mean, rarl"), More(), says="abstract: robustness"),
        Part("HalfCheetah: a higher return against a trained adversary", "secondary", "HalfCheetah",
             Difference("attacked, qarl", "attacked, rarl"), More(), says="abstract"),
    ),
)  # fmt: skip
