"""LENS's claim: groups without a success get a gradient, the right one, and hard prompts are learned sooner."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.language.lens_sums import GATES, METHODS, Uniform, before, of_sums, sums
from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Less,
    Measurements,
    More,
    NoWorse,
    Part,
    Summary,
)
from surefoot.envs.language import Example
from surefoot.loops.group_rollout.method import GroupRollout, Rollout
from surefoot.methods.language.baselines import GRPO
from surefoot.methods.language.lens import LENS, penalised
from surefoot.models.language.sequences import join
from surefoot.seeding import torch_stream

F64 = torch.float64


# --- all answers of a softmax --------------------------------------------------------------------------------------

ARMS, GROUPS = 6, 400


def softmax(seeds: Sequence[int]) -> dict[str, list[float]]:
    """On random policies over six answers: how far the policy gradient of the calibrated rewards is from that of J_MLE,
    by enumeration; where no answer is right the norm of both and of GRPO's, and the change of the likeliest answer. And
    over random groups of 16 the largest advantage of a wrong answer and the smallest of a right one, in mixed groups."""
    names = ("apart", "grpo, none right", "none right", "likeliest", "wrong", "right")
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed in seeds:
        stream = torch_stream(seed, "softmax")
        logits = torch.randn(ARMS, generator=stream, dtype=F64)
        count = 1 + seed % 2
        right = (torch.randperm(ARMS, generator=stream) < count).double()
        found["apart"].append(
            float((calibrated(logits, right) - exact(logits, right)).norm() / exact(logits, right).norm())
        )
        none = torch.zeros(ARMS, dtype=F64)
        lost = calibrated(logits, none)
        p = logits.softmax(-1)
        found["grpo, none right"].append(float((p * (none - (p * none).sum())).norm()))
        found["none right"].append(float(lost.norm()))
        found["likeliest"].append(float(lost[logits.argmax()]))
        c = torch.rand(GROUPS, 16, generator=stream).clamp(1e-3, 0.999)
        reward = torch.rand(GROUPS, 16, generator=stream).argsort(1) < torch.randint(
            1, 16, (GROUPS, 1), generator=stream
        )
        advantage = LENS(importance="mean").advantages(written(reward.float(), c.log()))
        found["wrong"].append(float(advantage[~reward].max()))
        found["right"].append(float(advantage[reward].min()))
    return found


def calibrated(logits: Tensor, right: Tensor) -> Tensor:
    """Σ π·R̃·∇log π in the logits, with the true D and the shipped penalty."""
    p = logits.softmax(-1)
    coefficient = penalised(right, p, torch.tensor(1 / max(1.0, float(right.sum()))), 1.0)
    return p * (coefficient - (p * coefficient).sum())


def exact(logits: Tensor, right: Tensor) -> Tensor:
    """The gradient of J_MLE = Σ_right π + Σ_wrong (π + D·log(1 − π/D))."""
    leaf, d = logits.clone().requires_grad_(), 1 / max(1.0, float(right.sum()))
    p = leaf.softmax(-1)
    wrong = p + d * torch.log1p(-p / d)
    return torch.autograd.grad(torch.where(right > 0, p, wrong).sum(), leaf)[0]


def written(reward: Tensor, log_prob: Tensor) -> Rollout:
    """Completions of one token with these rewards and log-probabilities."""
    rows = reward.numel()
    per_token = torch.stack([torch.zeros(rows), log_prob.flatten()], 1)
    return Rollout(
        [Example("a=") for _ in reward],
        torch.arange(len(reward)),
        join([[1]] * rows, [[2]] * rows),
        ["1"] * rows,
        per_token,
        reward,
        {"reward": reward},
        torch.zeros_like(reward).bool(),
    )


def of_softmax(found: Measurements) -> Summary:
    facts = found["softmax"]
    return {f"worst: {name}": max(facts[name]) for name in ("apart", "grpo, none right", "likeliest", "wrong")} | {
        f"least: {name}": min(facts[name]) for name in ("none right", "right")
    }


# --- a hard bandit -------------------------------------------------------------------------------------------------

CONTEXTS, CHOICES, SAMPLES, STEPS, RATES = 64, 40, 8, 300, (0.5, 2.0)
GIVEN: dict[str, Any] = {"samples": SAMPLES, "importance": "off"}
BANDIT: dict[str, GroupRollout] = {
    "grpo": GRPO(samples=SAMPLES, unbiased=True),
    "uniform, 0.25": Uniform(**GIVEN),
    "uniform, 0.5": Uniform(**GIVEN, alpha=0.5),
    "lens": LENS(**GIVEN),
    "lens, α=1": LENS(**GIVEN, alpha=1.0),
}


def bandit(arm: str, rate: float, seeds: Sequence[int]) -> dict[str, list[float]]:
    """64 contexts × 40 arms of which one is right; three wrong ones begin with a logit of 4, the right one with −1.
    Accuracy at the end, its mean over training, and the share of groups without a success."""
    method, found = BANDIT[arm], dict[str, list[float]](accuracy=[], area=[], negative=[])
    for seed in seeds:
        start = torch_stream(seed, "hard bandit")
        place = torch.rand(CONTEXTS, CHOICES, generator=start).argsort(1)
        logits = torch.zeros(CONTEXTS, CHOICES).scatter(1, place[:, 1:4], 4.0).scatter(1, place[:, :1], -1.0)
        accuracy, negative = [], []
        for step in range(STEPS):
            p = logits.softmax(-1)
            arms = torch.multinomial(p, SAMPLES, True, generator=torch_stream(seed, "arms", step))
            reward = (arms == place[:, :1]).float()
            advantage = method.advantages(written(reward, p.gather(1, arms).log())).float()
            pull = torch.zeros_like(p).scatter_add(1, arms, advantage / SAMPLES)
            logits = logits + rate * (pull - p * pull.sum(1, keepdim=True))
            accuracy.append(float(logits.softmax(-1).gather(1, place[:, :1]).mean()))
            negative.append(float((reward.sum(1) == 0).float().mean()))
        found["accuracy"].append(accuracy[-1])
        found["area"].append(float(np.mean(accuracy)))
        found["negative"].append(float(np.mean(negative)))
    return found


def of_bandit(found: Measurements) -> Summary:
    """Per seed; "uniform" is the better of the two uniform penalties on the mean over seeds."""
    series: dict[str, Any] = {f"{name}, {key}": x for key, facts in found.items() for name, x in facts.items()}
    for rate in RATES:
        for name in ("accuracy", "area"):
            both = [series[f"{name}, uniform, {alpha}, {rate:g}"] for alpha in (0.25, 0.5)]
            series[f"{name}, uniform, {rate:g}"] = max(both, key=np.mean)
    return series


def has_room(summary: Summary) -> bool:
    return 0.05 < float(np.mean(summary["accuracy, grpo, 2"])) < 0.97


ROOM = (Gate("room", has_room, "GRPO's final accuracy at step size 2 is between 0.05 and 0.97"),)

CLAIM = Claim(
    slug="lens",
    sentence="The likelihood of which answers are right has a gradient where all are wrong; used as a penalty by "
    "confidence it teaches hard prompts that GRPO passes over, better than the same penalty for all.",
    source="Feng et al. 2025 (arXiv:2510.08696), §3 to §6, Tables 1 and 2",
    method=LENS,
    experiments={
        "softmax": Experiment(
            "mechanism",
            {"softmax": softmax},
            seeds=8,
            minutes=0.02,
            setting="random softmax policies over six answers, one or two right or none, by enumeration; 400 random "
            "groups of 16 with at least one right and one wrong answer; no training",
            arms={"LENS": LENS(importance="mean")},
            summary=of_softmax,
        ),
        "bandit": Experiment(
            "miniature",
            {f"{arm}, {rate:g}": partial(bandit, arm, rate) for arm in BANDIT for rate in RATES},
            seeds=20,
            minutes=2,
            setting="64 contexts × 40 arms, of which one is right, with an initial probability of 0.2 %; groups of 8, 300 "
            "steps of gradient ascent in the logits at 0.5 and 2",
            arms=BANDIT,
            summary=of_bandit,
            differs=(
                "a bandit in place of Llama-3.1-8B on MATH; completions of one token",
                "one step per batch of all contexts, gradient ascent in place of AdamW",
            ),
        ),
        "sums": Experiment(
            "miniature",
            {"before": before} | {arm: partial(sums, arm) for arm in METHODS},
            seeds=10,
            minutes=20,
            setting="sums of two or three numbers up to 3 and of five or six, evenly; a model of 100,000 weights that "
            "imitated 60 batches; 100 iterations of 16 prompts × 8 completions, AdamW at each arm's best of four step "
            "sizes",
            arms=METHODS,
            summary=of_sums,
            differs=(
                "sums in place of MATH, a model of 100,000 weights in place of 3 or 8 billion",
                "8 completions in place of 16, one step per batch in place of four",
                "100 iterations in place of 1,400",
            ),
        ),
    },
    parts=(
        Part(
            "calibrated rewards have the gradient of the likelihood",
            "primary",
            "softmax",
            Exact("worst: apart"),
            Less(1e-9, against=1e-9),
            says="§4: the gradient of the MLE loss is a policy gradient with rewards r − (1 − r)·π/(D − π)",
        ),
        Part(
            "where all answers are wrong rewards have no gradient",
            "secondary",
            "softmax",
            Exact("worst: grpo, none right"),
            Less(1e-12, against=1e-12),
        ),
        Part("and calibrated rewards have one", "primary", "softmax", Exact("least: none right"), More(1e-3)),
        Part(
            "which lowers the likeliest answer",
            "secondary",
            "softmax",
            Exact("worst: likeliest"),
            Less(),
        ),
        Part(
            "in a mixed group every wrong answer stays below the mean",
            "primary",
            "softmax",
            Exact("worst: wrong"),
            Less(),
            says="§5: the factor 1/G keeps the order of right and wrong",
        ),
        Part(
            "and every right one above it",
            "primary",
            "softmax",
            Exact("least: right"),
            More(),
        ),
        Part(
            "learns more of the hard bandit than GRPO, step size 2",
            "primary",
            "bandit",
            Difference("accuracy, lens, 2", "accuracy, grpo, 2"),
            More(0.03, against=0.0),
            gates=ROOM,
        ),
        Part(
            "and sooner",
            "primary",
            "bandit",
            Difference("area, lens, 2", "area, grpo, 2"),
            More(0.05, against=0.0),
            gates=ROOM,
        ),
        Part(
            "learns more than with the better of two uniform penalties, step size 2",
            "primary",
            "bandit",
            Difference("accuracy, lens, 2", "accuracy, uniform, 2"),
            More(),
            gates=ROOM,
        ),
        Part(
            "learns as much as with a uniform penalty, step size 0.5",
            "secondary",
            "bandit",
            Difference("accuracy, lens, 0.5", "accuracy, uniform, 0.5"),
            NoWorse(0.02),
        ),
        Part(
            "fewer groups are without a success than with GRPO, step size 2",
            "secondary",
            "bandit",
            Difference("negative, lens, 2", "negative, grpo, 2"),
            Less(),
            gates=ROOM,
        ),
        Part(
            "solves more of the hard sums than GRPO",
            "primary",
            "sums",
            Difference("hard, lens", "hard, grpo"),
            More(0.02, against=0.0),
            gates=GATES,
            says="Table 1: pass@1 54.1 to 56.6 and 67.1 to 68.6, more on levels 4 and 5",
        ),
        Part(
            "and more than with a uniform penalty",
            "primary",
            "sums",
            Difference("hard, lens", "hard, uniform"),
            More(),
            gates=GATES,
        ),
        Part(
            "loses nothing on the easy ones",
            "secondary",
            "sums",
            Difference("easy, lens", "easy, grpo"),
            NoWorse(0.02),
            gates=GATES,
        ),
        Part(
            "groups without a success bring more than calibration of the others",
            "secondary",
            "sums",
            Difference("both, only negative", "both, only mixed"),
            More(),
            gates=GATES,
            says="Table 2: pass@1 GRPO 56.88, only mixed 57.42, only negative 58.14, both 58.64",
        ),
    ),
    not_run="Llama-3.1-8B-Instruct on MATH, some 1,400 updates of 512 completions of up to 4096 tokens, two runs: days on "
    "eight GPUs, and no weights are at hand",
)
