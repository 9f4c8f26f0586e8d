"""The best agent by evaluation, kept beside the last one."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest
import torch

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common.best import best_value, keeper
from surefoot.loops.common.run import Run

SMALL = {"num_envs": 2, "num_steps": 16, "minibatch_size": 32, "epochs": 4, "hidden": (8,), "loggers": ()}
OPTIONS = {**SMALL, "learning_rate": 0.3, "evaluate_every": 32, "evaluate_episodes": 2, "keep_best": True}


def files(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def best_rows(run) -> dict[int, tuple[int, float]]:
    """The step and the value of the first best evaluation of every seed, from the metrics alone."""
    found: dict[int, tuple[int, float]] = {}
    for row in run.metrics():
        value, seed = row.get("evaluation_mean"), row["seed"]
        if value is not None and value > found.get(seed, (0, -np.inf))[1]:
            found[seed] = row["step"], value
    return found


def test_the_best_agent_is_that_of_the_best_evaluation(tmp_path):
    """A callback puts another number in place of the evaluation, so that the best is neither the first nor the last."""
    seen = {}

    def watch(learner, rows):
        seen[learner.steps] = [learner.agent(i).vector.clone() for i in range(2)]
        for peak, row in zip((96, 224), rows):
            row["evaluation_mean"] = -float(abs(learner.steps - peak))

    run = sf.train("ppo", "CartPole-v1", 320, num_seeds=2, run_dir=tmp_path / "run", callbacks=watch, **OPTIONS)
    expected = best_rows(run)
    for index, seed in enumerate((0, 1)):
        step, value = expected[seed]
        agent = sf.load(run, seed, best=True)
        assert torch.equal(agent.vector, seen[step][index])
        assert agent.facts["steps"] == step and agent.facts["evaluation_mean"] == value and agent.facts["seed"] == seed
    assert [expected[seed][0] for seed in (0, 1)] == [96, 224]
    assert torch.equal(sf.load(run, 1).vector, seen[320][1])


def test_a_killed_and_resumed_run_keeps_the_same_best(tmp_path):
    """Killed after a best that no checkpoint has yet: it is found again."""
    whole = sf.train("ppo", "CartPole-v1", 320, run_dir=tmp_path / "whole", **OPTIONS, checkpoint_every=320)
    step, _ = best_rows(whole)[0]

    class Killed(BaseException):
        pass

    def kill(learner, rows):
        if learner.steps == min(step + 32, 320):
            raise Killed

    with pytest.raises(Killed):
        sf.train("ppo", "CartPole-v1", 320, run_dir=tmp_path / "cut", callbacks=kill, **OPTIONS, checkpoint_every=320)
    resumed = sf.resume(tmp_path / "cut")
    assert files(resumed.path / "best") == files(whole.path / "best")


def test_the_first_of_equals_is_kept_and_nan_never(tmp_path):
    saved = []

    class Agent:
        def __init__(self, facts):
            self.facts = facts

        def save(self, folder):
            saved.append(self.facts["steps"])

    class Learner:
        seeds, steps = [3], 0

        def agent(self, index, **facts):
            return Agent(facts)

    keep, learner = keeper(Run(tmp_path), {}, [3]), Learner()
    for learner.steps, value in enumerate([None, float("nan"), 1.0, 1.0, 0.5, 2.0]):
        keep(learner, [{} if value is None else {"evaluation_mean": value}])
    assert saved == [2, 5]


def test_evaluations_are_every_tenth_of_a_run_if_not_told(tmp_path):
    run = sf.train("ppo", "CartPole-v1", 320, run_dir=tmp_path / "run", keep_best=True, **SMALL)
    assert run.config["evaluate_every"] == 32 and run.config["keep_best"] and "--keep-best" in run.config["command"]
    best = max(r["evaluation_mean"] for r in run.metrics())
    assert best_value(run.path / "best") == best == sf.evaluate(run.path / "best", episodes=10)["mean"]


def test_a_run_without_a_best_agent_says_so(tmp_path):
    run = sf.train("ppo", "CartPole-v1", 32, run_dir=tmp_path / "run", **SMALL)
    assert not (run.path / "best").exists()
    with pytest.raises(UsageError, match="has no best agent: it was trained without keep_best"):
        sf.load(run, best=True)
    with pytest.raises(UsageError, match="evaluate_every needs an id or a factory"):
        made = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync")
        sf.train("ppo", made, 32, run_dir=tmp_path / "ready", keep_best=True, **SMALL)
    assert json.loads((run.path / "config.json").read_text())["keep_best"] is False
