"""The claim of HPT: prompts too hard for rewards are learned by imitation, the others by rewards, better than by either
alone or by a fixed mixture."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch

from surefoot.claims.claim import Claim, Estimate, Measurements, Verdict, difference, estimate
from surefoot.claims.language.learning import accuracy
from surefoot.envs.language import Example, Task
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.method import GroupRollout, Rollout, Term
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.language.baselines import SFT, DrGRPO
from surefoot.methods.language.hpt import HPT
from surefoot.models.language.generation import generate
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.nano import Nano, nano

STEPS, RATE, TOKENS = 120, 3e-4, 16
SIZES: dict[str, Any] = {"prompts": 16, "samples": 8, "max_tokens": TOKENS, "minibatches": 1}


@dataclass(frozen=True)
class Chains(Task):
    """`3+4=` → `7`, and chains of four numbers with their running totals: `3+4-2+9=` → `7,5,14`. The last number counts.

    `band` says which: easy (two numbers), hard (four), or both, evenly.
    """

    name: ClassVar[str] = "chains"
    band: str = "both"

    def make(self, rng: np.random.Generator) -> Example:
        hard = {"easy": False, "hard": True, "both": bool(rng.integers(2))}[self.band]
        numbers = [int(n) for n in rng.integers(0, 10, 4 if hard else 2)]
        signs = [1, *(int(s) for s in rng.choice([1, -1], len(numbers) - 1))]
        totals = np.cumsum([s * n for s, n in zip(signs, numbers, strict=True)]).tolist()
        text = "".join(("-" if s < 0 else "+" if i else "") + str(n) for i, (s, n) in enumerate(zip(signs, numbers)))
        return Example(f"{text}=", str(totals[-1]), ",".join(map(str, totals[1:])))

    def reward(self, example: Example, completion: str) -> float:
        return float(completion.strip().split(",")[-1] == example.answer)


@dataclass(frozen=True)
class Mixture(HPT):
    """Half of each, whatever the policy can do."""

    def terms(self, rollout: Rollout) -> list[Term]:
        return [self.completions(rollout, coefficient=0.5), self.imitation(rollout, coefficient=0.5)]


METHODS: dict[str, tuple[GroupRollout, ...]] = {
    "grpo": (DrGRPO(**SIZES),),
    "sft": (SFT(prompts=16, max_tokens=TOKENS),),
    "sft, then grpo": (SFT(prompts=16, max_tokens=TOKENS), DrGRPO(**SIZES)),
    "mixture": (Mixture(**SIZES),),
    "hpt": (HPT(**SIZES),),
}


@cache
def warm(seed: int) -> LanguageModel:
    """A nano model taught the easy band only."""

    def example(index: int) -> tuple[str, str]:
        found = Chains("easy").example(2**40 + index)
        return found.prompt, found.demonstration or ""

    return nano(example, str(Chains("easy")), size=Nano(warmup=300), seed=seed)


def learn(methods: Sequence[GroupRollout], seed: int) -> dict[str, Any]:
    """The methods one after the other, `STEPS` iterations in all."""
    model, task, share = deepcopy(warm(seed)), Chains(), []
    for method in methods:
        learner = LanguageLearner(
            method, model, task, make_rewards(task, None, None), generate, seed=seed, learning_rate=RATE
        )
        for _ in range(STEPS // len(methods)):
            rollout, row = learner.collect()
            share.append(float(method.imitated(rollout).float().mean()) if isinstance(method, HPT) else 0.0)
            learner.update(method.terms(rollout))
            learner.iteration += 1
    bands = {band: accuracy(model, Chains(band), 256, TOKENS) for band in ("easy", "hard")}
    return {**bands, "pass@8": solved_in(8, model), "imitated": share}


def solved_in(k: int, model: LanguageModel, count: int = 64) -> float:
    """The share of hard held-out examples that one of k samples solves."""
    task = Chains("hard")
    examples = [task.example(i, "test") for i in range(count)]
    uniform = torch.rand(count, k, TOKENS, generator=torch.Generator().manual_seed(0))
    texts = model.decode(generate(model, model.encode([e.prompt for e in examples]), uniform, temperature=1.0).tokens)
    return float(np.mean([any(task.reward(e, t) for t in texts[i * k : i * k + k]) for i, e in enumerate(examples)]))


def measure(seeds: Sequence[int]) -> Measurements:
    found: Measurements = {"before": {}}
    for band in ("easy", "hard"):
        found["before"][band] = [accuracy(warm(seed), Chains(band), 256, TOKENS) for seed in seeds]
    for name, methods in METHODS.items():
        runs = [learn(methods, seed) for seed in seeds]
        found[name] = {key: [run[key] for run in runs] for key in ("easy", "hard", "pass@8", "imitated")}
    return found


def judge(found: Measurements) -> tuple[Verdict, dict[str, Estimate]]:
    estimates = {f"{band} before": estimate(found["before"][band]) for band in ("easy", "hard")}
    for name in METHODS:
        estimates |= {f"{key}, {name}": estimate(found[name][key]) for key in ("easy", "hard", "pass@8")}
    hpt, mixed = found["hpt"], found["mixture"]
    over = difference(hpt["hard"], found["grpo"]["hard"])
    estimates["hard, hpt less grpo"] = over
    halves = [(np.mean(x[: len(x) // 2]), np.mean(x[len(x) // 2 :])) for x in hpt["imitated"]]
    estimates["share imitated, first half less second"] = estimate([float(a - b) for a, b in halves])
    beaten = all(m >= h for band in ("easy", "hard") for m, h in zip(mixed[band], hpt[band], strict=True))
    if beaten or over.value <= 0:
        return "refuted", estimates
    falls = all(a > b for a, b in halves)
    easy = float(np.mean(hpt["easy"])) >= float(np.mean(found["sft"]["easy"]))
    return "shown" if over.low > 0.2 and falls and easy else "not shown", estimates


CLAIM = Claim(
    slug="hpt",
    sentence="Sending each prompt to imitation or to rewards by whether the policy solves it learns hard prompts that "
    "rewards alone cannot, and loses nothing on easy ones.",
    baseline="Dr.GRPO; SFT; SFT for the first half, then Dr.GRPO; half of each on every prompt: the same step size, number "
    "of iterations and prompts",
    metric="held-out accuracy (likeliest completion) on sums of two numbers and on chains of four with running totals, of a "
    "nano model that was taught the former only; 120 iterations of 16 prompts of both kinds, 8 completions each; "
    "pass@8 on the hard ones is measured beside it",
    supported_by="on the hard ones more than Dr.GRPO by over 0.2 (lower end of the interval); on the easy ones at least "
    "SFT's accuracy; the share of imitated prompts lower in the second half of every run",
    refuted_by="not above Dr.GRPO on the hard ones, or the mixture at least as good on both in all seeds",
    measure=measure,
    judge=judge,
    seeds=3,
)
