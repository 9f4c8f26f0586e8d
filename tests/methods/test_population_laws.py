"""The law every method of populations is held to: the same bits, alone or among others, whole or resumed, here or
there."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from pretended_device import Pretended, pretended

import surefoot as sf
from surefoot import catalogue
from surefoot.errors import UsageError
from surefoot.loops.common.run import Run, make_learner
from surefoot.loops.population.method import Population

CLASSES = {catalogue.method_class(e.slug): e.slug for e in reversed(catalogue.methods())}
METHODS = [slug for method, slug in CLASSES.items() if issubclass(method, Population)]
CLOCK = ("time", "steps_per_second")
SMALL = {"num_envs": 2, "num_steps": 8, "minibatch_size": 8, "hidden": (4,), "epochs": 1, "response_steps": 32}
ITERATIONS = 7  # each side has answered the other, and there are two agents
every_method = pytest.mark.parametrize("slug", METHODS)


def small(slug: str, **changes) -> Population:
    """The method at a size for tests."""
    return catalogue.method_class(slug)(**{**SMALL, "payoff_episodes": 2, "budget": 0.1, **changes})


def learner(slug: str, seeds=(0,), env="surefoot/ContinuousTarget-v0", device="cpu", **changes):
    return make_learner(small(slug, **changes), env, list(seeds), 10**6, device=device)


def numbers(history) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in CLOCK} for rows in history for row in rows]


def same(one, other) -> bool:
    """Whether two states are equal to the bit; where no episode has ended yet there are NaNs."""
    mine, theirs = (run if isinstance(run, dict) else run.state() for run in (one, other))
    bits = [torch.allclose(x, theirs[name], rtol=0, atol=0, equal_nan=True) for name, x in mine.items()]
    return mine.keys() == theirs.keys() and all(bits)


@every_method
@pytest.mark.parametrize("channel", ["observation", "action"])
def test_same_seed_same_bits_and_a_saved_state_goes_on_alike(slug, channel):
    first, second, other = (learner(slug, [seed], channel=channel) for seed in (1, 1, 2))
    histories = [numbers([run.iterate() for _ in range(ITERATIONS)]) for run in (first, second, other)]
    assert histories[0] == histories[1] != histories[2]
    fresh = learner(slug, [1], channel=channel)
    fresh.load(first.state(), first.iteration, 0)
    assert numbers([first.iterate()]) == numbers([second.iterate()]) == numbers([fresh.iterate()])
    assert same(first, second) and same(first, fresh)


@every_method
def test_a_seed_among_several_computes_what_it_computes_alone(slug):
    together, alone = learner(slug, [4, 5]), learner(slug, [5])
    for _ in range(ITERATIONS):
        rows, (single,) = together.iterate(), alone.iterate()
        for name, value in single.items():
            assert rows[1][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    torch.testing.assert_close(together.agents[1], alone.agents[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(together.payoffs[1], alone.payoffs[0], rtol=1e-3, atol=1e-4)


@every_method
def test_stopped_and_resumed_is_the_same_run_and_its_agent_acts(slug, tmp_path):
    method, settings = small(slug), {"steps": 150, "loggers": (), "seed": 7, "compile": "off"}
    env = "surefoot/ContinuousTarget-v0"
    sf.train(method, env, run_dir=tmp_path / "whole", **settings)
    sf.train(method, env, run_dir=tmp_path / "cut", callbacks=[lambda one, _: one.iteration == 3], **settings)
    sf.resume(tmp_path / "cut")
    whole, cut = (Run(tmp_path / name) for name in ("whole", "cut"))
    assert numbers([whole.metrics()]) == numbers([cut.metrics()])
    agents = whole.agent(), cut.agent()
    observation = np.stack([agents[0].observation_space.sample() for _ in range(3)]).clip(-1, 1)
    drawn = []
    for agent in agents:
        torch.manual_seed(0)
        drawn.append(agent.predict(observation, deterministic=True)[0])
    np.testing.assert_array_equal(*drawn)
    assert agents[0].rule == agents[1].rule and len(agents[0].members) >= 1
    assert all(agents[0].action_space.contains(a) for a in drawn[0])
    assert np.isfinite(sf.evaluate(whole.path, episodes=3)["returns"]).all()


@every_method
def test_another_device_gives_the_same_bits(slug):
    here = learner(slug, response_steps=16)
    rows = [here.iterate() for _ in range(3)]
    with pretended() as device:
        there = learner(slug, response_steps=16, device=device)
        assert numbers([there.iterate() for _ in range(3)]) == numbers(rows)
        state = there.state()
    assert not any(isinstance(x, Pretended) for x in state.values())
    assert same(here, state)


@every_method
def test_discrete_actions_are_played(slug):
    run = learner(slug, env="CartPole-v1", response_steps=16)
    for _ in range(3):
        run.iterate()
    assert torch.isfinite(run.payoffs).all() and (run.payoffs > 0).all()


@every_method
@pytest.mark.parametrize(
    ("env", "changes", "words"),
    [
        ("surefoot/DictContext-v0", {}, "one vector"),
        ("CartPole-v1", {"channel": "action"}, "bounded Box"),
    ],
)
def test_what_cannot_be_attacked_is_refused(slug, env, changes, words):
    with pytest.raises(UsageError, match=words):
        learner(slug, env=env, **changes)


@every_method
def test_a_damaged_state_is_refused(slug):
    run = learner(slug)
    state = run.state()
    for name, x in (
        ("game/agents", torch.zeros(1, 2, 3)),
        ("agent/weights", torch.zeros(1, 2)),
        ("more/x", torch.ones(1)),
    ):
        with pytest.raises(UsageError, match="does not fit"):
            run.load({**state, name: x}, 0, 0)


@every_method
def test_explain_shows_formula_steps_and_every_hyperparameter(slug):
    text, method = sf.explain(slug), catalogue.method_class(slug)
    listed = text.partition("HYPERPARAMETERS")[2].partition("\nCLAIM\n")[0].partition("\nPRESETS")[0]
    table = [line.split()[0] for line in listed.splitlines() if line.startswith("  ")]
    for field in dataclasses.fields(method):
        assert (field.name in table) == (field.name not in {*method.without_effect, "parts"}), field.name
