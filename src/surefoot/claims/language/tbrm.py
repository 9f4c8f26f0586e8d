"""TBRM's claim: the least residual is the best policy whoever wrote, so one completion, or an old one, is enough."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.language.tree import Tree, minimised, random_tree
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
from surefoot.loops.group_rollout.method import Batch, GroupRollout
from surefoot.methods.language.baselines import GRPO, RLOO
from surefoot.methods.language.tbrm import TBRM
from surefoot.models.language.model import TokenStatistics
from surefoot.objectives import PolicyObjective, aggregation
from surefoot.seeding import torch_stream


@dataclass(frozen=True)
class WithoutValue(TBRM):
    """The value of the beginning is left out: the log-ratio itself is regressed on R/β."""

    def loss(self, objective, batch, log_prob, entropy):  # type: ignore[override]
        assert batch.now is not None, "the tree adds the statistics"
        now = batch.now._replace(normaliser=torch.zeros_like(log_prob))
        return super().loss(objective, replace(batch, now=now), log_prob, entropy)


# --- trees ---------------------------------------------------------------------------------------------------------

TREE_BETA = 0.5


def trees(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Random trees of two tokens of three, all nine paths alike: how far the policy of least residual is from the best
    one, with and without the value of the beginning; how far that value is from log Z; and without rewards, from a
    reference whose first logits are 15 higher, the norm of the gradient of the plain and of the offset form."""
    found: dict[str, list[float]] = {name: [] for name in ("apart", "value", "without", "plain", "offset")}
    for seed in seeds:
        tree, method = random_tree(torch_stream(seed, "tree")), TBRM(beta=TREE_BETA)
        best = tree.best(TREE_BETA)
        end = minimised(tree, method, tree.reference)
        found["apart"].append(float((tree.policy(end) - best).abs().max()))
        log_z = (tree.policy(tree.reference) * (tree.reward / TREE_BETA).exp()).sum().log()
        found["value"].append(float((end[0].logsumexp(1) - log_z).abs().max()))
        end = minimised(tree, WithoutValue(beta=TREE_BETA), tree.reference)
        found["without"].append(float((tree.policy(end) - best).abs().max()))
        idle = Tree(0 * tree.reward, (tree.reference[0] + 15, *tree.reference[1:]))
        for name, start in (("plain", torch.zeros(1)), ("offset", idle.reference[0].logsumexp(1))):
            leaves = [x.clone().requires_grad_() for x in idle.reference]
            slopes = torch.autograd.grad(idle.loss(method, leaves, start), leaves)
            found[name].append(float(sum(x.square().sum() for x in slopes)) ** 0.5)
    return found


def of_trees(found: Measurements) -> Summary:
    facts = found["trees"]
    series = {f"worst: {name}": max(facts[name]) for name in ("apart", "value", "offset")}
    return series | {f"least: {name}": min(facts[name]) for name in ("without", "plain")}


# --- a bandit with old data ----------------------------------------------------------------------------------------

CONTEXTS, INPUTS, HIDDEN, ARMS, WRITTEN, STEPS, LAG = 48, 16, 32, 10, 48, 200, 10
STEP_SIZES, TUNING = (0.003, 0.01, 0.03, 0.1, 0.3), (2000, 2001, 2002)
PLAIN: dict[str, Any] = {"minibatches": 1}
METHODS: dict[str, GroupRollout] = {
    "grpo": GRPO(samples=4, **PLAIN),
    "rloo": RLOO(samples=4),
    "tbrm, 4": TBRM(samples=4, beta=0.1, offset=True),
    "tbrm, 1": TBRM(samples=1, beta=0.1, offset=True),
}


def bandit(arm: str, lag: int, seeds: Sequence[int]) -> dict[str, Any]:
    """An arm at that of the step sizes with the highest accuracy in tuning: accuracy at the beginning and the end, where
    the policy of `lag` steps ago writes."""
    scores = {r: float(np.mean([played(METHODS[arm], s, r, lag)[1] for s in TUNING])) for r in STEP_SIZES}
    rate = max(scores, key=scores.__getitem__)
    before, after = zip(*(played(METHODS[arm], seed, rate, lag) for seed in seeds))
    return {"tuning": {f"{r:g}": x for r, x in scores.items()}, "rate": rate, "before": before, "after": after}


