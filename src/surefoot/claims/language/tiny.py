"""A language model of 100,000 weights and sums of numbers up to 3: reinforcement learning in a few seconds a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.language.learning import held_out
from surefoot.envs.language import Example, Task
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.method import GroupRollout, Term
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.models.language.generation import generate
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.nano import Nano, nano

SIZE = {"width": 64, "layers": 2, "heads": 4, "context": 64}
TAUGHT = 2**40  # first number of the examples of the warm-up, far from those of training
TOKENS = 4


@dataclass(frozen=True)
class Sums(Task):
    """`3+1+2=` → `6`: sums of `least` to `most` numbers from 0 to 3. The more numbers, the harder."""

    name: ClassVar[str] = "sums"
    least: int = 2
    most: int = 6

    def make(self, rng: np.random.Generator) -> Example:
        numbers = rng.integers(0, 4, rng.integers(self.least, self.most + 1))
        total = str(int(numbers.sum()))
        return Example("+".join(map(str, numbers)) + "=", total, total)


@cache
def warm(task: Task, seed: int, warmup: int) -> LanguageModel:
    """A tiny model that imitated examples of the task for `warmup` steps; made once, never changed."""

    def example(index: int) -> tuple[str, str]:
        found = task.example(TAUGHT + index)
        return found.prompt, found.demonstration or found.answer

    return nano(example, str(task), size=Nano(warmup=warmup, **SIZE), seed=seed)


def learner(
    method: GroupRollout, model: LanguageModel, task: Task, seed: int, steps: int, learning_rate: float
) -> LanguageLearner:
    """A learner on a copy of a model."""
    rewards = make_rewards(task, None, None)
    settings = {"seed": seed, "total_steps": steps, "learning_rate": learning_rate}
    return LanguageLearner(method, deepcopy(model), task, rewards, generate, patience=None, **settings)


def rewarded(
    model: LanguageModel, task: Task, count: int = 256, tokens: int = TOKENS, temperature: float = 1.0
) -> float:
    """The mean reward of a completion of each of the first held-out examples."""
    return float(held_out(model, task, count, 1, tokens, temperature=temperature).mean())


def tuned(
    score: Callable[[int, float], float], rates: Sequence[float], seeds: Sequence[int]
) -> tuple[float, dict[str, float]]:
    """The rate with the highest mean score over the seeds of tuning, and the mean scores by rate."""
    scores = {rate: float(np.mean([score(seed, rate) for seed in seeds])) for rate in rates}
    return max(rates, key=scores.__getitem__), {f"{rate:g}": found for rate, found in scores.items()}


def gradient(learner: LanguageLearner, terms: Sequence[Term]) -> Tensor:
    """Of the loss of some terms in all weights, on the policy that wrote them; no step is taken."""
    weights = list(learner.weights.values())
    for weight in weights:
        weight.grad = None
    for term in terms:
        learner.estimator.backward(term, learner.estimator.batch(term, again=False), term.sequences)
    return torch.cat([torch.zeros(w.numel()) if w.grad is None else w.grad.flatten().clone() for w in weights])
