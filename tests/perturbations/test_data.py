"""Corruption of data sets: how many rows, how far, and that everything else stays to the bit."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from micro_data import made, walk_data

import surefoot as sf
from surefoot.cli import main
from surefoot.data.transitions import COLUMNS
from surefoot.errors import UsageError
from surefoot.perturbations.data import COLUMN, Corruption, corrupted, corruptions

DATA = walk_data(400)  # 4,000 rows


def others_same(one, other, column: str) -> bool:
    return all((getattr(one, name) == getattr(other, name)).all() for name in COLUMNS if name != column)


@pytest.mark.parametrize("element", COLUMN)
def test_a_share_of_the_rows_is_changed_within_the_scale(element):
    part, column = Corruption(element, 0.3, 0.5), COLUMN[element]
    found = part(DATA)
    assert others_same(found, DATA, column)
    before, after = getattr(DATA, column), getattr(found, column)
    moved = np.abs(after.astype(float) - before).reshape(len(DATA), -1)
    rows = moved.any(1)
    assert abs(rows.mean() - 0.3) < 0.03 and (rows == part.rows(len(DATA))).mean() > 0.99
    if element == "reward":
        assert np.abs(after[rows]).max() <= 15 and np.abs(after[rows]).mean() == pytest.approx(7.5, rel=0.1)
    else:
        assert (moved <= 0.5 * before.std(0, dtype=float) * (1 + 1e-6) + 1e-6).all()
        if element != "action":  # which are clipped
            wanted = 0.25 * before.std(0, dtype=float)  # the mean size of a uniform change
            np.testing.assert_allclose(moved[rows].mean(0), wanted, rtol=0.1)


@pytest.mark.parametrize("element", COLUMN)
def test_nothing_is_changed_at_rate_0_and_the_same_seed_changes_the_same(element):
    assert Corruption(element, 0.0)(DATA).digest() == DATA.digest()
    one, again, other = (Corruption(element, 0.2, seed=seed)(DATA) for seed in (1, 1, 2))
    assert one.digest() == again.digest() != other.digest()
    if element != "reward":
        assert Corruption(element, 0.5, 0.0)(DATA).digest() == DATA.digest()


def test_adversarial_rewards_flip_their_sign():
    part = Corruption("reward", 0.3, 1.0, "adversarial")
    found, rows = part(DATA), part.rows(len(DATA))
    assert (found.reward[rows] == -DATA.reward[rows]).all() and (found.reward[~rows] == DATA.reward[~rows]).all()


def test_ends_and_the_box_of_actions_stay():
    found = corrupted(DATA, "observation:1 + action:1,scale=9 + reward:1 + dynamics:1")
    assert (found.terminated == DATA.terminated).all() and (found.truncated == DATA.truncated).all()
    assert np.abs(found.action).max() == 1 and not found.follows.all()
    for column in ("observation", "action", "reward", "next_observation"):
        assert (getattr(found, column) != getattr(DATA, column)).mean() > 0.9
    assert corrupted(DATA, None) is DATA


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A run whose critics have learned a little."""
    place = tmp_path_factory.mktemp("judge") / "run"
    options = {"steps": 200, "log_every": 100, "hidden": (16,), "learning_rate": 3e-3, "loggers": ()}
    return sf.train("td3-bc", data=walk_data(100), run_dir=place, **options)


@pytest.mark.parametrize("element", ["observation", "action", "dynamics"])
def test_adversarial_changes_are_worse_than_random_ones_for_the_critics(element, judge):
    data = walk_data(30)
    parts = {law: Corruption(element, 1.0, 1.0, law, agent=a) for law, a in
             (("random", None), ("adversarial", str(judge.path)))}  # fmt: skip
    agent, values = sf.load(judge.path), {}
    for law, part in parts.items():
        found = part(data)
        deviation = getattr(data, COLUMN[element]).std(0, dtype=float)
        moved = np.abs(getattr(found, COLUMN[element]) - getattr(data, COLUMN[element]))
        assert (moved <= deviation * (1 + 1e-5) + 1e-6).all() and others_same(found, data, COLUMN[element])
        s, a, after = (torch.from_numpy(getattr(found, k)) for k in ("observation", "action", "next_observation"))
        said = agent.judge(after, None) if element == "dynamics" else agent.judge(s, a)
        assert said.shape == (2, len(data))
        values[law] = said.mean().item()
    assert values["adversarial"] < values["random"] - 0.02
    assert parts["adversarial"](data).digest() == parts["adversarial"](data).digest()


