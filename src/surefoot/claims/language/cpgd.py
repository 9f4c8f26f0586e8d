"""CPGD's claim: no token pulls more than its advantage, the drift is a KL, and training collapses less often."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.language.bandit import last, play_together
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
    ShareDifference,
    Summary,
    Within,
)
from surefoot.loops.group_rollout.method import Batch, GroupRollout
from surefoot.methods.language.baselines import GRPO
from surefoot.methods.language.cpgd import CPGD
from surefoot.methods.language.pspo import PSPO
from surefoot.objectives import PolicyObjective
from surefoot.objectives.stabilizers import dual_clip
from surefoot.seeding import torch_stream

# --- single tokens -------------------------------------------------------------------------------------------------

TOKENS, ARMS = 512, 10
F64 = torch.float64


def tokens(seeds: Sequence[int]) -> dict[str, list[float]]:
    """What CPGD and GRPO make of random tokens whose ratios are spread over a factor of e either way and beyond."""
    found: dict[str, list[float]] = {
        name: [] for name in ("largest pull, CPGD", "largest pull, GRPO", "stopped differently", "first step", "drift")
    }
    for seed in seeds:
        stream = torch_stream(seed, "tokens")
        old = -3 * torch.rand(1, TOKENS, generator=stream, dtype=F64)
        new = old + torch.randn(1, TOKENS, generator=stream, dtype=F64)
        advantage = torch.randn(1, TOKENS, generator=stream, dtype=F64)
        ours, theirs = (pull(method, new, old, advantage) for method in (CPGD(drift=0.0), GRPO()))
        found["largest pull, CPGD"].append(float((ours / advantage).abs().max()))
        found["largest pull, GRPO"].append(float((theirs / advantage).abs().max()))
        found["stopped differently"].append(float(((ours == 0) != (theirs == 0)).double().mean()))
        first = pull(CPGD(drift=1.0), old, old, advantage) - pull(GRPO(), old, old, advantage)
        found["first step"].append(float(first.abs().max()))
        found["drift"].append(drift_error(stream))
    return found


def pull(
    method: GroupRollout, log_prob: Tensor, old: Tensor, advantage: Tensor, weights: Tensor | None = None
) -> Tensor:
    """The derivative of the shipped loss in log π of every token, each of weight 1 unless given."""
    log_prob = log_prob.clone().requires_grad_()
    weights = torch.ones_like(old) if weights is None else weights
    batch = Batch(torch.ones_like(old, dtype=torch.bool), old, advantage, weights, None, torch.arange(len(old)), {})
    loss, _ = method.loss(method.objective(), batch, log_prob, torch.zeros_like(log_prob))
    return torch.autograd.grad(loss, log_prob)[0]


def drift_error(stream: torch.Generator) -> float:
    """The largest difference of the drift's gradient, all arms enumerated, from that of KL(π_old ‖ π), on a softmax
    whose ratios do not reach the cap."""
    logits = torch.randn(ARMS, generator=stream, dtype=F64).requires_grad_()
    old = (logits.detach() + 0.3 * torch.randn(ARMS, generator=stream, dtype=F64)).log_softmax(-1)
    log_prob = logits.log_softmax(-1)
    (wanted,) = torch.autograd.grad((old.exp() * (old - log_prob)).sum(), logits, retain_graph=True)
    slope = pull(CPGD(drift=1.0), log_prob.detach()[None], old[None], torch.zeros(1, ARMS, dtype=F64), old.exp()[None])
    (found,) = torch.autograd.grad(log_prob, logits, slope[0])
    return float((found - wanted).abs().max())


def of_tokens(found: Measurements) -> Summary:
    """The pulls of each seed; of what is exact the largest of all."""
    series = dict(found["tokens"])
    exact = ("largest pull, CPGD", "stopped differently", "first step", "drift")
    return series | {f"worst: {name}": max(series[name]) for name in exact}


# --- the bandit ----------------------------------------------------------------------------------------------------

STEPS, RATES, CALM, WILD, FAST = 150, (0.001, 0.003, 0.01, 0.03, 0.1), 4, 64, 0.1
TUNING = range(2000, 2008)
COLLAPSED = 0.5  # of the best accuracy that a run has had
DRIFTS = (0.0, 0.001, 0.01, 0.1)


@dataclass(frozen=True)
class DualClip(GRPO):
    """GRPO that stops counting a bad arm more at three times its old probability."""

    def objective(self) -> PolicyObjective:
        return dataclasses.replace(super().objective(), stabilizer=dual_clip(self.clip, bound=3.0))


def methods(epochs: int) -> dict[str, GroupRollout]:
    return {
        "clip": GRPO(epochs=epochs),
        "dual clip": DualClip(epochs=epochs),
        "unclipped": PSPO(alpha=0.0, epochs=epochs),
        **{f"cpgd {drift:g}": CPGD(drift=drift, epochs=epochs) for drift in DRIFTS},
    }


def bandit(arm: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Calm: accuracy at the end with a few passes, at the step size that is best on the seeds for tuning. Wild: the
    same with many passes at a large step size, whether it collapsed, and the largest ratio and KL of a batch."""
    calm, wild = methods(CALM)[arm], methods(WILD)[arm]
    scores = {
        f"{rate:g}": float(np.mean(ends(play_together(calm, TUNING, STEPS, learning_rate=rate)))) for rate in RATES
    }
    rate = max(RATES, key=lambda r: scores[f"{r:g}"])
    runs = play_together(wild, seeds, STEPS, learning_rate=FAST)
    return {
        "tuning": scores,
        "rate": rate,
        "calm": ends(play_together(calm, seeds, STEPS, learning_rate=rate)),
        "wild": ends(runs),
        "collapsed": [collapsed(curve) for curve in runs["accuracy"]],
        "ratio": [max(curve) for curve in runs["ratio"]],
        "kl": [max(curve) for curve in runs["kl"]],
    }


