"""CAPO's claim: the last layer predicts what a token's step changes, and dropping the largest steps prevents collapse."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from surefoot.claims.language.bandit import ARMS, CONTEXTS, GROUP, HIDDEN, INPUTS
from surefoot.claims.language.tiny import Sums, learner, warm
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
from surefoot.envs.language import Example
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.method import Batch, Rollout, Term
from surefoot.loops.group_rollout.rollout import Progress
from surefoot.methods.language.capo import CAPO
from surefoot.methods.language.capo.last_layer import Moments, Written, alone, shifts
from surefoot.models.language.model import TokenStatistics
from surefoot.models.language.sequences import Sequences
from surefoot.objectives.divergences import k3
from surefoot.seeding import torch_stream

F64 = torch.float64
NONE: dict[str, Any] = {"policy_limit": float("inf"), "objective_limit": float("inf")}

# --- single tokens ---------------------------------------------------------------------------------------------------

TOKENS, CANDIDATES, WIDTH, RATE = 64, 6, 4, 0.02


def tokens(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Of 64 random tokens and the step that SGD takes on each alone: by which power of the step size the error of m_H
    falls; how far the mean of m_F over the tokens that might have been written is from the KL between the policies. And
    how far D is from the step that torch's Adam takes on the same gradient."""
    found: dict[str, list[float]] = {"order": [], "kl": [], "adam": []}
    for seed in seeds:
        stream = torch_stream(seed, "tokens")
        hidden, logits, advantage = (torch.randn(TOKENS, n, generator=stream, dtype=F64) for n in (WIDTH, CANDIDATES, 1))
        action = torch.randint(CANDIDATES, (TOKENS,), generator=stream)
        some = written(hidden, logits, action, advantage[:, 0])
        u, errors = alone(some, None), []
        for rate in (RATE, RATE / 2):
            new = (logits + rate * u).softmax(-1)
            gain = some.advantage * ((new / some.policy).gather(1, action[:, None])[:, 0] - 1)
            errors.append((gain - shifts(some, u, rate)[0]).abs().mean())
        found["order"].append(float(torch.log2(errors[0] / errors[1])))
        each = [shifts(written(hidden, logits, torch.full((TOKENS,), a), advantage[:, 0]), u, RATE)[1] for a in range(CANDIDATES)]
        predicted = (some.policy * torch.stack(each, 1)).sum(1)
        new = (logits + RATE * u).log_softmax(-1)
        exact = (some.policy * (some.policy.log() - new)).sum(1)
        found["kl"].append(float((predicted.sum() / exact.sum()).log().abs()))
        found["adam"].append(adams(some))
    return found


def written(hidden: Tensor, logits: Tensor, action: Tensor, advantage: Tensor) -> Written:
    policy = logits.softmax(-1)
    chosen = torch.nn.functional.one_hot(action, logits.shape[1])
    return Written(hidden, torch.arange(logits.shape[1]).repeat(len(logits), 1), policy, chosen - policy, advantage)


def adams(some: Written) -> float:
    """The largest difference of D from Adam's steps on the tokens one after another, relative to their size."""
    weight = torch.nn.Parameter(torch.zeros(CANDIDATES, WIDTH, dtype=F64))
    adam, moments, worst = torch.optim.Adam([weight], lr=1.0), Moments.start(WIDTH), 0.0
    for i in range(8):
        one = some[i : i + 1]
        predicted, before = moments.direction(one)[0], weight.detach().clone()
        weight.grad = -(one.advantage[:, None] * one.score).T @ one.hidden
        adam.step()
        moments = moments.after(one)
        if i:
            worst = max(worst, float((predicted - (weight.detach() - before)).abs().max()))
    return worst


def of_tokens(found: Measurements) -> Summary:
    return {**found["tokens"], **{f"worst: {name}": max(found["tokens"][name]) for name in ("kl", "adam")}}


# --- a prediction of what a step does --------------------------------------------------------------------------------

ITERATIONS, WARMUP, LEARNING_RATE = 60, 150, 1e-3
SUMS = CAPO(prompts=8, samples=8, max_tokens=4, **NONE)


def predictions(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Over 60 iterations of the base method: the rank correlation of the predicted shift of the whole step with the KL
    between the policies before and after it, estimated on the tokens of the batch; and the mean over iterations of
    that of the shift of each token alone with the token's own term of that KL."""
    found: dict[str, list[float]] = {"batch": [], "token": []}
    for seed in seeds:
        made = learner(SUMS, warm(Sums(), seed, WARMUP), Sums(), seed, ITERATIONS, LEARNING_RATE)
        rows: list[tuple[float, float]] = []
        single: list[float] = []
        for _ in range(ITERATIONS):
            iteration = Iteration(made)
            rollout = made.estimator.judged(made.collect(iteration)[0])
            assert rollout.judged is not None, "the method judges"
            (term,) = SUMS.terms(rollout)
            made.update([term])
            valid = rollout.sequences.valid
            moved = k3(iteration.statistics(rollout.sequences).log_prob - rollout.judged.log_prob)[valid]
            alone_ = term.extra["policy_shift"][valid]
            rows.append((float(term.extra["step_shift"].sum()), float(moved.mean())))
            if bool(alone_.any()):
                single.append(float(spearmanr(alone_, moved).statistic))
            made.memory = SUMS.remember(rollout, iteration)
            made.iteration += 1
        found["batch"].append(float(spearmanr(*zip(*rows, strict=True)).statistic))
        found["token"].append(float(np.mean(single)))
    return found


def of_predictions(found: Measurements) -> Summary:
    return found["predictions"]


# --- a bandit at a large step size -----------------------------------------------------------------------------------

STEPS, CALM, FAST = 150, 0.03, 0.5
LIMITS, TUNING = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0), tuple(range(2000, 2012))
SIZES: dict[str, Any] = {"prompts": CONTEXTS, "samples": GROUP, "max_tokens": 1, "top_k": ARMS}


@dataclass(frozen=True)
class AtRandom(CAPO):
    """Drops as many tokens, chosen at random."""

    def examined(self, rollout: Rollout) -> tuple[Written, Tensor, dict[str, Tensor]]:
        some, kept, found = super().examined(rollout)
        stream = torch_stream(0, "at random", rollout.progress.step)
        return some, kept[torch.randperm(len(kept), generator=stream)], found


def arms(limit: float) -> dict[str, CAPO]:
    limits = {"policy_limit": limit, "objective_limit": float("inf")}
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
        log_prob, torch.zeros_like(log_prob), torch.zeros_like(log_prob), None, second(hidden), candidate, second(log_policy)
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
