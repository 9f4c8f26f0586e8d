"""What the claims of language methods share: nano models that learn arithmetic by reward."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import cache

import numpy as np
import torch

from surefoot.envs.language import Task, resolve
from surefoot.loops.group_rollout.language import LanguageOptions, make_model
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.method import GroupRollout
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.models.language.generation import generate
from surefoot.models.language.model import LanguageModel
from surefoot.seeding import torch_stream

EASY = "arithmetic:digits=1,terms=3"  # a nano model solves about a third after its warm-up
WARMUP, RATE, TOKENS = 200, 1e-4, 6


@cache
def warm(task: str, seed: int = 0, warmup: int = WARMUP) -> LanguageModel:
    """A nano model taught the task for a little; made once, never changed."""
    return make_model("nano", resolve(task), LanguageOptions(nano_warmup=warmup), seed)[0]


def start(
    method: GroupRollout, seed: int, steps: int, *, task: str = EASY, learning_rate: float = RATE, warmup: int = WARMUP
) -> LanguageLearner:
    """A learner on a copy of the warm model of that seed."""
    made = resolve(task)
    model = deepcopy(warm(task, seed, warmup))
    rewards = make_rewards(made, None, None)
    return LanguageLearner(
        method, model, made, rewards, generate, seed=seed, total_steps=steps, learning_rate=learning_rate
    )


def learn(method: GroupRollout, seed: int, steps: int, *, held_out: int = 256, **settings) -> dict[str, list[float]]:
    """Every metric of every iteration, and the accuracy on held-out examples after the last, under "accuracy"."""
    learner = start(method, seed, steps, **settings)
    rows = [learner.iterate()[0] for _ in range(steps)]
    found = {name: [float(row.get(name, np.nan)) for row in rows] for name in rows[-1]}
    found["accuracy"] = [accuracy(learner.model, learner.task, held_out, method.max_tokens)]
    return found


def accuracy(model: LanguageModel, task: Task, count: int = 256, tokens: int = TOKENS) -> float:
    """The share of held-out examples that the likeliest completion solves."""
    return float((held_out(model, task, count, 1, tokens, temperature=0.0) >= 1).mean())


def held_out(
    model: LanguageModel,
    task: Task,
    count: int,
    samples: int,
    tokens: int,
    temperature: float = 1.0,
    stop: Sequence[str] = (),
) -> np.ndarray:
    """The rewards `[count, samples]` of completions of held-out examples, from the same random numbers every time."""
    examples = [task.example(i, "test") for i in range(count)]
    uniform = torch.rand(count, samples, tokens, generator=torch_stream(0, "held out"))
    prompts = model.encode([e.prompt for e in examples])
    texts = model.decode(generate(model, prompts, uniform, temperature=temperature, stop=stop).tokens)
    return np.reshape([task.reward(examples[i // samples], text) for i, text in enumerate(texts)], (count, samples))


def late(curve: Sequence[float], share: float = 0.2) -> float:
    """The mean over the last part of a curve."""
    return float(np.nanmean(curve[-max(1, round(share * len(curve))) :]))