def ends(runs: dict[str, list[list[float]]]) -> list[float]:
    return [last(curve) for curve in runs["accuracy"]]


def collapsed(curve: Sequence[float]) -> float:
    """1 if the accuracy ever fell below half of the best so far."""
    best = np.maximum.accumulate(curve)
    return float((np.array(curve) < COLLAPSED * best).any())


def of_bandit(found: Measurements) -> Summary:
    """Every series by arm."""
    return {
        f"{name}, {arm}": values for arm, facts in found.items() for name, values in facts.items() if name != "tuning"
    }


def clip_collapses(summary: Summary) -> bool:
    return float(np.mean(summary["collapsed, clip"])) >= 0.3


def inside(summary: Summary) -> bool:
    return all(RATES[0] < summary[f"rate, {arm}"] < RATES[-1] for arm in methods(1))


COLLAPSES = Gate("room", clip_collapses, "GRPO with the clip collapses in at least 30 % of the runs")
INSIDE = Gate("grid", inside, "the best step size of every arm lies inside the grid")
BEST = "cpgd 0.01"  # the drift of the released script

CLAIM = Claim(
    slug="cpgd",
    sentence="A policy gradient without the ratio, clipped in the logarithm and with a drift to the sampling policy, is "
    "stable where GRPO collapses, and loses nothing where training is calm.",
    source="Liu et al. 2025 (arXiv:2505.12504), abstract, §4, Proposition 1 and Figure 1",
    method=CPGD,
    experiments={
        "tokens": Experiment(
            "mechanism",
            {"tokens": tokens},
            seeds=8,
            minutes=0.01,
            setting="512 random tokens and a softmax of ten arms, their log-ratios normal with deviations 1 and 0.3; no "
            "training",
            arms={"CPGD": CPGD(drift=0.0), "GRPO": GRPO()},
            summary=of_tokens,
        ),
        "bandit": Experiment(
            "miniature",
            {arm: partial(bandit, arm) for arm in methods(1)},
            seeds=40,
            minutes=8,
            setting="contextual bandit of 12 contexts and 10 arms, a hidden layer of 32, groups of 8, Adam, 150 batches; "
            "calm: 4 passes at each arm's best of five step sizes; wild: 64 passes at a step size of 0.1 for all",
            arms=methods(WILD),
            summary=of_bandit,
            differs=(
                "a bandit of one-token completions in place of Qwen2.5-VL-7B and problems with images",
                "4 or 64 passes over all of a batch in place of one pass in eight minibatches",
                "Adam in place of AdamW",
            ),
        ),
    },
    parts=(
        Part(
            "no token pulls more than its advantage",
            "primary",
            "tokens",
            Exact("worst: largest pull, CPGD"),
            Less(1 + 1e-9, against=1 + 1e-9),
            says="§4.1: the objective has no ratio that multiplies the advantage",
        ),
        Part(
            "with GRPO some token pulls at least twice as much",
            "primary",
            "tokens",
            LogRatio("largest pull, GRPO", "largest pull, CPGD"),
            More(float(np.log(2))),
        ),
        Part(
            "the drift is the gradient of the KL from the sampling policy",
            "primary",
            "tokens",
            Exact("worst: drift"),
            Within(1e-9),
        ),
        Part(
            "it stops the same tokens as PPO's clip",
            "secondary",
            "tokens",
            Exact("worst: stopped differently"),
            Within(1e-9),
        ),
        Part(
            "the first step on a batch is GRPO's, whatever the drift",
            "secondary",
            "tokens",
            Exact("worst: first step"),
            Within(1e-9),
        ),
        Part(
            "collapses less often than GRPO",
            "primary",
            "bandit",
            ShareDifference("collapsed, clip", f"collapsed, {BEST}"),
            More(),
            gates=(COLLAPSES,),
            says="Figure 1: GRPO, RLOO and REINFORCE++ collapse in mid-training, CPGD does not",
        ),
        Part(
            "collapses less often than the unclipped surrogate",
            "secondary",
            "bandit",
            ShareDifference("collapsed, unclipped", f"collapsed, {BEST}"),
            More(),
        ),
        Part(
            "collapses less often than GRPO with a dual clip",
            "secondary",
            "bandit",
            ShareDifference("collapsed, dual clip", f"collapsed, {BEST}"),
            More(),
            gates=(COLLAPSES,),
        ),
        Part(
            "loses nothing where training is calm",
            "primary",
            "bandit",
            Difference(f"calm, {BEST}", "calm, clip"),
            NoWorse(0.03),
            gates=(INSIDE,),
        ),
        Part(
            "ends higher than GRPO with many passes",
            "secondary",
            "bandit",
            Difference(f"wild, {BEST}", "wild, clip"),
            More(),
            gates=(COLLAPSES,),
        ),
        Part(
            "a stronger drift keeps ratios smaller",
            "secondary",
            "bandit",
            LogRatio("ratio, cpgd 0.1", "ratio, cpgd 0"),
            Less(),
        ),
        Part(
            "without the drift it ends as high",
            "secondary",
            "bandit",
            Difference("wild, cpgd 0", f"wild, {BEST}"),
            Within(0.03),
            says="Table 2: the drift adds nothing to the final score, 1.11 either way; it is a safeguard",
        ),
        *(
            Part(
                f"drift {drift:g} loses nothing where training is calm",
                "exploratory",
                "bandit",
                Difference(f"calm, cpgd {drift:g}", "calm, clip"),
                NoWorse(0.03),
                gates=(INSIDE,),
            )
            for drift in DRIFTS
            if f"cpgd {drift:g}" != BEST
        ),
    ),
    not_run="Qwen2.5-VL-7B on MMK12, 128 prompts of 8 responses of up to 4096 tokens, 5 to 10 passes over 15,616 problems: "
    "eight GPUs for days, and images that the library's tasks do not have",
    amended=(
        "2026-11-30: with 16 passes and SGD no arm with a clip ever collapsed, and every arm chose the smallest of three "
        "step sizes, so the experiment of 2026-11-26 could not tell. Passes, step sizes, optimiser and seeds were chosen "
        "anew on seeds from 1000 and 2000 on.",
    ),
)
