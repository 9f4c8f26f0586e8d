"""CAPO's claim: the last layer predicts what a token's step changes, and dropping the largest steps prevents collapse."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from surefoot.claims.language.capo_bandit import COLLAPSES, NONE, arms, calm, fast, of_bandit
from surefoot.claims.language.tiny import Sums, learner, warm
from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Less,
    Mean,
    Measurements,
    More,
    NoWorse,
    Part,
    Summary,
    Within,
)
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.methods.language.capo import CAPO
from surefoot.methods.language.capo.last_layer import Moments, Written, alone, shifts
from surefoot.models.language.model import TokenStatistics
from surefoot.seeding import torch_stream

F64 = torch.float64

# --- single tokens ---------------------------------------------------------------------------------------------------

TOKENS, CANDIDATES, WIDTH, RATE = 64, 6, 4, 0.02


def tokens(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Of 64 random tokens and the step that SGD takes on each alone: by which power of the step size the error of m_H
    falls; how far the mean of m_F over the tokens that might have been written is from the KL between the policies. And
    how far D is from the step that torch's Adam takes on the same gradient."""
    found: dict[str, list[float]] = {"order": [], "kl": [], "adam": []}
    for seed in seeds:
        stream = torch_stream(seed, "tokens")
        hidden, logits, advantage = (
            torch.randn(TOKENS, n, generator=stream, dtype=F64) for n in (WIDTH, CANDIDATES, 1)
        )
        action = torch.randint(CANDIDATES, (TOKENS,), generator=stream)
        some = written(hidden, logits, action, advantage[:, 0])
        u, errors = alone(some, None), []
        for rate in (RATE, RATE / 2):
            new = (logits + rate * u).softmax(-1)
            gain = some.advantage * ((new / some.policy).gather(1, action[:, None])[:, 0] - 1)
            errors.append((gain - shifts(some, u, rate)[0]).abs().mean())
        found["order"].append(float(torch.log2(errors[0] / errors[1])))
        each = [
            shifts(written(hidden, logits, torch.full((TOKENS,), a), advantage[:, 0]), u, RATE)[1]
            for a in range(CANDIDATES)
        ]
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
SUMS = CAPO(prompts=8, samples=8, max_tokens=4, top_k=1000, **NONE)  # the whole vocabulary


