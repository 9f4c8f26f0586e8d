"""RiskPO's claim: its gradient is that of the lower tail of bundles' scores, and entropy lasts longer than with the mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.language.learning import held_out
from surefoot.claims.language.lens import written
from surefoot.claims.language.tiny import TOKENS, Sums, learner, tuned, warm
from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Less,
    Mean,
    Measurements,
    More,
    NoWorse,
    Part,
    Summary,
    Within,
)
from surefoot.loops.group_rollout.method import GroupRollout
from surefoot.loops.group_rollout.rollout import Progress
from surefoot.methods.language.baselines import GRPO
from surefoot.methods.language.max_at_k import best_of
from surefoot.methods.language.riskpo import RiskPO
from surefoot.methods.language.riskpo.scores import moved, tail_gain
from surefoot.models.language.model import LanguageModel
from surefoot.seeding import torch_stream

F64 = torch.float64
UNKNOWN: Mapping[str, Tensor] = {"quantiles": torch.full((2,), torch.nan, dtype=F64)}


@dataclass(frozen=True)
class MeanOfBundles(RiskPO):
    """The mean of the scores is maximised: X less its mean in the bundle."""

    def gains(self, scores: Tensor, quantiles: Tensor) -> Tensor:
        return scores - scores.mean(1, keepdim=True)


@dataclass(frozen=True)
class RiskSeeking(RiskPO):
    """The ablation of the released code: the upper tail in place of the lower one, with the same weight."""

    def gains(self, scores: Tensor, quantiles: Tensor) -> Tensor:
        upper = (scores - quantiles[:, 1:]).clamp(min=0) / (1 - self.high)
        middle = tail_gain(scores, quantiles, replace(self.risk, weight=0.0), self.baseline)
        return (self.weight * upper + middle) / (1 + self.weight)


# --- papers of five questions --------------------------------------------------------------------------------------

QUESTIONS, RISK, EASY, TRACKED = 5, RiskPO().risk, 0.9, 600


def papers(seeds: Sequence[int]) -> dict[str, list[float]]:
    """How far the expected gain-weighted score is from the gradient of the risk of five random questions, relatively, by
    enumeration of all 32 papers; the share of groups of five without an advantage where nine of ten answers are right,
    for single questions and bundles of five; and the share of scores below quantiles that were tracked, less the level."""
    found: dict[str, list[float]] = {name: [] for name in ("apart", "silent, single", "silent, bundle", "low", "high")}
    for seed in seeds:
        stream = torch_stream(seed, "papers")
        logits = torch.randn(QUESTIONS, generator=stream, dtype=F64)
        found["apart"].append(apart(logits))
        reward = (torch.rand(500, 5, generator=stream) < EASY).float()
        for name, bundle in (("single", 1), ("bundle", QUESTIONS)):
            rollout = replace(written(reward, -torch.ones_like(reward)), progress=Progress(memory=UNKNOWN))
            advantage = RiskPO(prompts=500, bundle=bundle, quantiles="bundle").advantages(rollout)
            found[f"silent, {name}"].append(float((advantage == 0).all(1).double().mean()))
        quantiles, below = UNKNOWN["quantiles"], list[Tensor]()
        for _ in range(TRACKED):
            scores = torch.rand(8, 5, QUESTIONS, generator=stream, dtype=F64).sum(2)
            below.append((scores[..., None] < quantiles).double().mean((0, 1)))
            quantiles = moved(quantiles, scores, RISK, 0.1)
        share = torch.stack(below[TRACKED // 2 :]).mean(0) - torch.tensor([RISK.low, RISK.high])
        found["low"].append(float(share[0]))
        found["high"].append(float(share[1]))
    return found


def apart(logits: Tensor) -> float:
    """Of the surrogate's gradient from that of the risk, by central differences."""
    all_papers = torch.tensor(list(product((0.0, 1.0), repeat=QUESTIONS)), dtype=F64)
    scores = all_papers.sum(1)

    def chances(x: Tensor) -> Tensor:
        return torch.where(all_papers > 0, x.sigmoid(), 1 - x.sigmoid()).prod(1)

    def risk(x: Tensor) -> float:
        return float(RISK(scores, chances(x)).value)

    leaf, order = logits.clone().requires_grad_(), scores.argsort()
    share = chances(logits)[order].cumsum(0)
    quantiles = torch.stack([scores[order][int((share < level).sum())] for level in (RISK.low, RISK.high)])
    surrogate = (tail_gain(scores[None], quantiles[None], RISK, False)[0] * chances(leaf)).sum()
    (found,) = torch.autograd.grad(surrogate, leaf)
    steps = 1e-5 * torch.eye(QUESTIONS, dtype=F64)
    wanted = torch.tensor([(risk(logits + h) - risk(logits - h)) / 2e-5 for h in steps], dtype=F64)
    return float((found - wanted).norm() / wanted.norm())


