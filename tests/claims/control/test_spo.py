"""SPO's claim: its least favourable setting, and the largest ratio deviation of a run."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from surefoot.claims.control.spo import BATCH, CLAIM, of_one_batch
from surefoot.claims.control.spo_mujoco import CUT, DEPTH, of_depth
from surefoot.claims.judge import judge
from surefoot.loops.common.run import make_learner


def test_each_seed_is_read_in_its_least_favourable_setting():
    def facts(deviation: list[float], gain: list[float]) -> dict[str, list[float]]:
        return {"ratio_deviation": deviation, "outside": deviation, "kl": deviation, "gain": gain}

    first, second, *_ = BATCH
    ppo = facts([0.3, 0.4], [0.3, 0.3])
    found = {
        first: {"spo": facts([0.1, 0.1], [0.1, 0.2]), "ppo": ppo},
        second: {"spo": facts([0.05, 0.3], [0.2, 0.1]), "ppo": ppo},
    }
    series = of_one_batch(found)
    assert series["ratio_deviation, spo"].tolist() == [0.1, 0.3]
    assert series["ratio_deviation, ppo"].tolist() == [0.3, 0.4]
    assert series["gain, spo"].tolist() == [0.1, 0.1]


@pytest.mark.parametrize("arm", ["spo", "ppo"])
def test_the_largest_deviation_is_that_of_any_minibatch_of_the_run(arm):
    small: dict[str, Any] = {"num_envs": 2, "num_steps": 16, "minibatch_size": 16, "epochs": 2, "hidden": (8,)}
    method = dataclasses.replace(DEPTH[arm], **small, learning_rate=0.01, anneal=False)
    learner, seen = make_learner(method, "surefoot/ContinuousTarget-v0", [0, 1], 10**6), []
    plain = learner.gradient_step

    def watched(*arguments: Any) -> torch.Tensor:
        seen.append(plain(*arguments))
        return seen[-1]

    learner.gradient_step = watched
    rows = [learner.iterate() for _ in range(3)][-1]
    index = learner._names.index("ratio_deviation")
    largest = torch.stack(seen)[:, :, index].amax(0)
    assert [row["largest_deviation"] for row in rows] == pytest.approx(largest.tolist())
    assert len(seen) == 12
    assert len(set(largest.tolist())) == 2


def test_deep_runs_are_read_beside_the_figure():
    spo = {"return": [3000.0, 3200.0, 3100.0], "largest_deviation": [0.1, 0.11, 0.12]}
    ppo = {"return": [1000.0, 1100.0, 1200.0], "largest_deviation": [0.3, 0.31, 0.32]}
    found = {"spo, Walker2d-v4": spo, "ppo, Walker2d-v4": ppo}
    assert {one.word for one in judge(CLAIM, {CUT: of_depth(found)}).values()} == {"supported"}
    found |= {"spo, HalfCheetah-v4": spo, "ppo, HalfCheetah-v4": ppo}
    words = {name: one.word for name, one in judge(CLAIM, {"depth": of_depth(found)}).items()}
    assert words["Walker2d-v4, 7 layers: return within a third of the figure's"] == "supported"
    assert words["HalfCheetah-v4, 7 layers: return within a third of the figure's"] == "contradicted"
