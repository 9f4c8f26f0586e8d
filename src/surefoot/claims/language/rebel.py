"""REBEL's claim: regression of relative rewards is mirror descent, and can use every batch several times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.language.tiny import TOKENS, Sums, learner, rewarded, warm
from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Measurements,
    More,
    Part,
    Summary,
    Within,
)
from surefoot.loops.group_rollout.method import Batch, GroupRollout
from surefoot.methods.language.baselines import RLOO
from surefoot.methods.language.rebel import REBEL
from surefoot.seeding import torch_stream

# --- a softmax, by enumeration -------------------------------------------------------------------------------------

ARMS, PARTS, ETA, PASSES = 5, 12, 0.7, 200
F64 = torch.float64


def softmax(seeds: Sequence[int]) -> dict[str, list[float]]:
    """On a random softmax policy, with all pairs of its completions as often as it draws them: how far the first
    gradient is from −4η∇J, a Newton step from the natural gradient's, the policy at the minimum from π_old·exp(ηr)/Z,
    and the loss from itself after a shift of all rewards or with its pairs turned round; and J before and after."""
    names = ("first gradient", "newton", "minimum", "invariance", "J", "J after")
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed in seeds:
        stream = torch_stream(seed, "softmax")
        counts = 1 + torch.bincount(torch.randint(ARMS, (PARTS - ARMS,), generator=stream), minlength=ARMS)
        old, reward = counts.to(F64) / PARTS, torch.randn(ARMS, generator=stream, dtype=F64)
        arms = torch.arange(ARMS).repeat_interleave(counts)
        pairs = torch.cartesian_prod(arms, arms)
        loss = partial(regression, old, reward, pairs)
        start = old.log().requires_grad_()
        value = (start.softmax(-1) * reward).sum()
        (first,), (policy_gradient,) = torch.autograd.grad(loss(start), start), torch.autograd.grad(value, start)
        hessian = torch.stack([torch.autograd.grad(slope(loss, start)[i], start)[0] for i in range(ARMS)])
        newton = -torch.linalg.pinv(hessian, hermitian=True) @ first
        natural = ETA * torch.linalg.pinv(torch.diag(old) - old[:, None] * old, hermitian=True) @ policy_gradient
        new, mirrored = minimised(loss, start.detach()).softmax(-1), (old.log() + ETA * reward).softmax(-1)
        changed = [regression(old, reward, pairs.flip(1), start), regression(old, reward + 5, pairs, start)]
        found["first gradient"].append(float((first + 4 * ETA * policy_gradient).abs().max()))
        found["newton"].append(float((newton - newton.mean() - natural + natural.mean()).abs().max()))
        found["minimum"].append(float((new - mirrored).abs().max()))
        found["invariance"].append(float((torch.stack(changed) - loss(start)).abs().max()))
        found["J"].append(float(value))
        found["J after"].append(float((new * reward).sum()))
    return found


def regression(old: Tensor, reward: Tensor, pairs: Tensor, logits: Tensor) -> Tensor:
    """The shipped loss of pairs of completions of one token."""
    rows, group = pairs.flatten(), torch.arange(len(pairs)).repeat_interleave(2)
    one, log_prob = torch.ones(len(rows), 1, dtype=F64), logits.log_softmax(-1)
    method = REBEL(eta=ETA)
    batch = Batch(one.bool(), old.log()[rows, None], one, one, None, group, {"reward": reward[rows]})
    return method.loss(method.objective(), batch, log_prob[rows, None], torch.zeros_like(one))[0]  # type: ignore[arg-type]


def slope(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    return torch.autograd.grad(loss(at), at, create_graph=True)[0]


def minimised(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Where gradient descent ends: the loss is quadratic in the logits, with curvatures from 0.1 to 2."""
    found = start.clone().requires_grad_()
    for _ in range(PASSES):
        step = torch.autograd.grad(loss(found), found)[0]
        found = (found.detach() - 0.5 * step).requires_grad_()
    return found.detach()


def of_softmax(found: Measurements) -> Summary:
    """J of each seed, and the worst of all seeds of what is exact."""
    series = dict(found["softmax"])
    return series | {
        f"worst: {name}": max(series[name]) for name in ("first gradient", "newton", "minimum", "invariance")
    }


# --- sums ----------------------------------------------------------------------------------------------------------

STEPS, RATES, TUNING, WARMUP = 100, (3e-5, 1e-4, 3e-4, 1e-3), (2000, 2001), 100
TASK = Sums(2, 4)
SIZES: dict[str, Any] = {"prompts": 32, "samples": 2, "max_tokens": TOKENS}
METHODS: dict[str, GroupRollout] = {
    "rloo": RLOO(**SIZES),
    "rebel, 1 pass": REBEL(epochs=1, **SIZES),
    "rebel, 4 passes": REBEL(epochs=4, **SIZES),
}


def sums(arm: str, seeds: Sequence[int]) -> dict[str, Any]:
    """An arm at that of the step sizes with the highest mean reward in tuning: the reward of every iteration, and the
    mean reward of held-out prompts before and after."""
    curves = {rate: [learn(METHODS[arm], seed, rate)[0] for seed in TUNING] for rate in RATES}
    scores = {f"{rate:g}": float(np.mean(found)) for rate, found in curves.items()}
    rate = max(RATES, key=lambda r: scores[f"{r:g}"])
    runs = [learn(METHODS[arm], seed, rate) for seed in seeds]
    before = [rewarded(warm(TASK, seed, WARMUP), TASK) for seed in seeds]
    return {
        "tuning": scores,
        "rate": rate,
        "reward": [curve for curve, _ in runs],
        "before": before,
        "after": [after for _, after in runs],
    }


