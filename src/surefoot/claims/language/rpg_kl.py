"""RPG's claim: every KL divergence has its own weight off-policy, and with it the policy goes where it should."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.language.bandit import play_together
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
    Summary,
)
from surefoot.loops.group_rollout.method import Batch, GroupRollout
from surefoot.methods.language.baselines import DAPO, GRPO
from surefoot.methods.language.rpg_kl import RPG
from surefoot.objectives.regularized import DIVERGENCES
from surefoot.seeding import torch_stream

F64 = torch.float64
UNCLIPPED: dict[str, Any] = {"clip": 1 - 1e-9, "clip_high": 1e9, "dual_clip": 1e9}
FORMS = ("reinforce", "differentiable")


def slope(method: GroupRollout, logits: Tensor, drawn: Tensor, reward: Tensor, reference: Tensor) -> Tensor:
    """The expected gradient of −loss in the logits, over one draw from `drawn`."""
    leaf = logits.clone().requires_grad_()
    log_prob = leaf.log_softmax(0)[:, None]
    valid = torch.ones(len(drawn), 1, dtype=torch.bool)
    old, advantage, near = (x[:, None] for x in (drawn.log(), reward, reference.log()))
    batch = Batch(valid, old, advantage, drawn[:, None], near if method.kl else None, torch.arange(len(drawn)), {})
    loss, _ = method.loss(method.objective(), batch, log_prob, torch.zeros_like(log_prob))
    return -torch.autograd.grad(loss, leaf)[0]


# --- gradients -----------------------------------------------------------------------------------------------------

CHOICES, BETA, MOVED = 6, 0.3, 0.5


def gradients(seeds: Sequence[int]) -> dict[str, list[float]]:
    """On random softmax policies half a normal deviate in the logits away from the one that drew: how far the expected
    gradients of both forms with all five divergences are from those of reward less divergence, and those of penalties
    from a reference, weighted or plain k3, from that of the reverse KL, relatively. And the deviation over draws of the
    correction's coefficient on the policy that drew, of unnormalised and normalised forms."""
    names = ("apart", "weighted k3", "k3", "noise, unnormalised", "noise, normalised")
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed in seeds:
        stream = torch_stream(seed, "policies")
        start, shift, far = torch.randn(3, CHOICES, generator=stream, dtype=F64)
        reward = torch.rand(CHOICES, generator=stream, dtype=F64)
        drawn, logits, reference = start.softmax(0), start + MOVED * shift, (start + far).softmax(0)
        apart = []
        for kind in DIVERGENCES:
            wanted = exact(logits, drawn, reward, kind)
            for form in FORMS:
                method = RPG(divergence=kind, beta=BETA, form=form, **UNCLIPPED)
                apart.append(relative(slope(method, logits, drawn, reward, reference), wanted))
        found["apart"].append(max(apart))
        wanted, none = exact(logits, reference, 0 * reward, "reverse"), torch.zeros_like(reward)
        for name, estimator in (("weighted k3", "weighted"), ("k3", "k3")):
            method = RPG(beta=0.0, kl=BETA, kl_estimator=estimator, **UNCLIPPED)
            found[name].append(relative(slope(method, logits, drawn, none, reference), wanted))
        for name, kind in (("unnormalised", "reverse-unnormalised"), ("normalised", "reverse")):
            leaf = drawn.log()[:, None].requires_grad_()
            method, one = RPG(divergence=kind, beta=BETA), torch.ones(CHOICES, 1, dtype=F64)
            batch = Batch(one.bool(), leaf.detach(), 0 * one, one, None, torch.arange(CHOICES), {})
            (pulled,) = torch.autograd.grad(method.loss(method.objective(), batch, leaf, 0 * one)[0], leaf)
            found[f"noise, {name}"].append(float(pulled.abs().max()))
    return found


def exact(logits: Tensor, drawn: Tensor, reward: Tensor, kind: str) -> Tensor:
    """The gradient of E[R] − β·D in the logits, by the definition of D between the softmax and `drawn`."""
    leaf = logits.clone().requires_grad_()
    log = leaf.log_softmax(0)
    forward, reverse = (drawn * (drawn.log() - log)).sum(), (log.exp() * (log - drawn.log())).sum()
    far = {"forward": forward, "reverse": reverse, "jeffreys": (forward + reverse) / 2}[kind.split("-")[0]]
    return torch.autograd.grad((log.exp() * reward).sum() - BETA * far, leaf)[0]


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


# --- where gradient ascent ends ------------------------------------------------------------------------------------

