"""The best agent of a run by its periodic evaluations, kept beside the last one in `best/`.

It was chosen by the evaluation that it is said to have, so that number is too good: play it again on other seeds.

A resumed run takes up the value in `best/agent.json`. An evaluation after the checkpoint from which it resumes is made
again, to the bit, so the folder becomes that of a run that was never interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from surefoot.loops.common import checkpoint, distributed
from surefoot.loops.common.folder import BEST, Run, agent_folder
from surefoot.loops.common.train import Callback
from surefoot.models.saved import holds_agent, read_facts

CRITERION = "evaluation_mean"
REWARD = "reward_mean"  # of a language model that was kept for its reward in training


def best_value(folder: Path) -> float:
    """The evaluation of the best agent so far; minus infinity if there is none."""
    value = read_facts(folder).get(CRITERION) if holds_agent(folder) else None
    return float(value) if isinstance(value, (int, float)) else -math.inf


def keeper(run: Run, about: Mapping[str, Any], seeds: Sequence[int]) -> Callback:
    """A callback that saves the agent of every seed whose evaluation is better than all before; the first of equals."""
    folders = [agent_folder(run.path, seeds, seed, BEST) for seed in seeds]
    best = [best_value(folder) for folder in folders]

    def keep(learner: Any, rows: list[dict[str, Any]]) -> None:
        for index, (row, folder) in enumerate(zip(rows, folders, strict=True)):
            value = row.get(CRITERION)
            if value is None or not value > best[index]:
                continue
            best[index] = value
            facts = {**about, "steps": learner.steps, "seed": learner.seeds[index], "ended": "best", CRITERION: value}
            agent = learner.agent(index, **facts)  # made in all processes
            if distributed.rank() == 0:
                with checkpoint.writing(folder, run.path):
                    agent.save(folder)

    return keep
