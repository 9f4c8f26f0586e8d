"""MaxMin-RLHF: groups by EM, the exact worst-case policy, and the three modes of the learner."""

from __future__ import annotations

import random

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import surefoot as sf
from surefoot.claims.preference.tilted import divergence, maxmin, plain
from surefoot.envs.language import resolve
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.preference.maxmin_rlhf import MaxMinRLHF, lowered
from surefoot.methods.preference.reward_mixture import RewardMixture, explained, grouped
from surefoot.models.language.generation import generate
from surefoot.models.language.nano import Nano, fresh

F64 = torch.float64
TINY = Nano(width=16, layers=1, heads=2, context=48, warmup=0)
THIRD = torch.full((1, 3), 1 / 3, dtype=F64)
REWARDS = torch.tensor([[[1, 0, 0.55]], [[0.2, 1, 0.5]]], dtype=F64)

# --- the exact problem -----------------------------------------------------------------------------------------------


def test_the_worst_mixture_at_the_cards_numbers():
    policy, mixture, value = maxmin(THIRD, REWARDS, 0.1)
    assert mixture.tolist() == pytest.approx([0.454582, 0.545418], abs=1e-5)
    assert policy[0].tolist() == pytest.approx([0.400436, 0.333645, 0.265918], abs=1e-5)
    means = (REWARDS * policy).sum(-1).squeeze(1)
    assert means.tolist() == pytest.approx([0.546692] * 2, abs=1e-5)
    price = divergence(policy, THIRD).item()
    assert price == pytest.approx(0.013672, abs=1e-5)
    assert value == pytest.approx(0.545324, abs=1e-6) and value == pytest.approx(means.min().item() - 0.1 * price)


def test_one_reward_neglects_the_other_group_and_the_minimum_of_each_answer_is_another_problem():
    single = plain(THIRD, REWARDS[0], 0.1)
    assert single[0].tolist() == pytest.approx([0.988969, 0.000045, 0.010986], abs=1e-6)
    assert (single * REWARDS[1]).sum().item() == pytest.approx(0.203332, abs=1e-5)
    least = plain(THIRD, REWARDS.amin(0), 0.1)
    assert least[0].tolist() == pytest.approx([0.047123, 0.006377, 0.946499], abs=1e-5)
    means = (REWARDS * least).sum(-1).squeeze(1)
    assert means.tolist() == pytest.approx([0.567698, 0.489052], abs=1e-5)
    assert means.min().item() - 0.1 * divergence(least, THIRD).item() == pytest.approx(0.402015, abs=1e-5)


def test_weights_that_shrink_with_means_find_the_worst_mixture():
    log_weights, total = torch.zeros(2, dtype=F64).log_softmax(0), torch.zeros(2, dtype=F64)
    for _ in range(4000):
        policy = plain(THIRD, torch.tensordot(log_weights.exp(), REWARDS, 1), 0.1)
        log_weights = lowered(log_weights, (REWARDS * policy).sum(-1).squeeze(1), 0.05)
        total += log_weights.exp() / 4000
    assert total.tolist() == pytest.approx([0.454582, 0.545418], abs=2e-3)
    swapped = lowered(log_weights.flip(0), torch.tensor([0.3, 0.1], dtype=F64), 0.5)
    torch.testing.assert_close(lowered(log_weights, torch.tensor([0.1, 0.3], dtype=F64), 0.5), swapped.flip(0))


# --- groups by EM ----------------------------------------------------------------------------------------------------


def test_a_person_joins_the_group_that_explains_all_pairs_best():
    gaps = torch.tensor([[1, -1], [2, 0.5], [-0.5, 0.2]], dtype=F64)
    likelihood = explained(gaps, torch.zeros(3, dtype=torch.int64), 1)
    assert likelihood[0].tolist() == pytest.approx([-1.414267, -2.385478], abs=1e-6)
    assert likelihood.softmax(1)[0, 0].item() == pytest.approx(0.725361, abs=1e-6)
    two = explained(torch.cat([gaps, gaps.flip(1)]), torch.tensor([0, 0, 0, 1, 1, 1]), 2)
    assert grouped(two).tolist() == [0, 1]


def test_an_empty_group_gets_the_person_who_is_explained_worst():
    likelihood = torch.tensor([[-1.0, -2, -3], [-5, -6, -7], [-2, -3, -4], [-9, -1, -9]])
    assert grouped(likelihood).tolist() == [0, 2, 0, 1]


