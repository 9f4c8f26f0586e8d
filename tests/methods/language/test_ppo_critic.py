"""PPO with a critic of tokens: advantages, targets and losses by their definitions, at the edges of its settings."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import language_micro as micro

from surefoot.errors import UsageError
from surefoot.loops.group_rollout.method import Batch
from surefoot.loops.group_rollout.rollout import Rollout
from surefoot.methods.language.ppo_critic import PPOCritic
from surefoot.models.language.model import TokenStatistics
from surefoot.models.language.sequences import join

REWARD = [1.0, -0.5, 0.25]
WRITTEN = [[10, 11, 2], [12, 2], [2]]


def rollout() -> Rollout:
    """Three prompts of different lengths, a completion of each, and a critic's values."""
    sequences = join([[1, 5], [1, 6, 7], [1]], WRITTEN)
    value = torch.randn(sequences.tokens.shape, generator=torch.Generator().manual_seed(0)) * sequences.valid
    blank = torch.zeros_like(value)
    ends = torch.zeros(3, 1, dtype=torch.bool)
    judged = TokenStatistics(blank, blank, blank, value)
    reward = torch.tensor(REWARD)[:, None]
    return Rollout([], torch.arange(3), sequences, [""] * 3, blank, reward, {}, ends, judged=judged)


def written(x: torch.Tensor, found: Rollout) -> list[list[float]]:
    """The numbers of the written tokens, row by row."""
    return [row[valid].tolist() for row, valid in zip(x, found.sequences.valid, strict=True)]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (1.0, 0.0), (0.0, 0.95), (0.9, 0.5), (1.0, 0.95)])
def test_advantages_and_targets_are_those_of_the_recursion(gamma, lam):
    found, method = rollout(), PPOCritic(samples=1, gamma=gamma, lam=lam, standardize=False)
    advantage = method.advantages(found)
    assert advantage.shape == (3, 1, found.sequences.valid.shape[1])
    target = method.completions(found).extra["target"]
    values = written(found.value, found)
    for i, value in enumerate(values):
        gain, following, wanted = 0.0, 0.0, []
        for t in reversed(range(len(value))):
            reward = REWARD[i] if t == len(value) - 1 else 0.0
            gain = reward + gamma * following - value[t] + gamma * lam * gain
            following = value[t]
            wanted.insert(0, gain)
        assert written(advantage[:, 0], found)[i] == pytest.approx(wanted, abs=1e-6)
        assert written(target, found)[i] == pytest.approx([g + v for g, v in zip(wanted, value)], abs=1e-6)
    if lam == gamma == 1:  # Monte-Carlo: the critic is but a baseline
        assert written(target, found) == [pytest.approx([r] * n, abs=1e-6) for r, n in zip(REWARD, (3, 2, 1))]


def test_advantages_are_standardised_over_all_tokens_and_targets_are_not():
    found = rollout()
    plain, standard = (PPOCritic(samples=1, standardize=on) for on in (False, True))
    flat = torch.tensor(sum(written(standard.advantages(found)[:, 0], found), []))
    assert float(flat.mean()) == pytest.approx(0, abs=1e-6)
    assert float(flat.std(correction=0)) == pytest.approx(1, rel=1e-4)
    raw = torch.tensor(sum(written(plain.advantages(found)[:, 0], found), []))
    torch.testing.assert_close(flat, (raw - raw.mean()) / raw.std(correction=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(standard.completions(found).extra["target"], plain.completions(found).extra["target"])


def batch(target: list[float], old: list[float], weights: list[float]) -> Batch:
    rows = torch.tensor([target, old, weights])[:, None]
    blank, valid = torch.zeros(1, len(target)), torch.ones(1, len(target), dtype=torch.bool)
    extra = {"target": rows[0], "old_value": rows[1]}
    return Batch(valid, blank, blank, rows[2], None, torch.zeros(1, dtype=torch.int64), extra, None)


@pytest.mark.parametrize(
    ("clip", "errors"),
    [
        (None, [0.5 * 0.81, 0.5 * 0.25]),  # ½(V − G)²
        (0.2, [0.5 * 0.81, 0.5 * 0.25]),  # V moved by 0.1 and by 0.5, away from G: the clip does not excuse that
        (0.05, [0.5 * 0.95**2, 0.5 * 0.25]),  # the clipped V = 0.05 is farther from G = 1
    ],
)
def test_the_loss_of_the_critic_by_hand(clip, errors):
    given = batch(target=[1.0, 0.0], old=[0.0, 0.0], weights=[0.75, 0.25])
    value = torch.tensor([[0.1, 0.5]], requires_grad=True)
    loss, metrics = PPOCritic(value_clip=clip, value_coefficient=0.4).critic_loss(given, value)
    wanted = 0.75 * errors[0] + 0.25 * errors[1]
    assert float(loss.detach()) == pytest.approx(0.4 * wanted) and float(metrics["value_loss"]) == pytest.approx(wanted)
    assert float(metrics["value"]) == pytest.approx(0.75 * 0.1 + 0.25 * 0.5)


def test_without_a_coefficient_the_critic_learns_nothing():
    task = micro.Bits(2)
    method = PPOCritic(prompts=4, samples=2, max_tokens=2, value_coefficient=0.0, epochs=1, minibatches=1)
    run = micro.learner(method, task, micro.at_random(task))
    run.iterate()
    assert not run.model.critic.weight.any() and not run.model.critic.bias.any()


def test_one_completion_of_a_prompt_is_enough_to_learn_from():
    task = micro.Bits(2)
    method = PPOCritic(prompts=32, samples=1, max_tokens=2, value_coefficient=1.0, epochs=2)
    run = micro.learner(method, task, micro.at_random(task), learning_rate=0.02)
    before = micro.written(run.model, task)
    for _ in range(25):
        (row,) = run.iterate()
    assert before < 0.65 < 0.9 < micro.written(run.model, task)
    assert row["value_loss"] < 0.1 and math.isfinite(row["value"])


@pytest.mark.parametrize(
    "wrong",
    [{"gamma": 1.1}, {"lam": -0.1}, {"value_coefficient": -1.0}, {"value_clip": 0.0}, {"samples": 0}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}="):
        PPOCritic(**wrong)
