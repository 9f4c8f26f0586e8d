"""RRLS: the protocol's grid and scores, and training under the set."""

from __future__ import annotations

import numpy as np
import pytest

import surefoot as sf
from surefoot.envs.rrls import uncertainty
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.methods.robust.rrls import DomainRandomization, normalised


def test_the_grid_of_the_protocol():
    """[0.1, 3) in ten steps, without its end; 10, 100 and 1000 cells."""
    first = [cell["worldfriction"] for cell in uncertainty("Hopper-v5", "1d").grid(10, "rrls")]
    np.testing.assert_allclose(first, [0.1, 0.39, 0.68, 0.97, 1.26, 1.55, 1.84, 2.13, 2.42, 2.71])
    for count, name in ((10, "1d"), (100, "2d"), (1000, "3d")):
        assert len(list(uncertainty("Walker2d-v5", name).grid(10, "rrls"))) == count


def test_a_stress_test_on_that_grid_is_the_measurement():
    report = sf.stress(lambda x: np.zeros((len(x), 1)), "InvertedPendulum-v5", "rrls:2d", episodes=2, grid="rrls")
    assert report.coordinates.shape == (100, 2) and report.coordinates[:, 0].max() == pytest.approx(28.0)
    assert report.worst <= report.mean <= report.best
    assert report.worst == report.cell_means.min() and report.mean == pytest.approx(report.cell_means.mean())


def test_normalised_scores():
    """TD3 has 0 and M2TD3 1; a method below TD3 is below 0; where M2TD3 is the lower one it has −1."""
    assert normalised(2.1, td3=2.1, m2td3=5.3) == 0 and normalised(5.3, td3=2.1, m2td3=5.3) == 1
    assert normalised(4.68, td3=0.22, m2td3=5.33) == pytest.approx(0.8728, abs=1e-4)  # Hopper 2D, DR's worst case
    assert normalised(1.0, td3=2.0, m2td3=4.0) == -0.5
    assert normalised(2.51, td3=3.0, m2td3=2.0) < 0 and normalised(2.0, td3=3.0, m2td3=2.0) == -1
    for wrong in ((1.0, 2.0, 2.0), (np.nan, 1.0, 2.0)):
        with pytest.raises(UsageError, match="two references differ"):
            normalised(*wrong)


def test_parameters_are_drawn_at_every_reset_and_stay():
    method = DomainRandomization(set="param:m=0.5..2", learning_starts=400, log_every=400, hidden=(4,))
    learner, seen = make_learner(method, "Pendulum-v1", [0], 400), []
    inner = learner.collector.envs.envs[0].unwrapped
    step = inner.step
    inner.step = lambda action: (seen.append(inner.m), step(action))[1]
    learner.iterate()
    learner.close()
    assert len(set(seen[:200])) == len(set(seen[200:])) == 1 and len(set(seen)) == 2
    assert all(0.5 <= m <= 2 for m in seen)


def test_a_run_and_its_agent_in_the_nominal_task(tmp_path):
    """The agent does not see the parameters: it acts, and is stressed, in the task itself."""
    sizes = {"learning_starts": 40, "log_every": 80, "hidden": (8,), "batch_size": 8}
    run = sf.train("rrls", "InvertedPendulum-v5", 80, run_dir=tmp_path / "run", loggers=(), set="rrls:1d", **sizes)
    assert run.config["method"] == "rrls" and run.config["hyperparameters"]["set"] == "rrls:1d"
    report = sf.stress(run.path, None, "rrls:1d", episodes=1, points=2)
    assert len(report.cell_means) == 2


def test_a_set_that_is_none_is_refused_before_any_work():
    with pytest.raises(UsageError, match="not a box of parameters"):
        sf.train("rrls", "Hopper-v5", 100, set="action-noise:0.1")
    with pytest.raises(UsageError, match="does not fit env='Pendulum-v1'"):
        sf.train("domain-randomization", "Pendulum-v1", 100)
