"""The law of methods on finite sums: a run, a resumed run and a fit give the same bits, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import surefoot as sf
from surefoot import api, catalogue
from surefoot.ambiguity import Priced
from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.evaluate.pages.folder import report
from surefoot.loops.common.run import Run
from surefoot.loops.finite_sum.method import FiniteSum
from surefoot.loops.finite_sum.solvers import SOLVERS
from surefoot.supervised import estimator

METHODS = [e.slug for e in catalogue.methods() if issubclass(catalogue.method_class(e.slug), FiniteSum)]
every_method = pytest.mark.parametrize("slug", METHODS)
CLOCK = ("time", "steps_per_second")
STREAM = np.random.default_rng(5)
X = STREAM.normal(size=(30, 3))
NUMBERS = Table(X, X @ [1.0, 0.5, -2.0] + STREAM.standard_t(3, size=30), groups=np.arange(30) % 3)
CLASSES = Table(X, np.where(X[:, 0] + STREAM.normal(size=30) > 0, "yes", "no"), name="classes")


def numbers(run: Run) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in run.metrics()]


def train(slug: str, table: Table = NUMBERS, steps: int = 3, **options):
    return api.train(slug, data=table, steps=steps, loggers=(), **options)


@every_method
@pytest.mark.parametrize("solver", ["auto", *SOLVERS])
def test_stopped_and_resumed_is_the_same_run_to_the_bit(slug, solver, tmp_path):
    options = {"steps": 4, "num_seeds": 2, "seed": 3, "solver": solver, "batch_size": 8, "held_out": 0.2}
    if solver == "saddle-saga" and not isinstance(catalogue.method_class(slug)().ambiguity_of(9), Priced):
        with pytest.raises(UsageError, match="solver='saddle-saga' is not allowed here"):
            train(slug, run_dir=tmp_path / "run", **options)
        return
    whole = train(slug, run_dir=tmp_path / "whole", **options)
    cut = train(slug, run_dir=tmp_path / "cut", callbacks=lambda learner, _: learner.iteration == 2, **options)
    assert len(cut.metrics()) == 4
    api.resume(cut, data=NUMBERS)
    assert numbers(whole) == numbers(cut)
    for seed in (3, 4):
        assert (whole.agent(seed).coef == cut.agent(seed).coef).all()


@every_method
@pytest.mark.parametrize("solver", ["prospect", "lbfgs"])
def test_a_fit_is_the_run_to_the_bit(slug, solver, tmp_path):
    run = train(slug, seed=7, solver=solver, run_dir=tmp_path / "run")
    model = estimator(catalogue.method_class(slug))(max_iter=3, random_state=7, solver=solver).fit(NUMBERS.X, NUMBERS.y)
    assert (run.agent().predict(X) == model.predict(X)).all()
    assert model.objective_ == run.metrics()[-1]["objective"]
    assert model.weights_.sum() == pytest.approx(1) and len(model.weights_) == 30 and model.n_iter_ == 3


@every_method
def test_a_seed_among_several_computes_what_it_computes_alone(slug, tmp_path):
    together = train(slug, run_dir=tmp_path / "together", num_seeds=2, seed=1, solver="prospect")
    alone = train(slug, run_dir=tmp_path / "alone", seed=2, solver="prospect")
    assert (together.agent(2).coef == alone.agent().coef).all()
    assert (together.agent(1).coef != alone.agent().coef).any()


@every_method
def test_a_model_is_saved_loaded_and_measured(slug, tmp_path):
    run = train(slug, CLASSES, loss="logistic", run_dir=tmp_path / "run", held_out=0.3)
    model = sf.load(run)
    assert set(model.predict(X)) <= {"yes", "no"} and model.probabilities(X).sum(-1) == pytest.approx(1)
    with pytest.raises(UsageError, match="names its samples|arrays or a data frame"):
        sf.evaluate(run)  # arrays have no name by which a folder finds them
    figures = sf.evaluate(run, data=CLASSES)
    assert figures["samples"] == 30 and 0 <= figures["accuracy"] <= 1 and "accuracy" in figures["table"]
    assert (run.path / "measured.json").exists()
    page = report(run).read_text()
    assert "Mean loss of the worst tenth" in page and "held-out rows" in page
    assert "model.predict(X)" in (run.path / "agent" / "README.md").read_text()
    assert "classes" in repr(run.agent())


@every_method
def test_groups_and_held_out_rows_are_measured(slug, tmp_path):
    row = train(slug, run_dir=tmp_path / "run", held_out=0.3).metrics()[-1]
    assert {f"loss/{g}" for g in range(3)} <= row.keys()
    assert {"held_out_loss", "held_out_tail_loss", "held_out_r2", "held_out_worst_group_loss"} <= row.keys()
    assert row["tail_loss"] >= row["loss"] and row["return_mean"] == -row["objective"]


@every_method
def test_other_samples_are_refused_when_a_run_is_resumed(slug, tmp_path):
    run = train(slug, run_dir=tmp_path / "run")
    with pytest.raises(UsageError, match="does not hold the samples that this run was started with"):
        api.resume(run, data=NUMBERS.rows(NUMBERS.index[::-1]), steps=1)
    assert api.resume(run, data=NUMBERS, steps=1).metrics()[-1]["iteration"] == 4


@every_method
@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        (NUMBERS.rows(np.arange(1)), {}, "one row"),
        (CLASSES, {}, "no numbers; to learn classes give loss='logistic'"),
        (NUMBERS, {"loss": "logistic"}, "measurements, not classes"),
        (Table(X, ["a"] * 30), {"loss": "logistic"}, "one class, 'a', in all 30 rows"),
        (NUMBERS, {"held_out": 0.99}, "both parts need some"),
        (NUMBERS, {"compile": "on"}, "compile='on' is not allowed"),
        (NUMBERS, {"evaluate_every": 2}, "held_out=0.2"),
        (NUMBERS, {"solver": "newton"}, "solver='newton' is not allowed"),
    ],
)
def test_mistakes_are_refused_before_any_work(slug, table, options, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        train(slug, table, run_dir=tmp_path / "run", **options)
    assert list(tmp_path.iterdir()) == []


@every_method
def test_a_class_that_was_not_seen_is_refused(slug, tmp_path):
    run = train(slug, CLASSES, loss="logistic", run_dir=tmp_path / "run")
    with pytest.raises(UsageError, match="class 'maybe' of row 2 was not seen"):
        sf.evaluate(run, data=Table(X[:3], ["yes", "no", "maybe"]))


@every_method
def test_what_acts_in_environments_is_refused(slug, tmp_path):
    run = train(slug, run_dir=tmp_path / "run")
    with pytest.raises(UsageError, match="it acts in no environment"):
        sf.stress(run.agent(), NUMBERS, "observation-noise:0.1")


@every_method
def test_weights_that_are_not_finite_end_the_run(slug, tmp_path):
    with pytest.raises(UsageError, match="no longer finite.*smaller learning_rate"):
        train(slug, run_dir=tmp_path / "run", solver="prospect", learning_rate=1e200)


@every_method
def test_explain_says_what_runs(slug):
    for solver in ("prospect", "lbfgs"):
        page = api.explain(slug, solver=solver)
        assert SOLVERS[solver].words in page and "minimise" in page
    for field in dataclasses.fields(catalogue.method_class(slug)):
        assert field.name in page and field.metadata.get("help")


@every_method
def test_a_checkpoint_of_another_table_does_not_fit(slug):
    from surefoot.loops.finite_sum.learner import FiniteSumLearner

    one, other = (
        FiniteSumLearner(catalogue.method_class(slug)(solver="prospect"), t, [0]) for t in (NUMBERS, CLASSES_4)
    )
    with pytest.raises(UsageError, match="does not fit"):
        one.load(other.state(), 1, 0)
    assert all(isinstance(x, torch.Tensor) and x.dtype == torch.float64 for x in one.state().values())


CLASSES_4 = Table(np.hstack([X, X[:, :1]]), NUMBERS.y)
