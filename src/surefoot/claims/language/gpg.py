"""The claim of GPG: the correction for silent groups frees the gradient from how many there are, and the method keeps up
with GRPO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from surefoot.claims.claim import Claim, Estimate, Measurements, Verdict, difference, estimate
from surefoot.claims.language.learning import TOKENS, late, learn
from surefoot.methods.language.baselines import GRPO
from surefoot.methods.language.gpg import GPG

STEPS, RATES = 100, (1e-4, 3e-4)
SIZES: dict[str, Any] = {"prompts": 16, "samples": 8, "max_tokens": TOKENS}
METHODS = {
    "grpo": GRPO(minibatches=1, **SIZES),
    "gpg, uncorrected": GPG(corrected=False, **SIZES),
    "gpg": GPG(**SIZES),
}


def measure(seeds: Sequence[int]) -> Measurements:
    found: Measurements = {}
    for name, method in METHODS.items():
        for rate in RATES:
            runs = [learn(method, seed, STEPS, learning_rate=rate) for seed in seeds]
            kept = ("grad_norm", "degenerate", "return_mean", "accuracy")
            found[f"{name}, {rate:g}"] = {key: [run[key] for run in runs] for key in kept}
    return found


def correlation(arm: dict[str, list[list[float]]]) -> list[float]:
    """Of the gradient norm with the share of silent groups, over the iterations of each run."""
    return [float(np.corrcoef(g, m)[0, 1]) for g, m in zip(arm["grad_norm"], arm["degenerate"], strict=True)]


def judge(found: Measurements) -> tuple[Verdict, dict[str, Estimate]]:
    estimates: dict[str, Estimate] = {}
    best: dict[str, np.ndarray] = {}
    for name in METHODS:
        rewards = {rate: [late(c, 0.5) for c in found[f"{name}, {rate:g}"]["return_mean"]] for rate in RATES}
        rate = max(RATES, key=lambda r: np.mean(rewards[r]))
        best[name] = np.array(rewards[rate])
        estimates[f"reward, second half, {name}, best rate"] = estimate(rewards[rate])
    free = {}
    for name in ("gpg, uncorrected", "gpg"):
        free[name] = [r for rate in RATES for r in correlation(found[f"{name}, {rate:g}"])]
        estimates[f"correlation of gradient norm and silent groups, {name}"] = estimate(free[name])
    gain = best["gpg"] - best["grpo"]
    estimates["reward of gpg less grpo's"] = difference(best["gpg"].tolist(), best["grpo"].tolist())
    error = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else 0.0
    if gain.mean() < -error:
        return "refuted", estimates
    freed = abs(np.mean(free["gpg"])) < 0.2 and np.mean(free["gpg, uncorrected"]) < -0.7
    return "shown" if freed else "not shown", estimates


CLAIM = Claim(
    slug="gpg",
    sentence="With the factor B/(B−M) the gradient does not shrink as more groups fall silent, and the plain policy "
    "gradient learns as well as GRPO from the same completions.",
    baseline="the same without the factor; GRPO without a KL, one step a batch",
    metric="correlation of gradient norm and share of silent groups over the iterations of a run; mean reward of the "
    "second half of 100 iterations of 16 × 8 completions, each method at the better of 1e-4 and 3e-4; a nano model on "
    "one-digit sums of up to three terms, AdamW",
    supported_by="mean correlation within ±0.2 with the factor and below −0.7 without; reward not below GRPO's by more "
    "than one standard error",
    refuted_by="reward below GRPO's by more than one standard error of the paired difference",
    measure=measure,
    judge=judge,
    seeds=3,
)
