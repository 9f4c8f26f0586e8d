"""A run whose policy collapses is found out once, and the weights that wrote best before are kept."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import surefoot as sf
from surefoot.evaluate.pages.folder import report as write_page
from surefoot.loops.common import checkpoint
from surefoot.loops.group_rollout.guard import WINDOW, Watch
from surefoot.models.language.nano import Nano, fresh

TINY = Nano(width=16, layers=1, heads=2, context=48, warmup=0)
LARGE, TOO_LARGE = 0.1, 20.0  # the first learns in ten iterations to write nothing but digits


def digits(completions, **_):
    return [sum(x.isdigit() for x in text) / max(1, len(text)) for text in completions]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A model that knows nothing yet."""
    return fresh(TINY, seed=1).save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def folder(start, tmp_path_factory):
    """A model that has learned to write digits more often than not."""
    return train(start, tmp_path_factory.mktemp("runs") / "good", learning_rate=LARGE, steps=8).path / "agent"


def train(folder, run_dir, **changes):
    given = {"learning_rate": TOO_LARGE, "steps": 12, "patience": None, "seed": 0, "loggers": (), "checkpoint_every": 3}
    size = {"prompts": 4, "samples": 8, "max_tokens": 6, "max_grad_norm": None}
    task = "arithmetic:digits=1,terms=2"
    return sf.train("grpo", task=task, model=folder, reward=digits, run_dir=run_dir, **{**given, **size, **changes})


def collapsing(folder, run_dir, **changes):
    with pytest.warns(UserWarning, match="The run has collapsed") as caught:
        run = train(folder, run_dir, **changes)
    return run, [str(w.message) for w in caught if "has collapsed" in str(w.message)]


def weights(agent):
    return {name: w.detach().clone() for name, w in agent.model.parameters().items()}


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return collapsing(folder, tmp_path_factory.mktemp("runs") / "run")


def test_a_step_size_that_is_much_too_high_is_found_out_once_and_the_good_weights_are_kept(folder, run, tmp_path):
    found, (said,) = run
    rewards = found.curve()[1][0]
    best = found.agent(best=True)
    good = best.facts["steps"]
    assert rewards[good] == rewards.max() > 0.5 and rewards[-WINDOW:].mean() < 0.3
    flagged = [row.get("collapsed") for row in found.metrics()]
    first = next(i for i, x in enumerate(flagged) if x is not None)
    assert first < 10 and set(flagged[first:]) == {first + 1}
    for part in (f"and was {best.facts['reward_mean']:.3g} in iteration {good + 1}", "entropy", "KL", str(TOO_LARGE)):
        assert part.removesuffix(".0") in said
    assert f"the best weights, of iteration {good + 1}, are kept in {found.path / 'best'}" in said
    assert f"In iteration {first + 1} the policy was found" in write_page(found.path).read_text()
    # They are those that wrote that batch, not what a step made of them.
    kept, ended, begun = (weights(one) for one in (best, sf.load(found.path), sf.load(folder)))
    assert good == 0 and all(torch.equal(kept[name], w) for name, w in begun.items())
    assert not all(torch.equal(kept[name], w) for name, w in ended.items())
    asked = {"prompts": ["1+1=", "2+3="], "samples": 32}
    assert sum(digits(best.texts(**asked))) / 64 > 0.5 > 0.3 > sum(digits(sf.load(found.path).texts(**asked))) / 64
    # Training goes on from them.
    again = train(found.path / "best", tmp_path / "again", learning_rate=LARGE / 10, steps=6)
    assert again.curve()[1][0].min() > 0.5


