"""PSPO's claim: smoothing the ratio in place of clipping it. What it is: the unclipped surrogate with a smaller step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from surefoot.claims.language.bandit import at_best_rate, last, play
from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Less,
    Measurements,
    More,
    Part,
    Summary,
    Within,
)
from surefoot.methods.language.baselines import GRPO
from surefoot.methods.language.pspo import PSPO
from surefoot.objectives import stabilizers
from surefoot.seeding import torch_stream

ALPHA = 0.1
FORMS = {"inside the clip": "clip", "logarithm": "log"}


def method(name: str, epochs: int) -> GRPO | PSPO:
    """An arm: all have the same advantage and aggregation."""
    if name == "clip":
        return GRPO(clip=0.2, epochs=epochs)
    return PSPO(alpha=0.0 if name == "unclipped" else ALPHA, form=FORMS.get(name, "plain"), epochs=epochs)


# --- the identity --------------------------------------------------------------------------------------------------

STEPS_OF_IDENTITY, PASSES = 15, 4


def identity(optimizer: str, rate: float, factor: float, seeds: Sequence[int]) -> dict[str, list[float]]:
    """The largest difference in accuracy, over training in float64, between the unclipped run with `factor` of the
    step size and PSPO's and the clip's runs."""
    found: dict[str, list[float]] = {"pspo": [], "clip": []}
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        for seed in seeds:
            curves = {
                name: np.array(
                    play(method(name, PASSES), seed, STEPS_OF_IDENTITY, learning_rate=lr, optimizer=optimizer)[
                        "accuracy"
                    ]
                )
                for name, lr in (("pspo", rate), ("unclipped", factor * rate), ("clip", factor * rate))
            }
            for name, gaps in found.items():
                gaps.append(float(np.abs(curves[name] - curves["unclipped"]).max()))
    finally:
        torch.set_default_dtype(before)
    return found


def mixture(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Total variation and KL divergence from the old policy of the mixture, over those of the policy: the largest
    departure from 1 − α, and the largest KL ratio, over 1000 pairs of random policies on ten arms."""
    found: dict[str, list[float]] = {"variation": [], "kl": []}
    for seed in seeds:
        logits = torch.randn(2, 1000, 10, generator=torch_stream(seed, "policies"), dtype=torch.float64)
        new, old = logits.softmax(-1)
        mixed = old * stabilizers.smoothed(ALPHA)(new / old, torch.ones_like(old))
        variation = (mixed - old).abs().sum(-1) / (new - old).abs().sum(-1)
        kl = (mixed * (mixed / old).log()).sum(-1) / (new * (new / old).log()).sum(-1)
        found["variation"].append(float((variation - (1 - ALPHA)).abs().max()))
        found["kl"].append(float(kl.max()))
    return found


def of_identity(found: Measurements) -> Summary:
    """The largest over seeds; for the clip the smallest."""
    return {
        "gap to 0.9 of the step, SGD": max(found["sgd"]["pspo"]),
        "gap to the same step, Adam": max(found["adam"]["pspo"]),
        "gap of the clip": min(min(found[optimizer]["clip"]) for optimizer in ("sgd", "adam")),
        "departure of the variation": max(found["mixture"]["variation"]),
        "ratio of KL": max(found["mixture"]["kl"]),
    }


def clip_departs(summary: Summary) -> bool:
    """Whether the runs could tell PSPO from another method."""
    return summary["gap of the clip"] > 0.01


CONTROL = Gate("control", clip_departs, "on the same draws the clip's accuracy departs by more than 0.01")

# --- the bandit ----------------------------------------------------------------------------------------------------

STEPS, EPOCHS, SEVERAL = 150, (1, 2, 4, 8), (2, 4, 8)
RATES = {"sgd": (0.3, 1.0, 3.0), "adam": (0.005, 0.01, 0.02)}
NAMES = {"sgd": "SGD", "adam": "Adam"}


