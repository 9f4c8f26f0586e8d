"""The claim of uncertainty-aware RLHF: weighing the divergence by the rewards' variance lowers the risk of falling below
the reference."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

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
from surefoot.claims.preference.tilted import F64, at_divergence, aware, plain
from surefoot.methods.preference.uncertainty_rlhf import UncertaintyRLHF
from surefoot.objectives.ensembles import aligned, disagreement, penalized, relative
from surefoot.seeding import torch_stream

METHOD = UncertaintyRLHF()

# --- the gradient and the optimum of the shipped reward --------------------------------------------------------------


def identities(seeds: Sequence[int]) -> dict[str, list[float]]:
    """On random problems: the score-function gradient of the shipped reward less that of the objective, and at the
    closed-form optimum."""
    found: dict[str, list[float]] = {"gradient": [], "optimum": []}
    for seed in seeds:
        stream = torch_stream(seed, "identities")
        reference, other = torch.randn(2, 12, generator=stream, dtype=F64).softmax(1)
        scores = torch.randn(12, 5, generator=stream, dtype=F64)
        scores = aligned(scores, reference @ scores)
        variance = disagreement(scores)
        weight = relative(variance, reference @ variance, METHOD.floor)
        best = aware(reference, scores.mean(-1), weight, METHOD.beta)
        for name, policy in (("gradient", other), ("optimum", best)):
            logits = policy.log().requires_grad_()
            now = logits.softmax(0)
            price = (weight * (now * (now / reference).log() - now + reference)).sum()
            (exact,) = torch.autograd.grad(now @ scores.mean(-1) - METHOD.beta * price, logits, retain_graph=True)
            shaped = penalized(scores.mean(-1), weight, (policy / reference).log(), METHOD.beta)
            (sampled,) = torch.autograd.grad((policy * shaped) @ now.log(), logits)
            found[name].append(float(((sampled - exact) if name == "gradient" else sampled).abs().max()))
    return found


# --- the theory: Gaussian estimates and constrained linear policies --------------------------------------------------

ANSWERS, ESTIMATES = 20, 10_000


def normal(x: Tensor) -> Tensor:
    """The distribution function of the standard normal."""
    return torch.special.ndtr(x)


def problem(seed: int) -> tuple[Tensor, Tensor]:
    """The true rewards, of size 0.5 and centred, and the variances of their estimates, 0.04 to 4."""
    stream = torch_stream(seed, "theory")
    reward = 0.5 * torch.randn(ANSWERS, generator=stream, dtype=F64)
    spread = (0.2 * 10 ** torch.rand(ANSWERS, generator=stream, dtype=F64)) ** 2
    return reward - reward.mean(), spread


def steps(estimate: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """The directions in which a policy leaves the reference, Σ_y δ = 0: within a ball, and within the one of Σ."""
    precision = 1 / variance
    mean = (estimate * precision).sum(-1, keepdim=True) / precision.sum()
    return estimate - estimate.mean(-1, keepdim=True), precision * (estimate - mean)


def risks(seeds: Sequence[int]) -> dict[str, list[float]]:
    """The exact risks of both, the risk of both where all variances are equal, and of a problem by hand."""
    found: dict[str, list[float]] = {"vanilla": [], "aware": [], "equal": []}

    def risk(reward: Tensor, variance: Tensor) -> list[float]:
        directions = steps(reward, variance)
        gain = torch.stack([reward @ x for x in directions])
        # The gain of an estimate R̂ is a linear function of it: rᵀM·R̂, with the true reward's own direction.
        spread = torch.stack([(x.square() @ variance).sqrt() for x in directions])
        return normal(-gain / spread).tolist()

    for seed in seeds:
        reward, variance = problem(seed)
        first, second = risk(reward, variance)
        found["vanilla"].append(first)
        found["aware"].append(second)
        same = risk(reward, torch.full_like(variance, float(variance.mean())))
        found["equal"].append(abs(same[0] - same[1]))
    hand = risk(torch.tensor([1, 0.5, -0.2], dtype=F64), torch.tensor([1, 0.25, 4], dtype=F64))
    return {**found, "by hand": hand}


def sampled(seeds: Sequence[int]) -> dict[str, list[float]]:
    """The shares of 10,000 Gaussian estimates whose step lowers the true reward."""
    found: dict[str, list[float]] = {"vanilla": [], "aware": []}
    for seed in seeds:
        reward, variance = problem(seed)
        noise = torch.randn(ESTIMATES, ANSWERS, generator=torch_stream(seed, "estimates"), dtype=F64)
        for name, step in zip(found, steps(reward + variance.sqrt() * noise, variance), strict=True):
            found[name].append(float((step @ reward <= 0).double().mean()))
    return found


# --- ensembles, whose disagreement is all that is known --------------------------------------------------------------

REPEATS, TARGET = 200, 0.5
NOISE = torch.tensor([0.2, 2.0], dtype=F64).repeat_interleave(ANSWERS // 2)
ARMS = ("single", "ensemble", "lower bound", "minimum", "aware")


def ensembles(members: int, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Per seed, over 200 ensembles for as many problems: the mean and the spread of the gain over the reference at a
    divergence of 0.5 and the share of policies below it, of every arm."""
    found: dict[str, list[float]] = {}
    reference = torch.full((REPEATS, ANSWERS), 1 / ANSWERS, dtype=F64)
    for seed in seeds:
        stream = torch_stream(seed, f"ensembles of {members}")
        truth = 0.5 * torch.randn(REPEATS, ANSWERS, generator=stream, dtype=F64)
        scores = truth[..., None] + NOISE[:, None] * torch.randn(REPEATS, ANSWERS, members, generator=stream, dtype=F64)
        scores = scores + 3 * torch.randn(REPEATS, 1, members, generator=stream, dtype=F64)  # constants of no meaning
        scores = torch.stack([aligned(one, one.mean(0)) for one in scores])
        mean, variance = scores.mean(-1), disagreement(scores)
        weight = relative(variance, variance.mean(1, keepdim=True), METHOD.floor)
        rewards = {
            "single": scores[..., 0],
            "ensemble": mean,
            "lower bound": mean - variance.sqrt(),
            "minimum": scores.amin(-1),
        }
        policies = {name: partial(plain, reference, reward) for name, reward in rewards.items()}
        policies["aware"] = partial(aware, reference, mean, weight)
        for arm in ARMS:
            policy = at_divergence(policies[arm], reference, TARGET)
            gain = ((policy - reference) * truth).sum(1)
            figures = {"gain": gain.mean(), "spread": gain.std(), "below": (gain < 0).double().mean()}
            for name, value in figures.items():
                found.setdefault(f"{name}, {arm}", []).append(float(value))
    return found


