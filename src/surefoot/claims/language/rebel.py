"""The claim of REBEL: several passes of regression on each batch of pairs beat one pass, and REINFORCE on pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from surefoot.claims.claim import Claim, Estimate, Measurements, Verdict, difference, estimate
from surefoot.claims.language.learning import TOKENS, late, learn
from surefoot.methods.language.baselines import RLOO
from surefoot.methods.language.rebel import REBEL

STEPS, RATES, ETAS = 60, (3e-5, 1e-4, 3e-4), (0.3, 1.0, 3.0)
SIZES: dict[str, Any] = {"prompts": 64, "samples": 2, "max_tokens": TOKENS}
METHODS = {
    "rloo": RLOO(**SIZES),
    "rebel, 1 pass": REBEL(epochs=1, **SIZES),
    "rebel, 4 passes": REBEL(epochs=4, **SIZES),
}


def measure(seeds: Sequence[int]) -> Measurements:
    found: Measurements = {"reward": {}, "accuracy": {}, "eta": {}}
    for name, method in METHODS.items():
        for rate in RATES:
            runs = [learn(method, seed, STEPS, learning_rate=rate) for seed in seeds]
            found["reward"][f"{name}, {rate:g}"] = [run["return_mean"] for run in runs]
            found["accuracy"][f"{name}, {rate:g}"] = [run["accuracy"][0] for run in runs]
    for eta in ETAS:
        runs = [learn(REBEL(eta=eta, **SIZES), seed, STEPS, learning_rate=1e-4) for seed in seeds]
        found["eta"][f"{eta:g}"] = [run["return_mean"] for run in runs]
    return found


def judge(found: Measurements) -> tuple[Verdict, dict[str, Estimate]]:
    best: dict[str, np.ndarray] = {}
    estimates: dict[str, Estimate] = {}
    for name in METHODS:
        areas = {rate: [late(c, 1.0) for c in found["reward"][f"{name}, {rate:g}"]] for rate in RATES}
        rate = max(RATES, key=lambda r: np.mean(areas[r]))
        best[name] = np.array(areas[rate])
        estimates[f"mean reward, {name}, best rate"] = estimate(areas[rate])
        estimates[f"accuracy at that rate, {name}"] = estimate(found["accuracy"][f"{name}, {rate:g}"])
    for eta, curves in found["eta"].items():
        estimates[f"mean reward, 4 passes, eta {eta}, rate 1e-4"] = estimate([late(c, 1.0) for c in curves])
    many = best["rebel, 4 passes"]
    gains = {name: difference(many.tolist(), best[name].tolist()) for name in ("rloo", "rebel, 1 pass")}
    estimates |= {f"mean reward of 4 passes less that of {name}": gain for name, gain in gains.items()}
    if all(gain.value <= 0 for gain in gains.values()):
        return "refuted", estimates
    return "shown" if all(gain.low > 0 for gain in gains.values()) else "not shown", estimates


CLAIM = Claim(
    slug="rebel",
    sentence="Regressing relative rewards can use every batch of completions several times: four passes learn faster "
    "than one, and than REINFORCE with the other completion as baseline, from the same completions.",
    baseline="REBEL with one pass; RLOO with two completions a prompt; each at the best of the same three step sizes",
    metric="mean reward over 60 iterations of 64 × 2 completions, a nano model on one-digit sums of up to three terms; "
    "a sweep over η is measured beside it",
    supported_by="four passes above both, with intervals of the paired differences above 0",
    refuted_by="four passes above neither",
    measure=measure,
    judge=judge,
    seeds=3,
)
