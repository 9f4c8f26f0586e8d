"""`sf.align` and `surefoot align`: what constraints on a language model cost, before and after the training."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import language_micro as micro

import surefoot as sf
from surefoot.cli import main
from surefoot.errors import UsageError

BITS = micro.FewBits(3)
QUICK = {"beta": 0.5, "samples": 4, "max_tokens": 3, "dual_prompts": 6, "dual_samples": 64, "loggers": ()}


def ones(completions, **_):
    return [0.5 * text[:3].count("1") for text in completions]


def begins_with_zero(completions, **_):
    return [float(text[:1] == "0") for text in completions]


@pytest.fixture(scope="module")
def model():
    return micro.at_random(BITS)


def test_a_range_gives_the_front_and_trains_nothing(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = sf.align(model, {begins_with_zero: (0.2, 0.8)}, reward=ones, task=BITS, points=4, **QUICK)
    assert found.run is None and list(tmp_path.iterdir()) == []
    assert [one.threshold[0] for one in found.front] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    multipliers, rewards = (
        np.array([getattr(one, name)[0] for one in found.front]) for name in ("multipliers", "rewards")
    )
    assert multipliers[0] == 0 and (np.diff(multipliers) >= 0).all() and (np.diff(rewards) <= 1e-9).all()
    assert all(one.rewards[1] >= one.threshold[0] - 1e-6 for one in found.front)
    assert "reference" in found.table() and "≥ begins_with_zero" in found.table()


def test_a_number_trains_once_and_measures_before_and_after(model, tmp_path):
    found = sf.align(
        model, {begins_with_zero: 0.8}, reward=ones, task=BITS, steps=40, run_dir=tmp_path / "new", learning_rate=0.01,
        prompts=16, **QUICK,
    )  # fmt: skip
    assert found.run is not None and found.run.finished and found.run.config["method"] == "one-shot-safety"
    (row,) = found.run.metrics()[-1:]
    assert row["multiplier_1"] == pytest.approx(found.front[0].multipliers[0], abs=1e-6)
    assert found.before["begins_with_zero"].mean() < 0.8
    assert len(found.after["ones"]) == len(found.before["ones"]) == 200
    assert "held-out" in found.table() and "threshold still" not in found.table()
    unchanged = dataclasses.replace(found, after=found.before)
    assert "begins_with_zero is below its threshold still: train for more steps" in unchanged.table()


def test_a_run_brings_its_task_and_its_reward(model, tmp_path):
    run = sf.train("rloo", BITS, 1, model=model, reward=ones, max_tokens=3, run_dir=tmp_path / "run", loggers=())
    settings = {name: x for name, x in QUICK.items() if name != "max_tokens"}
    found = sf.align(run, {begins_with_zero: (0.3, 0.5)}, points=2, **settings, task=BITS)
    assert found.names == ("ones", "begins_with_zero") and len(found.front) == 2


def test_what_cannot_be_aligned_is_refused(model, tmp_path, capsys):
    for constraints, more, words in (
        ({begins_with_zero: 0.5}, {"task": BITS}, "reward is missing"),
        ({begins_with_zero: 0.5}, {"reward": ones}, "task is missing"),
        ({begins_with_zero: 1.5}, {"reward": ones, "task": BITS}, "no policy on these samples satisfies"),
        (["module:function"], {"reward": ones, "task": BITS}, "no number after its last ="),
        ([], {"reward": ones, "task": BITS}, "give reward functions with lower bounds"),
    ):
        with pytest.raises(UsageError, match=words):
            sf.align(model, constraints, **more, **QUICK)
    with pytest.raises(SystemExit, match="2"):
        main(["align", "nano", "--constraint", "judges:harmless"])
    assert "no number after its last =" in " ".join(capsys.readouterr().err.split())
