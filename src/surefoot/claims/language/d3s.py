"""D³S's claim: the selection of greatest variance has the larger gradient, and teaches as much with fewer tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
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
    Summary,
)
from surefoot.envs.language import Example
from surefoot.loops.group_rollout.method import Batch, GroupRollout, Rollout, Term
from surefoot.loops.group_rollout.rollout import Progress
from surefoot.methods.language.d3s import D3S, most_varied
from surefoot.models.language.model import TokenStatistics
from surefoot.models.language.sequences import Sequences
from surefoot.objectives.advantages import group_standardized
from surefoot.seeding import torch_stream

# --- selections of one batch -----------------------------------------------------------------------------------------

GROUPS, SAMPLES, SMALL = 16, 16, 10


def selections(seeds: Sequence[int]) -> dict[str, list[float]]:
    """How far the variance of the selected five of ten random numbers is below the best of all subsets. And of one batch
    of 16 × 16 lists at the start of training, with a quarter of the completions selected or drawn at random: the variance
    of their advantages, and the norm of the gradient."""
    names = ("below the best", "variance, selected", "variance, random", "norm, selected", "norm, random")
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed in seeds:
        stream = torch_stream(seed, "selections")
        x = torch.randn(1, SMALL, generator=stream, dtype=torch.float64)
        best = max(float(x[0, list(s)].var(correction=0)) for s in combinations(range(SMALL), SMALL // 2))
        found["below the best"].append(best - float(x[most_varied(x, SMALL // 2)].var(correction=0)))
        world, weight = World(seed), torch.zeros(FEATURES, CHOICES)
        batch = world.rollout(weight, 0)
        for name, method in (("selected", QUARTER), ("random", AtRandom(**KEPT, **TOKENS))):
            (term,) = method.terms(batch)
            found[f"variance, {name}"].append(float(term.advantage.var(correction=0)))
            found[f"norm, {name}"].append(float(world.slope(method, term, weight, batch.index).norm()))
    return found


def of_selections(found: Measurements) -> Summary:
    return {**found["selections"], "worst: below the best": max(found["selections"]["below the best"])}


# --- lists of actions ------------------------------------------------------------------------------------------------

CONTEXTS, LENGTH, CHOICES, FEATURES, UPDATES = 24, 6, 4, 96, 150
RATES, TUNING = (10.0, 30.0, 100.0, 300.0, 1000.0), tuple(range(2000, 2006))
SIZES: dict[str, Any] = {"prompts": GROUPS, "samples": SAMPLES, "minibatches": 1}
KEPT: dict[str, Any] = {**SIZES, "rows_first": 0.25, "rows_last": 0.25}
TOKENS: dict[str, Any] = {"tokens_first": 1.0, "tokens_last": 1.0}
ROWS: dict[str, Any] = {"rows_first": 1.0, "rows_last": 1.0}
QUARTER = D3S(**KEPT, **TOKENS)


@dataclass(frozen=True)
class AtRandom(D3S):
    """As many completions and tokens, drawn at random."""

    def terms(self, rollout: Rollout) -> list[Term]:
        (term,) = super().terms(rollout)
        assert term.kept is not None, "D³S keeps some of the tokens"
        stream, whole = torch_stream(0, "at random", rollout.progress.step), self.completions(rollout)
        drawn = whole[torch.randperm(len(whole.group), generator=stream)[: len(term.group)]]
        valid = drawn.sequences.valid
        order = torch.rand(valid.shape, generator=stream).masked_fill(~valid, -1.0).flatten().argsort(descending=True)
        kept = torch.zeros(valid.numel(), dtype=torch.bool)
        kept[order[: int(term.kept.sum())]] = True
        return [replace(drawn, kept=kept.view_as(valid))]


@dataclass(frozen=True)
class PODS(D3S):
    """Of every group the completions whose rewards have the largest variance, standardised among themselves."""

    def terms(self, rollout: Rollout) -> list[Term]:
        (term,) = super().terms(rollout)
        chosen = most_varied(rollout.reward, len(term.group) // len(rollout.reward))
        advantage = group_standardized(1e-6)(rollout.reward[chosen].view(len(rollout.reward), -1)).flatten()
        return [replace(self.completions(rollout)[chosen.flatten().nonzero().squeeze(-1)], advantage=advantage)]


METHODS: dict[str, GroupRollout] = {
    "all": D3S(**SIZES, **ROWS, **TOKENS),
    "at random": AtRandom(**SIZES),
    "pods": PODS(**KEPT, **TOKENS),
    "rows": D3S(**SIZES, **TOKENS),
    "tokens": D3S(**SIZES, **ROWS),
    "static": D3S(**KEPT, tokens_last=0.2),
    "d3s": D3S(**SIZES),
}


class World:
    """Contexts whose right lists of six actions a linear softmax knows more or less: its prior logits of the right
    actions are between 0 and 3.5, and its features, of contexts and places, overlap."""

    def __init__(self, seed: int) -> None:
        stream = torch_stream(seed, "lists")
        self.seed = seed
        self.features = torch.randn(CONTEXTS, LENGTH, FEATURES, generator=stream) / FEATURES**0.5
        self.right = torch.randint(CHOICES, (CONTEXTS, LENGTH), generator=stream)
        hint = torch.linspace(0, 3.5, CONTEXTS)[:, None, None]
        self.prior = hint * torch.nn.functional.one_hot(self.right, CHOICES)

    def log_policy(self, weight: Tensor) -> Tensor:
        return (self.prior + self.features @ weight).log_softmax(-1)

    def success(self, weight: Tensor) -> float:
        """The exact probability of a right list."""
        return float(self.log_policy(weight).gather(-1, self.right[..., None]).sum((1, 2)).exp().mean())

    def rollout(self, weight: Tensor, step: int) -> Rollout:
        """16 lists of each of 16 contexts; the tokens are a prompt of one token and 2 + action."""
        stream = torch_stream(self.seed, "batch", step)
        context = torch.randperm(CONTEXTS, generator=stream)[:GROUPS]
        log_policy = self.log_policy(weight)[context].repeat_interleave(SAMPLES, 0)
        drawn = torch.multinomial(log_policy.exp().flatten(0, 1), 1, generator=stream).view(-1, LENGTH)
        reward = (drawn == self.right[context].repeat_interleave(SAMPLES, 0)).all(1).float().view(GROUPS, SAMPLES)
        tokens = torch.nn.functional.pad(2 + drawn, (1, 0), value=1)
        valid = (tokens > 1).clone()
        log_prob, entropy = (
            torch.nn.functional.pad(x, (1, 0))
            for x in (log_policy.gather(-1, drawn[..., None])[..., 0], -(log_policy.exp() * log_policy).sum(-1))
        )
        return Rollout(
            [Example("a=") for _ in context],
            context,
            Sequences(tokens, valid, torch.full((len(tokens),), LENGTH + 1)),
            [""] * len(tokens),
            log_prob,
            reward,
            {"reward": reward},
            torch.zeros_like(reward).bool(),
            judged=TokenStatistics(log_prob, entropy, torch.zeros_like(entropy)),
            progress=Progress(step, UPDATES),
        )

    def slope(self, method: GroupRollout, term: Term, weight: Tensor, context: Tensor) -> Tensor:
        """The ascent direction of a term about these contexts in the weights, on the policy that wrote."""
        valid, tokens = term.sequences.valid, term.sequences.tokens
        rows = self.log_policy(weight)[context[term.group]]
        drawn = tokens[:, 1:] - 2
        old = torch.nn.functional.pad(rows.gather(-1, drawn[..., None])[..., 0], (1, 0))
        share = term.objective.aggregation.weights(valid if term.kept is None else term.kept)
        advantage = term.advantage[:, None].expand_as(old).float()
        log_prob = old.clone().requires_grad_()
        given = Batch(valid, old, advantage, share, None, term.group, {})
        loss, _ = method.loss(term.objective, given, log_prob, torch.zeros_like(old))
        (pull,) = torch.autograd.grad(-loss, log_prob)
        score = torch.nn.functional.one_hot(drawn, CHOICES) - rows.exp()
        return torch.einsum("nt,ntf,nta->fa", pull[:, 1:], self.features[context[term.group]], score)


def lists(arm: str, seeds: Sequence[int]) -> dict[str, Any]:
    """An arm at that of the step sizes with the highest mean success over training in tuning: per seed success after
    every update, the tokens learned from so far, and the share of learned completions with an advantage."""
    scores = {rate: float(np.mean([np.mean(learn(arm, rate, seed)["success"]) for seed in TUNING])) for rate in RATES}
    rate = max(RATES, key=scores.__getitem__)
    runs = [learn(arm, rate, seed) for seed in seeds]
    tuned = {"tuning": {f"{rate:g}": x for rate, x in scores.items()}, "rate": rate}
    return tuned | {name: [run[name] for run in runs] for name in runs[0]}


def learn(arm: str, rate: float, seed: int) -> dict[str, list[float]]:
    world, method, weight = World(seed), METHODS[arm], torch.zeros(FEATURES, CHOICES)
    found: dict[str, list[float]] = {"success": [world.success(weight)], "tokens": [0.0], "informative": []}
    for step in range(UPDATES):
        batch = world.rollout(weight, step)
        (term,) = method.terms(batch)
        weight = weight + rate * world.slope(method, term, weight, batch.index)
        kept = term.sequences.valid if term.kept is None else term.kept
        found["success"].append(world.success(weight))
        found["tokens"].append(found["tokens"][-1] + float(kept.sum()))
        found["informative"].append(float((term.advantage != 0).float().mean()))
    return {name: [round(x, 5) for x in xs] for name, xs in found.items()}


def of_lists(found: Measurements) -> Summary:
    """Per seed, by arm; "tokens" are those learned from until half of what GRPO gains is gained, or all if it never is;
    "reached" says in which runs it is."""
    series: dict[str, Any] = {f"rate, {arm}": found[arm]["rate"] for arm in METHODS}
    base = np.array(found["all"]["success"])
    half = (base[:, :1] + base[:, -10:].mean(1, keepdims=True)) / 2
    series["gain, all"] = base[:, -10:].mean(1) - base[:, 0]
    for arm in METHODS:
        success, tokens = np.array(found[arm]["success"]), np.array(found[arm]["tokens"])
        there = success >= half
        first = np.where(there.any(1), there.argmax(1), success.shape[1] - 1)
        series[f"reached, {arm}"] = there.any(1).astype(float)
        series[f"tokens, {arm}"] = tokens[np.arange(len(tokens)), first]
        series[f"area, {arm}"], series[f"final, {arm}"] = success.mean(1), success[:, -10:].mean(1)
        series[f"informative, {arm}"] = np.array(found[arm]["informative"]).mean(1)
    return series


def grpo_learns(summary: Summary) -> bool:
    return float(np.mean(summary["gain, all"])) > 0.3


def inside(summary: Summary) -> bool:
    return all(RATES[0] < summary[f"rate, {arm}"] < RATES[-1] for arm in METHODS)


def reaches(summary: Summary) -> bool:
    return min(float(np.mean(summary[f"reached, {arm}"])) for arm in ("all", "d3s")) > 0.8


CONTROL = Gate("control", grpo_learns, "learning from everything gains more than 0.3")
GATES = (CONTROL, Gate("grid", inside, "the best step size of every arm lies inside the grid"))
REACHED = Gate("uncensored", reaches, "in more than 80 % of the runs half of that gain is reached")

CLAIM = Claim(
    slug="d3s",
    sentence="Completions of greatest advantage variance and their decisive tokens have a larger gradient than others, "
    "and teach as much with a fraction of the tokens.",
    source="Wang et al. 2025 (arXiv:2509.22115), §3, §4 and Table 1",
    method=D3S,
    experiments={
        "selections": Experiment(
            "mechanism",
            {"selections": selections},
            seeds=8,
            minutes=0.02,
            setting="ten random numbers and all their subsets of five; the first batch of 16 groups of 16 lists, a quarter "
            "of them selected; no training",
            arms={"selected": QUARTER, "random": AtRandom(**KEPT, **TOKENS)},
            summary=of_selections,
        ),
        "lists": Experiment(
            "miniature",
            {arm: partial(lists, arm) for arm in METHODS},
            seeds=20,
            minutes=4,
            setting="24 contexts whose right lists of six of four actions a linear softmax knows with logits of 0 to 3.5; "
            "150 updates of 16 groups of 16 lists, a reward of 1 if all is right, gradient ascent at each arm's best of "
            "five step sizes; exact success",
            arms=METHODS,
            summary=of_lists,
            differs=(
                "lists and a linear policy in place of Qwen2.5-Math-7B on mathematics",
                "one step of gradient ascent per batch in place of AdamW",
                "the shares of the schedule are ours in any case",
            ),
        ),
    },
    parts=(
        Part(
            "no subset has a larger variance than the selected one",
            "primary",
            "selections",
            Exact("worst: below the best"),
            Less(1e-9, against=1e-9),
        ),
        Part(
            "the selected advantages vary at least twice as much as random ones",
            "primary",
            "selections",
            LogRatio("variance, selected", "variance, random"),
            More(float(np.log(2))),
        ),
        Part(
            "and their gradient is larger",
            "primary",
            "selections",
            LogRatio("norm, selected", "norm, random"),
            More(),
            says="§3: the variance of the advantages bounds the norm of the gradient",
        ),
        Part(
            "learns sooner than from as many completions and tokens drawn at random",
            "primary",
            "lists",
            Difference("area, d3s", "area, at random"),
            More(),
            gates=GATES,
        ),
        Part(
            "reaches half of GRPO's gain with at most half of its tokens",
            "primary",
            "lists",
            LogRatio("tokens, d3s", "tokens, all"),
            Less(float(np.log(0.5)), against=0.0),
            gates=(*GATES, REACHED),
            says="§4: less than 20 % of the tokens",
        ),
        Part(
            "ends as high as GRPO",
            "primary",
            "lists",
            Difference("final, d3s", "final, all"),
            NoWorse(0.03),
            gates=GATES,
            says="Table 1: 29.8 to 34.3 pass@1 on average (7B)",
        ),
        Part(
            "ends higher than with the first shares throughout",
            "secondary",
            "lists",
            Difference("final, d3s", "final, static"),
            More(),
            gates=GATES,
            says="ablation: fixed shares 31.3, with the schedule 34.3",
        ),
        Part(
            "completions selected across groups teach sooner than within them",
            "secondary",
            "lists",
            Difference("area, rows", "area, pods"),
            More(),
            gates=GATES,
            says="ablation: within 31.3, across 34.1; PODS 34.1",
        ),
        Part(
            "decisive tokens teach as soon as all of them",
            "secondary",
            "lists",
            Difference("area, tokens", "area, all"),
            NoWorse(0.03),
            gates=GATES,
        ),
        Part(
            "more of the completions learned from have an advantage",
            "secondary",
            "lists",
            Difference("informative, d3s", "informative, all"),
            More(0.1, against=0.0),
            says="from about 70 to about 100 %",
        ),
    ),
    not_run="Qwen2.5-Math-7B on mathematics: the paper's shares, data, steps and rates are not published, and no weights "
    "are at hand",
)
