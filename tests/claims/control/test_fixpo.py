"""FixPO's claim: the scores of its miniature, the share of fixup steps, and how its instance is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from surefoot.claims.contextual_target import untrained_return
from surefoot.claims.control.fixpo import CLAIM, of_learning
from surefoot.claims.control.fixpo_mujoco import of_mujoco, trust
from surefoot.claims.judge import judge


def row(kl: float, steps: float) -> dict[str, Any]:
    return {"bounded_kl": kl, "fixup_steps": steps, "fixup_needed": float(steps > 0), "fixup_retreat": 0.0}


def test_the_share_of_fixup_steps_is_that_of_the_primary_ones():
    """Metrics are means over the epochs: 1 and 2 fixup steps an epoch of 32 primary ones."""
    facts = trust([[row(0.1, 1.0)], [row(0.2, 2.0)]], 32)
    assert facts["fixup_share"] == pytest.approx([1.5 / 32])
    assert facts["largest_kl"] == [0.2]
    assert "fixup_share" not in trust([[{"bounded_kl": 0.1}]], 32)


def test_the_untrained_policy_scores_0_and_the_best_one_1():
    untrained = untrained_return(-0.5)
    assert untrained == pytest.approx(-3.010657, abs=1e-5)
    facts = {**trust([[row(0.1, 0.0)] * 2], 32), "error": [1.0, 0.1]}
    cartpole = {**facts, "last": [500.0, 250.0], "area": [250.0, 100.0]}
    task = {**facts, "expected_return": [untrained, 0.0]}
    series = of_learning({"fixpo, task": task, "fixpo, CartPole": cartpole})
    np.testing.assert_allclose(series["score, fixpo, task"], [0, 1])
    np.testing.assert_allclose(series["score, fixpo, CartPole"], [1, 0.5])
    np.testing.assert_allclose(series["area, fixpo, CartPole"], [0.5, 0.2])
    assert series["largest KL/bound"] == pytest.approx(0.5)


def test_a_million_steps_are_read_beside_the_figure():
    env = "InvertedDoublePendulum-v4"
    facts = {"return at 1M": [8900.0, 8800.0, 9000.0], "largest_kl": [0.4, 0.3, 0.5], "fixup_share": [0.01, 0.02, 0.03]}
    found = {f"fixpo, {env}": facts, f"ppo, {env}": {"return at 1M": [6560.0, 6500.0, 6620.0]}}
    findings = judge(CLAIM, {"first million": of_mujoco(found)})
    assert {finding.word for finding in findings.values()} == {"supported"}
    found[f"ppo, {env}"] = {"return at 1M": [3000.0, 3100.0, 3200.0]}
    words = {name: finding.word for name, finding in judge(CLAIM, {"first million": of_mujoco(found)}).items()}
    assert words[f"{env}, 1M steps: better returns than PPO"] == "void"