REFERENCE, DATA, WORTH = (torch.tensor(x, dtype=F64) for x in ((0.5, 0.3, 0.2), (0.2, 0.3, 0.5), (0.0, 0.5, 1.0)))
WEIGHT, ASCENT = 0.5, 300
PENALISED: dict[str, RPG] = {
    "weighted": RPG(beta=0.0, kl=WEIGHT, **UNCLIPPED),
    "k3": RPG(beta=0.0, kl=WEIGHT, kl_estimator="k3", **UNCLIPPED),
}


def ends(seeds: Sequence[int]) -> dict[str, float]:
    """Three arms, data from a fixed policy: how far exact gradient ascent ends from π_ref·exp(R/β)/Z, with GRPO's penalty
    and with the weighted one; and from π_old·exp(R/β)/Z with RPG's own divergences."""
    found = {name: ended(method, REFERENCE) for name, method in PENALISED.items()}
    for kind, form in zip(("reverse", "reverse-unnormalised"), FORMS, strict=True):
        found[kind] = ended(RPG(divergence=kind, beta=WEIGHT, form=form, **UNCLIPPED), DATA)
    return found


def ended(method: RPG, anchor: Tensor) -> float:
    logits = torch.zeros(3, dtype=F64)
    for _ in range(ASCENT):
        logits = logits + slope(method, logits, DATA, WORTH, REFERENCE)
    best = (anchor * (WORTH / WEIGHT).exp()) / (anchor * (WORTH / WEIGHT).exp()).sum()
    return float((logits.softmax(0) - best).abs().max())


def of_exact(found: Measurements) -> Summary:
    facts = found["gradients"]
    series = {f"worst: {name}": max(values) for name, values in facts.items()}
    series |= {f"least: {name}": min(facts[name]) for name in ("k3", "noise, normalised")}
    return series | {f"end: {name}": value for name, value in found["ends"].items()}


# --- many steps on a batch -----------------------------------------------------------------------------------------

STEPS, EPOCHS, NOISE = 60, 16, 0.1
STEP_SIZES, TUNING = (0.0003, 0.001, 0.003, 0.01, 0.03), tuple(range(2000, 2010))
METHODS: dict[str, GroupRollout] = {
    "grpo": GRPO(epochs=EPOCHS),
    "dapo": DAPO(epochs=EPOCHS),
    "reinforce": RPG(epochs=EPOCHS),
    "reinforce, unclipped": RPG(epochs=EPOCHS, **UNCLIPPED),
    "reinforce, β=0.1": RPG(epochs=EPOCHS, beta=0.1),
    "differentiable": RPG(epochs=EPOCHS, form="differentiable"),
}


def bandit(arm: str, seeds: Sequence[int]) -> dict[str, Any]:
    """An arm at that of the step sizes with the highest final accuracy in tuning, and at the largest: the mean accuracy
    over the last tenth, its largest fall from a peak, and the mean KL of a batch's update."""
    scores = {rate: float(np.mean(measured(METHODS[arm], TUNING, rate)["accuracy"])) for rate in STEP_SIZES}
    rate = max(scores, key=scores.__getitem__)
    best, far = (measured(METHODS[arm], seeds, x) for x in (rate, STEP_SIZES[-1]))
    tuning = {f"{x:g}": score for x, score in scores.items()}
    return {"tuning": tuning, "rate": rate} | best | {f"{name}, largest step": x for name, x in far.items()}


