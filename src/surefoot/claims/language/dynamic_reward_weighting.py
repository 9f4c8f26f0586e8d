"""Dynamic reward weighting's claim: weights follow what is still to be learned, and more of the front is reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.language.lens import written
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
)
from surefoot.loops.group_rollout.rollout import Progress
from surefoot.methods.language.dynamic_reward_weighting import DynamicRewardWeighting
from surefoot.methods.language.dynamic_reward_weighting.gradients import influence, probe, reweighted
from surefoot.methods.language.dynamic_reward_weighting.pareto import extended, growth, hypervolume, nondominated
from surefoot.seeding import torch_stream

F64 = torch.float64
EASY, HARD = 1, 0  # numbers of objectives


# --- one step ------------------------------------------------------------------------------------------------------

OBJECTIVES, CHOICES, STEP, RIVALS = 3, 8, 1e-4, 500


def one_step(seeds: Sequence[int]) -> dict[str, list[float]]:
    """On a random softmax over eight answers with three rewards, the third the same for all answers. How far what a small
    step along the gradient of one reward adds to the sum of all is from its influence, relatively; by how much the best
    of 500 random weights beats the next ones in ⟨w, I⟩ − KL(w ‖ before)/η; the influence of the third, and how its weight
    changes; and over random groups how far a factor of the reward, or of the advantage, is from doing nothing, or all."""
    names = ("gain", "mirror", "learned", "weight", "on reward", "on advantage")
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed in seeds:
        stream = torch_stream(seed, "objectives")
        rewards = torch.rand(OBJECTIVES, CHOICES, generator=stream, dtype=F64)
        rewards[2] = 1.0
        p = torch.randn(CHOICES, generator=stream, dtype=F64).softmax(0)
        gradients = p * (rewards - rewards @ p[:, None])
        influences = influence([probe({"logits": g}, None) for g in gradients])
        moved = (p.log() + STEP * gradients[:2]).softmax(1)
        gains = ((moved - p) @ rewards.T).sum(1) / STEP
        found["gain"].append(float(((gains - influences[:2]) / influences[:2]).abs().max()))
        before = torch.full((OBJECTIVES,), 1 / OBJECTIVES, dtype=F64).log()
        after = reweighted(before, influences, 0.1)
        rivals = (after + 0.3 * torch.randn(RIVALS, OBJECTIVES, generator=stream, dtype=F64)).log_softmax(1)
        value, others = (x.exp() @ influences - (x.exp() * (x - before)).sum(-1) / 0.1 for x in (after, rivals))
        found["mirror"].append(float((others - value).max()))
        found["learned"].append(float(influences[2].abs()))
        found["weight"].append(float((after - before)[2]))
        reward = torch.rand(16, 8, generator=stream)
        plain, halved, on_advantage = (
            advantages(reward * factor, scale, scaled)
            for factor, scale, scaled in ((1.0, 1.0, "reward"), (0.5, 0.5, "reward"), (1.0, 0.5, "advantage"))
        )
        found["on reward"].append(float((halved - plain).abs().max()))
        found["on advantage"].append(float((on_advantage - 0.5 * plain).abs().max()))
    return found


def advantages(reward: Tensor, scale: float, scaled: str) -> Tensor:
    """Of the shipped method with ρ = `scale`."""
    rollout = replace(
        written(reward, -torch.ones_like(reward)), progress=Progress(memory={"scale": torch.tensor(scale)})
    )
    return DynamicRewardWeighting(scheme="hypervolume", scaled=scaled).advantages(rollout)


def of_one_step(found: Measurements) -> Summary:
    facts = found["one step"]
    return {f"worst: {name}": max(values) for name, values in facts.items()}


# --- a bandit with three rewards -----------------------------------------------------------------------------------

CONTEXTS, ARMS, INPUTS, HIDDEN, GROUP, STEPS, RATE = 40, 12, 16, 64, 8, 300, 0.01
UNIFORM = (1 / 3, 1 / 3, 1 / 3)
FIXED = {"uniform": UNIFORM, "half": (0.5, 0.25, 0.25), "quarter": (0.25, 0.375, 0.375)}
METHODS: dict[str, DynamicRewardWeighting] = {
    **{f"fixed, {name}": DynamicRewardWeighting(weight_rate=0.0, advantage="leave-one-out") for name in FIXED},
    **{f"gradient, {rate}": DynamicRewardWeighting(weight_rate=rate, advantage="leave-one-out") for rate in (0.1, 0.3)},
    "front": DynamicRewardWeighting(scheme="hypervolume", advantage="leave-one-out"),
}


def bandit(arm: str, seeds: Sequence[int]) -> dict[str, list[Any]]:
    """The volume that the points visited dominate beyond the start, at the end and every 20 steps, the objectives at the
    end, and the weights halfway and at the end."""
    found: dict[str, list[Any]] = {name: [] for name in ("volume", "curve", "end", "halfway", "weights")}
    for seed in seeds:
        for name, value in visited(METHODS[arm], FIXED.get(arm.removeprefix("fixed, "), UNIFORM), seed).items():
            found[name].append(value)
    return found


def visited(method: DynamicRewardWeighting, start: Sequence[float], seed: int) -> dict[str, Any]:
    """A run of one network; every twentieth point is kept for the curve of volumes."""
    stream = torch_stream(seed, "three rewards")
    contexts, rewards = torch.randn(CONTEXTS, INPUTS, generator=stream), tasks(stream)
    net = [
        (torch.randn(INPUTS, HIDDEN, generator=stream) / INPUTS**0.5).requires_grad_(),
        (torch.randn(HIDDEN, ARMS, generator=stream) / HIDDEN**0.5).requires_grad_(),
    ]
    adam, part, scale = torch.optim.Adam(net, lr=RATE), method.objective().advantage, 1.0

    def log_policy() -> Tensor:
        return (torch.tanh(contexts @ net[0]) @ net[1]).log_softmax(1)

    def measured() -> Tensor:
        return (log_policy().detach().exp() * rewards).sum(2).mean(1).double()

    reference, log_weights = measured(), torch.tensor(start, dtype=F64).log()
    points, front, halfway = [reference], reference[None][:0], log_weights
    for step in range(STEPS):
        log_prob = log_policy()
        drawn = torch.multinomial(log_prob.detach().exp(), GROUP, True, generator=torch_stream(seed, "arms", step))
        chosen, each = log_prob.gather(1, drawn), rewards.gather(2, drawn.expand(OBJECTIVES, -1, -1))
        if method.scheme == "gradient" and method.weight_rate:
            gradients = [torch.autograd.grad(-(part(r) * chosen).mean(), net, retain_graph=True) for r in each]
            probes = [probe(dict(zip("ab", g)), method.max_grad_norm) for g in gradients]
            log_weights = reweighted(log_weights, influence(probes), method.weight_rate)
        advantage = part(torch.einsum("k,kcg->cg", log_weights.exp().float(), each))
        adam.zero_grad()
        (-scale * (advantage * chosen).mean()).backward()
        adam.step()
        points.append(measured())
        if method.scheme == "hypervolume":
            front, gain = extended(front, points[-1], reference)
            scale = growth(gain)
        halfway = log_weights if step == STEPS // 2 else halfway
    curve = [hypervolume(nondominated(torch.stack(points[: n + 1])), reference) for n in range(0, STEPS + 1, 20)]
    return {
        "volume": curve[-1],
        "curve": curve,
        "end": points[-1].tolist(),
        "halfway": halfway.exp().tolist(),
        "weights": log_weights.exp().tolist(),
    }


def tasks(stream: torch.Generator) -> Tensor:
    """Rewards `[objectives, contexts, arms]`: one arm is right; half of the arms are in order; and half of the arms, in
    every second context the right one not among them."""
    right = torch.zeros(CONTEXTS, ARMS)
    place = torch.rand(CONTEXTS, ARMS, generator=stream).argsort(1)
    right.scatter_(1, place[:, :1], 1.0)
    easy, other = ((torch.rand(CONTEXTS, ARMS, generator=stream).argsort(1) < ARMS // 2).float() for _ in range(2))
    against = (torch.arange(CONTEXTS) % 2 == 0)[:, None]
    other = torch.where(right > 0, (~against).float().expand_as(other), other)
    return torch.stack([right, torch.where(right > 0, 1.0, easy), other])


def of_bandit(found: Measurements) -> Summary:
    series: dict[str, Any] = {}
    for arm, facts in found.items():
        end, halfway, weights = (np.array(facts[name]) for name in ("end", "halfway", "weights"))
        series |= {f"volume, {arm}": facts["volume"], f"area, {arm}": np.mean(facts["curve"], axis=1)}
        series |= {f"mean, {arm}": end.mean(1), f"right, {arm}": end[:, HARD], f"easy, {arm}": weights[:, EASY]}
        series |= {f"hard, {arm}": weights[:, HARD], f"easy halfway, {arm}": halfway[:, EASY]}
    return series


def has_room(summary: Summary) -> bool:
    return 0.2 < float(np.mean(summary["right, fixed, uniform"])) < 0.95


def learns(summary: Summary) -> bool:
    volume = np.asarray(summary["volume, fixed, uniform"])
    return len(volume) > 1 and float(volume.mean()) >= 5 * float(volume.std(ddof=1)) / len(volume) ** 0.5


GATES = (
    Gate("room", has_room, "with equal weights the hard objective ends between 0.2 and 0.95"),
    Gate("control", learns, "with equal weights the volume is at least five standard errors above 0"),
)

CLAIM = Claim(
    slug="dynamic-reward-weighting",
    sentence="Weights that follow gradients, or steps that follow the growth of the front, reach more of the front of "
    "several rewards than fixed weights do; on standardised rewards the latter does nothing.",
    source="Lu et al. 2025 (arXiv:2509.11452), abstract; the released scripts and figures",
    method=DynamicRewardWeighting,
    experiments={
        "one step": Experiment(
            "mechanism",
            {"one step": one_step},
            seeds=8,
            minutes=0.02,
            setting="random softmax policies over eight answers, two random rewards and one that all answers share; a step "
            "of 0.0001 in the logits, 500 random weights; random groups of eight; no training",
            arms={"gradient": DynamicRewardWeighting(), "front": DynamicRewardWeighting(scheme="hypervolume")},
            summary=of_one_step,
        ),
        "bandit": Experiment(
            "miniature",
            {arm: partial(bandit, arm) for arm in METHODS},
            seeds=16,
            minutes=4,
            setting="40 contexts × 12 arms with three rewards: one arm is right; half are in order; half please, and in "
            "every second context not the right one. A network of 64 hidden units, groups of 8 with the mean of the "
            "others as baseline, 300 steps of Adam at 0.01; exact expectations, the volume of all points visited",
            arms=METHODS,
            summary=of_bandit,
            differs=(
                "a bandit in place of Qwen3-8B on MATH-500; a style that conflicts in place of conciseness",
                "objectives are exact expectations on the training contexts, without validation noise",
                "one step per batch, one step size",
            ),
        ),
    },
    parts=(
        Part(
            "a small step along a reward's gradient adds its influence to the sum of all",
            "primary",
            "one step",
            Exact("worst: gain"),
            Less(1e-3, against=1e-3),
        ),
        Part(
            "no other weights have more influence less divergence than the next ones",
            "primary",
            "one step",
            Exact("worst: mirror"),
            Less(0.0),
        ),
        Part(
            "a reward that all answers share has no influence",
            "secondary",
            "one step",
            Exact("worst: learned"),
            Less(1e-12, against=1e-12),
        ),
        Part("and loses weight", "secondary", "one step", Exact("worst: weight"), Less(0.0)),
        Part(
            "on the reward ρ does nothing to standardised advantages",
            "primary",
            "one step",
            Exact("worst: on reward"),
            Less(1e-3, against=1e-3),
        ),
        Part(
            "on the advantage it is all of it",
            "secondary",
            "one step",
            Exact("worst: on advantage"),
            Less(1e-6, against=1e-6),
        ),
        Part(
            "by gradients more of the front is reached than with equal weights",
            "primary",
            "bandit",
            Difference("volume, gradient, 0.1", "volume, fixed, uniform"),
            More(),
            gates=GATES,
            says="Figures: the front dominates those of three fixed weights by some .02 of accuracy and .03 of format",
        ),
        Part(
            "and with steps that follow the front",
            "primary",
            "bandit",
            Difference("volume, front", "volume, fixed, uniform"),
            More(),
            gates=GATES,
        ),
        Part(
            "and by gradients at three times the step size of the weights",
            "secondary",
            "bandit",
            Difference("volume, gradient, 0.3", "volume, fixed, uniform"),
            More(),
            gates=GATES,
        ),
        Part(
            "sooner: the mean volume over training is larger by gradients",
            "secondary",
            "bandit",
            Difference("area, gradient, 0.1", "area, fixed, uniform"),
            More(),
            gates=GATES,
            says="abstract: Pareto-dominant solutions in fewer training steps",
        ),
        Part(
            "by gradients the mean of the objectives ends no lower",
            "secondary",
            "bandit",
            Difference("mean, gradient, 0.1", "mean, fixed, uniform"),
            More(-0.01, against=-0.01),
            gates=GATES,
        ),
        Part(
            "the easy objective loses weight in the second half",
            "secondary",
            "bandit",
            Difference("easy, gradient, 0.1", "easy halfway, gradient, 0.1"),
            Less(),
            gates=GATES,
        ),
        Part(
            "and ends with less than the hard one",
            "secondary",
            "bandit",
            Difference("easy, gradient, 0.1", "hard, gradient, 0.1"),
            Less(),
            gates=GATES,
        ),
    ),
    not_run="Qwen3-8B on MATH-500, 360 steps of 512 completions of up to 2048 tokens on eight GPUs: neither GPUs nor "
    "weights are at hand",
)