def tuned(name: str, optimizer: str, epochs: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Accuracy in the last tenth and the largest ratio, at the best of the optimizer's three rates."""
    rate, runs = at_best_rate(method(name, epochs), seeds, STEPS, RATES[optimizer], optimizer)
    return {
        "rate": rate,
        "accuracy": [last(run["accuracy"]) for run in runs],
        "ratio": [max(run["ratio"]) for run in runs],
    }


def arms(epochs: int) -> list[str]:
    return ["clip", "unclipped", "pspo"] + (list(FORMS) if epochs == max(EPOCHS) else [])


BANDIT = {
    f"{name}, {optimizer}, {epochs} passes": partial(tuned, name, optimizer, epochs)
    for optimizer in RATES
    for epochs in EPOCHS
    for name in arms(epochs)
}


def of_bandit(found: Measurements) -> Summary:
    series = {f"{what}, {key}": one[what] for key, one in found.items() for what in ("rate", "accuracy")}
    for optimizer in RATES:
        for name in arms(1):
            ratios = [np.log(found[f"{name}, {optimizer}, {epochs} passes"]["ratio"]) for epochs in SEVERAL]
            series[f"log largest ratio, {name}, {optimizer}"] = np.mean(ratios, axis=0)
    return series


def inside(names: Sequence[str], optimizer: str, passes: Sequence[int], summary: Summary) -> bool:
    """Whether the best rates of these arms lie inside the grid."""
    rates = RATES[optimizer]
    chosen = [summary[f"rate, {name}, {optimizer}, {epochs} passes"] for name in names for epochs in passes]
    return all(min(rates) < rate < max(rates) for rate in chosen)


def grid(names: tuple[str, ...], optimizer: str, *passes: int) -> Gate:
    rates = ", ".join(f"{rate:g}" for rate in RATES[optimizer])
    says = f"the best rates of both arms lie inside {rates}"
    return Gate("grid", partial(inside, names, optimizer, passes), says)


def compared(name: str, other: str, optimizer: str, epochs: int) -> Difference:
    return Difference(*(f"accuracy, {arm}, {optimizer}, {epochs} passes" for arm in (name, other)))


CLAIM = Claim(
    slug="pspo",
    sentence="With several steps on each batch, smoothing the policy towards the old one trains better than clipping "
    "the ratio.",
    source="Dwyer et al. 2025, abstract",
    method=PSPO,
    experiments={
        "identity": Experiment(
            "mechanism",
            {
                "sgd": partial(identity, "sgd", 1.0, 1 - ALPHA),
                "adam": partial(identity, "adam", 0.01, 1.0),
                "mixture": mixture,
            },
            seeds=8,
            minutes=0.06,
            setting="a contextual bandit in float64, 15 batches with 4 passes over each; and random pairs of policies",
            arms={name: method(name, PASSES) for name in arms(1)},
            summary=of_identity,
        ),
        "bandit": Experiment(
            "miniature",
            BANDIT,
            seeds=8,
            minutes=23.4,
            setting="contextual bandit of 12 contexts and 10 arms, groups of 8, 150 batches with 1, 2, 4 and 8 passes "
            "over each, SGD and Adam, each arm at the best of three rates; probability of the right arm in the last "
            "tenth",
            arms={name: method(name, 2) for name in arms(8)},
            summary=of_bandit,
            differs=(
                "a bandit in place of Qwen2.5 on GSM8K: completions of one token",
                "rates are chosen on the seeds that are compared, for all arms alike",
                "groups of 8 in place of 4; no warm-up",
                "clip range 0.2; in the released script the clip's arm has a range of 0",
            ),
        ),
    },
    parts=(
        Part(
            "under SGD it is the unclipped run with 0.9 of the step",
            "primary",
            "identity",
            Exact("gap to 0.9 of the step, SGD"),
            Less(1e-6, against=1e-6),
            gates=(CONTROL,),
        ),
        Part(
            "under Adam it is the unclipped run with the same step",
            "primary",
            "identity",
            Exact("gap to the same step, Adam"),
            Less(1e-6, against=1e-6),
            gates=(CONTROL,),
        ),
        Part(
            "smoothing leaves 0.9 of the total variation",
            "primary",
            "identity",
            Exact("departure of the variation"),
            Less(1e-9, against=1e-9),
            says="abstract: a soft trust region",
        ),
        Part(
            "smoothing leaves at most 0.9 of the KL divergence",
            "secondary",
            "identity",
            Exact("ratio of KL"),
            Less(1 - ALPHA, against=1 - ALPHA),
        ),
        *(
            Part(
                f"beats the clip, {NAMES[optimizer]}, {epochs} passes",
                "primary",
                "bandit",
                compared("pspo", "clip", optimizer, epochs),
                More(),
                gates=(grid(("pspo", "clip"), optimizer, epochs),),
                says="abstract: better than clipped GRPO at equal reuse of the data",
            )
            for optimizer in RATES
            for epochs in SEVERAL
        ),
        *(
            Part(
                f"as good as no clip, {NAMES[optimizer]}, {epochs} passes",
                "secondary",
                "bandit",
                compared("pspo", "unclipped", optimizer, epochs),
                Within(0.02),
                gates=(grid(("pspo", "unclipped"), optimizer, epochs),),
            )
            for optimizer in RATES
            for epochs in SEVERAL
        ),
        *(
            Part(
                f"one pass: as good as the clip, {NAMES[optimizer]}",
                "secondary",
                "bandit",
                compared("pspo", "clip", optimizer, 1),
                Within(0.02),
                gates=(grid(("pspo", "clip"), optimizer, 1),),
            )
            for optimizer in RATES
        ),
        *(
            Part(
                f"ratios go farther than the clip's, {NAMES[optimizer]}",
                "secondary",
                "bandit",
                Difference(*(f"log largest ratio, {name}, {optimizer}" for name in ("pspo", "clip"))),
                More(),
                gates=(grid(("pspo", "clip"), optimizer, *SEVERAL),),
            )
            for optimizer in RATES
        ),
        *(
            Part(
                f"smoothing {where} beats the clip, {NAMES[optimizer]}, 8 passes",
                "exploratory",
                "bandit",
                compared(form, "clip", optimizer, 8),
                More(),
                gates=(grid((form, "clip"), optimizer, 8),),
            )
            for form, where in (("inside the clip", "inside the clip"), ("logarithm", "in the logarithm"))
            for optimizer in RATES
        ),
    ),
    not_run="Qwen2.5-0.5B on GSM8K (17.6 % clipped, 39.7 % PSPO) needs its weights and about 25 minutes of one H200 an arm "
    "and seed.",
    amended=(
        "The parts of the miniature were declared on 2026-11-30 over measurements of 2026-11-26, which an earlier judge "
        "had summed up in one word.",
        "The identity with the unclipped run was reported beside the comparison, in float32; it is the mechanism now, in "
        "float64.",
    ),
)
