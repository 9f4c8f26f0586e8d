"""The law every game of two on-policy learners is held to: two learners, one run, to the same bits."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from pretended_device import Pretended, pretended
from test_laws import numbers
from torch.utils._pytree import tree_leaves, tree_unflatten

import surefoot as sf
from surefoot import catalogue
from surefoot.errors import UsageError
from surefoot.loops.common.compile import traced
from surefoot.loops.common.run import Run, make_learner
from surefoot.loops.on_policy.game import Game, OnPolicyGame

CLASSES = {catalogue.method_class(e.slug): e.slug for e in reversed(catalogue.methods())}
GAMES = [slug for method, slug in CLASSES.items() if issubclass(method, OnPolicyGame)]
every_game = pytest.mark.parametrize("slug", GAMES)
DISCRETE, CONTINUOUS = ("CartPole-v1", "param:length=0.3..0.7"), ("Pendulum-v1", "action-mix:0.3")


def small(slug: str, adversary: str, **changes):
    sizes = {"num_envs": 2, "num_steps": 16, "minibatch_size": 16, "hidden": (8,), "epochs": 2, "cg_iterations": 2}
    method = catalogue.method_class(slug)
    names = {f.name for f in dataclasses.fields(method)}
    return method(**{k: v for k, v in {**sizes, "adversary": adversary, **changes}.items() if k in names})


def game(slug: str, kind=DISCRETE, seeds=(0,), device: str = "cpu", compile: str = "off", **changes) -> Game:
    env, adversary = kind
    return make_learner(small(slug, adversary, **changes), env, list(seeds), 10**6, device=device, compile=compile)


def vectors(run: Game) -> torch.Tensor:
    return torch.cat([player.vector for player in run.players.values()], 1)


@every_game
@pytest.mark.parametrize("updates", ["alternate", "simultaneous"])
def test_same_seed_same_bits_and_both_learn(slug, updates):
    runs = [game(slug, seeds=[seed], updates=updates) for seed in (1, 1, 2)]
    before = {name: player.vector.clone() for name, player in runs[0].players.items()}
    histories = [numbers([run.iterate() for _ in range(2)]) for run in runs]
    assert histories[0] == histories[1] and torch.equal(vectors(runs[0]), vectors(runs[1]))
    assert not torch.equal(vectors(runs[0]), vectors(runs[2]))
    for name, player in runs[0].players.items():
        assert not torch.equal(before[name], player.vector), name
    assert runs[0].steps == 2 * runs[0].method.pace


@every_game
@pytest.mark.parametrize("kind", [DISCRETE, CONTINUOUS])
def test_a_seed_among_several_computes_what_it_computes_alone(slug, kind):
    together, alone = game(slug, kind, [4, 5, 6]), game(slug, kind, [5])
    for _ in range(2):
        rows, (single,) = together.iterate(), alone.iterate()
        for name, value in single.items():
            assert rows[1][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    torch.testing.assert_close(vectors(together)[1], vectors(alone)[0], rtol=0, atol=1e-4)


@every_game
def test_its_gradient_step_can_be_compiled(slug, monkeypatch):
    def first_pass(function, *example):
        graph, _, form = traced(function, example)
        return lambda *arguments: tree_unflatten(graph(*tree_leaves(arguments)), form)

    monkeypatch.setattr("surefoot.loops.common.compile.compiled", first_pass)
    eager, native = (game(slug, CONTINUOUS, compile=compile) for compile in ("off", "on"))
    for _ in range(2):
        assert native.iterate()[0] == pytest.approx(eager.iterate()[0], rel=1e-4, abs=1e-5)


@every_game
@pytest.mark.parametrize("changes", [{"protagonist_turns": 2}, {"updates": "simultaneous"}, {"core": "gru"}])
def test_stopped_and_resumed_is_the_same_run_of_all_players_to_the_bit(slug, changes, tmp_path):
    env, adversary = DISCRETE
    method = small(slug, adversary, **changes)
    settings = {"steps": method.pace * 3, "loggers": (), "seed": 7}
    sf.train(method, env, run_dir=tmp_path / "whole", **settings)
    sf.train(method, env, run_dir=tmp_path / "cut", callbacks=[lambda one, _: one.iteration == 2], **settings)
    sf.resume(tmp_path / "cut")
    whole, cut = (Run(tmp_path / name) for name in ("whole", "cut"))
    assert numbers([whole.metrics()]) == numbers([cut.metrics()])
    for player in ("agent", "adversary"):
        one, other = (sf.load(run.path / player) for run in (whole, cut))
        assert torch.equal(one.vector, other.vector), player


@every_game
def test_an_iteration_on_a_device_is_that_on_the_cpu(slug):
    here = game(slug)
    rows = here.iterate()
    with pretended() as device:
        there = game(slug, device=device)
        assert there.iterate() == rows
        assert all(isinstance(player.vector, Pretended) for player in there.players.values())
        state = there.state()
    mine = here.state()
    assert state.keys() == mine.keys()
    for name, x in mine.items():
        torch.testing.assert_close(state[name], x, rtol=0, atol=0, equal_nan=True)


@every_game
def test_explain_shows_formula_steps_and_every_hyperparameter(slug):
    text = sf.explain(slug)
    method = catalogue.method_class(slug)
    listed = text.partition("HYPERPARAMETERS")[2].partition("\nCLAIM\n")[0].partition("\nPRESETS")[0]
    table = [line.split()[0] for line in listed.splitlines() if line.startswith("  ")]
    for field in dataclasses.fields(method):
        assert (field.name in table) == (field.name not in {*method.without_effect, "parts"}), field.name
    assert "from r, then 1 times the adversary, from −r" in text


@every_game
def test_what_cannot_be_played_is_refused_before_any_work(slug, tmp_path):
    place = {"run_dir": tmp_path / "run"}
    for env, changes, words in (
        ("CartPole-v1", {}, "name them: force:3,body=torso"),
        ("Hopper-v5", {"adversary": "observation-noise:0.1"}, "nothing to choose"),
        ("Hopper-v5", {"perturb": "observation-noise:0.1"}, "no perturb="),
        ("Hopper-v5", {"fraction": 2.0}, "fraction=2.0"),
        ("Hopper-v5", {"updates": "simultaneous", "adversary_turns": 2}, "both learn from every batch"),
    ):
        with pytest.raises(UsageError, match=words):
            sf.train(slug, env, 100, **changes, **place)
    assert not (tmp_path / "run").exists()