def test_the_groups_of_annotators_are_found(tmp_path):
    """Two of eight people prefer fewer ones, the others more."""
    drawn, rows = random.Random(0), []
    for person in range(8):
        for _ in range(12):
            one, other = ("".join(drawn.choice("01") for _ in range(4)) for _ in range(2))
            if (more := one.count("1") - other.count("1")) == 0:
                continue
            pair = (one, other) if (more > 0) != (person % 4 == 0) else (other, one)
            rows.append({"prompt": "=", "chosen": pair[0], "rejected": pair[1], "annotator": f"p{person}"})
    method = RewardMixture(regroup=20)
    run = LanguageLearner(
        method,
        fresh(TINY, seed=1),
        resolve(rows),
        make_rewards(resolve(rows), None, None),
        generate,
        learning_rate=0.01,
    )
    rows = [run.iterate()[0] for _ in range(61)]
    group = run.memory["group"].tolist()
    assert [x == group[0] for x in group] == [person % 4 == 0 for person in range(8)]
    assert rows[0]["likelihood"] == pytest.approx(-0.693147, abs=1e-5) and rows[-1]["likelihood"] > -0.4
    assert rows[-1]["accuracy"] > 0.9
    likes = run.agent().scores(["=", "="], ["1111", "0000"])
    assert (likes[0] > likes[1]).tolist() == [group[0] != 0, group[0] != 1]


# --- the learner -----------------------------------------------------------------------------------------------------


def short(completions, **_):
    return [-float(len(text)) for text in completions]


def early(completions, **_):
    return [100.0 + 5 * sum(ord(letter) < 80 for letter in text) for text in completions]


def learner(method, rewards=(short, early), **settings):
    task = resolve("arithmetic:digits=1")
    return LanguageLearner(
        method, fresh(TINY, seed=1), task, make_rewards(task, list(rewards), None), generate, **settings
    )


@pytest.mark.parametrize("mode", ["group_argmin", "mirror", "pointwise_min"])
def test_rewards_of_every_mode_by_hand(mode):
    method = MaxMinRLHF(prompts=4, samples=4, max_tokens=5, mode=mode, beta=0.3, smoothing=0.5, group_rate=2.0)
    run = learner(method, learning_rate=0.02)
    first = run.collect()[0]
    assert first.progress.memory["means"].abs().max() < 1e-5  # of standardised rewards of the reference
    run.drawn = run.batches = 0
    run.iterate()
    before = run.memory
    rollout, _ = run.collect()
    raw = torch.stack([rollout.components["short"], rollout.components["early"]], -1)
    scores = (raw - before["mean"]) / before["scale"]
    running = 0.5 * before["means"] + 0.5 * scores.mean((0, 1))
    weights = (before["log_weights"] - 2 * scores.mean((0, 1))).softmax(0)
    reward = {
        "group_argmin": scores[..., running.argmin()],
        "mirror": scores @ weights,
        "pointwise_min": scores.amin(-1),
    }[mode]
    with torch.no_grad():
        now, then = (run.model.statistics(rollout.sequences, reference=x).log_prob.sum(1) for x in (False, True))
    torch.testing.assert_close(rollout.reward, reward - 0.3 * (now - then).view(4, 4), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rollout.progress.memory["means"], running)
    assert rollout.logged_rows["worst"].unique().item() == pytest.approx(running.min().item())


def test_the_minimum_of_each_answer_is_a_lower_bound():
    found = {}
    for mode in ("group_argmin", "pointwise_min"):
        rollout, _ = learner(MaxMinRLHF(prompts=4, samples=4, max_tokens=5, mode=mode)).collect()
        found[mode] = rollout.reward.mean()
    assert found["pointwise_min"] < found["group_argmin"]


def test_the_order_of_groups_and_the_zero_of_a_reward_do_not_matter():
    def shifted(completions, **_):
        return [x - 1000 for x in early(completions)]

    found = []
    for rewards in ((short, early), (early, short), (short, shifted)):
        run = learner(MaxMinRLHF(prompts=4, samples=4, max_tokens=5), rewards, learning_rate=0.02)
        run.iterate()
        found.append(run.collect()[0].reward)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-3, atol=1e-3)


def test_a_single_group_is_ordinary_rlhf():
    method = MaxMinRLHF(prompts=4, samples=4, max_tokens=5)
    rollout, _ = learner(method, (short,)).collect()
    reward = rollout.components["short"]
    torch.testing.assert_close(rollout.reward, (reward - reward.mean()) / reward.std(), rtol=1e-4, atol=1e-4)


def test_mistakes_are_named(tmp_path):
    pairs = [{"prompt": f"{i}=", "chosen": "1", "rejected": "0", "annotator": "a"} for i in range(5)]
    with pytest.raises(UsageError, match="heads=2 is more than the 1 annotators"):
        sf.train("reward-mixture", data=pairs, model=fresh(TINY), steps=1, run_dir=tmp_path / "one")
    bare = [{name: x for name, x in row.items() if name != "annotator"} for row in pairs]
    with pytest.raises(UsageError, match='has no annotator; add a column "annotator"'):
        sf.train("reward-mixture", data=bare, model=fresh(TINY), steps=1, run_dir=tmp_path / "two")
    for setting in ({"mode": "mean"}, {"smoothing": 0.0}, {"beta": 0.0}, {"kl": 0.1}):
        with pytest.raises(UsageError, match=next(iter(setting))):
            MaxMinRLHF(**setting)
