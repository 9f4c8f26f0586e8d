"""DRRho's claim: with a reference, distributionally robust learning needs fewer data, because the variance is of excess
losses.

Linear regression with a tenth of outliers in the noise; the reference is least squares on other samples. Every arm is
read by its excess risk ½‖θ − θ*‖². Two controls use the same reference or its data: a ridge around the reference, whose
strength is tuned, and least squares on all samples together.

The contrastive form matches two views of the same causes, with and without a narrow reference; its control learns from
the reference's pairs too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from surefoot.ambiguity import worst_case
from surefoot.claims import two_views
from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Less,
    LogRatio,
    Measurements,
    More,
    Part,
    Summary,
)
from surefoot.data.tables import Table
from surefoot.loops.finite_sum.learner import FiniteSumLearner
from surefoot.methods.supervised.drrho import DRRho
from surefoot.methods.supervised.drrho.contrastive import DRRhoContrastive
from surefoot.models.linear_model import LinearModel
from surefoot.seeding import numpy_stream

FEATURES, OF_REFERENCE, SIZES, EPOCHS = 20, 300, (40, 80, 160), 100
QUIET, LOUD, SHARE = 0.5, 6.0, 0.1  # standard deviations of the noise, and the share of loud samples
SETS: dict[str, dict[str, Any]] = {"KL": {"ambiguity": "kl-penalty:5"}, "χ²": {"rho": 1.0}}
PLAIN: dict[str, Any] = {"l2": 0.0, "fit_intercept": False}
RIDGES, TUNING = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0), range(2000, 2016)
TWO = float(np.log(2))


def truth(seed: int) -> np.ndarray:
    """θ*."""
    return numpy_stream(seed, "truth").normal(size=FEATURES)


def samples(seed: int, count: int, name: str) -> tuple[Table, np.ndarray]:
    """Samples around θ*, and which of them are loud."""
    stream = numpy_stream(seed, name)
    X, loud = stream.normal(size=(count, FEATURES)), stream.random(count) < SHARE
    return Table(X, X @ truth(seed) + stream.normal(size=count) * np.where(loud, LOUD, QUIET)), loud


def least_squares(*tables: Table) -> np.ndarray:
    """θ on some tables together."""
    X, y = np.vstack([t.X for t in tables]), np.concatenate([t.y for t in tables])
    return np.linalg.lstsq(X, y)[0]


def reference(seed: int, kind: str) -> LinearModel:
    """Least squares on 300 other samples; a bad one is θ* with noise of 0.5 on every coordinate."""
    if kind == "bad":
        theta = truth(seed) + 0.5 * numpy_stream(seed, "bad reference").normal(size=FEATURES)
    else:
        theta = least_squares(samples(seed, OF_REFERENCE, "samples of the reference")[0])
    return LinearModel(theta[None], np.zeros(1))


def risk(seed: int, theta: np.ndarray) -> float:
    """The excess risk."""
    return 0.5 * float(np.sum((theta - truth(seed)) ** 2))


def fitted(method: DRRho, table: Table) -> FiniteSumLearner:
    learner = FiniteSumLearner(method, table, [0])
    for _ in range(EPOCHS):
        learner.iterate()
    return learner


# --- what is exact -----------------------------------------------------------------------------------------------


def variances(seeds: Sequence[int]) -> dict[str, float]:
    """The variance of the loss of θ* less that of a reference, on 20,000 samples, the mean of the seeds."""
    found: dict[str, list[float]] = {"good": [], "bad": [], "none": []}
    for seed in seeds:
        table, _ = samples(seed, 20_000, "many samples")
        own = 0.5 * (table.y - table.X @ truth(seed)) ** 2
        for kind, values in found.items():
            values.append(float(np.var(own if kind == "none" else own - reference(seed, kind).losses(table))))
    return {kind: float(np.mean(values)) for kind, values in found.items()}


def expansion(seeds: Sequence[int]) -> float:
    """How far the worst case is from mean + √(2ρ·Var/n), while no weight is zero: the greatest of the seeds."""
    errors = []
    for seed in seeds:
        excess = numpy_stream(seed, "excess losses").uniform(size=50)
        found = worst_case(torch.tensor(excess), None, DRRho(rho=0.5).ambiguity_of(50), maximise=True)
        errors.append(abs(float(found.value) - excess.mean() - np.sqrt(2 * 0.5 * excess.var() / 50)))
    return max(errors)


def weight_of_noise(seeds: Sequence[int]) -> dict[str, float]:
    """The weight of the loud samples, with and without the reference, mean of the seeds at n = 80."""
    found: dict[str, list[float]] = {"with": [], "without": []}
    for seed in seeds:
        table, loud = samples(seed, 80, "samples")
        for kind, values in found.items():
            given = reference(seed, "good") if kind == "with" else None
            q = fitted(DRRho(reference=given, **SETS["KL"], **PLAIN), table).results()["weights"]
            values.append(float(q[loud].sum()))
    return {kind: float(np.mean(values)) for kind, values in found.items()}


def of_exact(found: Measurements) -> Summary:
    variance, weight = found["variances"], found["weight of noise"]
    return {
        "error of the expansion": found["expansion"],
        "variance without by with": variance["none"] / variance["good"],
        "variance with a bad reference by with a good one": variance["bad"] / variance["good"],
        "weight of loud samples without by with": weight["without"] / weight["with"],
    }


# --- from few samples --------------------------------------------------------------------------------------------


def arm(name: str, n: int, seeds: Sequence[int]) -> list[float]:
    """The excess risks of a set with a good, a bad or no reference: "KL, good"."""
    known, _, kind = name.partition(", ")
    found = []
    for seed in seeds:
        given = None if kind == "none" else reference(seed, kind)
        learner = fitted(DRRho(reference=given, **SETS[known], **PLAIN), samples(seed, n, "samples")[0])
        found.append(risk(seed, learner.agent().coef[0]))
    return found


def ridge(seed: int, n: int, strength: float) -> float:
    """The excess risk of mean loss + ½·strength·‖θ − reference‖²."""
    table, near = samples(seed, n, "samples")[0], reference(seed, "good").coef[0]
    gram = table.X.T @ table.X / n + strength * np.eye(FEATURES)
    return risk(seed, near + np.linalg.solve(gram, table.X.T @ (table.y - table.X @ near) / n))


def controls(n: int, seeds: Sequence[int]) -> dict[str, Any]:
    """The reference itself, least squares on the samples and on all, and the ridge at its best strength on other seeds."""
    tried = [float(np.mean([ridge(seed, n, c) for seed in TUNING])) for c in RIDGES]
    best = RIDGES[int(np.argmin(tried))]
    found: dict[str, Any] = {"strength": best, "tried": tried, "ridge": [ridge(seed, n, best) for seed in seeds]}
    found["reference"] = [risk(seed, reference(seed, "good").coef[0]) for seed in seeds]
    found["least squares"] = [risk(seed, least_squares(samples(seed, n, "samples")[0])) for seed in seeds]
    pooled = [(samples(s, n, "samples")[0], samples(s, OF_REFERENCE, "samples of the reference")[0]) for s in seeds]
    return {**found, "pooled": [risk(seed, least_squares(*both)) for seed, both in zip(seeds, pooled)]}


ARMS = ("KL, good", "χ², good", "KL, none", "χ², none", "KL, bad")


def of_samples(found: Measurements) -> Summary:
    series: dict[str, Any] = {}
    for n in SIZES:
        series |= {f"{name}, n = {n}": found[f"{name}, n = {n}"] for name in ARMS}
        beside = found[f"controls, n = {n}"]
        series |= {f"{name}, n = {n}": beside[name] for name in ("reference", "least squares", "pooled", "ridge")}
        series[f"strength, n = {n}"] = beside["strength"]
    return series


def of_exact_pairs(found: Measurements) -> Summary:
    error = found["normalisers"]
    return {"error of the gradient": found["gradients"], "error by batch by moving": error["batch"] / error["moving"]}


def of_pairs(found: Measurements) -> Summary:
    return {f"{name}, n = {n}": x for n in two_views.SIZES for name, x in found[f"matched, n = {n}"].items()}


def inside(n: int) -> Gate:
    """Whether the ridge's best strength lies inside its grid."""

    def holds(summary: Summary) -> bool:
        return RIDGES[0] < summary[f"strength, n = {n}"] < RIDGES[-1]

    return Gate("grid", holds, f"the strength of the ridge at n = {n} lies inside its grid")


