"""PSFT's claim: imitation within a clip forgets less of other skills, at the same skill in what it imitates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.language.learning import held_out
from surefoot.claims.language.tiny import learner, rewarded, warm
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
from surefoot.envs.language import Example, Task
from surefoot.loops.group_rollout.method import GroupRollout
from surefoot.methods.language.baselines import GRPO, SFT
from surefoot.methods.language.psft import PSFT
from surefoot.models.language.model import LanguageModel
from surefoot.seeding import torch_stream

# --- a softmax -----------------------------------------------------------------------------------------------------

CHOICES, EPSILON = 6, 0.28
F64 = torch.float64


def softmax(seeds: Sequence[int]) -> dict[str, list[float]]:
    """On a random softmax: how far the gradient of the first step on a snapshot is from that of maximum likelihood, and
    of later ones from ρ times it where ρ < 1 + ε; the gradient where ρ is above; and from a probability of 0.001 the
    snapshots of as many steps as they allow until the token is certain."""
    names = ("first step", "inside", "outside", "outside, sft", "snapshots")
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed in seeds:
        logits = torch.randn(CHOICES, generator=torch_stream(seed, "softmax"), dtype=F64)
        plain, here = gradient(SFT(), logits, 0.0), gradient(PSFT(clip_high=EPSILON), logits, 0.0)
        found["first step"].append(float((here - plain).abs().max()))
        inside = [gradient(PSFT(clip_high=EPSILON), logits, x) - np.exp(x) * plain for x in (-1.0, -0.2, 0.2)]
        found["inside"].append(float(torch.stack(inside).abs().max()))
        found["outside"].append(float(gradient(PSFT(clip_high=EPSILON), logits, 0.3).abs().max()))
        found["outside, sft"].append(float(gradient(SFT(), logits, 0.3).abs().max()))
        found["snapshots"].append(climbed())
    return found


def gradient(method: GroupRollout, logits: Tensor, moved: float) -> Tensor:
    """Of the loss of the first token, which is exp(moved) times as likely as at the snapshot, in the logits."""
    leaf = logits.clone().requires_grad_()
    log_prob = leaf.log_softmax(-1)[:1]
    loss, _ = method.objective().loss(log_prob, log_prob.detach() - moved, torch.ones(1, dtype=F64))
    return torch.autograd.grad(loss, leaf)[0]


def climbed(start: float = 0.001, step: float = 1.002) -> float:
    """Snapshots until a token is certain, if within each it rises in small steps as long as it is pulled."""
    objective, one, p, snapshots = PSFT(clip_high=EPSILON).objective(), torch.ones(1, dtype=F64), start, 0
    while p < 1:
        old, snapshots = p, snapshots + 1
        while p < 1 and bool(objective.coefficient(np.log(p) * one, np.log(old) * one, one)[1]):
            p = min(1.0, step * p)
    return float(snapshots)


def of_softmax(found: Measurements) -> Summary:
    facts = found["softmax"]
    return {f"worst: {name}": max(facts[name]) for name in ("first step", "inside", "outside", "snapshots")} | {
        f"least: {name}": min(facts[name]) for name in ("outside, sft", "snapshots")
    }


# --- four string tasks ---------------------------------------------------------------------------------------------

TOKENS, WARMUP, DEMONSTRATIONS, EPOCHS = 12, 300, 256, 30
RATES, PASSES = (1e-4, 3e-4, 1e-3), (1, 8)
KEPT = ("copy", "reverse", "sort")
METHODS: dict[str, GroupRollout] = {
    "sft": SFT(prompts=64, minibatches=8),
    **{f"psft, {passes * 8} steps": PSFT(epochs=passes) for passes in PASSES},
}
REACHED, AFTERWARDS = 0.5, 50


@dataclass(frozen=True)
class Strings(Task):
    """`r:cab=` → `bac`: copy, reverse, sort, or next (each letter's successor), of three letters; `kind` is one of them, or
    all but the last. With `wordy`, next is written in a new style: `cab=` → `c>d,a>b,b>c.`."""

    name: ClassVar[str] = "three letters"
    kind: str = "all"
    wordy: bool = False

    def make(self, rng: np.random.Generator) -> Example:
        kind = str(rng.choice(KEPT)) if self.kind == "all" else self.kind
        letters = [str(x) for x in rng.choice(list("abcdefgh"), 3)]
        after = [chr(ord(x) + 1) for x in letters]
        answer = {"copy": letters, "reverse": letters[::-1], "sort": sorted(letters), "next": after}[kind]
        text = ",".join(f"{x}>{y}" for x, y in zip(letters, after)) + "." if self.wordy else "".join(answer)
        return Example(f"{kind[0]}:{''.join(letters)}=", text, text)

    def reward(self, example: Example, completion: str) -> float:
        return float(completion.strip() == example.answer)


@dataclass(frozen=True)
class Few(Strings):
    """The same with few training examples."""

    name: ClassVar[str] = "few letters"
    size: ClassVar[int | None] = DEMONSTRATIONS  # type: ignore[misc]


LEARNED, OLD = Few("next", wordy=True), [Strings(kind) for kind in KEPT]


def tuned_on(arm: str, rate: float, seeds: Sequence[int]) -> dict[str, list[Any]]:
    """After every second epoch of imitating 256 demonstrations of a new task in a new style: accuracy in it, mean
    accuracy in three old tasks, and entropy per token; and both accuracies after 50 steps of GRPO on the old tasks."""
    found: dict[str, list[Any]] = {name: [] for name in ("new", "old", "entropy", "old, then grpo")}
    for seed in seeds:
        made = learner(METHODS[arm], warm(Strings(), seed, WARMUP), LEARNED, seed, EPOCHS * 4, rate)
        curves: dict[str, list[float]] = {name: [] for name in ("new", "old", "entropy")}
        for iteration in range(EPOCHS * 4):  # 256 demonstrations are four iterations of 64
            row = made.iterate()[0]
            if iteration % 8 == 7:
                curves["new"].append(rewarded(made.model, LEARNED, 128, TOKENS, 0.0))
                curves["old"].append(old_skills(made.model))
                curves["entropy"].append(float(row["entropy"]))
        for name, curve in curves.items():
            found[name].append(curve)
        again = learner(GRPO(prompts=16, max_tokens=TOKENS), made.model, Strings(), seed, AFTERWARDS, 3e-4)
        again.patience = None
        for _ in range(AFTERWARDS):
            again.iterate()
        found["old, then grpo"].append(old_skills(again.model))
    return found


def old_skills(model: LanguageModel) -> float:
    return float(np.mean([(held_out(model, task, 64, 1, TOKENS, temperature=0.0) >= 1).mean() for task in OLD]))


def of_strings(found: Measurements) -> Summary:
    """Per seed, by arm: the highest accuracy in the new task, and on the frontier over step sizes and checkpoints the best
    accuracy in the old tasks among those with at least half of the new task right, with its entropy."""
    series: dict[str, Any] = {}
    for arm in METHODS:
        pieces = [found[f"{arm}, {rate:g}"] for rate in RATES]
        new, old, entropy = (np.concatenate([p[name] for p in pieces], axis=1) for name in ("new", "old", "entropy"))
        reached = np.where(new >= REACHED, old, -1.0)
        best, rows = reached.argmax(1), np.arange(len(new))
        series |= {f"new, {arm}": new.max(1), f"frontier, {arm}": np.maximum(reached[rows, best], 0.0)}
        series |= {f"entropy, {arm}": entropy[rows, best]}
        series[f"old, then grpo, {arm}"] = np.max([p["old, then grpo"] for p in pieces], axis=0)
    return series


def everybody_learns(summary: Summary) -> bool:
    return all(float(np.mean(summary[f"new, {arm}"])) > REACHED for arm in METHODS)


def forgets(summary: Summary) -> bool:
    return 0.05 < float(np.mean(summary["frontier, sft"])) < 0.95


GATES = (
    Gate("control", everybody_learns, "every arm solves more than half of the new task at its best"),
    Gate("room", forgets, "SFT keeps between 5 and 95 % of the old tasks"),
)

CLAIM = Claim(
    slug="psft",
    sentence="Imitation with a clipped ratio is maximum likelihood in its first step and stops at tokens that rose far; "
    "at the same skill in what is imitated more is kept of what the model could do before.",
    source="Zhu et al. 2025 (arXiv:2508.17784), §3, Tables 1 and 2, and the official README",
    method=PSFT,
    experiments={
        "softmax": Experiment(
            "mechanism",
            {"softmax": softmax},
            seeds=4,
            minutes=0.1,
            setting="a random softmax over six tokens, one demonstrated, at ratios between 0.37 and 1.35; and a token of "
            "probability 0.001 raised as far as every snapshot lets it; no sampling",
            arms={"psft": PSFT(), "sft": SFT()},
            summary=of_softmax,
        ),
        "strings": Experiment(
            "miniature",
            {f"{arm}, {rate:g}": partial(tuned_on, arm, rate) for arm in METHODS for rate in RATES},
            seeds=5,
            minutes=30,
            setting="a model of 100,000 weights that copies, reverses and sorts three letters, fine-tuned for 30 epochs on "
            "256 demonstrations of a fourth task in a new style, three step sizes, 8 or 64 steps a snapshot; greedy "
            "accuracy on held-out prompts of every eighth iteration",
            arms=METHODS,
            summary=of_strings,
            differs=(
                "strings in place of OpenR1-Math, a model of 100,000 weights in place of 7 billion",
                "frontiers over step sizes and checkpoints in place of each method's best checkpoint in-domain",
                "no SFT with a KL penalty among the arms; the warm-up is left out",
            ),
        ),
    },
    parts=(
        Part(
            "the first step on a snapshot is maximum likelihood",
            "primary",
            "softmax",
            Exact("worst: first step"),
            Less(1e-9, against=1e-9),
        ),
        Part(
            "below the clip the gradient is the ratio times that",
            "primary",
            "softmax",
            Exact("worst: inside"),
            Less(1e-9, against=1e-9),
        ),
        Part(
            "above the clip a token does not pull",
            "primary",
            "softmax",
            Exact("worst: outside"),
            Less(1e-12, against=1e-12),
        ),
        Part("where maximum likelihood still pulls", "secondary", "softmax", Exact("least: outside, sft"), More(1e-3)),
        Part(
            "a token of probability 0.001 needs more than 27 snapshots to become certain",
            "secondary",
            "softmax",
            Exact("least: snapshots"),
            More(27),
        ),
        *(
            part
            for passes in PASSES
            for part in (
                Part(
                    f"keeps more of the old tasks than SFT at the same skill in the new one, {passes * 8} steps a snapshot",
                    "primary",
                    "strings",
                    Difference(f"frontier, psft, {passes * 8} steps", "frontier, sft"),
                    More(0.03, against=0.0),
                    gates=GATES,
                    says="Table 1: in-domain 47.99 to 46.98, out of domain 57.90 to 61.26",
                ),
                Part(
                    f"with more entropy, {passes * 8} steps a snapshot",
                    "secondary",
                    "strings",
                    Difference(f"entropy, psft, {passes * 8} steps", "entropy, sft"),
                    More(),
                    gates=GATES,
                    says="README: SFT's entropy falls to about 0 after 150 steps, PSFT's stays",
                ),
                Part(
                    f"is as good a start for rewards, {passes * 8} steps a snapshot",
                    "secondary",
                    "strings",
                    Difference(f"old, then grpo, psft, {passes * 8} steps", "old, then grpo, sft"),
                    NoWorse(0.03),
                    gates=GATES,
                    says="Table 2: after RL 52.40 to 53.31 in-domain, 59.90 to 64.06 out of domain",
                ),
            )
        ),
    ),
    not_run="Qwen2.5-7B-Instruct on 46,000 long demonstrations, 1,600 steps of about 256 of them: days of eight GPUs, and "
    "no weights are at hand",
)
