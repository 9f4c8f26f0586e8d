"""Steps in float16: the gradient is scaled up while it is taken, and is what it is when it is clipped and used."""

from __future__ import annotations

import dataclasses
from copy import deepcopy

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.envs.language import resolve
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.language.baselines import GRPO
from surefoot.models.language.generation import generate
from surefoot.models.language.nano import Nano, fresh

TINY = Nano(width=16, layers=2, heads=2, context=64, warmup=0)
SMALL = 1e-4  # so that a token weighs 2e-6, as in a batch of half a million


def varied(completions, **fields):
    return [sum(map(ord, text)) % 7 / 7 for text in completions]


def stepped(dtype: torch.dtype, coefficient: float, limit: float | None):
    """The gradient that a step takes on the masters, and its row of metrics."""
    model, task = deepcopy(fresh(TINY, seed=1)), resolve("arithmetic")
    model.network.to(dtype)
    method = GRPO(prompts=2, samples=4, max_tokens=6, max_grad_norm=limit, minibatches=1)
    learner = LanguageLearner(method, model, task, make_rewards(task, varied, None), generate, learning_rate=1e-3)
    other = fresh(TINY, seed=1)  # the same completions for both
    rollout = LanguageLearner(method, other, task, make_rewards(task, varied, None), generate).collect()[0]
    terms = [dataclasses.replace(term, coefficient=coefficient) for term in method.terms(rollout)]
    row = learner.update(terms)
    return torch.cat([w.grad.flatten() for w in learner.masters.values()]), row


def test_a_step_in_float16_is_that_in_float32_whatever_a_token_counts():
    for coefficient in (1.0, SMALL):
        wanted, _ = stepped(torch.float32, coefficient, None)
        found, row = stepped(torch.float16, coefficient, None)
        assert found.dtype == torch.float32
        assert float((found - wanted).norm() / wanted.norm()) < 0.02
        assert row["grad_norm"] == pytest.approx(float(wanted.norm()), rel=0.02)


def test_the_gradient_is_clipped_at_its_own_norm():
    _, free = stepped(torch.float16, 1.0, None)
    found, row = stepped(torch.float16, 1.0, free["grad_norm"] / 2)
    assert row["grad_norm"] == pytest.approx(free["grad_norm"], rel=1e-5)
    assert float(found.norm()) == pytest.approx(free["grad_norm"] / 2, rel=1e-3)
