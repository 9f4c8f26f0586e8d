"""CAPO on a bandit at a step size at which the base method collapses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.language.bandit import ARMS, CONTEXTS, GROUP, HIDDEN, INPUTS
from surefoot.claims.parts import Gate, Measurements, Summary
from surefoot.envs.language import Example
from surefoot.loops.group_rollout.method import Batch, Rollout, Term
from surefoot.loops.group_rollout.rollout import Progress
from surefoot.methods.language.capo import CAPO
from surefoot.methods.language.capo.last_layer import Moments, Written
from surefoot.models.language.model import TokenStatistics
from surefoot.models.language.sequences import Sequences
from surefoot.seeding import torch_stream

NONE: dict[str, Any] = {"policy_limit": float("inf"), "objective_limit": float("inf")}
STEPS, CALM, FAST = 150, 0.03, 0.5
LIMITS, TUNING = (3.0, 10.0, 30.0), tuple(range(2000, 2008))  # they reject 0.1 to 8 % of the tokens
SIZES: dict[str, Any] = {"prompts": CONTEXTS, "samples": GROUP, "max_tokens": 1, "top_k": ARMS}


@dataclass(frozen=True)
class AtRandom(CAPO):
    """Drops as many tokens, chosen at random."""

    def examined(self, rollout: Rollout) -> tuple[Written, Tensor, dict[str, Tensor]]:
        some, kept, found = super().examined(rollout)
        stream = torch_stream(0, "at random", rollout.progress.step)
        return some, kept[torch.randperm(len(kept), generator=stream)], found


def arms(limit: float) -> dict[str, CAPO]:
    limits: dict[str, Any] = {"policy_limit": limit, "objective_limit": float("inf")}
    return {
        "none": CAPO(**SIZES, **NONE),
        "capo": CAPO(**SIZES, **limits),
        "capo, sgd": CAPO(**SIZES, **limits, step_model="sgd"),
        "at random": AtRandom(**SIZES, **limits),
    }


def calm(seeds: Sequence[int]) -> dict[str, list[float]]:
    """The base method at a small step size."""
    runs = [play(arms(0.0)["none"], seed, CALM) for seed in seeds]
    return {name: [run[name] for run in runs] for name in runs[0]}


def fast(arm: str, seeds: Sequence[int]) -> dict[str, Any]:
    """An arm at the large step size, with that of the limits that has the highest final accuracy in tuning."""
    scores = {x: float(np.mean([play(arms(x)[arm], s, FAST)["final"] for s in TUNING])) for x in LIMITS}
    limit = max(LIMITS, key=scores.__getitem__)
    runs = [play(arms(limit)[arm], seed, FAST) for seed in seeds]
    tuned = {"tuning": {f"{x:g}": y for x, y in scores.items()}, "limit": limit}
    return tuned | {name: [run[name] for run in runs] for name in runs[0]}


def play(method: CAPO, seed: int, rate: float) -> dict[str, float]:
    """150 steps of Adam on the bandit of twelve contexts and ten arms: final accuracy, and the share rejected."""
    start = torch_stream(seed, "bandit")
    contexts, right = torch.randn(CONTEXTS, INPUTS, generator=start), torch.randint(ARMS, (CONTEXTS,), generator=start)
    weights = [
        (torch.randn(INPUTS, HIDDEN, generator=start) / INPUTS**0.5).requires_grad_(),
        (torch.randn(HIDDEN, ARMS, generator=start) / HIDDEN**0.5).requires_grad_(),
    ]
    adam = torch.optim.Adam(weights, lr=rate)
    memory: dict[str, Tensor] = vars(Moments.start(HIDDEN))
    accuracy, rejected = [], []
    for step in range(STEPS):
        hidden = torch.tanh(contexts @ weights[0])
        log_policy = (hidden @ weights[1]).log_softmax(-1)
        before = log_policy.detach()
        drawn = torch.multinomial(before.exp(), GROUP, True, generator=torch_stream(seed, "arms", step))
        reward = (drawn == right[:, None]).float()
        rollout = one_token(drawn, reward, hidden.detach(), before, Progress(step, STEPS, rate, memory))
        (term,) = method.terms(rollout)
        loss = loss_of(method, term, log_policy.repeat_interleave(GROUP, 0).gather(1, drawn.view(-1, 1)))
        adam.zero_grad()
        loss.backward()
        adam.step()
        some, kept, _ = method.examined(rollout)
        memory = vars(Moments(**memory).after(some[kept]))
        rejected.append(1 - float(kept.float().mean()))
        accuracy.append(float(before.exp().gather(1, right[:, None]).mean()))
    return {"final": float(np.mean(accuracy[-STEPS // 10 :])), "rejected": float(np.mean(rejected))}


def one_token(drawn: Tensor, reward: Tensor, hidden: Tensor, log_policy: Tensor, progress: Progress) -> Rollout:
    """Completions of one token, with all arms as candidates; a prompt is one token too."""
    rows = drawn.numel()

    def second(x: Tensor) -> Tensor:
        x = x.repeat_interleave(GROUP, 0) if len(x) != rows else x
        return torch.stack([torch.zeros_like(x), x], 1)

    valid = torch.tensor([False, True]).repeat(rows, 1)
    sequences = Sequences(second(drawn.flatten()), valid, torch.full((rows,), 2))
    log_prob = second(log_policy.gather(1, drawn).flatten())
    candidate = second(torch.arange(ARMS).repeat(rows, 1))
    judged = TokenStatistics(
        log_prob,
        torch.zeros_like(log_prob),
        torch.zeros_like(log_prob),
        None,
        second(hidden),
        candidate,
        second(log_policy),
    )
    return Rollout(
        [Example("a=") for _ in drawn],
        torch.arange(len(drawn)),
        sequences,
        [""] * rows,
        log_prob,
        reward,
        {"reward": reward},
        torch.zeros_like(reward).bool(),
        judged=judged,
        progress=progress,
    )


def loss_of(method: CAPO, term: Term, log_prob: Tensor) -> Tensor:
    """The loss of a term of completions of one token."""
    log_prob = torch.nn.functional.pad(log_prob, (1, 0))
    assert term.kept is not None, "CAPO keeps some of the tokens"
    weights = term.coefficient * term.objective.aggregation.weights(term.kept)
    advantage = term.advantage[:, None].expand_as(log_prob)
    batch = Batch(term.sequences.valid, log_prob.detach(), advantage, weights, None, term.group, {})
    return method.loss(term.objective, batch, log_prob, torch.zeros_like(log_prob))[0]


def of_bandit(found: Measurements) -> Summary:
    return {f"{name}, {arm}": facts[name] for arm, facts in found.items() for name in ("final", "rejected")}


def collapses(summary: Summary) -> bool:
    return float(np.mean(summary["final, none"])) < 0.75 * float(np.mean(summary["final, calm"]))


COLLAPSES = Gate("control", collapses, "without limits the large step ends below 75 % of the accuracy of the small one")
