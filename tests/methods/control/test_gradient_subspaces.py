"""The diagnostic leaves training as it is, goes on after a resume, and refuses what it cannot analyse."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common.run import Run, make_learner
from surefoot.methods.control.definitive_guide import VMPO
from surefoot.methods.control.fixpo import FixPO
from surefoot.methods.control.gradient_subspaces import GradientSubspaces, Subspaces
from surefoot.methods.control.gradient_subspaces.subspaces import analyse
from surefoot.methods.control.ppo import PPO
from surefoot.methods.control.spo import SPO

CONTEXT, TARGET, POLE = "surefoot/ContextualAction-v0", "surefoot/ContinuousTarget-v0", "CartPole-v1"
SMALL: dict[str, Any] = {"num_envs": 4, "num_steps": 64, "minibatch_size": 64, "epochs": 2, "hidden": (8,)}
CLOCK = ("time", "steps_per_second")
NAMES = {f"{s}subspace_fraction_{k}" for s in ("", "true_") for k in (1, 4)} | {"eigenvalue_1", "eigenvalue_4"}


def small(**settings: Any) -> GradientSubspaces:
    return GradientSubspaces(**{**SMALL, "analysis_every": 2, "subspaces": (1, 4), **settings})


def measured(row: dict[str, Any]) -> set[str]:
    return {name for name in row if "/" in name}


@pytest.mark.parametrize(
    "settings", [{}, {"penalty": "adaptive", "anneal": True}, {"core": "gru", "core_size": 2, "num_steps": 16}]
)
def test_it_trains_as_ppo_does_to_the_bit(settings):
    plain = make_learner(PPO(**{**SMALL, **settings}), POLE, [0, 1], 10**4)
    with_analysis = make_learner(small(analysis_every=1, **settings), POLE, [0, 1], 10**4)
    for _ in range(2):
        wanted, found = plain.iterate(), with_analysis.iterate()
        for one, other in zip(wanted, found, strict=True):
            assert one == {name: x for name, x in other.items() if "/" not in name}
            assert measured(other)
    assert torch.equal(plain.vector, with_analysis.vector)
    assert all(torch.equal(a, b) for a, b in zip(plain.adam, with_analysis.adam, strict=True))


def test_it_reports_when_due_and_overlaps_from_the_second_time_on():
    learner = make_learner(small(), TARGET, [0], 10**6)
    rows = [learner.iterate()[0] for _ in range(6)]
    assert [bool(measured(row)) for row in rows] == [False, True] * 3
    heads = ("actor", "critic", "combined")
    assert measured(rows[1]) == {f"{head}/{name}" for head in heads for name in NAMES}
    assert measured(rows[3]) == measured(rows[5]) == measured(rows[1]) | {f"{h}/subspace_overlap_4" for h in heads}
    for row in rows[1::2]:
        for head in heads:
            assert 0 <= row[f"{head}/subspace_fraction_1"] <= row[f"{head}/subspace_fraction_4"] <= 1
            assert row[f"{head}/eigenvalue_1"] >= row[f"{head}/eigenvalue_4"]
            assert 0 <= row.get(f"{head}/subspace_overlap_4", 0) <= 1


def test_overlap_is_1_where_nothing_has_moved():
    learner = make_learner(small(), TARGET, [0], 10**6)
    batch = learner.estimate(learner.collect(learner.vector))
    learner.method.analysis(learner, batch)
    metrics = learner.method.analysis(learner, batch)
    for head in ("actor", "critic", "combined"):
        assert float(metrics[f"{head}/subspace_overlap_4"]) == pytest.approx(1, abs=1e-6)


def test_a_resumed_run_reports_the_same(tmp_path):
    settings: dict[str, Any] = {"steps": 256 * 4, "loggers": (), "seed": 1}
    sf.train(small(), POLE, run_dir=tmp_path / "whole", **settings)
    sf.train(small(), POLE, run_dir=tmp_path / "cut", callbacks=[lambda li, _: li.iteration == 3], **settings)
    sf.resume(tmp_path / "cut")
    whole, cut = (
        [{k: v for k, v in row.items() if k not in CLOCK} for row in Run(tmp_path / name).metrics()]
        for name in ("whole", "cut")
    )
    assert whole == cut and "actor/subspace_overlap_4" in whole[3]


def test_the_callback_reports_on_another_method_and_changes_nothing(tmp_path):
    method, settings = SPO(**SMALL), {"steps": 256 * 4, "loggers": (), "num_seeds": 2}
    report = Subspaces(TARGET, every=2, steps=300, subspaces=(1, 4))
    plain = sf.train(method, TARGET, run_dir=tmp_path / "plain", **settings)
    watched = sf.train(method, TARGET, run_dir=tmp_path / "watched", callbacks=[report], **settings)
    rows = watched.metrics()
    for one, other in zip(plain.metrics(), rows, strict=True):
        assert {k: v for k, v in one.items() if k not in CLOCK} == {
            k: v for k, v in other.items() if k not in CLOCK and "/" not in k
        }
    assert torch.equal(plain.agent().vector, watched.agent().vector)
    assert [bool(measured(row)) for row in rows] == [False, False, True, True] * 2
    assert {f"critic/{name}" for name in NAMES} < measured(rows[2])
    assert "critic/subspace_overlap_4" not in rows[2] and "critic/subspace_overlap_4" in rows[6]
    assert rows[2]["actor/eigenvalue_1"] != rows[3]["actor/eigenvalue_1"]


def test_it_learns_which_action_is_right():
    learner = make_learner(small(learning_rate=1e-2, epochs=4, analysis_every=10), CONTEXT, [0], 10**6)
    rows = [learner.iterate()[0] for _ in range(15)]
    assert rows[0]["return"] < 0.3 and rows[-1]["return"] > 0.9


def test_explain_says_when_it_looks():
    assert "every 50 iterations" in sf.explain("gradient-subspaces")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shared": True}, "shared=True"),
        ({"subspaces": ()}, r"subspaces=\(\)"),
        ({"subspaces": (0, 4)}, r"subspaces=\(0, 4\)"),
        ({"analysis_every": 0}, "analysis_every=0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        small(**settings)


def test_the_callback_refuses_what_it_cannot_analyse():
    with pytest.raises(UsageError, match="every=0"):
        Subspaces(POLE, every=0)
    learner = make_learner(PPO(**SMALL, shared=True), POLE, [0], 10**6)
    with pytest.raises(UsageError, match="shared=True"):
        Subspaces(POLE, every=1)(learner, learner.iterate())
    learner = make_learner(VMPO(**SMALL), POLE, [0], 10**6)
    with pytest.raises(UsageError, match="VMPO does not step along the gradient of its objective"):
        Subspaces(POLE, every=1)(learner, learner.iterate())


def test_a_penalty_is_looked_at_with_the_weight_that_it_has():
    """FixPO and adaptive PPO change it; a fixed weight of the same size has the same curvature."""
    shared = {**SMALL, "standardize": False, "value_coefficient": 0.5, "log_std_init": 0.0}
    weighted = {"fixed": PPO(**shared, penalty="fixed", kl_coefficient=7.0)}
    weighted |= {"divergence_weight": PPO(**shared, penalty="adaptive"), "penalty_weight": FixPO(**shared)}
    found = []
    for name, method in weighted.items():
        learner = make_learner(method, TARGET, [0], 10**6)
        learner.extra |= {} if name == "fixed" else {name: torch.tensor([7.0])}
        batch = learner.estimate(learner.collect(learner.vector))
        found.append(analyse(learner, batch, batch, 3)[0]["actor"].eigenvalues)
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[2], found[0], rtol=1e-5, atol=1e-6)


def test_more_eigenvectors_than_parameters_are_refused_before_any_work():
    method = dataclasses.replace(small(), subspaces=(1, 500))
    with pytest.raises(UsageError, match="500 eigenvectors"):
        make_learner(method, POLE, [0], 10**6)