def of_papers(found: Measurements) -> Summary:
    facts = dict(found["papers"])
    return {**facts, "worst: apart": max(facts["apart"])}


# --- a bandit of sixty prompts -------------------------------------------------------------------------------------

PROMPTS, CHOICES, GROUP, STEPS, RATE, LEVEL = 60, 20, 8, 200, 0.2, 0.45
GIVEN: dict[str, Any] = {"prompts": PROMPTS, "samples": GROUP}
BANDIT: dict[str, GroupRollout] = {
    "grpo": GRPO(samples=GROUP, unbiased=True),
    "mean": MeanOfBundles(**GIVEN),
    "averse": RiskPO(**GIVEN),
    "averse, at most 0": RiskPO(**GIVEN, baseline=True),
    "seeking": RiskSeeking(**GIVEN),
}


def bandit(arm: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """After training: pass@1, pass@16 and entropy, their means over prompts, and the entropy when pass@1 first reaches
    one half (at the end if it never does)."""
    method, found = BANDIT[arm], dict[str, list[float]](one=[], sixteen=[], entropy=[], passing=[])
    for seed in seeds:
        start = torch_stream(seed, "sixty prompts")
        ease = 4 * torch.rand(PROMPTS, 1, generator=start) - 2
        logits = torch.randn(PROMPTS, CHOICES, generator=start)
        logits[:, :2] = ease - torch.tensor([0.0, 1.5])  # two right arms, one of them less likely
        memory, passing, blank = UNKNOWN, None, written(torch.zeros(PROMPTS, GROUP), torch.zeros(PROMPTS, GROUP))
        for step in range(STEPS):
            p = logits.softmax(-1)
            arms = torch.multinomial(p, GROUP, True, generator=torch_stream(seed, "arms", step))
            rollout = replace(blank, reward=(arms < 2).float(), progress=Progress(memory=memory))
            advantage = method.advantages(rollout).float()
            memory = method.remember(rollout, None)  # type: ignore[arg-type]
            pull = torch.zeros_like(p).scatter_add(1, arms, advantage / GROUP)
            logits = logits + RATE * (pull - p * pull.sum(1, keepdim=True))
            if passing is None and float(logits.softmax(-1)[:, :2].sum(1).mean()) >= LEVEL:
                passing = entropy(logits)
        right = logits.softmax(-1)[:, :2].sum(1)
        found["one"].append(float(right.mean()))
        found["sixteen"].append(float((1 - (1 - right) ** 16).mean()))
        found["entropy"].append(entropy(logits))
        found["passing"].append(entropy(logits) if passing is None else passing)
    return found


def entropy(logits: Tensor) -> float:
    return float(torch.distributions.Categorical(logits=logits).entropy().mean())


# --- sums of all lengths -------------------------------------------------------------------------------------------

ITERATIONS, STEP_SIZES, TUNING, WARMUP, ATTEMPTS = 100, (3e-4, 1e-3, 3e-3), (2000, 2001), 120, 16
SIZES: dict[str, Any] = {"prompts": 15, "samples": 8, "max_tokens": TOKENS, "minibatches": 1}
METHODS: dict[str, GroupRollout] = {
    "grpo": GRPO(unbiased=True, **SIZES),
    "averse": RiskPO(**SIZES),
    "seeking": RiskSeeking(**SIZES),
}


def sums(arm: str, seeds: Sequence[int]) -> dict[str, Any]:
    """An arm at that of the step sizes with the highest pass@1 in tuning: pass@1 and pass@8 on held-out prompts, and the
    entropy per token in the last iteration."""
    rate, scores = tuned(lambda seed, rate: learn(METHODS[arm], seed, rate)["one"], STEP_SIZES, TUNING)
    runs = [learn(METHODS[arm], seed, rate) for seed in seeds]
    return {"tuning": scores, "rate": rate} | {name: [run[name] for run in runs] for name in runs[0]}


def learn(method: GroupRollout, seed: int, rate: float) -> dict[str, float]:
    made, row = learner(method, warm(Sums(), seed, WARMUP), Sums(), seed, ITERATIONS, rate), {}
    for _ in range(ITERATIONS):
        row = made.iterate()[0]
    return {**measured(made.model), "entropy": float(row["entropy"])}


def before(seeds: Sequence[int]) -> dict[str, list[float]]:
    runs = [measured(warm(Sums(), seed, WARMUP)) for seed in seeds]
    return {name: [run[name] for run in runs] for name in runs[0]}


def measured(model: LanguageModel) -> dict[str, float]:
    rewards = torch.from_numpy(held_out(model, Sums(), 128, ATTEMPTS, TOKENS))
    return {name: float(best_of(rewards, k).sum(-1).mean()) / k for name, k in (("one", 1), ("eight", 8))}


def of_arms(found: Measurements) -> Summary:
    return {f"{name}, {arm}": x for arm, facts in found.items() for name, x in facts.items() if name != "tuning"}


def has_room(summary: Summary) -> bool:
    return 0.2 < float(np.mean(summary["one, grpo"])) < 0.95


def inside(summary: Summary) -> bool:
    return all(STEP_SIZES[0] < summary[f"rate, {arm}"] < STEP_SIZES[-1] for arm in METHODS)


def grpo_learns(summary: Summary) -> bool:
    gain = np.subtract(summary["one, grpo"], summary["one, before"])
    return len(gain) > 1 and float(gain.mean()) >= 5 * float(gain.std(ddof=1)) / len(gain) ** 0.5


ROOM = (Gate("room", has_room, "GRPO's final pass@1 is between 0.2 and 0.95"),)
GATES = (
    Gate("control", grpo_learns, "GRPO's pass@1 on held-out prompts rises by at least five standard errors"),
    Gate("grid", inside, "the best step size of every arm lies inside the grid"),
)

CLAIM = Claim(
    slug="riskpo",
    sentence="The gain of a score is the gradient of a risk of bundled questions, which rarely tie; entropy lasts longer "
    "with the lower tail than with the mean or the upper tail, and accuracy is no lower.",
    source="Ren et al. 2025 (arXiv:2510.00911), §3, §4, ablations of bundle size and levels; the official README's figures",
    method=RiskPO,
    experiments={
        "papers": Experiment(
            "mechanism",
            {"papers": papers},
            seeds=8,
            minutes=0.05,
            setting="five questions with random success rates, all 32 papers of them; 500 prompts of which nine in ten "
            "answers are right, groups of five; 600 batches of 40 scores that are sums of five uniform rewards",
            arms={"RiskPO": RiskPO(quantiles="bundle")},
            summary=of_papers,
        ),
        "bandit": Experiment(
            "miniature",
            {arm: partial(bandit, arm) for arm in BANDIT},
            seeds=30,
            minutes=1.5,
            setting="60 prompts × 20 arms of which two are right, a logit of −2 to 2 for one and 1.5 less for the other; "
            "groups of 8, bundles of 5, 200 steps of gradient ascent in the logits at 0.2; exact expectations",
            arms=BANDIT,
            summary=of_arms,
            differs=(
                "a table of logits in place of Qwen2.5-1.5B-Instruct on GSM8K and MATH: prompts share nothing",
                "one step per batch, gradient ascent in place of AdamW, one step size",
            ),
        ),
        "sums": Experiment(
            "miniature",
            {"before": before} | {arm: partial(sums, arm) for arm in METHODS},
            seeds=8,
            minutes=11,
            setting="sums of two to six numbers up to 3, of which a model of 100,000 weights solves a quarter after "
            "imitating 120 batches; 100 iterations of 15 prompts × 8 completions, AdamW at each arm's best of three step "
            "sizes",
            arms=METHODS,
            summary=of_arms,
            differs=(
                "sums in place of mathematics, a model of 100,000 weights in place of 1.5 billion",
                "15 prompts per step in place of 512 or 1024, 100 iterations in place of 200 or 500",
            ),
        ),
    },
    parts=(
        Part(
            "the expected gain is the gradient of the mixed value at risk",
            "primary",
            "papers",
            Exact("worst: apart"),
            Less(1e-6, against=1e-6),
            says="§3.2: the gradient of RVaR",
        ),
        Part(
            "bundles of five have an advantage where single questions tie",
            "primary",
            "papers",
            Difference("silent, bundle", "silent, single"),
            Less(-0.4, against=0.0),
            says="§3.3: bundling enriches the feedback; exactly 0.076 against 0.591 of the groups tie",
        ),
        *(
            Part(
                f"below the tracked {name} quantile are as many scores as its level says",
                "secondary",
                "papers",
                Mean(name),
                Within(0.02),
            )
            for name in ("low", "high")
        ),
        Part(
            "keeps more entropy than with the mean of bundles",
            "primary",
            "bandit",
            Difference("entropy, averse", "entropy, mean"),
            More(0.1, against=0.0),
            gates=ROOM,
            says="Theorem: the risk-averse update slows the collapse of entropy",
        ),
        Part(
            "keeps more entropy than with the upper tail",
            "primary",
            "bandit",
            Difference("entropy, averse", "entropy, seeking"),
            More(0.1, against=0.0),
            gates=ROOM,
            says="README's figure: .42 to .23 against .06",
        ),
        Part(
            "solves as much as GRPO in one attempt",
            "secondary",
            "bandit",
            Difference("one, averse", "one, grpo"),
            NoWorse(0.02),
            gates=ROOM,
            says="MATH pass@1: .562 against .538 for the upper tail; above GRPO on every set",
        ),
        Part(
            "solves as much as GRPO in sixteen",
            "secondary",
            "bandit",
            Difference("sixteen, averse", "sixteen, grpo"),
            NoWorse(0.02),
            gates=ROOM,
        ),
        Part(
            "keeps more entropy than with the mean of bundles where both solve 45 %",
            "secondary",
            "bandit",
            Difference("passing, averse", "passing, mean"),
            More(),
            gates=ROOM,
        ),
        Part(
            "solves more of the sums than GRPO",
            "primary",
            "sums",
            Difference("one, averse", "one, grpo"),
            More(0.01, against=0.0),
            gates=GATES,
            says="Table: mean of six sets 46.65 against 40.41",
        ),
        Part(
            "and more in eight attempts",
            "primary",
            "sums",
            Difference("eight, averse", "eight, grpo"),
            More(0.01, against=0.0),
            gates=GATES,
            says="Figures: the margin of pass@k grows with k",
        ),
        Part(
            "with more entropy",
            "secondary",
            "sums",
            Difference("entropy, averse", "entropy, grpo"),
            More(),
            gates=GATES,
        ),
        Part(
            "solves more than with the upper tail",
            "secondary",
            "sums",
            Difference("one, averse", "one, seeking"),
            More(),
            gates=GATES,
        ),
    ),
    not_run="Qwen2.5-1.5B-Instruct on GSM8K and MATH, 200 steps of 5,120 completions of up to 1024 tokens, is days of one "
    "H200 and no weights are at hand; the hard recipe takes eight GPUs",
)
