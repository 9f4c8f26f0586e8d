"""IWOCS with learned members on the inverted pendulum: the sequence against the default policy that it began with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from surefoot.claims.parts import Difference, Experiment, Gate, Measurements, More, NoWorse, Part, Summary
from surefoot.evaluate.stress import stress
from surefoot.loops.common.run import make_learner
from surefoot.methods.robust.iwocs.deep import DeepIWOCS

ENV, EPISODES = "InvertedPendulum-v5", 3
METHOD = DeepIWOCS(
    default_policy_steps=100_000, member_steps=50_000, search="grid", hidden=(64, 64), learning_starts=5000
)


def pendulum(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Average and worst return on the suite's grid, of the default policy and of the sequence."""
    learner = make_learner(METHOD, ENV, list(seeds), METHOD.default_policy_steps + METHOD.members * METHOD.member_steps)
    found: dict[str, list[float]] = {}
    try:
        while not learner.finished:
            learner.iterate()
            if METHOD.stage(learner.iteration) == 1 and METHOD.begun(learner.iteration) == learner.iteration:
                found |= measured("start", learner)
        return found | measured("sequence", learner)
    finally:
        learner.close()


def measured(arm: str, learner: Any) -> dict[str, list[float]]:
    """Average and worst return of each seed's policy as it is."""
    made = [
        stress(learner.agent(i), ENV, METHOD.set, EPISODES, points=10, grid="rrls", slots=50)
        for i in range(learner.num_seeds)
    ]
    return {f"average, {arm}": [one.mean for one in made], f"worst, {arm}": [one.worst for one in made]}


def of_pendulum(found: Measurements) -> Summary:
    return found["pendulum"]


def room(summary: Summary) -> bool:
    """Whether the default policy's worst return leaves a tenth of the largest, 1000, to be gained."""
    return float(np.mean(summary["worst, start"])) <= 900


ROOM = Gate("room", room, "the default policy's worst return is at most 900 of 1000")

EXPERIMENTS = {
    "pendulum": Experiment(
        "miniature",
        {"pendulum": pendulum},
        seeds=8,
        minutes=170.0,
        setting="InvertedPendulum-v5, the suite's 2D set: 100k steps of the default policy, three members of 50k, 64×64 "
        "networks; worst worlds by the grid (IWOCS*); 100 cells, 3 episodes each",
        arms={"IWOCS": METHOD},
        summary=of_pendulum,
        differs=(
            "250k steps in place of 4M; 64×64 networks; 5000 steps before learning in place of 10,000",
            "one task of six, in Gymnasium's v5 form",
            "a default policy of its own for each seed, where the paper's seeds share one",
        ),
    ),
}
PARTS = (
    Part(
        "pendulum: the sequence has a better worst case than its own default policy",
        "primary",
        "pendulum",
        Difference("worst, sequence", "worst, start"),
        More(),
        (ROOM,),
        says="Table 8, pendulum 2D: IWOCS 1000; Table 22: the default policies begin lower",
    ),
    Part(
        "pendulum: its average is as good",
        "secondary",
        "pendulum",
        Difference("average, sequence", "average, start"),
        NoWorse(50.0),
    ),
)