def lower(name: str, role: Any, better: str, worse: str, n: int, factor: float = 1.0, **more: Any) -> Part:
    """A part: the risk of one arm is lower than another's, by a factor."""
    contrast = LogRatio(f"{worse}, n = {n}", f"{better}, n = {n}")
    return Part(f"{name}, n = {n}", role, "few samples", contrast, More(float(np.log(factor))), **more)


def matches(name: str, role: Any, better: str, worse: str, n: int, **more: Any) -> Part:
    """A part: one arm matches more new pairs than another."""
    return Part(
        f"{name}, n = {n}", role, "pairs", Difference(f"{better}, n = {n}", f"{worse}, n = {n}"), More(), **more
    )


CLAIM = Claim(
    slug="drrho",
    sentence="Subtracting the losses of a reference before the worst case is taken makes distributionally robust "
    "learning need fewer data, and lets the model pass its reference.",
    source="Wei et al. 2025, abstract",
    method=DRRho,
    experiments={
        "excess losses": Experiment(
            "mechanism",
            {"variances": variances, "expansion": expansion, "weight of noise": weight_of_noise},
            seeds=4,
            minutes=0.05,
            setting="linear regression, 20 features, noise of 0.5 (90 %) or 6 (10 %); reference: least squares on 300 "
            "samples, a bad one is θ* + 0.5·N(0, I); variances on 20,000 samples; ρ = 0.5 for the expansion",
            arms={"KL": DRRho(**SETS["KL"], **PLAIN)},
            summary=of_exact,
        ),
        "few samples": Experiment(
            "miniature",
            {f"controls, n = {n}": partial(controls, n) for n in SIZES}
            | {f"{name}, n = {n}": partial(arm, name, n) for n in SIZES for name in ARMS},
            seeds=30,
            minutes=1.5,
            setting="the same regression, n = 40, 80, 160 samples; KL price 5, ρ = 1, neither tuned; the ridge around the "
            "reference is the best of six strengths from 0.1 to 30 on seeds 2000 to 2015",
            arms={name: DRRho(**known, **PLAIN) for name, known in SETS.items()},
            summary=of_samples,
            differs=("linear regression in place of contrastive learning of images and texts", "our own data"),
        ),
        "normalisers": Experiment(
            "mechanism",
            {"gradients": two_views.gradients, "normalisers": two_views.normalisers},
            seeds=2,
            minutes=0.05,
            setting="random similarities of 12 pairs; linear encoders of 400 pairs of two noisy views of 8 causes in 16 "
            "features each, a fifth of the pairs wrong, batches of 16, τ = 0.1, ε = 1e-4, 20 epochs",
            arms={"moving": DRRhoContrastive(hidden=(), width=16, batch_size=16, inner_rate=0.2)},
            summary=of_exact_pairs,
        ),
        "pairs": Experiment(
            "miniature",
            {f"matched, n = {n}": partial(two_views.matched, n) for n in two_views.SIZES},
            seeds=20,
            minutes=2.5,
            setting="the same pairs, n = 100 and 400, batches of 64, 40 epochs; reference: embeddings of 8 numbers in "
            "place of 16, from 500 other pairs; the share of 500 new pairs that are matched, both ways; nothing tuned",
            arms={"linear": DRRhoContrastive(hidden=(), width=16)},
            summary=of_pairs,
            differs=(
                "linear encoders of synthetic views in place of images and texts",
                "a moving rate in place of γ = 1",
            ),
        ),
    },
    parts=(
        Part(
            "the worst case is the mean and the deviation of the excess losses",
            "primary",
            "excess losses",
            Exact("error of the expansion"),
            Less(1e-9, against=1e-4),
        ),
        Part(
            "a reference takes nine tenths of the variance away",
            "primary",
            "excess losses",
            Exact("variance without by with"),
            More(10.0, against=1.0),
            says="abstract: the variance term is of the difference of losses",
        ),
        Part(
            "a bad reference less of it",
            "secondary",
            "excess losses",
            Exact("variance with a bad reference by with a good one"),
            More(3.0, against=1.0),
        ),
        Part(
            "samples that are mere noise weigh under a half of what they do without a reference",
            "primary",
            "excess losses",
            Exact("weight of loud samples without by with"),
            More(2.0, against=1.0),
        ),
        *(lower("KL: half the risk of least squares", "primary", "KL, good", "least squares", n, 2.0) for n in SIZES),
        *(lower("χ²: half the risk of least squares", "secondary", "χ², good", "least squares", n, 2.0) for n in SIZES),
        *(lower("KL: half the risk without reference", "primary", "KL, good", "KL, none", n, 2.0) for n in SIZES),
        *(
            lower("without reference KL is worse than least squares", "secondary", "least squares", "KL, none", n)
            for n in SIZES
        ),
        lower("KL passes its reference", "primary", "KL, good", "reference", 160, says="abstract: weak to strong"),
        *(
            lower(
                "KL: below a tuned ridge around the reference", "secondary", "KL, good", "ridge", n, gates=(inside(n),)
            )
            for n in SIZES
        ),
        *(lower("KL: below least squares on all samples", "secondary", "KL, good", "pooled", n) for n in SIZES),
        *(
            lower("KL with a bad reference: below least squares", "secondary", "KL, bad", "least squares", n)
            for n in SIZES
        ),
        *(lower("KL: a good reference is better than a bad one", "secondary", "KL, good", "KL, bad", n) for n in SIZES),
        Part(
            "weights held constant give the gradient of the contrastive objective",
            "primary",
            "normalisers",
            Exact("error of the gradient"),
            Less(1e-9, against=1e-4),
        ),
        Part(
            "moving averages are nearer to the normalisers of all rows than batches are",
            "primary",
            "normalisers",
            Exact("error by batch by moving"),
            More(1.5, against=1.0),
        ),
        *(matches("a reference finds more pairs", "primary", "with", "without", n) for n in two_views.SIZES),
        matches(
            "the encoders pass their reference", "primary", "with", "reference", 400, says="abstract: weak to strong"
        ),
        *(
            matches("more than from all pairs without a reference", "secondary", "with", "pooled", n)
            for n in two_views.SIZES
        ),
    ),
    not_run="DRRho-CLIP learns ViT-B/16 from 192 million pairs of images and texts, 16 H100-days, and the data are not here",
)
