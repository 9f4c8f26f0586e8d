"""Data sets made here, and what is said of one."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
from micro_data import made, target_data

import surefoot as sf
from surefoot.cli import main
from surefoot.data.described import described, suggested
from surefoot.errors import UsageError

QUICK = {"hidden": (8,), "batch_size": 8, "learning_starts": 20, "log_every": 50}


def successors(data) -> bool:
    """Whether every row's next observation follows from it in the pendulum: the angle moves by the speed after it."""
    angle, speed = (np.arctan2(x[:, 1], x[:, 0]) for x in (data.observation, data.next_observation)), None
    before, after = angle
    speed = data.next_observation[:, 2]
    apart = (after - before - 0.05 * speed + np.pi) % (2 * np.pi) - np.pi
    return bool(np.abs(apart).max() < 1e-3)


@pytest.mark.parametrize("recipe", ["random", "medium-replay", "medium"])
def test_every_row_is_a_step_of_the_environment(recipe):
    more = {"train_steps": 60} if recipe == "medium" else {}
    data = sf.record("Pendulum-v1", recipe, 450, **more, **({} if recipe == "random" else QUICK))
    assert len(data) == 450 and successors(data) and data.follows.all() and not data.terminated.any()
    assert data.action_space == gym.spaces.Box(-2, 2, (1,), np.float32) and data.facts["recipe"] == recipe
    again = sf.record("Pendulum-v1", recipe, 450, **more, **({} if recipe == "random" else QUICK))
    assert again.digest() == data.digest()


def test_rewards_and_ends_are_those_of_the_step():
    data = sf.record("surefoot/ContinuousTarget-v0", "random", 40, seed=3)
    np.testing.assert_allclose(data.reward, -((data.action - data.observation / 2)[:, 0] ** 2), rtol=1e-5)
    assert data.terminated.all() and data.episodes == 40


def test_the_replay_of_several_environments_is_one_episode_after_another():
    data = sf.record("Pendulum-v1", "medium-replay", 500, num_envs=2, **QUICK)
    assert len(data) == 500 and successors(data) and data.follows.all()


def test_discrete_actions_are_recorded():
    data = sf.record("CartPole-v1", "random", 100)
    assert data.discrete and data.action_space == gym.spaces.Discrete(2) and data.terminated.any()


def test_an_agent_is_recorded(tmp_path):
    run = sf.train("bc", data=target_data(), steps=40, log_every=20, hidden=(8,), loggers=(), run_dir=tmp_path / "run")
    data = sf.record("surefoot/ContinuousTarget-v0", "expert", 50, agent=run.path)
    acted = sf.load(run.path).predict(data.observation, deterministic=True)[0]
    np.testing.assert_allclose(acted, data.action, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"recipe": "medum"}, "Did you mean 'medium'"),
        ({"recipe": "random", "agent": "run"}, "agent='run' has no effect with recipe='random'"),
        ({"recipe": "medium-replay", "train_steps": 5}, "train_steps=5 has no effect"),
        ({"recipe": "medium", "method": "ppo"}, "recipes train off-policy methods"),
        ({"steps": 0}, "steps=0 is not allowed"),
        ({"env": "surefoot/DictContext-v0", "recipe": "random"}, "a data set holds one array of each a step"),
    ],
)
def test_recipes_that_do_not_go_together_are_refused(arguments, said):
    with pytest.raises(UsageError, match=said):
        sf.record(**{"env": "Pendulum-v1", **arguments})


def test_what_is_said_of_data():
    text = described(made())
    assert "made: 8 transitions in 3 episodes" in text and "2 terminated, 1 cut" in text
    assert "actions (2,) in [-2, 2]" in text and "nothing is odd" in text
    data = made()
    shuffled = np.random.default_rng(0).permutation(8)
    odd = dataclasses.replace(data, next_observation=data.next_observation[shuffled], reward=np.zeros(8))
    text = described(odd)
    assert "odd: in " in text and "rows are shuffled, left out or corrupted" in text
    assert "odd: all rewards are 0: only cloning" in text and "nothing is odd" not in text
    still = dataclasses.replace(data, observation=data.observation * [1, 0, 1])
    assert "coordinates 1 of the observations never change" in described(still)
    edge = dataclasses.replace(data, action=np.full((8, 2), 2.0), terminated=np.zeros(8, bool))
    assert "100% of the actions are at a bound" in described(edge) and "no episode terminated" in described(edge)
    unknown = dataclasses.replace(data, action=2 * data.action, action_space=None)
    assert "the data do not say their box" in described(unknown) and "an unknown box" in described(unknown)
    assert "actions Discrete(3)" in described(made(space=gym.spaces.Discrete(3)))
    assert "a single episode" in described(made((5,)))
    twice = dataclasses.replace(data, observation=np.zeros((8, 3)), action=np.zeros((8, 2)))
    assert "88% of the rows repeat" in described(twice)


def test_the_method_to_begin_with_is_that_of_the_data():
    data = made()
    assert suggested(data) == "iql" and suggested(made(space=gym.spaces.Discrete(3))) is None
    assert suggested(dataclasses.replace(data, reward=np.ones(8))) == "bc"
    assert suggested(dataclasses.replace(data, facts={"recipe": "expert"})) == "bc"


def test_from_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["dataset", "make", "Pendulum-v1", "--to", "pend.npz", "--recipe", "random", "--steps", "300"])
    out = capsys.readouterr().out
    assert "300 transitions" in out and "next: surefoot train iql --data pend.npz --env Pendulum-v1" in out
    main(["dataset", "make", "CartPole-v1", "--to", "cart.npz", "--recipe", "random", "--steps", "50"])
    assert "next: surefoot train dqn --env CartPole-v1   (what learns from data alone" in capsys.readouterr().out
    main(["dataset", "show", "pend.npz"])
    assert "recipe=random" in capsys.readouterr().out
    main(["dataset", "convert", "pend.npz", "ogbench:og.npz"])
    assert capsys.readouterr().out == "written: og.npz\n" and len(sf.dataset("og.npz")) == 300
    main(["dataset"])
    page = capsys.readouterr().out
    assert all(f"  {name}" in page for name in ("show", "make", "convert"))
    for action in ("show", "make", "convert"):
        with pytest.raises(SystemExit) as ended:
            main(["dataset", action, "--help"])
        assert ended.value.code == 0
        assert "usage: surefoot dataset" in capsys.readouterr().out
    for words, said in ((["dataset", "shw"], "Did you mean 'show'"), (["dataset", "show", "no.npz"], "is not there")):
        with pytest.raises(SystemExit):
            main(words)
        assert said in " ".join(capsys.readouterr().err.split())