def test_a_text_is_read_as_it_is_printed():
    text = "dynamics:0.1,scale=2,seed=3 + reward:0.3,law=adversarial"
    parts = corruptions(text)
    assert parts == (Corruption("dynamics", 0.1, 2.0, seed=3), Corruption("reward", 0.3, law="adversarial"))
    assert " + ".join(map(str, parts)) == text and corruptions("dynamics") == (Corruption(),)
    assert str(Corruption("action", 0.5, 0.25, "adversarial", 1, "run")) == (
        "action:0.5,scale=0.25,law=adversarial,seed=1,agent=run"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dynamic:0.3", "Did you mean 'dynamics'"),
        ("dynamics:1.3", r"rate=1.3 is not allowed; it must be a number in \[0, 1\]"),
        ("dynamics:0.3,2", "'2' has no name; write dynamics:0.3,scale=1"),
        ("dynamics:0.3,scale=x", "scale='x' is not a number"),
        ("dynamics:0.3,size=1", "has no hyperparameter 'size'"),
        ("dynamics:0.3,law=adversarial", "needs critics to deceive: add agent=RUN"),
        ("dynamics:0.3,agent=run", "agent='run' has no effect with dynamics, law='random'"),
        ("dynamics:0.3,law=adversarial,agent=nowhere", "agent='nowhere' is not the folder of a run or an agent"),
    ],
)
def test_a_text_that_makes_no_sense_is_refused(text, said):
    with pytest.raises(UsageError, match=said):
        corrupted(DATA, text)


def test_discrete_actions_are_not_shifted():
    with pytest.raises(UsageError, match="not allowed for discrete actions"):
        Corruption("action")(made(space=gym.spaces.Discrete(3)))


def test_runs_record_the_corruption_and_resume_on_it(tmp_path, capsys):
    sf.write_dataset(walk_data(), place := tmp_path / "walk.npz")
    options = ["--steps", "60", "--log-every", "20", "--hidden", "8", "--batch-size", "16", "--loggers"]
    corrupt = ["--corrupt", "reward:0.5,law=adversarial"]
    main(["train", "riql", "--data", str(place), *corrupt, *options, "--run-dir", str(tmp_path / "whole")])
    run = sf.Run(tmp_path / "whole")
    assert run.config["env"]["corrupt"] == "reward:0.5,law=adversarial" and "--corrupt" in run.config["command"]
    stop = [lambda one, _: one.iteration == 1]
    settings = {"log_every": 20, "hidden": (8,), "batch_size": 16, "loggers": (), "steps": 60}
    sf.train("riql", data=place, corrupt=Corruption("reward", 0.5, law="adversarial"), run_dir=tmp_path / "cut",
             callbacks=stop, **settings)  # fmt: skip
    assert torch.equal(sf.resume(tmp_path / "cut").agent().vector, run.agent().vector)
    clean = sf.train("riql", data=place, run_dir=tmp_path / "clean", **settings)
    assert not torch.equal(clean.agent().vector, run.agent().vector)
    with pytest.raises(UsageError, match="corrupt='reward:0.1' differs from this run's own 'reward:0.5"):
        sf.resume(tmp_path / "whole", steps=20, corrupt="reward:0.1")
    capsys.readouterr()
    main(["dataset", "convert", str(place), str(tmp_path / "bad.npz"), "--corrupt", "dynamics:0.3,seed=2"])
    wanted = Corruption("dynamics", 0.3, seed=2)(walk_data())
    assert sf.dataset(tmp_path / "bad.npz").digest() == wanted.digest()
