"""DRPO's claim: its estimate of a policy's preference, and its policy, are right if either of two models is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
    NoWorse,
    Part,
    Slope,
    Summary,
    Within,
)
from surefoot.loops.group_rollout.method import Batch
from surefoot.loops.group_rollout.pairs import SUMS
from surefoot.methods.preference.drpo import DRPO, doubly_robust
from surefoot.seeding import numpy_stream, torch_stream

F64 = torch.float64
CASES = {  # which of the preference model and the reference is right
    "both right": (True, True),
    "wrong judge": (False, True),
    "wrong reference": (True, False),
    "both wrong": (False, False),
}

# --- evaluating a policy ---------------------------------------------------------------------------------------------

ANSWERS, SIZES, REPLICATIONS = 4, (200, 2000, 20_000), 200
REFERENCE = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=F64)
POLICY, UNIFORM = REFERENCE.flip(0), torch.full((ANSWERS,), 1 / ANSWERS, dtype=F64)
PAIRS = torch.cartesian_prod(torch.arange(ANSWERS), torch.arange(ANSWERS))


def preference(seed: int, name: str) -> Tensor:
    """A random preference `[answers, answers]` of the row over the column, in [0.15, 0.85], maybe cyclic."""
    drawn = 0.15 + 0.7 * torch.rand(ANSWERS, ANSWERS, generator=torch_stream(seed, name), dtype=F64)
    return drawn.triu(1) + (1 - drawn.T).tril(-1) + 0.5 * torch.eye(ANSWERS, dtype=F64)


def believed(case: str, seed: int) -> tuple[Tensor, Tensor]:
    """The preference model and the reference that an estimator is given."""
    judge, writer = CASES[case]
    return preference(seed, "truth" if judge else "wrong judge"), REFERENCE if writer else UNIFORM


def estimates(judge: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """What three estimators make of every pair, by label `[pairs, 2]` (1 in the second column)."""
    label = torch.tensor([0.0, 1.0], dtype=F64).expand(len(PAIRS), 2)
    direct = (POLICY @ judge)[PAIRS].mean(1)
    ratio = (POLICY / reference)[PAIRS]
    known = judge[PAIRS[:, 0], PAIRS[:, 1]]
    robust = [doubly_robust(direct, ratio, label[:, i], known) for i in (0, 1)]
    weighted = 0.5 * (ratio[:, :1] * label + ratio[:, 1:] * (1 - label))
    return {"DR": torch.stack(robust, 1), "DM": direct[:, None].expand(-1, 2), "IS": weighted}


def law(seed: int) -> tuple[Tensor, float]:
    """The probability of every pair and label `[pairs, 2]`, and the policy's true preference."""
    truth = preference(seed, "truth")
    wins = truth[PAIRS[:, 0], PAIRS[:, 1]]
    return REFERENCE[PAIRS].prod(1)[:, None] * torch.stack([1 - wins, wins], 1), float(POLICY @ truth @ REFERENCE)