@pytest.mark.parametrize("cut", [2, 5, 9])
def test_a_resumed_run_keeps_the_same_weights_and_warns_no_second_time(cut, folder, run, tmp_path):
    whole, _ = run
    with warnings.catch_warnings(record=True) as first:
        warnings.simplefilter("always")
        train(folder, tmp_path / "cut", callbacks=[lambda learner, _: learner.iteration == cut])
    with warnings.catch_warnings(record=True) as second:
        warnings.simplefilter("always")
        sf.resume(tmp_path / "cut", reward=digits)
    assert sum("has collapsed" in str(w.message) for w in [*first, *second]) == 1
    (a, _), (b, _) = (checkpoint.read(checkpoint.latest(path)) for path in (whole.path, tmp_path / "cut"))
    assert a.keys() == b.keys() and all(torch.equal(x, b[n]) for n, x in a.items())
    for name in ("model.safetensors", "agent.json"):
        assert (whole.path / "best" / name).read_bytes() == (tmp_path / "cut/best" / name).read_bytes()


def test_a_good_run_is_not_warned_and_its_best_weights_are_late_ones(start, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = train(start, tmp_path / "run", learning_rate=LARGE)
    best = found.agent(best=True).facts["steps"]
    assert best > 6
    # They are what as many steps make of the first ones.
    stopped = train(start, tmp_path / "stopped", learning_rate=LARGE, steps=best)
    kept = weights(found.agent(best=True))
    assert all(torch.equal(kept[name], w) for name, w in weights(sf.load(stopped.path)).items())
    assert not any("collapsed" in row for row in found.metrics())


def test_an_adapter_is_kept_as_one(folder, tmp_path):
    found = train(folder, tmp_path / "run", lora=2, learning_rate=0.01, steps=2)
    assert (found.path / "best/adapter_config.json").exists()
    assert sf.load(found.path, best=True).texts(["1+1="])


def test_an_evaluation_outranks_the_reward_of_training(folder, tmp_path):
    found, (said,) = collapsing(folder, tmp_path / "run", keep_best=True, evaluate_every=1, evaluate_episodes=8)
    facts = found.agent(best=True).facts
    rows = found.metrics()
    assert facts["evaluation_mean"] == max(row["evaluation_mean"] for row in rows)
    assert f"of iteration {facts['steps'] + 1}, are kept" in said


# --- what counts as a collapse ---------------------------------------------------------------------------------------


def seen(rows, count=64):
    """What is known after iterations with these mean rewards (of 0 and 1), entropies and divergences."""
    watch = Watch.start()
    for i, (reward, entropy, kl) in enumerate(rows):
        ones = round(reward * count)
        each = torch.cat([torch.ones(ones), torch.zeros(count - ones)])
        watch = watch.rewarded([SimpleNamespace(reward=each[torch.randperm(count)].view(8, -1))])
        watch = watch.keeping(i) if watch.better else watch
        watch = watch.learned({"entropy": entropy, "divergence": kl} if entropy else {})
    return watch


@pytest.mark.parametrize(
    ("now", "found"),
    [
        ((0.5, 1.0, 0.0), False),
        ((0.35, 1.0, 0.0), False),  # less, but not by half
        ((0.1, 1.0, 0.0), True),  # reward
        ((0.35, 0.01, 0.0), True),  # less than at first, and no entropy left
        ((0.35, 1.0, 2.0), True),  # less than at first, and far from the reference
        ((0.9, 0.001, 2.0), False),  # solved: nothing is wrong with a certain policy
        ((0.35, None, None), False),
    ],
)
def test_reward_entropy_and_divergence_are_watched(now, found):
    torch.manual_seed(0)
    assert seen([(0.5, 1.0, 0.01)] * WINDOW + [now] * WINDOW, count=640).found is found


def test_a_fall_that_chance_explains_is_none():
    torch.manual_seed(0)
    assert not seen([(0.12, 1.0, 0.0)] * WINDOW + [(0.05, 1.0, 0.0)] * WINDOW, count=16).found


def test_the_scale_of_the_rewards_does_not_matter():
    def of(scale, shift):
        torch.manual_seed(1)
        watch = Watch.start()
        for level in [0.0] * 6 + [-0.8] * 6:
            watch = watch.rewarded([SimpleNamespace(reward=scale * (level + torch.rand(16, 4)) + shift)])
            watch = watch.keeping(0) if watch.better else watch
            watch = watch.learned({})
        return watch.found

    assert of(1.0, 0.0) and of(100.0, -1e4) and not of(0.0, 1.0)
