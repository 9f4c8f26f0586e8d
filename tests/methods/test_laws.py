"""The law every on-policy method is held to: it learns what can be learnt, in every kind of space, to the same bits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_unflatten

import surefoot as sf
from surefoot import catalogue
from surefoot.errors import UsageError
from surefoot.loops.common.compile import traced
from surefoot.loops.common.run import Run, make_learner
from surefoot.loops.on_policy.method import OnPolicy

CLASSES = {catalogue.method_class(e.slug): e.slug for e in reversed(catalogue.methods())}  # a class under one slug
METHODS = [slug for method, slug in CLASSES.items() if issubclass(method, OnPolicy) and method.loop == "on-policy"]
CLOCK = ("time", "steps_per_second")
QUICK = {"epochs": 2, "behaviour_epochs": 2, "behaviour_minibatches": 1, "fixup_sweeps": 2, "analysis_every": 1000}
BASE = "ppo"  # the loop as it stands: it is tried in everything, the others in the cheapest place that can break them
every_method = pytest.mark.parametrize("slug", METHODS)


def small(slug: str, **changes) -> OnPolicy:
    """The method at a size for tests: small batches, the paper's own step sizes and coefficients."""
    method = catalogue.method_class(slug)
    names = {f.name for f in dataclasses.fields(method)} - set(method.without_effect)
    sizes = {"num_envs": 8, "num_steps": 16, "minibatch_size": 32, "hidden": (16,), "draws": 3, "acting_draws": 9}
    sizes |= {**QUICK, **changes}
    return method(**{k: v for k, v in sizes.items() if k in names})


def learner(slug: str, env: str, seeds=(0,), **changes):
    return make_learner(small(slug, **changes), env, list(seeds), 10**6)


def numbers(history) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in CLOCK} for rows in history for row in rows]


@every_method
def test_same_seed_same_bits_and_another_seed_others(slug):
    runs = [learner(slug, "CartPole-v1", [seed]) for seed in (1, 1, 2)]
    histories = [numbers([run.iterate() for _ in range(2)]) for run in runs]
    assert histories[0] == histories[1]
    assert torch.equal(runs[0].vector, runs[1].vector)
    assert not torch.equal(runs[0].vector, runs[2].vector)


@pytest.mark.parametrize(
    ("slug", "env"), [(BASE, "CartPole-v1"), *((s, "surefoot/ContinuousTarget-v0") for s in METHODS)]
)
def test_a_seed_among_several_computes_what_it_computes_alone(slug, env):
    together, alone = learner(slug, env, [4, 5, 6]), learner(slug, env, [5])
    for _ in range(2):
        rows, (single,) = together.iterate(), alone.iterate()
        for name, value in single.items():
            assert rows[1][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    torch.testing.assert_close(together.vector[1], alone.vector[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("slug", "env"), [(BASE, "CartPole-v1"), *((s, "surefoot/ContinuousTarget-v0") for s in METHODS)]
)
def test_its_gradient_step_can_be_compiled(slug, env, monkeypatch):
    """The compiler's first pass, in which a method can break; what comes after it knows no methods."""

    def first_pass(function, *example):
        graph, leaves, form = traced(function, example)
        shapes = [x.shape for x in leaves]

        def call(*arguments):
            given = tree_leaves(arguments)
            assert [x.shape for x in given] == shapes
            return tree_unflatten(graph(*given), form)

        return call

    monkeypatch.setattr("surefoot.loops.common.compile.compiled", first_pass)
    eager, native = (make_learner(small(slug), env, [0], 10**6, compile=compile) for compile in ("off", "on"))
    for _ in range(2):
        assert native.iterate()[0] == pytest.approx(eager.iterate()[0], rel=1e-4, abs=1e-5)
    torch.testing.assert_close(native.vector, eager.vector, rtol=0, atol=1e-5)


@every_method
def test_stopped_and_resumed_is_the_same_run_to_the_bit(slug, tmp_path):
    method = small(slug)
    settings = {"steps": method.num_envs * method.num_steps * 4, "loggers": (), "seed": 7}
    sf.train(method, "CartPole-v1", run_dir=tmp_path / "whole", **settings)
    sf.train(method, "CartPole-v1", run_dir=tmp_path / "cut", callbacks=[lambda li, _: li.iteration == 2], **settings)
    sf.resume(tmp_path / "cut")
    whole, cut = (Run(tmp_path / name) for name in ("whole", "cut"))
    assert numbers([whole.metrics()]) == numbers([cut.metrics()])
    assert torch.equal(whole.agent().vector, cut.agent().vector)
    assert predicted(whole.agent()) == predicted(cut.agent())


def predicted(agent) -> np.ndarray:
    """Its action for one observation; a smoothed agent draws noise for it."""
    torch.manual_seed(0)
    return agent.predict(np.array([[0.1, -0.2, 0.03, 0.4]], np.float32), deterministic=True)[0]


KINDS: tuple[tuple[str, dict], ...] = (
    ("surefoot/MaskedAction-v0", {"core": "lstm"}),  # a dict, a mask and a state between steps at once
    ("surefoot/MaskedAction-v0", {}),
    ("surefoot/MemoryCue-v0", {"core": "gru"}),
    ("surefoot/DictContext-v0", {"cnn": "impala", "num_steps": 4}),
    ("surefoot/MultiDiscreteTarget-v0", {}),
    ("surefoot/ContinuousTarget-v0", {"squash": True}),
)


@pytest.mark.parametrize(
    ("slug", "env", "changes"), [*((BASE, *kind) for kind in KINDS), *((s, *KINDS[0]) for s in METHODS if s != BASE)]
)
def test_every_kind_of_space_and_network_runs(slug, env, changes):
    run = learner(slug, env, [0], **changes)
    before = learnt(run)
    for _ in range(3):
        run.iterate()
        if not torch.equal(before, learnt(run)):
            break
    assert torch.isfinite(run.vector).all()
    assert not torch.equal(before, learnt(run))


def learnt(run) -> torch.Tensor:
    """All that a method adjusts: its weights, and what else it keeps (a twin's weights, a multiplier)."""
    return torch.cat([run.vector.flatten(), *(x.double().flatten().float() for x in run.extra.values())])


@every_method
def test_illegal_actions_are_never_taken(slug):
    run = learner(slug, "surefoot/MaskedAction-v0")
    for _ in range(2):
        rollout = run.collect(run.vector)
        legal = rollout.observation["action_mask"][:-1].gather(-1, rollout.action.unsqueeze(-1))
        assert legal[rollout.valid].bool().all()


@every_method
def test_a_misspelled_hyperparameter_is_refused_with_the_nearest_name(slug):
    with pytest.raises(UsageError, match="num_stepz.*'num_steps'"):
        sf.train(slug, "CartPole-v1", 100, num_stepz=3)


@every_method
def test_explain_shows_formula_steps_and_every_hyperparameter(slug):
    text = sf.explain(slug)
    for heading in ("OBJECTIVE", "ALGORITHM", "HYPERPARAMETERS"):
        assert heading in text
    method = catalogue.method_class(slug)
    listed = text.partition("HYPERPARAMETERS")[2].partition("\nCLAIM\n")[0].partition("\nPRESETS")[0]
    table = [line.split()[0] for line in listed.splitlines() if line.startswith("  ")]
    for field in dataclasses.fields(method):
        assert (field.name in table) == (field.name not in {*method.without_effect, "parts"}), field.name