def population(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Per seed: the bias of the estimate in every case, how far it is from the product of both errors, and how far the
    gradient of the shipped losses is from that of the estimate."""
    found: dict[str, list[float]] = {**{case: [] for case in CASES}, "product": [], "gradient": []}
    for seed in seeds:
        chance, true = law(seed)
        for case in CASES:
            judge, reference = believed(case, seed)
            bias = float((chance * estimates(judge, reference)["DR"]).sum()) - true
            found[case].append(abs(bias))
            off = POLICY / reference - POLICY / REFERENCE
            product = -(REFERENCE * off) @ (judge - preference(seed, "truth")) @ REFERENCE
            found["product"].append(abs(bias - float(product)))
            found["gradient"].append(gradient_gap(seed, judge, reference))
    return found


def gradient_gap(seed: int, judge: Tensor, reference: Tensor) -> float:
    """The largest difference between the two gradients in the policy's logits, with the whole law as data."""
    chance, _ = law(seed)
    ordered = chance.view(ANSWERS, ANSWERS, 2)
    counts = ordered[..., 1] + ordered[..., 0].T  # of (preferred, other)
    logits = POLICY.log().requires_grad_()
    policy = logits.softmax(-1)
    ratio, known = (policy / reference)[PAIRS], judge[PAIRS[:, 0], PAIRS[:, 1]]
    direct = (policy @ judge)[PAIRS].mean(1)
    robust = torch.stack([doubly_robust(direct, ratio, torch.full_like(known, i), known) for i in (0, 1)], 1)
    (wanted,) = torch.autograd.grad((chance * robust).sum(), logits)
    loss = surrogate(DRPO(clip=None, kl=0.0), "DRPO", logits[None], counts[None], judge, reference)
    (found,) = torch.autograd.grad(loss, logits)
    return float((found + wanted).abs().max())


def evaluated(case: str, seeds: Sequence[int]) -> dict[str, list[list[float]]]:
    """Per seed, which is a preference, for every number of pairs: the mean squared error of each estimator over
    replications."""
    found: dict[str, list[list[float]]] = {"DR": [], "DM": [], "IS": []}
    for seed in seeds:
        chance, true = law(seed)
        tables = {name: table.flatten().numpy() for name, table in estimates(*believed(case, seed)).items()}
        errors: dict[str, list[float]] = {name: [] for name in found}
        for size in SIZES:
            stream = numpy_stream(seed, "replications", size)
            drawn = stream.multinomial(size, chance.flatten().numpy(), REPLICATIONS) / size
            for name, table in tables.items():
                errors[name].append(float(np.mean((drawn @ table - true) ** 2)))
        for name, row in errors.items():
            found[name].append(row)
    return found


def of_evaluation(found: Measurements) -> Summary:
    """Per seed: errors at the most pairs, and the logarithms of errors times their number, flat at the parametric
    rate."""
    series: dict[str, Any] = {"log n": np.log(SIZES)}
    for case, part in found.items():
        for name, values in part.items():
            series[f"{name}, {case}"] = np.asarray(values)[:, -1]
            series[f"log error·n, {name}, {case}"] = np.log(values) + np.log(SIZES)
    return series


# --- learning a policy -----------------------------------------------------------------------------------------------

TRUTH = torch.tensor([[0.5, 0.9, 0.6], [0.1, 0.5, 0.85], [0.4, 0.15, 0.5]], dtype=F64)
BELIEF = torch.tensor([[0.5, 0.3, 0.2], [0.7, 0.5, 0.3], [0.8, 0.7, 0.5]], dtype=F64)
WRITER, OTHER = torch.tensor([0.15, 0.25, 0.6], dtype=F64), torch.tensor([0.6, 0.25, 0.15], dtype=F64)
LABELLED, STEPS, RATE, KL = 4000, 600, 0.05, 0.05
SHIPPED, FREE = DRPO(kl=KL), DRPO(kl=KL, clip=None)
ARMS = {"DRPO": SHIPPED, "DRPO, no clip": FREE, "judge alone": FREE, "labels alone": FREE}


def optimised(case: str, arm: str, seeds: Sequence[int]) -> list[float]:
    """Per seed: the true preference for the policy that an arm learns from labelled pairs."""
    judge, writer = CASES[case]
    judged, reference = TRUTH if judge else BELIEF, WRITER if writer else OTHER
    counts = torch.stack([labelled(seed) for seed in seeds])
    logits = reference.log().repeat(len(counts), 1).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        surrogate(ARMS[arm], arm, logits, counts, judged, reference).backward()
        optimizer.step()
    return (logits.detach().softmax(-1) @ TRUTH @ WRITER).tolist()


def labelled(seed: int) -> Tensor:
    """The share of pairs in which answer w was preferred to answer l, `[w, l]`."""
    stream = torch_stream(seed, "labelled pairs")
    first, second = torch.multinomial(WRITER, 2 * LABELLED, True, generator=stream).view(2, LABELLED)
    wins = torch.rand(LABELLED, generator=stream, dtype=F64) < TRUTH[first, second]
    won, lost = torch.where(wins, first, second), torch.where(wins, second, first)
    return torch.bincount(3 * won + lost, minlength=9).view(3, 3).to(F64) / LABELLED


def surrogate(method: DRPO, arm: str, logits: Tensor, counts: Tensor, judge: Tensor, reference: Tensor) -> Tensor:
    """The shipped losses, summed over seeds, for logits `[seeds, answers]` and pairs `counts[seed, w, l]`: of every
    answer as often as the policy gives it, and of the answers in the data. Without its first part the labels are alone:
    1 for a preferred answer, 0 for the other."""
    log_policy, labels = logits.log_softmax(-1), arm == "labels alone"
    seeds, size = logits.shape
    data = 0.5 * (counts.sum(1) + counts.sum(2))
    advantage = torch.zeros_like(data) if labels else data @ judge.T - 0.5
    prior, weights = reference.log().repeat(seeds, 1), log_policy.detach().exp()
    total = of_rows(method, log_policy, advantage, weights, prior if method.kl else None)
    if arm == "judge alone":
        return total
    won, lost = torch.cartesian_prod(torch.arange(size), torch.arange(size)).unbind(1)
    sure = torch.zeros(size**2, dtype=F64) if labels else judge[won, lost]
    pull = torch.cat([1 - sure, sure if labels else sure - 1]).expand(seeds, -1)
    answers, shares = torch.cat([won, lost]), 0.5 * counts.flatten(1).repeat(1, 2)
    extra = {"reference": prior[:, answers].flatten()}
    return total + of_rows(method, log_policy[:, answers], pull, shares, None, extra)


def of_rows(
    method: DRPO,
    log_prob: Tensor,
    advantage: Tensor,
    weights: Tensor,
    reference: Tensor | None,
    extra: dict[str, Tensor] | None = None,
) -> Tensor:
    """The shipped loss of answers of one token, `[seeds, answers]` each."""
    rows = [None if x is None else x.reshape(-1, 1) for x in (log_prob, advantage, weights, reference)]
    now, pull, shares, prior = rows
    assert now is not None and pull is not None and shares is not None
    valid = torch.ones_like(now, dtype=torch.bool)
    batch = Batch(valid, now.detach(), pull, shares, prior, torch.arange(len(now)), extra or {})
    return method.loss(replace(SUMS, divergence=method.kl), batch, now, torch.zeros_like(now))[0]


def of_policies(found: Measurements) -> Summary:
    return {f"{arm}, {case}": found[f"{case}: {arm}"] for case in CASES for arm in ARMS}


def room(summary: Summary) -> bool:
    """What trusts one model alone fails with it, and all learn where both are right."""
    alone = ("judge alone, wrong judge", "labels alone, wrong reference")
    fails = all(float(np.mean(summary[name])) < 0.55 for name in alone)
    return fails and all(float(np.mean(summary[f"{arm}, both right"])) > 0.6 for arm in ARMS)


GATES = (
    Gate("room", room, "a judge alone fails if it is wrong, labels alone if the reference is, and all learn otherwise"),
)


def as_good(case: str, arm: str, role: Any = "primary") -> Part:
    """A part: the policy of a case is as good as where both models are right."""
    series = (f"{arm}, {case}", f"{arm}, both right")
    name = f"{case}: the policy of {arm} is as good as where both are right, or better (up to 0.03)"
    return Part(name, role, "policies", Difference(*series), NoWorse(0.03), gates=GATES)


CLAIM = Claim(
    slug="drpo",
    sentence="The estimate of how often a policy is preferred, and the policy that maximises it, are right if either the "
    "preference model or the reference is, where each of the two alone is not.",
    source="Xu et al. 2025 (arXiv:2506.01183), abstract and §5",
    method=DRPO,
    experiments={
        "population": Experiment(
            "mechanism",
            {"population": population},
            seeds=8,
            minutes=0.01,
            setting="random preferences over 4 answers; a wrong judge is another random preference, a wrong reference "
            "uniform; no sampling",
            arms={"DRPO": DRPO(clip=None, kl=0.0)},
            summary=lambda found: {f"worst: {name}": max(values) for name, values in found["population"].items()},
        ),
        "evaluation": Experiment(
            "miniature",
            {case: partial(evaluated, case) for case in CASES},
            seeds=30,
            minutes=0.05,
            setting="the same preferences, a fixed policy with the reference's probabilities reversed; 200 samples each of "
            "200, 2000 and 20,000 labelled pairs",
            arms={"DRPO": DRPO()},
            summary=of_evaluation,
            differs=("random preferences in place of a sentiment classifier's on film reviews", "four answers"),
        ),
        "policies": Experiment(
            "miniature",
            {f"{case}: {arm}": partial(optimised, case, arm) for case in CASES for arm in ARMS},
            seeds=30,
            minutes=1.2,
            setting="three answers in a preference that is no reward's, 4000 labelled pairs; 600 Adam steps on the shipped "
            "losses, with the expectation over the policy's answers exact, β = 0.05; the true probability of being "
            "preferred to the reference",
            arms=ARMS,
            summary=of_policies,
            differs=("three answers in place of language models and a judge",),
        ),
    },
    parts=(
        *(
            Part(
                f"{case}: the estimate has no bias",
                "primary",
                "population",
                Exact(f"worst: {case}"),
                Within(1e-12),
                says="abstract: remains consistent when either model is correctly specified, without requiring both",
            )
            for case in ("wrong judge", "wrong reference")
        ),
        Part(
            "with both wrong the bias is the product of both errors",
            "primary",
            "population",
            Exact("worst: product"),
            Within(1e-12),
        ),
        Part(
            "the shipped losses have the gradient of the estimate",
            "primary",
            "population",
            Exact("worst: gradient"),
            Within(1e-12),
        ),
        *(
            Part(
                f"{case}: the error falls as 1/n (slope of the logarithms −1, up to 0.05)",
                "primary",
                "evaluation",
                Slope(f"log error·n, DR, {case}", "log n"),
                Within(0.05),
                says="§5: consistent if either is right",
            )
            for case in ("wrong judge", "wrong reference")
        ),
        *(
            Part(
                f"{case}: with 20,000 pairs the error is less than half that of {words}",
                "primary",
                "evaluation",
                LogRatio(f"DR, {case}", f"{name}, {case}"),
                Less(float(np.log(0.5))),
            )
            for case, name, words in (
                ("wrong judge", "DM", "the judge alone"),
                ("wrong reference", "IS", "importance weights alone"),
            )
        ),
        Part(
            "both right: the error is below that of importance weights alone",
            "secondary",
            "evaluation",
            LogRatio("DR, both right", "IS, both right"),
            Less(),
            says="§5: efficient if both are right",
        ),
        Part(
            "both wrong: the error falls more slowly than 1/√n",
            "secondary",
            "evaluation",
            Slope("log error·n, DR, both wrong", "log n"),
            More(0.5),
        ),
        Part(
            "both right: the error is below that of the judge alone",
            "exploratory",
            "evaluation",
            LogRatio("DR, both right", "DM, both right"),
            Less(),
        ),
        Part(
            "wrong judge: DRPO's policy is preferred by 0.1 more than the judge's own",
            "primary",
            "policies",
            Difference("DRPO, wrong judge", "judge alone, wrong judge"),
            More(0.1),
            gates=GATES,
            says="abstract: superior and more robust performance",
        ),
        Part(
            "wrong reference: it is preferred by 0.1 more than that of labels alone",
            "primary",
            "policies",
            Difference("DRPO, wrong reference", "labels alone, wrong reference"),
            More(0.1),
            gates=GATES,
        ),
        as_good("wrong judge", "DRPO"),
        as_good("wrong reference", "DRPO"),
        as_good("wrong judge", "DRPO, no clip", "secondary"),
        as_good("wrong reference", "DRPO, no clip", "secondary"),
        as_good("both wrong", "DRPO", "exploratory"),
    ),
    not_run="TL;DR and HH with models of billions of weights and a judge (win rates of 57 to 98.5 %), and IMDb with a "
    "sentiment classifier of 355 million: neither weights nor judge are at hand",
)
