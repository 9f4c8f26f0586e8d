"""A run is taken wherever a policy is, and shows itself and its agent in one line and in a notebook."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import surefoot as sf
from surefoot.cli import main
from surefoot.models.tabular_agent import TabularAgent

SMALL = {"num_envs": 2, "num_steps": 16, "minibatch_size": 32, "epochs": 1, "hidden": (8,), "loggers": ()}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> sf.Run:
    return sf.train("ppo", "CartPole-v1", 96, run_dir=tmp_path_factory.mktemp("run") / "run", **SMALL)


@pytest.fixture
def run(made, tmp_path) -> sf.Run:
    return sf.Run(shutil.copytree(made.path, tmp_path / "run"))


CALLS = {
    "evaluate": (lambda policy: sf.evaluate(policy, episodes=2), "evaluation.json"),
    "stress": (lambda policy: sf.stress(policy, perturb="sticky-action:0..0.5", episodes=2, points=2), "stress-"),
    "audit": (lambda policy: sf.audit(policy, families=["timing"], episodes=2, points=2), "audit.json"),
    "certify": (lambda policy: sf.certify(policy, sigma=0.1, episodes=8, at_least=[5.0]), "certif"),
    "diagnose": (lambda policy: sf.diagnose(policy, perturb=(), episodes=2), ""),
    "generalize": (lambda policy: sf.generalize(policy, train=["param:length=0.3..0.7"], contexts=2, episodes=1), ""),
    "report": (sf.report, "report.html"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_run_is_taken_like_its_folder(name, run):
    """Each function plays the run's agent in the run's environment, and keeps its result in the run's folder."""
    call, kept = CALLS[name]
    before = {p.name for p in run.path.iterdir()}
    ours = call(run)
    new = {p.name for p in run.path.iterdir()} - before
    assert any(n.startswith(kept) for n in new) if kept else not new
    if name != "report":
        assert type(ours) is type(call(str(run.path)))


def test_a_run_is_played_as_the_agent_in_it(run):
    ours = sf.evaluate(run, episodes=3, seed=4)
    assert ours["env"] == "CartPole-v1"
    assert ours["returns"] == sf.evaluate(sf.load(run), "CartPole-v1", episodes=3, seed=4)["returns"]
    assert torch.equal(sf.load(run).vector, run.agent().vector)


def test_a_run_shows_itself(run):
    rows = run.metrics()
    assert str(run).startswith(f"Run({str(run.path)!r}): ppo · CartPole-v1 · seed 0 · steps 96")
    page = run._repr_html_()
    assert "<td>ppo</td>" in page and "<td>CartPole-v1</td>" in page and "<svg" in page
    points = re.search(r'points="([^"]+)"', page).group(1).split()
    heights = [float(p.split(",")[1]) for p in points]
    values = [r["return"] for r in rows if "return" in r]
    assert len(points) == len(values) and np.argmin(heights) == np.argmax(values), "the best is the highest"


def test_an_unfinished_run_says_how_far_it_is(tmp_path):
    run = sf.train("ppo", "CartPole-v1", 96, run_dir=tmp_path / "cut", time_limit=1e-9, num_seeds=2, **SMALL)
    assert "seeds 0, 1 · steps 32 of 96" in repr(run)


def test_a_damaged_run_still_has_a_repr(run):
    assert (
        "is not the folder of a run" in repr(sf.Run(Path("nowhere"))) and "damaged" in sf.Run(Path("x"))._repr_html_()
    )
    (run.path / "metrics.jsonl").write_text("{\n")
    assert "steps 0 of 96" in repr(run) and "<svg" not in run._repr_html_()
    config = json.loads((run.path / "config.json").read_text())
    config["env"]["env"] = "<script>\x1b[2J"
    (run.path / "config.json").write_text(json.dumps(config))
    assert "\x1b" not in repr(run) and "<script>" not in run._repr_html_()


def test_an_agent_says_what_it_is(run):
    size = sf.load(run).flat.size
    assert repr(sf.load(run)) == (
        f"Agent(ppo on CartPole-v1 · 96 steps · seed 0 · Box(4,) → Discrete(2) · {size:,} weights)"
    )
    assert repr(TabularAgent(torch.eye(2))) == "TabularAgent(table [2, 2])"


def test_what_is_printed_next_runs_in_a_new_process(tmp_path, monkeypatch, capsys):
    """A run in an environment of the user's own, whose files alone must not import it."""
    (tmp_path / "mine.py").write_text(
        "import gymnasium as gym\n"
        "from gymnasium.envs.classic_control.cartpole import CartPoleEnv\n"
        "gym.register('Mine-v0', entry_point=CartPoleEnv, max_episode_steps=20)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    small = ["--num-envs", "2", "--num-steps", "32", "--minibatch-size", "32", "--steps", "64", "--loggers"]
    main(["train", "ppo", "--env", "mine:Mine-v0", "--run-dir", "run", *small])
    last = capsys.readouterr().out.strip().splitlines()[-1]
    commands = [command.split() for command in last.removeprefix("next: ").split(" · ")]
    assert [words[1] for words in commands] == ["evaluate", "stress", "report"]
    done = subprocess.run(
        [sys.executable, "-m", "surefoot.cli", *commands[0][1:], "--episodes", "2"], text=True, capture_output=True
    )
    assert done.returncode == 0 and "mine:Mine-v0" in done.stdout, done.stderr
    main(["train", "ppo", "--env", "CartPole-v1", "--run-dir", "plain", *small])
    assert "--trust" not in capsys.readouterr().out
