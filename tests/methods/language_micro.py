"""Two languages whose best policy is known, and a model that writes them at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from surefoot.envs.language import Example, Task
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.models.language.generation import generate
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.nano import Nano, fresh, imitate

SIZE = Nano(width=16, layers=1, heads=2, context=128, warmup=150, batch=32, learning_rate=1e-2)


@dataclass(frozen=True)
class Bits(Task):
    """Write `length` bits; the reward is the share of them that are ones, so the best policy writes ones alone."""

    name: ClassVar[str] = "bits"
    length: int = 1

    def make(self, rng: np.random.Generator) -> Example:
        prompt, ones = "abc"[int(rng.integers(3))] + "=", "1" * self.length
        worse = "".join(map(str, rng.integers(0, 2, self.length)))
        pair = {"chosen": ones, "rejected": worse if worse != ones else "0" + ones[1:]}
        group, annotator = ("ab"[int(x)] for x in rng.integers(2, size=2))
        return Example(prompt, ones, ones, {**pair, "group": group, "annotator": annotator})

    def reward(self, example: Example, completion: str) -> float:
        return completion[: self.length].count("1") / self.length


@dataclass(frozen=True)
class FewBits(Bits):
    """The same with forty examples, for methods that count them."""

    size: ClassVar[int | None] = 40  # type: ignore[override]


def at_random(task: Bits) -> LanguageModel:
    """A model that writes bits at random, as many as it should."""
    rng = np.random.default_rng(0)

    def example(index: int) -> tuple[str, str]:
        return task.example(index).prompt, "".join(str(b) for b in rng.integers(0, 2, task.length))

    model = fresh(SIZE, seed=0)
    imitate(model, example, SIZE)
    return model


def share_of_ones(completions, **_) -> list[float]:
    """The reward of bits as a reward function."""
    return [text.count("1") / max(1, len(text)) for text in completions]


def first_bit(completions, **_) -> list[float]:
    """Another opinion: the first bit says it all, and counts twice."""
    return [2.0 * text.startswith("1") for text in completions]


def learner(method, task: Task, model: LanguageModel, learning_rate: float = 0.01, **settings) -> LanguageLearner:
    rewards = make_rewards(task, None if method.judged_by == 1 else [share_of_ones, first_bit], None)
    return LanguageLearner(method, model, task, rewards, generate, learning_rate=learning_rate, **settings)


def written(model: LanguageModel, task: Bits, count: int = 200) -> float:
    """The mean reward of what the model writes."""
    import torch

    examples = [task.example(i, "test") for i in range(count)]
    uniform = torch.rand(count, 1, task.length, generator=torch.Generator().manual_seed(9))
    found = generate(model, model.encode([e.prompt for e in examples]), uniform, temperature=1.0)
    texts = model.decode(found.tokens)
    return float(np.mean([task.reward(e, text) for e, text in zip(examples, texts, strict=True)]))
