"""The law of methods that train networks on rows: a run, a resumed run and a fit give the same bits, and what is
refused."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from network_laws import numbers, the_seed_decides, together_as_alone
from pretended_device import Pretended, pretended
from torch.utils._pytree import tree_leaves

import surefoot as sf
from surefoot import api, catalogue
from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.evaluate.pages.folder import report
from surefoot.loops.common.run import make_learner
from surefoot.loops.supervised.learner import SupervisedLearner
from surefoot.loops.supervised.method import Supervised
from surefoot.supervised import estimator

CLASSES_OF = {e.slug: catalogue.method_class(e.slug) for e in catalogue.methods()}
METHODS = [slug for slug, cls in CLASSES_OF.items() if issubclass(cls, Supervised) and cls.any_table]
every_method = pytest.mark.parametrize("slug", METHODS)
STREAM = np.random.default_rng(5)
X = STREAM.normal(size=(40, 16))
WORDS = np.where(X[:, 0] + 0.3 * STREAM.normal(size=40) > 0, "yes", "no")
BESIDE = {"groups": np.arange(40) % 3, "clients": np.arange(40) % 4}
CLASSES = Table(X, WORDS, name="classes", shape=(1, 4, 4), **BESIDE)
VECTORS = Table(X, WORDS, **BESIDE)  # rows whose pixels have no neighbours
NUMBERS = Table(X, X[:, 0] - 2 * X[:, 3] + 0.1 * STREAM.normal(size=40), shape=(1, 4, 4), **BESIDE)


@pytest.fixture(autouse=True)
def _without_words():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "penalty=")  # a worst case that may not be the only one
        yield


def small(slug: str, **changes) -> Supervised:
    """The method at a size for tests. A method whose own sizes are large adds them here by name."""
    method = catalogue.method_class(slug)
    names = {f.name for f in dataclasses.fields(method)} - {*method.without_effect}
    sizes = {"batch_size": 16, "hidden": (8,), "ascent_steps": 2, "radius": 0.02}
    return method(**{k: v for k, v in {**sizes, **changes}.items() if k in names})


def learner(slug: str, seeds=(0,), table=CLASSES, steps: int = 6, device: str = "cpu", **changes) -> SupervisedLearner:
    return make_learner(small(slug, **changes), table, list(seeds), steps, device=device)


def train(slug: str, table: Table = CLASSES, steps: int = 4, loss: str = "logistic", **options):
    return api.train(small(slug, loss=loss), data=table, steps=steps, loggers=(), **options)


def takes(slug: str, loss: str) -> bool:
    """Whether a method has a loss."""
    field = next(f for f in dataclasses.fields(catalogue.method_class(slug)) if f.name == "loss")
    return loss in field.metadata["choices"]


@every_method
def test_same_seed_same_bits_and_another_seed_others(slug):
    the_seed_decides(lambda seeds: learner(slug, seeds))


@every_method
def test_a_seed_among_several_computes_what_it_computes_alone(slug):
    together_as_alone(lambda seeds: learner(slug, seeds))


@every_method
def test_stopped_and_resumed_is_the_same_run_to_the_bit(slug, tmp_path):
    """Also what is kept of every sample."""
    settings = {"steps": 6, "num_seeds": 2, "seed": 3, "held_out": 0.2}
    whole = train(slug, run_dir=tmp_path / "whole", **settings)
    cut = train(slug, run_dir=tmp_path / "cut", callbacks=lambda learner, _: learner.iteration == 3, **settings)
    assert len(cut.metrics()) == 6
    api.resume(cut, data=CLASSES)
    assert numbers([whole.metrics()]) == numbers([cut.metrics()])
    for seed in (3, 4):
        assert torch.equal(whole.agent(seed).vector, cut.agent(seed).vector)


@every_method
@pytest.mark.parametrize("loss", ["logistic", "squared"])
def test_a_fit_is_the_run_to_the_bit(slug, loss, tmp_path):
    if not takes(slug, loss):
        pytest.skip(f"it has no loss {loss}")
    method, given = small(slug, loss=loss), CLASSES if loss == "logistic" else NUMBERS
    if method.channels:
        pytest.skip("its rows are images, and an estimator's are vectors")
    table = Table(given.X, given.y, **BESIDE)
    run = train(slug, table, loss=loss, seed=7, run_dir=tmp_path / "run")
    model = estimator(type(method))(max_iter=4, random_state=7, **vars(method)).fit(table.X, table.y, **BESIDE)
    assert torch.equal(run.agent().vector, model.model_.vector) and model.n_iter_ == 4


@every_method
def test_every_network_learns_or_stays_and_all_stay_finite(slug):
    run = learner(slug)
    before = {name: x.clone() for name, x in run.weights.items()}
    for _ in range(6):
        run.iterate()
    for name, net in run.nets.items():
        name = net.of or name
        assert torch.isfinite(run.weights[name]).all(), name
        assert torch.equal(before[name], run.weights[name]) != net.trained, name


@every_method
def test_it_learns_what_the_rows_say(slug):
    run = learner(slug, table=VECTORS, steps=40, hidden=(16,), learning_rate=0.1)
    first = run.iterate()[0]["loss"]
    for _ in range(39):
        last = run.iterate()[0]
    assert last["loss"] < first and last["accuracy"] > 0.85


@every_method
def test_a_model_is_saved_loaded_and_measured(slug, tmp_path):
    run = train(slug, run_dir=tmp_path / "run", held_out=0.3)
    model = sf.load(run)
    assert set(model.predict(X)) <= {"yes", "no"} and model.probabilities(X).sum(-1) == pytest.approx(1)
    figures = sf.evaluate(run, data=CLASSES)
    assert figures["samples"] == 40 and 0 <= figures["accuracy"] <= 1
    low, high = figures["accuracy_interval"]
    assert low <= figures["accuracy"] <= high and set(figures["groups"]) == {"0", "1", "2"}
    assert "Mean loss of the worst tenth" in report(run).read_text()
    assert "model.predict(X)" in (run.path / "agent" / "README.md").read_text()
    row = run.metrics()[-1]
    assert {"held_out_accuracy", "held_out_calibration_error", "held_out_worst_group_loss", "loss/1"} <= row.keys()


@every_method
def test_an_epoch_on_a_device_is_that_on_the_cpu(slug):
    here = learner(slug, (0, 1))
    rows = [here.iterate() for _ in range(2)]
    with pretended() as device:
        there = learner(slug, (0, 1), device=device)
        assert [there.iterate() for _ in range(2)] == rows
        assert all(isinstance(x, Pretended) for x in tree_leaves((there.weights, there.averages, there.columns)))
        state, model = there.state(), there.agent()
    assert all(torch.equal(x, state[name]) for name, x in here.state().items())
    assert torch.equal(model.vector, here.agent().vector) and not isinstance(model.vector, Pretended)


@every_method
@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        (CLASSES.rows(np.arange(1)), {}, "one row"),
        (NUMBERS, {}, "measurements, not classes"),
        (Table(X, ["a"] * 40), {}, "one class, 'a', in all 40 rows"),
        (CLASSES, {"held_out": 0.99}, "both parts need some"),
        (CLASSES, {"compile": "on"}, "compile='on' is not allowed"),
        (CLASSES, {"evaluate_every": 2}, "held_out=0.2"),
        (CLASSES, {"device": "gpu"}, "device='gpu' is not allowed"),
    ],
)
def test_mistakes_are_refused_before_any_work(slug, table, options, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        train(slug, table, run_dir=tmp_path / "run", **options)
    assert list(tmp_path.iterdir()) == []


@every_method
def test_explain_says_what_runs(slug):
    text = api.explain(slug)
    method = catalogue.method_class(slug)
    for field in dataclasses.fields(method):
        assert (f"\n  {field.name} " in text) == (field.name not in method.without_effect) and field.metadata["help"]
    assert "minimise" in text and len(text.partition("\nCLAIM")[0].splitlines()) < 100
