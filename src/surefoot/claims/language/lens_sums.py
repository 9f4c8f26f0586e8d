"""LENS on sums, most of them hard, with the controls that change one of its two parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.language.tiny import TOKENS, Sums, learner, rewarded, tuned, warm
from surefoot.claims.parts import Gate, Measurements, Summary
from surefoot.envs.language import Example
from surefoot.loops.group_rollout.method import GroupRollout, Rollout
from surefoot.methods.language.baselines import GRPO
from surefoot.methods.language.lens import LENS
from surefoot.objectives.advantages import group_standardized


@dataclass(frozen=True)
class Uniform(LENS):
    """The reviewers' control: in a group without a success all completions have the same penalty."""

    penalty: float | None = 0.0

    def without_success(self, calibrated: Tensor) -> Tensor:
        return -torch.ones_like(calibrated)


@dataclass(frozen=True)
class OnlyMixed(LENS):
    """No advantage in groups without a success."""

    def without_success(self, calibrated: Tensor) -> Tensor:
        return torch.zeros_like(calibrated)


@dataclass(frozen=True)
class OnlyNegative(LENS):
    """GRPO's advantage in groups with a success."""

    def advantages(self, rollout: Rollout) -> Tensor:
        plain = group_standardized(1e-6, unbiased=True)(rollout.reward)
        return torch.where(rollout.degenerate[:, None], super().advantages(rollout), plain)


# --- sums, most of them hard ---------------------------------------------------------------------------------------

ITERATIONS, STEP_SIZES, TUNING, WARMUP = 100, (1e-4, 3e-4, 1e-3, 3e-3), (2000, 2001), 60
HARD, EASY = Sums(5, 6), Sums(2, 3)
SIZES: dict[str, Any] = {"prompts": 16, "samples": 8, "max_tokens": TOKENS, "minibatches": 1}
METHODS: dict[str, GroupRollout] = {
    "grpo": GRPO(unbiased=True, **SIZES),
    "uniform": Uniform(**SIZES),
    "only mixed": OnlyMixed(**SIZES),
    "only negative": OnlyNegative(**SIZES),
    "lens": LENS(**SIZES),
}


@dataclass(frozen=True)
class Spread(Sums):
    """Sums of two or three numbers, and of five or six, evenly."""

    name: ClassVar[str] = "spread sums"

    def make(self, rng: np.random.Generator) -> Example:
        return (HARD if rng.integers(2) else EASY).make(rng)


def sums(arm: str, seeds: Sequence[int]) -> dict[str, Any]:
    """An arm at that of the step sizes with the highest reward on both bands in tuning: reward on held-out prompts of
    both, and the share of prompts without a success in the last fifth."""
    rate, scores = tuned(lambda seed, rate: learn(METHODS[arm], seed, rate)["both"], STEP_SIZES, TUNING)
    runs = [learn(METHODS[arm], seed, rate) for seed in seeds]
    return {"tuning": scores, "rate": rate} | {name: [run[name] for run in runs] for name in runs[0]}


def learn(method: GroupRollout, seed: int, rate: float) -> dict[str, float]:
    made, negative = learner(method, warm(Spread(), seed, WARMUP), Spread(), seed, ITERATIONS, rate), list[float]()
    for _ in range(ITERATIONS):
        rollout, _ = made.collect()
        negative.append(float((rollout.reward.amax(1) < 1).double().mean()))
        made.update(method.terms(rollout))
        made.iteration += 1
    bands = {name: rewarded(made.model, band) for name, band in (("hard", HARD), ("easy", EASY))}
    return {**bands, "both": sum(bands.values()) / 2, "negative": float(np.mean(negative[-ITERATIONS // 5 :]))}


def before(seeds: Sequence[int]) -> dict[str, list[float]]:
    models = [warm(Spread(), seed, WARMUP) for seed in seeds]
    return {name: [rewarded(m, band) for m in models] for name, band in (("hard", HARD), ("easy", EASY))}


def of_sums(found: Measurements) -> Summary:
    series = {f"{name}, {arm}": x for arm in METHODS for name, x in found[arm].items() if name != "tuning"}
    return series | {f"{name}, before": x for name, x in found["before"].items()}


def inside(summary: Summary) -> bool:
    return all(STEP_SIZES[0] < summary[f"rate, {arm}"] < STEP_SIZES[-1] for arm in METHODS)


def grpo_learns(summary: Summary) -> bool:
    gain = np.subtract(summary["easy, grpo"], summary["easy, before"])
    return len(gain) > 1 and float(gain.mean()) >= 5 * float(gain.std(ddof=1)) / len(gain) ** 0.5


GATES = (
    Gate("control", grpo_learns, "GRPO's reward on easy held-out prompts rises by at least five standard errors"),
    Gate("grid", inside, "the best step size of every arm lies inside the grid"),
)
