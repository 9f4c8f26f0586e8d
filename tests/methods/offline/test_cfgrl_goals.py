"""Flows to goals: what later states of the same episode have reached, and guidance towards a goal."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot.data.transitions import Transitions
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.methods.offline.cfgrl.goals import GoalCFGRL

SIZES: dict[str, Any] = {"batch_size": 64, "log_every": 20, "hidden": (16,), "flow_hidden": (32,), "flow_steps": 8}


def walks(episodes: int = 40, length: int = 12) -> Transitions:
    """Random walks on a line; the second entry has room for a goal, the third is what is reached, in other units."""
    g, parts = np.random.default_rng(0), []
    for _ in range(episodes):
        action = g.uniform(-1, 1, (length, 1))
        place = g.uniform(-1, 1) + np.concatenate([[0], 0.3 * action[:, 0].cumsum()])
        states = np.stack([place, np.full(length + 1, 7.0), 10 * place + 3], 1)
        parts.append((states[:-1], action, states[1:], np.arange(length) == length - 1))
    seen, action, after, cut = (np.concatenate(x) for x in zip(*parts, strict=True))
    box = gym.spaces.Box(-1, 1, (1,), np.float32)
    return Transitions(seen, action, np.zeros(len(seen)), after, ~cut & False, cut, action_space=box, name="walks")


def learner(seeds=(0,), **changes):
    method = GoalCFGRL(**{**SIZES, "goal": (1,), "achieved": (2,), **changes})
    return make_learner(method, "", list(seeds), 1000, data=walks())


@pytest.mark.parametrize("normalize", [True, False])
def test_goals_are_later_states_of_the_same_episode(normalize):
    run, data = learner((0, 1), normalize_observations=normalize), walks()
    mean, deviation = run.method.fitted(data)
    assert (
        mean[1] == mean[2] and deviation[1] == deviation[2] and mean[2] == pytest.approx(data.observation[:, 2].mean())
    )
    run.draw()
    batch = run.batch()
    before = batch["observation"].clone()
    found = run.method.beforehand(run)(batch, ())["observation"]
    assert torch.equal(batch["observation"], before) and torch.equal(found[..., [0, 2]], before[..., [0, 2]])
    goal = found[..., 1].numpy().astype(float)
    goal = goal * (deviation[1] + 1e-3) + mean[1] if normalize else goal
    index = batch["index"].numpy()
    ends = np.repeat(data.bounds[:, 1], 12)
    first = 0
    for row, reached, late in zip(index.ravel(), goal.ravel(), batch["noise"]["later"].ravel().tolist(), strict=True):
        chosen = row + int(late * (ends[row] - row))
        assert row <= chosen < ends[row]
        assert reached == pytest.approx(data.next_observation[chosen, 2], rel=1e-4, abs=1e-3)
        first += chosen == row
    assert 0 < first < index.size


def test_guidance_goes_to_the_goal_and_without_it_the_walk_is_cloned():
    run = learner(log_every=400, learning_rate=5e-3)
    run.iterate()
    agent = run.agent()
    places = np.linspace(-0.5, 0.5, 20)
    for side in (1.0, -1.0):
        seen = np.stack([places, 10 * (places + 0.6 * side) + 3, 10 * places + 3], 1).astype(np.float32)
        acted = [agent.acting(guidance=w).predict(seen, deterministic=True)[0] for w in (0.0, 1.0, 3.0)]
        mean = [side * float(one.mean()) for one in acted]
        assert abs(mean[0]) < 0.25 and mean[1] > mean[0] + 0.1 and mean[2] > mean[1] + 0.15
    other = np.array(seen)
    other[:, 1] *= -3
    acted = [agent.acting(guidance=0.0).predict(x, deterministic=True)[0] for x in (seen, other)]
    np.testing.assert_array_equal(*acted)  # without guidance the goal is not seen


def test_goals_without_sense_are_refused():
    for values, said in (
        ({"goal": (1,)}, r"goal=\(1,\) is not allowed with achieved=\(\)"),
        ({"goal": (1,), "achieved": (1,)}, r"none of them twice"),
    ):
        with pytest.raises(UsageError, match=said):
            GoalCFGRL(**values)
    with pytest.raises(UsageError, match=r"the entry 5 is not there: observations of walks are \(3,\)"):
        learner(goal=(5,))
