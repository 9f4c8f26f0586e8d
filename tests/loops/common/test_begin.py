"""A run that starts from another's weights has them, goes on to the bit after a kill, and refuses what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common import checkpoint

SMALL = {"num_envs": 2, "num_steps": 16, "minibatch_size": 16, "epochs": 1, "hidden": (8,)}
OFF = {"learning_starts": 8, "batch_size": 8, "buffer_size": 200, "hidden": (8,), "train_every": 4}
QUIET = {"loggers": (), "compile": "off"}


def trained(path: Path, method: str = "ppo", steps: int = 64, **options):
    env = options.pop("env", "Pendulum-v1")
    defaults = SMALL if method in ("ppo", "spo") else OFF
    return sf.train(method, env, steps, run_dir=path, **QUIET, **{**defaults, **options})


def first(run) -> dict:
    return load_file(checkpoint.found(run.path)[0] / "state.safetensors")


def last(run) -> dict:
    return load_file(checkpoint.found(run.path)[-1] / "state.safetensors")


def same_bits(one, other) -> bool:
    return one.numpy().tobytes() == other.numpy().tobytes()


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("begin") / "old")


def test_a_run_begins_with_all_that_another_has_learned(old, tmp_path):
    new = trained(tmp_path / "new", start=old, steps=32, checkpoint_every=32)
    then, now = last(old), first(new)
    for name in ("weights", "observations//mean", "observations//count", "rewards/variance"):
        assert torch.equal(then[name], now[name]), name
    assert int(now["episodes/count"]) == 0 and not bool(now["adam/mean"].any())
    assert then["weights"].ne(last(new)["weights"]).any(), "and it learns from there"
    assert new.config["start"]["from"] == str(old.path) and len(new.config["start"]["sha256"]) == 64


def test_off_policy_methods_begin_with_critics_and_targets_or_with_the_actor_of_an_agent(tmp_path):
    old = trained(tmp_path / "old", "td3", steps=16)
    new, kept = (trained(tmp_path / name, "td3", start=x, steps=4) for name, x in (("a", old), ("b", old.agent())))
    then, names = last(old), [name for name in last(old) if name.startswith(("weights/", "targets/"))]
    assert len(names) >= 4 and all(torch.equal(then[name], first(new)[name]) for name in names)
    assert torch.equal(then["weights/actor"], first(kept)["weights/actor"])
    assert torch.equal(then["weights/actor"], first(kept)["targets/actor"])


def test_an_agent_alone_gives_the_same_policy(old, tmp_path):
    kept = first(trained(tmp_path / "new", start=old.path / "agent", steps=4))
    again = first(trained(tmp_path / "other", start=old.agent(), steps=4))
    assert all(same_bits(kept[name], again[name]) for name in kept)
    assert torch.equal(kept["weights"], last(old)["weights"])
    torch.testing.assert_close(kept["observations//variance"], last(old)["observations//variance"], rtol=1e-5, atol=0)


def test_one_seed_serves_many(old, tmp_path):
    now = first(trained(tmp_path / "new", start=old, steps=32, num_seeds=2))
    assert torch.equal(now["weights"][0], now["weights"][1]) and torch.equal(now["weights"][:1], last(old)["weights"])


def test_it_is_resumed_to_the_bit(old, tmp_path):
    whole = trained(tmp_path / "whole", start=old, steps=96)
    trained(tmp_path / "part", start=old, steps=96, callbacks=lambda learner, rows: learner.iteration == 2)
    part = sf.resume(tmp_path / "part")
    assert all(same_bits(x, last(part)[name]) for name, x in last(whole).items())


def test_one_killed_before_its_first_checkpoint_starts_again(old, tmp_path):
    whole = trained(tmp_path / "new", start=old, steps=32)
    for name in ("checkpoints", "agent"):
        for file in sorted((whole.path / name).rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        (whole.path / name).rmdir()
    (whole.path / "metrics.jsonl").unlink()
    with pytest.raises(UsageError, match="start it again as it was started"):
        sf.resume(whole.path)
    assert trained(tmp_path / "new", start=old, steps=32).config["start"]["from"] == str(old.path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"hidden": (9,)}, "its network is .*'hidden': \\(8,\\).* this run's is .*'hidden': \\(9,\\)"),
        ({"activation": "relu"}, "its network"),
        ({"normalize_observations": False}, "its normalised observation is \\[''\\], this run's is \\[\\]"),
        ({"env": "CartPole-v1"}, "its observation space"),
        ({"method": "td3"}, "its network is"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_folder_is_made(options, match, old, tmp_path):
    with pytest.raises(UsageError, match=match):
        trained(tmp_path / "new", start=old, **options)
    assert not (tmp_path / "new").exists()


def test_other_sources_are_refused(old, tmp_path):
    two = trained(tmp_path / "two", num_seeds=2)
    with pytest.raises(UsageError, match="several seeds"):
        trained(tmp_path / "new", start=two, num_seeds=3)
    with pytest.raises(UsageError, match="is not the folder of a run"):
        trained(tmp_path / "new", start=tmp_path / "nowhere")
    with pytest.raises(UsageError, match="only methods that act in environments"):
        sf.train("dynamic-pg", start=old, steps=2, run_dir=tmp_path / "new")
    json.dumps(trained(tmp_path / "one", start=two.path / "agent" / "seed-1", steps=32).config)