def measured(method: GroupRollout, seeds: Sequence[int], rate: float) -> dict[str, list[float]]:
    curves = play_together(method, seeds, STEPS, learning_rate=rate, noise=NOISE)
    accuracy = np.array(curves["accuracy"])
    drop = (np.maximum.accumulate(accuracy, axis=1) - accuracy).max(1)
    last = accuracy[:, -STEPS // 10 :].mean(1)
    return {"accuracy": last.tolist(), "drop": drop.tolist(), "kl": np.mean(curves["kl"], axis=1).tolist()}


def of_bandit(found: Measurements) -> Summary:
    return {f"{name}, {arm}": x for arm, facts in found.items() for name, x in facts.items() if name != "tuning"}


def inside(summary: Summary) -> bool:
    return all(STEP_SIZES[0] < summary[f"rate, {arm}"] < STEP_SIZES[-1] for arm in METHODS)


def has_room(summary: Summary) -> bool:
    return 0.3 < float(np.mean(summary["accuracy, grpo"])) < 0.97


GATES = (
    Gate("grid", inside, "the best step size of every arm lies inside the grid"),
    Gate("room", has_room, "GRPO's accuracy at its best step size is between 0.3 and 0.97"),
)

CLAIM = Claim(
    slug="rpg-kl",
    sentence="Every form of KL divergence from the sampling policy has a weight with which its gradient is exact however "
    "far the policy has moved, and GRPO's penalty lacks it; with the clip many steps on a batch stay safe.",
    source="Zhang et al. 2025 (arXiv:2505.17508), §3, §4, Algorithms 1 and 2, Tables 3, 5 to 8",
    method=RPG,
    experiments={
        "exact": Experiment(
            "mechanism",
            {"gradients": gradients, "ends": ends},
            seeds=8,
            minutes=0.08,
            setting="random softmax policies over six answers, each half a normal deviate in the logits from the one that "
            "drew; and three arms worth 0, ½ and 1 with data from a fixed policy, β = ½, 300 steps of exact gradient "
            "ascent; no sampling",
            arms={"RPG": RPG()} | PENALISED,
            summary=of_exact,
        ),
        "bandit": Experiment(
            "miniature",
            {arm: partial(bandit, arm) for arm in METHODS},
            seeds=60,
            minutes=3,
            setting="twelve contexts × ten arms of which one is right, a tenth of the rewards wrong; groups of 8, 60 "
            "batches of 16 steps of Adam each, at every arm's best of five step sizes and at the largest",
            arms=METHODS,
            summary=of_bandit,
            differs=(
                "a bandit with a hidden layer of 32 in place of Qwen3-4B on DAPO-Math-17k; answers of one token",
                "16 steps on a batch, for a policy that leaves the one that wrote",
                "no resampling of groups whose rewards are equal, and no penalty of long answers",
            ),
        ),
    },
    parts=(
        Part(
            "all five divergences have their exact gradient in both forms",
            "primary",
            "exact",
            Exact("worst: apart"),
            Less(1e-9, against=1e-9),
            says="§3, Table 1",
        ),
        Part(
            "and so has the penalty from a reference once it has the ratio",
            "primary",
            "exact",
            Exact("worst: weighted k3"),
            Less(1e-9, against=1e-9),
            says="§3: GRPO's term lacks an importance weight",
        ),
        Part("without it the gradient is another", "primary", "exact", Exact("least: k3"), More(0.05)),
        Part(
            "unnormalised forms add no noise on the policy that drew",
            "secondary",
            "exact",
            Exact("worst: noise, unnormalised"),
            Less(1e-12, against=1e-12),
        ),
        Part("normalised ones do", "secondary", "exact", Exact("least: noise, normalised"), More(0.1)),
        Part(
            "with the ratio gradient ascent ends at the best regularised policy",
            "primary",
            "exact",
            Exact("end: weighted"),
            Less(1e-3, against=1e-3),
        ),
        Part("without it elsewhere", "secondary", "exact", Exact("end: k3"), More(1e-2)),
        *(
            Part(
                f"so it does with the {name} divergence from the sampling policy",
                "secondary",
                "exact",
                Exact(f"end: {kind}"),
                Less(1e-3, against=1e-3),
            )
            for name, kind in (("reverse", "reverse"), ("unnormalised reverse", "reverse-unnormalised"))
        ),
        Part(
            "falls less from its peak with the clip than without, at the largest step size",
            "primary",
            "bandit",
            Difference("drop, largest step, reinforce", "drop, largest step, reinforce, unclipped"),
            Less(),
            says="§4: the clip is needed for stability",
        ),
        Part(
            "is as accurate as GRPO at the best step size",
            "primary",
            "bandit",
            Difference("accuracy, reinforce", "accuracy, grpo"),
            NoWorse(0.03),
            gates=GATES,
            says="Table 3: AIME24 .578 against .440, AIME25 .521 against .406",
        ),
        Part(
            "and as DAPO",
            "secondary",
            "bandit",
            Difference("accuracy, reinforce", "accuracy, dapo"),
            NoWorse(0.03),
            gates=GATES,
            says="Table 3: AIME24 .578 against .574, AIME25 .521 against .474",
        ),
        Part(
            "and as the differentiable form",
            "secondary",
            "bandit",
            Difference("accuracy, reinforce", "accuracy, differentiable"),
            NoWorse(0.03),
            gates=GATES,
        ),
        Part(
            "a batch moves the policy less with β = 0.1 than with 0.0001, at the largest step size",
            "primary",
            "bandit",
            LogRatio("kl, largest step, reinforce, β=0.1", "kl, largest step, reinforce"),
            Less(),
        ),
        Part(
            "and the policy is more accurate there",
            "secondary",
            "bandit",
            Difference("accuracy, largest step, reinforce, β=0.1", "accuracy, largest step, reinforce"),
            More(),
        ),
    ),
    not_run="Qwen3-4B on DAPO-Math-17k, 400 steps of 8,192 completions of 2,000 to 8,000 tokens on eight H100: neither "
    "GPUs nor weights are at hand",
)