def played(method: GroupRollout, seed: int, rate: float, lag: int) -> tuple[float, float]:
    """Mean probability of the right arms before and after training a network of one hidden layer with Adam."""
    stream = torch_stream(seed, "contexts")
    contexts, right = (
        torch.randn(CONTEXTS, INPUTS, generator=stream),
        torch.randint(ARMS, (CONTEXTS,), generator=stream),
    )
    net = [torch.randn(INPUTS, HIDDEN, generator=stream) / INPUTS**0.5, torch.randn(HIDDEN, ARMS, generator=stream)]
    net = [net[0].requires_grad_(), (net[1] / HIDDEN**0.5).requires_grad_()]
    adam, first = torch.optim.Adam(net, lr=rate), (torch.tanh(contexts @ net[0]) @ net[1]).detach()
    writers = deque([first.log_softmax(1)], maxlen=lag + 1)
    for step in range(STEPS):
        draw = torch_stream(seed, "writing", step)
        asked = torch.randperm(CONTEXTS, generator=draw)[: WRITTEN // method.samples]
        drawn = torch.multinomial(writers[0][asked].exp(), method.samples, True, generator=draw)
        logits = torch.tanh(contexts @ net[0]) @ net[1]
        loss = bandit_loss(
            method, logits[asked], drawn, (drawn == right[asked, None]).float(), writers[0], first, asked
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
        writers.append((torch.tanh(contexts @ net[0]) @ net[1]).detach().log_softmax(1))
    ends = (table.gather(1, right[:, None]).exp().mean() for table in (first.log_softmax(1), writers[-1]))
    before, after = map(float, ends)
    return before, after


def bandit_loss(
    method: GroupRollout, logits: Tensor, drawn: Tensor, reward: Tensor, writer: Tensor, first: Tensor, asked: Tensor
) -> Tensor:
    """Of completions of one token, `[contexts, samples]`, that another policy drew."""
    objective = method.objective() if isinstance(method.objective(), PolicyObjective) else PolicyObjective()
    old, near, log_prob = (
        x.gather(1, drawn).reshape(-1, 1) for x in (writer[asked], first[asked].log_softmax(1), logits.log_softmax(1))
    )
    valid, blank = torch.ones(reward.numel(), 1, dtype=torch.bool), torch.zeros(reward.numel(), 1)
    normaliser, start = (x.logsumexp(1, keepdim=True).expand_as(drawn).reshape(-1) for x in (logits, first[asked]))
    advantage = blank if isinstance(method, TBRM) else objective.advantage(reward).reshape(-1, 1)
    weights = aggregation.constant_length(1.0).weights(valid)
    extra = {"reward": reward.flatten(), "reference": near, "start": start}
    now = TokenStatistics(log_prob, blank, normaliser[:, None])
    group = torch.arange(len(reward)).repeat_interleave(reward.shape[1])
    return method.loss(objective, Batch(valid, old, advantage, weights, None, group, extra, now=now), log_prob, blank)[
        0
    ]


LAGS = {"fresh": 0, "stale": LAG}


def of_bandit(found: Measurements) -> Summary:
    """Per seed: accuracy, what old data cost, and the step sizes."""
    series: dict[str, Any] = {f"{name}, {arm}": x for arm, facts in found.items() for name, x in facts.items()}
    for arm in METHODS:
        series[f"lost, {arm}"] = np.subtract(found[f"{arm}, fresh"]["after"], found[f"{arm}, stale"]["after"])
    return {name: x for name, x in series.items() if not name.startswith("tuning")}


def inside(summary: Summary) -> bool:
    return all(STEP_SIZES[0] < x < STEP_SIZES[-1] for name, x in summary.items() if name.startswith("rate"))


def grpo_learns(summary: Summary) -> bool:
    gain = np.subtract(summary["after, grpo, fresh"], summary["before, grpo, fresh"])
    return len(gain) > 1 and float(gain.mean()) >= 5 * float(gain.std(ddof=1)) / len(gain) ** 0.5


GATES = (
    Gate("control", grpo_learns, "GRPO's accuracy rises by at least five standard errors"),
    Gate("grid", inside, "the best step size of every arm lies inside the grid"),
)

CLAIM = Claim(
    slug="tbrm",
    sentence="The least squared residual of whole completions is that of the best regularised policy, whoever wrote them; "
    "one completion per prompt is enough to learn as well as GRPO, and old ones cost little.",
    source="Yuan et al. 2025 (arXiv:2505.15311), §3, §4, Table 1, Apps. F to H",
    method=TBRM,
    experiments={
        "trees": Experiment(
            "mechanism",
            {"trees": trees},
            seeds=3,
            minutes=0.06,
            setting="random trees of two tokens of three with random rewards and references, all nine paths alike, β = ½, "
            "L-BFGS; no sampling",
            arms={"TBRM": TBRM(beta=TREE_BETA), "without the value": WithoutValue(beta=TREE_BETA)},
            summary=of_trees,
        ),
        "bandit": Experiment(
            "miniature",
            {f"{arm}, {name}": partial(bandit, arm, lag) for arm in METHODS for name, lag in LAGS.items()},
            seeds=12,
            minutes=1.2,
            setting="48 contexts × 10 arms of which one is right, a network of 32 hidden units, 200 steps of 48 draws: 12 "
            "contexts × 4, or all of them once; Adam at every arm's best of five step sizes; drawn by the policy itself "
            "or by that of 10 steps ago; β = 0.1, with the offset",
            arms=METHODS,
            summary=of_bandit,
            differs=(
                "a bandit in place of Qwen2.5-Math on DAPO's prompts: completions of one token",
                "β = 0.1 in place of 0.002, and values counted from the reference's",
                "200 steps in place of 760; probabilities of right arms in place of benchmarks",
            ),
        ),
    },
    parts=(
        Part(
            "the least residual on all paths alike is that of the best policy",
            "primary",
            "trees",
            Exact("worst: apart"),
            Less(1e-4, against=1e-4),
            says="§3: finds a near-optimal policy from arbitrary off-policy data",
        ),
        Part(
            "and the value of the beginning is log Z",
            "secondary",
            "trees",
            Exact("worst: value"),
            Less(1e-4, against=1e-4),
        ),
        Part("without that value it is another policy", "primary", "trees", Exact("least: without"), More(0.01)),
        Part(
            "without rewards the plain form leaves the reference",
            "secondary",
            "trees",
            Exact("least: plain"),
            More(0.1),
            says="a follow-up measured a KL that does not return to 0",
        ),
        Part(
            "and the one with an offset does not",
            "secondary",
            "trees",
            Exact("worst: offset"),
            Less(1e-9, against=1e-9),
        ),
        Part(
            "one completion per prompt is as good as four with GRPO, for as many in all",
            "primary",
            "bandit",
            Difference("after, tbrm, 1, fresh", "after, grpo, fresh"),
            NoWorse(0.03),
            gates=GATES,
            says="Table 1, mean of six: n = 1 is 0.8 points below GRPO with n = 4 (which writes four times as much)",
        ),
        Part(
            "four per prompt are as good as with GRPO",
            "secondary",
            "bandit",
            Difference("after, tbrm, 4, fresh", "after, grpo, fresh"),
            NoWorse(0.03),
            gates=GATES,
            says="Table 1, 7B, mean of six: 1.3 points above GRPO, both n = 4",
        ),
        Part(
            "what an older policy wrote costs less than it costs REINFORCE",
            "primary",
            "bandit",
            Difference("lost, tbrm, 4", "lost, rloo"),
            Less(),
            gates=GATES,
        ),
        Part(
            "and it learns from it as well as GRPO",
            "secondary",
            "bandit",
            Difference("after, tbrm, 4, stale", "after, grpo, stale"),
            NoWorse(0.03),
            gates=GATES,
        ),
    ),
    not_run="Qwen2.5-Math-1.5B and 7B on DAPO's prompts, 760 steps of 128 or 512 completions of up to 2048 tokens on four "
    "H100: neither GPUs nor weights are at hand",
    amended=(
        "The bandit's first record of 2026-12-01 was overwritten before anybody read it; the second is of the same "
        "design and seeds.",
    ),
)