def predictions(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Over 60 iterations of the base method: the rank correlation of the predicted shift of the whole step with the mean
    KL between the policies before and after it in the places of the batch; and the mean over iterations of that of the
    shift of each token alone with the KL in its place."""
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
            after = made.estimator.statistics(rollout.sequences, candidates=SUMS.likeliest)
            old, new = (everywhere(x)[valid] for x in (rollout.judged, after))
            moved = (old.exp() * (old - new)).sum(-1)
            alone_ = term.extra["policy_shift"][valid]
            rows.append((float(term.extra["step_shift"].sum()), float(moved.mean())))
            if bool(alone_.any()):
                single.append(ranked(alone_.numpy(), moved.numpy()))
            made.memory = SUMS.remember(rollout, iteration)
            made.iteration += 1
        found["batch"].append(ranked(*np.array(rows).T))
        found["token"].append(float(np.mean(single)))
    return found


def ranked(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation."""
    found: Any = spearmanr(a, b)
    return float(found.statistic)


def everywhere(judged: TokenStatistics) -> Tensor:
    """The log-probabilities of all tokens in the order of the vocabulary."""
    assert judged.candidate is not None and judged.candidate_log_prob is not None, "candidates were asked for"
    return torch.zeros_like(judged.candidate_log_prob).scatter(-1, judged.candidate, judged.candidate_log_prob)


def of_predictions(found: Measurements) -> Summary:
    return found["predictions"]


CLAIM = Claim(
    slug="capo",
    sentence="Gradient and curvature of the last layer predict how far the step on a token moves objective and policy, and "
    "dropping the few largest keeps large steps from collapsing.",
    source="Melo et al. 2025 (arXiv:2510.00819), §3, §4, Table 5 and the released code",
    method=CAPO,
    experiments={
        "tokens": Experiment(
            "mechanism",
            {"tokens": tokens},
            seeds=8,
            minutes=0.02,
            setting="64 random tokens of a linear layer of width 4 over six candidates, a step of SGD at 0.02 on each "
            "alone; and eight steps of torch's Adam; no training",
            arms={"CAPO": CAPO()},
            summary=of_tokens,
        ),
        "predictions": Experiment(
            "miniature",
            {"predictions": predictions},
            seeds=8,
            minutes=2,
            setting="sums of two to six numbers up to 3, a model of 100,000 weights after 150 steps of imitation; 60 "
            "iterations of 8 prompts × 8 completions with AdamW at 1e-3, without limits; exact KL in all places of a batch",
            arms={"without limits": SUMS},
            summary=of_predictions,
            differs=("sums and a model of 100,000 weights in place of MATH and 7 billion", "a constant step size"),
        ),
        "bandit": Experiment(
            "miniature",
            {"calm": calm} | {arm: partial(fast, arm) for arm in arms(0.0)},
            seeds=20,
            minutes=2,
            setting="contextual bandit of 12 contexts and ten arms, a hidden layer of 32, groups of 8, 150 steps of Adam "
            "at 0.5, at 0.03 for comparison; the limit on the policy's change at each arm's best of 3, 10 and 30, which "
            "reject up to 8 % of the tokens; mean accuracy of the last tenth",
            arms=arms(10.0),
            summary=of_bandit,
            differs=(
                "a bandit of one-token completions in place of Qwen2.5-Math-7B on MATH",
                "a limit on the change of the policy only",
            ),
        ),
    },
    parts=(
        Part(
            "the error of the predicted change of the objective falls with the third power of the step",
            "primary",
            "tokens",
            Mean("order"),
            More(2.7, against=2.5),
            says="§3: a second-order model of the objective",
        ),
        Part(
            "the predicted change of the policy is on average its KL, within a tenth",
            "primary",
            "tokens",
            Exact("worst: kl"),
            Less(0.1, against=0.1),
            says="§3: the Fisher information of the last layer",
        ),
        Part(
            "the predicted direction is Adam's",
            "primary",
            "tokens",
            Exact("worst: adam"),
            Within(1e-9),
        ),
        Part(
            "the prediction for a step correlates with the KL that it makes",
            "primary",
            "predictions",
            Mean("batch"),
            More(0.5, against=0.0),
            says="Table 5: rank correlations of .459 and .622 for tokens, higher for batches",
        ),
        Part(
            "and that for a token alone with the KL in its place",
            "primary",
            "predictions",
            Mean("token"),
            More(0.3, against=0.0),
            says="Table 5: .622 with GRPO, .459 with CAPO",
        ),
        Part(
            "ends higher than without limits at a large step size",
            "primary",
            "bandit",
            Difference("final, capo", "final, none"),
            More(),
            gates=(COLLAPSES,),
            says="§4: at five times the step size and a twelfth of the batch GRPO collapses, CAPO does not",
        ),
        Part(
            "and higher than with as many tokens dropped at random",
            "primary",
            "bandit",
            Difference("final, capo", "final, at random"),
            More(),
            gates=(COLLAPSES,),
        ),
        Part(
            "drops less than a tenth of the tokens",
            "secondary",
            "bandit",
            Mean("rejected, capo"),
            Less(0.1, against=0.1),
            says="§4: at most 8 %, later less than 2 %",
        ),
        Part(
            "Adam's steps are the better prediction than SGD's",
            "secondary",
            "bandit",
            Difference("final, capo", "final, capo, sgd"),
            More(),
            gates=(COLLAPSES,),
        ),
        Part(
            "is as good as the small step",
            "secondary",
            "bandit",
            Difference("final, capo", "final, calm"),
            NoWorse(0.03),
            gates=(COLLAPSES,),
        ),
    ),
    not_run="Qwen2.5-Math-7B on MATH, 100 updates of 96 completions of up to 1024 tokens: four hours on four GPUs of 80 GB, "
    "and no weights are at hand",
)