def learn(method: GroupRollout, seed: int, rate: float) -> tuple[list[float], float]:
    made = learner(method, warm(TASK, seed, WARMUP), TASK, seed, STEPS, rate)
    curve = [float(made.iterate()[0]["return_mean"]) for _ in range(STEPS)]
    return curve, rewarded(made.model, TASK)


def of_sums(found: Measurements) -> Summary:
    """Per seed, by arm: mean reward over all iterations, and that of held-out prompts before and after."""
    series: dict[str, Any] = {}
    for arm, facts in found.items():
        series[f"area, {arm}"] = np.mean(facts["reward"], axis=1)
        series |= {f"{key}, {arm}": facts[key] for key in ("before", "after", "rate")}
    return series


def rloo_learns(summary: Summary) -> bool:
    gain = np.subtract(summary["after, rloo"], summary["before, rloo"])
    return len(gain) > 1 and float(gain.mean()) >= 5 * float(gain.std(ddof=1)) / len(gain) ** 0.5


def inside(summary: Summary) -> bool:
    return all(RATES[0] < summary[f"rate, {arm}"] < RATES[-1] for arm in METHODS)


GATES = (
    Gate("control", rloo_learns, "RLOO's reward on held-out prompts rises by at least five standard errors"),
    Gate("grid", inside, "the best step size of every arm lies inside the grid"),
)

CLAIM = Claim(
    slug="rebel",
    sentence="Regressing relative rewards is mirror descent where it can be solved and the natural gradient in one step, "
    "and learns faster than REINFORCE from the same completions.",
    source="Gao et al. 2024 (arXiv:2404.16767), abstract and §4",
    method=REBEL,
    experiments={
        "softmax": Experiment(
            "mechanism",
            {"softmax": softmax},
            seeds=8,
            minutes=0.03,
            setting="a random softmax policy over 5 completions of one token with random rewards, η = 0.7, all pairs as "
            "often as the policy draws them; no sampling",
            arms={"REBEL": REBEL(eta=ETA)},
            summary=of_softmax,
        ),
        "sums": Experiment(
            "miniature",
            {arm: partial(sums, arm) for arm in METHODS},
            seeds=10,
            minutes=12,
            setting="sums of two to four numbers up to 3, a model of 100,000 weights that imitated 100 batches of them; 100 "
            "iterations of 32 prompts × 2 completions, AdamW at each arm's best of four step sizes",
            arms=METHODS,
            summary=of_sums,
            differs=(
                "exact answers as rewards in place of a reward model, and no KL from a reference",
                "a model of 100,000 weights in place of 1.4 to 8 billion",
                "no PPO and no DPO among the arms",
                "constant step sizes",
            ),
        ),
    },
    parts=(
        Part(
            "the first gradient is REINFORCE's with the other completion as baseline",
            "primary",
            "softmax",
            Exact("worst: first gradient"),
            Within(1e-9),
        ),
        Part(
            "a Newton step is the natural gradient",
            "primary",
            "softmax",
            Exact("worst: newton"),
            Within(1e-6),
            says="§4.1: a Gauss–Newton step on the regression is an NPG update",
        ),
        Part(
            "the minimum is mirror descent",
            "primary",
            "softmax",
            Exact("worst: minimum"),
            Within(1e-6),
            says="§2: solved exactly, π_{t+1} ∝ π_t·exp(ηr)",
        ),
        Part(
            "shifts of rewards and the order of a pair change nothing",
            "secondary",
            "softmax",
            Exact("worst: invariance"),
            Within(1e-9),
        ),
        Part(
            "an exact iteration raises the expected reward", "secondary", "softmax", Difference("J after", "J"), More()
        ),
        Part(
            "four passes learn faster than one",
            "primary",
            "sums",
            Difference("area, rebel, 4 passes", "area, rebel, 1 pass"),
            More(),
            gates=GATES,
        ),
        Part(
            "learns faster than RLOO",
            "primary",
            "sums",
            Difference("area, rebel, 4 passes", "area, rloo"),
            More(),
            gates=GATES,
            says="abstract: REBEL matches or beats REINFORCE-like methods, PPO and DPO",
        ),
        Part(
            "one pass learns as fast as RLOO",
            "secondary",
            "sums",
            Difference("area, rebel, 1 pass", "area, rloo"),
            Within(0.02),
            gates=GATES,
        ),
        Part(
            "ends above RLOO on held-out prompts",
            "secondary",
            "sums",
            Difference("after, rebel, 4 passes", "after, rloo"),
            More(),
            gates=GATES,
        ),
    ),
    not_run="TL;DR with Pythia-1.4B, its reward model and GPT-4 as judge, a million episodes: neither weights nor judge "
    "are at hand",
    amended=(
        "2026-11-30: the experiment of 2026-11-27, 3 seeds of a larger model on sums of one-digit numbers, could not tell: "
        "no arm's reward rose (0.195 to 0.211). Task, model, step sizes and seeds were chosen anew on seeds from 1000 and "
        "2000 on; the sweep over η was left out.",
        "Of the two runs of that experiment on the same seeds one had been summed up as favourable, the other not.",
    ),
)
