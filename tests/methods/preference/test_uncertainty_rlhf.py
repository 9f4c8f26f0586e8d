"""Uncertainty-aware RLHF: the card's optima, what the learner's rewards come to, and the limits."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import surefoot as sf
from surefoot.claims.preference.tilted import aware, plain
from surefoot.envs.language import resolve
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.preference.uncertainty_rlhf import UncertaintyRLHF
from surefoot.models.language.generation import generate
from surefoot.models.language.nano import Nano, fresh

F64 = torch.float64
TINY = Nano(width=16, layers=1, heads=2, context=48, warmup=0)
THIRD = torch.full((3,), 1 / 3, dtype=F64)
REWARD, VARIANCE = torch.tensor([1, 0.5, 0], dtype=F64), torch.tensor([1, 0.25, 0.25], dtype=F64)


def short(completions, **_):
    return [-float(len(text)) for text in completions]


def early(completions, **_):
    return [sum(ord(letter) < 80 for letter in text) + 100.0 for text in completions]


def learner(method, rewards=(short, early), **settings):
    task = resolve("arithmetic:digits=1")
    return LanguageLearner(
        method, fresh(TINY, seed=1), task, make_rewards(task, list(rewards), None), generate, **settings
    )


def test_the_optimum_at_the_cards_numbers():
    found = aware(THIRD, REWARD, VARIANCE, 0.5)
    assert found.tolist() == pytest.approx([0.796906, 0.199441, 0.003653], abs=1e-6)
    nu = REWARD - 0.5 * VARIANCE * (found / THIRD).log()
    assert nu.tolist() == pytest.approx([0.564203] * 3, abs=1e-6)
    assert plain(THIRD, REWARD, 0.25).tolist() == pytest.approx([0.8668, 0.1173, 0.0159], abs=1e-4)


def test_it_is_where_the_objective_is_stationary():
    logits = aware(THIRD, REWARD, VARIANCE, 0.5).log().requires_grad_()
    policy = logits.softmax(0)
    price = (VARIANCE * (policy * (policy / THIRD).log() - policy + THIRD)).sum()
    (slope,) = torch.autograd.grad(policy @ REWARD - 0.5 * price, logits)
    assert slope.abs().max() < 1e-12


def test_limits():
    same = torch.full((3,), 0.7, dtype=F64)
    torch.testing.assert_close(aware(THIRD, REWARD, same, 0.5), plain(THIRD, REWARD, 0.35))
    torch.testing.assert_close(aware(THIRD, REWARD, VARIANCE, 1e6), THIRD, atol=1e-6, rtol=0)
    unsure = aware(THIRD, REWARD, torch.tensor([1e8, 0.25, 0.25], dtype=F64), 0.5)
    assert unsure[0].item() == pytest.approx(1 / 3, abs=1e-6)


def test_without_its_linear_part_the_penalty_would_pull_away_from_the_reference():
    """Σ π·r − β·Σ σ²·π·log(π/π_ref) alone, at β = 1000: π_ref·exp((r − ν)/(βσ²) − 1)."""

    def tilted(nu):
        return THIRD * ((REWARD - nu) / (1000 * VARIANCE) - 1).exp()

    low, high = torch.tensor(-2000.0, dtype=F64), torch.tensor(0.0, dtype=F64)
    for _ in range(80):
        nu = (low + high) / 2
        low, high = (nu, high) if tilted(nu).sum() > 1 else (low, nu)
    assert tilted(nu).tolist() == pytest.approx([0.1666, 0.4171, 0.4163], abs=1e-4)
    torch.testing.assert_close(aware(THIRD, REWARD, VARIANCE, 1000.0), THIRD, atol=1e-3, rtol=0)


def test_rewards_are_the_mean_less_the_variance_times_the_whole_log_ratio():
    run = learner(UncertaintyRLHF(prompts=4, samples=4, max_tokens=5, beta=0.3, floor=0.1), learning_rate=0.05)
    for _ in range(2):
        run.iterate()
    memory = {name: x.clone() for name, x in run.memory.items()}
    rollout, _ = run.collect()
    assert all(torch.equal(x, memory[name]) for name, x in rollout.progress.memory.items())  # of the reference
    scores = torch.stack([rollout.components["short"], rollout.components["early"]], -1) - memory["mean"]
    weight = (scores.var(-1) / memory["usual"] + 0.1) / 1.1
    with torch.no_grad():
        now, before = (run.model.statistics(rollout.sequences, reference=x).log_prob.sum(1) for x in (False, True))
    expected = scores.mean(-1) - 0.3 * weight * (now - before).view(4, 4)
    torch.testing.assert_close(rollout.reward, expected, rtol=1e-4, atol=1e-4)
    term = run.method.terms(rollout)[0]
    others = (expected.sum(1, keepdim=True) - expected) / 3
    torch.testing.assert_close(term.advantage.view(4, 4), expected - others, rtol=1e-4, atol=1e-4)
    row = run.iterate()[0]
    assert {"divergence", "variance", "ensemble"} <= row.keys() and row["divergence"] != 0


def test_the_gauge_is_that_of_the_first_iteration_and_constants_cancel():
    def shifted(completions, **_):
        return [x + 7 for x in short(completions)]

    runs = [
        learner(UncertaintyRLHF(prompts=4, samples=4, max_tokens=5), pair)
        for pair in ((short, early), (shifted, early))
    ]
    rollouts = [run.collect()[0] for run in runs]
    torch.testing.assert_close(rollouts[0].reward, rollouts[1].reward, rtol=1e-4, atol=1e-4)
    weight = rollouts[0].logged_rows["variance"]
    assert weight.mean().item() == pytest.approx(1, abs=1e-5) and weight.min() > 0


def test_a_single_reward_and_members_that_agree_are_refused():
    with pytest.raises(UsageError, match="compares at least 2 rewards and has 1"):
        sf.train("uncertainty-rlhf", task="arithmetic:digits=1", model=fresh(TINY), steps=1)

    def louder(completions, **_):
        return [x + 3 for x in short(completions)]

    with pytest.raises(UsageError, match="agree on all completions"):
        learner(UncertaintyRLHF(prompts=2, samples=2, max_tokens=5), (short, louder)).iterate()
    for setting in ({"beta": 0.0}, {"floor": 0.0}, {"epochs": 2}, {"kl": 0.1}, {"samples": 1}):
        with pytest.raises(UsageError, match=next(iter(setting))):
            UncertaintyRLHF(**setting)