def of_ensembles(found: Measurements) -> Summary:
    """Every figure of every arm and size, by name."""
    series: dict[str, Any] = {f"{name}, {size}": x for size, part in found.items() for name, x in part.items()}
    return series


def risky(summary: Summary) -> bool:
    below = summary["below, ensemble, 3 members"]
    return 0.005 < sum(below) / len(below) < 0.5


GATES = (Gate("room", risky, "the plain ensemble of 3 falls below the reference in 0.5 to 50 % of problems"),)


def against(
    name: str, role: Any, figure: str, size: int, test: Any, says: str = "", than: str = "ensemble", gates: Any = ()
) -> Part:
    """A part: a figure of the aware arm less another arm's."""
    series = (f"{figure}, aware, {size} members", f"{figure}, {than}, {size} members")
    return Part(name, role, "ensembles", Difference(*series), test, gates=gates, says=says)


SAFER = "abstract: the variance-aware policy has a lower risk than the vanilla one"

CLAIM = Claim(
    slug="uncertainty-rlhf",
    sentence="Where estimated rewards are less certain the divergence from the reference costs more, and then a policy ends "
    "below the reference less often, and varies less, than one with the usual penalty at the same divergence.",
    source="Banerjee and Gopalan 2024 (arXiv:2410.23726), abstract",
    method=UncertaintyRLHF,
    experiments={
        "identities": Experiment(
            "mechanism",
            {"identities": identities},
            seeds=10,
            minutes=0.01,
            setting="random rewards of 12 answers by 5 members, exact expectations; no sampling",
            arms={"aware": METHOD},
            summary=lambda found: {f"worst {name}": max(values) for name, values in found["identities"].items()},
        ),
        "risk": Experiment(
            "mechanism",
            {"risks": risks},
            seeds=200,
            minutes=0.01,
            setting="200 draws of 20 true rewards and of their variances, 0.04 to 4: the risks in closed form; no sampling",
            arms={"aware": METHOD},
            summary=lambda found: {
                "largest difference": max(b - a for a, b in zip(found["risks"]["vanilla"], found["risks"]["aware"])),
                "equal": max(found["risks"]["equal"]),
                "vanilla by hand": found["risks"]["by hand"][0] - 0.300307,
                "aware by hand": found["risks"]["by hand"][1] - 0.276384,
            },
        ),
        "ensembles": Experiment(
            "miniature",
            {f"{size} members": partial(ensembles, size) for size in (3, 5, 10)},
            seeds=30,
            minutes=2,
            setting="20 answers, a uniform reference, true rewards of size 0.5; members err by 0.2 on half of the answers and "
            "by 2 on the others, and each has a constant of no meaning; exact policies at a divergence of 0.5, from the "
            "shipped variances; 200 problems a seed",
            arms={"aware": METHOD},
            summary=of_ensembles,
            differs=(
                "a bandit with a known reward and Gaussian members in place of language models and trained reward models",
                "exact policies of the shipped objective, no gradient steps",
            ),
        ),
        "estimates": Experiment(
            "instance",
            {"sampled": sampled},
            seeds=30,
            minutes=0.1,
            setting="the setting of the theory: Gaussian estimates of 20 rewards with known variances, policies on a ball "
            "around the reference; the share of 10,000 estimates whose policy is worse than it",
            arms={"aware": METHOD},
            summary=lambda found: dict(found["sampled"]),
            differs=("20 answers with variances of 0.04 to 4: the theorem names no instance",),
        ),
    },
    parts=(
        Part(
            "the gradient of the shipped reward is that of the objective",
            "primary",
            "identities",
            Exact("worst gradient"),
            Within(1e-10),
        ),
        Part("and is 0 at π_ref·exp((r̂ − ν)/(βσ²))", "primary", "identities", Exact("worst optimum"), Within(1e-10)),
        Part(
            "the risk is lower in every one of 200 problems",
            "primary",
            "risk",
            Exact("largest difference"),
            Less(),
            says=SAFER,
        ),
        Part("and the same where all variances are equal", "primary", "risk", Exact("equal"), Within(1e-12)),
        Part("vanilla risk of a problem by hand", "secondary", "risk", Exact("vanilla by hand"), Within(1e-6)),
        Part("aware risk of a problem by hand", "secondary", "risk", Exact("aware by hand"), Within(1e-6)),
        Part(
            "the risk is lower over estimates",
            "primary",
            "estimates",
            Difference("aware", "vanilla"),
            Less(),
            says=SAFER,
        ),
        against("3 members: fewer policies below the reference", "primary", "below", 3, Less(), SAFER, gates=GATES),
        against("3 members: the gain varies less", "primary", "spread", 3, Less(), "abstract: lower variance"),
        against("5 members: the gain varies less", "primary", "spread", 5, Less(), "abstract: lower variance"),
        against("10 members: the gain varies less", "secondary", "spread", 10, Less(), "abstract: lower variance"),
        against("5 members: fewer policies below the reference", "secondary", "below", 5, Less(), SAFER),
        against("3 members: more gain on average", "secondary", "gain", 3, More()),
        against("10 members: less gain on average, as the mean is accurate already", "exploratory", "gain", 10, Less()),
        against("3 members: fewer below than with mean − sd", "exploratory", "below", 3, Less(), than="lower bound"),
        against("3 members: more gain than with mean − sd", "exploratory", "gain", 3, More(), than="lower bound"),
        against("3 members: more gain than with the minimum", "exploratory", "gain", 3, More(), than="minimum"),
        against("3 members: more gain than with one reward", "exploratory", "gain", 3, More(), than="single"),
    ),
    not_run="a language model aligned with an ensemble of ten reward models, many policies each: the paper's abstract gives "
    "neither models nor β nor the number of repeats",
)
