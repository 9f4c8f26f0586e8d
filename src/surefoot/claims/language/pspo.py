"""The claim of PSPO: smoothing the ratio in place of clipping it, at equal reuse of the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from surefoot.claims.claim import Claim, Estimate, Measurements, Verdict, difference, estimate
from surefoot.claims.language.bandit import at_best_rate, last, play
from surefoot.methods.language.baselines import GRPO
from surefoot.methods.language.pspo import PSPO

STEPS, RATES, ADAM_RATES, EPOCHS = 150, (0.3, 1.0, 3.0), (0.005, 0.01, 0.02), (1, 2, 4, 8)
ALPHA = 0.1


def arms(epochs: int) -> dict[str, GRPO | PSPO]:
    deciding = {
        "clip": GRPO(clip=0.2, epochs=epochs),
        "unclipped": PSPO(alpha=0.0, epochs=epochs),
        "pspo": PSPO(alpha=ALPHA, epochs=epochs),
    }
    if epochs < max(EPOCHS):
        return deciding
    extensions = {form: PSPO(alpha=ALPHA, form=form, epochs=epochs) for form in ("clip", "log")}
    return {**deciding, "inside the clip": extensions["clip"], "logarithm": extensions["log"]}


def measure(seeds: Sequence[int]) -> Measurements:
    found: Measurements = {"accuracy": {}, "rate": {}, "ratio": {}}
    for optimizer, rates in (("sgd", RATES), ("adam", ADAM_RATES)):
        for epochs in EPOCHS:
            for name, method in arms(epochs).items():
                rate, runs = at_best_rate(method, seeds, STEPS, rates, optimizer)
                key = f"{name}, {optimizer}, {epochs} passes"
                found["rate"][key] = rate
                found["accuracy"][key] = [last(run["accuracy"]) for run in runs]
                found["ratio"][key] = [max(run["ratio"]) for run in runs]
    slow = [play(PSPO(alpha=ALPHA, epochs=4), s, 50, learning_rate=1.0)["accuracy"] for s in seeds]
    plain = [play(PSPO(alpha=0.0, epochs=4), s, 50, learning_rate=1.0 - ALPHA)["accuracy"] for s in seeds]
    found["gap to a smaller step"] = [
        float((torch.tensor(a) - torch.tensor(b)).abs().max()) for a, b in zip(slow, plain)
    ]
    return found


def judge(found: Measurements) -> tuple[Verdict, dict[str, Estimate]]:
    accuracy = found["accuracy"]
    gains, estimates = [], {}
    for optimizer in ("sgd", "adam"):
        for epochs in EPOCHS:
            key = f"{optimizer}, {epochs} passes"
            gain = difference(accuracy[f"pspo, {key}"], accuracy[f"clip, {key}"])
            estimates[f"accuracy less clip's, {key}"] = gain
            if epochs > 1:  # with one pass nothing is clipped
                gains.append(gain)
        estimates[f"accuracy, {optimizer}, 8 passes, clip"] = estimate(accuracy[f"clip, {optimizer}, 8 passes"])
        estimates[f"accuracy, {optimizer}, 8 passes, pspo"] = estimate(accuracy[f"pspo, {optimizer}, 8 passes"])
    estimates["largest gap to the unclipped run with a step 0.9 times as large"] = estimate(
        found["gap to a smaller step"]
    )
    if all(gain.low > 0 for gain in gains):
        return "shown", estimates
    if all(gain.value <= 0 for gain in gains):
        return "refuted", estimates
    return "not shown", estimates


CLAIM = Claim(
    slug="pspo",
    sentence="With several steps on each batch, smoothing the policy towards the old one trains better than clipping "
    "the ratio.",
    baseline="GRPO with clip 0.2: same advantage and aggregation, each method at its best of the same three rates",
    metric="Probability of the right arm in the last tenth of 150 batches of a contextual bandit (12 contexts, 10 arms, "
    "groups of 8), with 2, 4 and 8 passes over each batch, SGD and Adam. The unclipped run and the two extensions are "
    "measured beside them, without a say.",
    supported_by="PSPO(0.1) above the clip with an interval above 0 in all six settings with several passes",
    refuted_by="PSPO(0.1) not above the clip in any of the six",
    measure=measure,
    judge=judge,
    seeds=8,
)
