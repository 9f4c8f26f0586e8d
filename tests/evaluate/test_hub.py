"""Agents on the hub, and their cards: what goes up, what comes down, and what a stranger's repository may not do."""

from __future__ import annotations

import json

import fake_hub
import numpy as np
import pytest
import yaml

import surefoot as sf
from surefoot import cli
from surefoot.errors import UsageError
from surefoot.files import write_whole

pytest.importorskip("huggingface_hub")

SMALL = {"num_envs": 2, "num_steps": 16, "minibatch_size": 32, "epochs": 1, "hidden": (4,), "loggers": ()}
NAME = "someone/pole"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with fake_hub.serving() as (hub, address):
        fake_hub.connected(monkeypatch, address, tmp_path)
        yield hub


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    found = sf.train("ppo", "CartPole-v1", 32, num_seeds=2, run_dir=tmp_path_factory.mktemp("hub") / "run", **SMALL)
    sf.evaluate(found.path, episodes=4)
    sf.stress(found.path, perturb="observation-noise:0..0.2", episodes=2, points=2)
    write_whole(found.path / "video.mp4", b"film")
    return found


def header(text: str) -> dict:
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_a_fresh_card_says_what_it_is_and_what_was_not_measured(tmp_path):
    run = sf.train("ppo", "CartPole-v1", 32, run_dir=tmp_path / "run", **SMALL)
    text = (run.path / "agent" / "README.md").read_text()
    said = header(text)
    assert said["library_name"] == "surefoot" and {"ppo", "CartPole-v1", "reinforcement-learning"} <= {*said["tags"]}
    assert "model-index" not in said and "license" not in said
    assert f"not measured yet: `surefoot evaluate {run.path}`" in text and "Not measured" in text
    assert "None is stated" in text and f"agent = sf.load({str(run.path)!r})" in text


def test_measuring_renews_the_card(run):
    text = (run.path / "agent" / "seed-0" / "README.md").read_text()
    figures = json.loads((run.path / "evaluation.json").read_text())
    low, high = figures["mean_interval"]
    row = (
        f"| return | {figures['mean']:.6g}, 95 % interval [{low:.6g}, {high:.6g}] (4 episodes, deterministic actions) |"
    )
    assert row in text
    (entry,) = header(text)["model-index"]
    (metric,) = entry["results"][0]["metrics"]
    mean, deviation = np.mean(figures["returns"]), np.std(figures["returns"])
    assert metric["value"] == f"{mean:.2f} +/- {deviation:.2f}" and metric["type"] == "mean_reward"
    assert "| observation-noise:0..0.2 | " in text and "| 2 |" in text
    other = (run.path / "agent" / "seed-1" / "README.md").read_text()
    assert "not measured yet" in other  # what was measured is the first seed's agent


def test_pushed_and_loaded(run, hub, capsys):
    cli.main(["push", str(run.path), NAME, "--license", "mit", "--private"])
    assert NAME in capsys.readouterr().out
    files = hub.repositories[NAME]
    assert {*files} >= {"agent.json", "agent.safetensors", "README.md", "replay.mp4", "run/config.json"}
    assert "run/evaluation.json" in files and any(name.startswith("run/stress-") for name in files)
    assert hub.created[0].get("private") is True or hub.created[0].get("visibility") == "private"
    assert hub.messages == ["ppo on CartPole-v1"]
    text = files["README.md"].decode()
    assert header(text)["license"] == "mit" and "sf.load('hf:someone/pole')" in text
    everything = b"".join(data for name, data in files.items() if name != "agent.safetensors").decode()
    assert str(run.path) not in everything and "pytest" not in json.loads(files["run/config.json"]).get("command", "")
    seen = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    agent = sf.load(f"hf://{NAME}")
    ours, theirs = (one.predict(seen, deterministic=True)[0] for one in (run.agent(), agent))
    np.testing.assert_array_equal(ours, theirs)
    assert sf.evaluate(f"hf:{NAME}", episodes=4)["returns"] == sf.evaluate(run.path, episodes=4)["returns"]


def test_another_seed_goes_up_without_the_measurements_of_the_first(run, hub):
    sf.push(run, NAME, seed=1)
    files = hub.repositories[NAME]
    assert json.loads(files["agent.json"])["seed"] == 1 and "replay.mp4" not in files
    assert not any("stress" in name or "evaluation" in name for name in files)


def test_a_strangers_repository_is_data(run, hub):
    sf.push(run, NAME)
    said = json.loads(hub.repositories[NAME]["agent.json"])
    hub.repositories[NAME]["agent.json"] = json.dumps({**said, "env": {"env": "os:system"}}).encode()
    hub.repositories[NAME]["evil.py"] = b"raise SystemExit"
    with pytest.raises(UsageError, match="only a folder names is not run"):
        sf.evaluate(f"hf:{NAME}", episodes=1)
    hub.repositories["someone/else"] = {"model.zip": b""}
    with pytest.raises(UsageError, match="holds no agent"):
        sf.load("hf:someone/else")


def test_without_a_token_a_name_or_a_hub(run, tmp_path, monkeypatch):
    with fake_hub.serving() as (_, address):
        fake_hub.connected(monkeypatch, address, tmp_path, token=None)
        with pytest.raises(UsageError, match="hf auth login"):
            sf.push(run, NAME)
        with pytest.raises(UsageError, match="cannot be loaded from.*Check the name"):
            sf.load("hf:someone/nothing")
        fake_hub.connected(monkeypatch, address, tmp_path, token="hf_wrong")
        with pytest.raises(UsageError, match="cannot be pushed to.*may read or write"):
            sf.push(run, NAME)
    for wrong in ("pole", "a/b/c", "../a"):
        with pytest.raises(UsageError, match="must be user/name"):
            sf.push(run, wrong)
    with pytest.raises(UsageError, match="seed=7"):
        sf.push(run, NAME, seed=7)


def test_without_a_connection(run, tmp_path, monkeypatch):
    fake_hub.connected(monkeypatch, "http://127.0.0.1:9", tmp_path)
    with pytest.raises(UsageError, match="Check the connection"):
        sf.load(f"hf:{NAME}")
