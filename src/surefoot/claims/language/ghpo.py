"""GHPO's claim: prompts that every completion failed teach once a part of their solution is shown, and what is learned
with the hint is there without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from surefoot.claims.language.chains import ChainIteration, solved, start, step
from surefoot.claims.language.tiny import gradient, learner
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
    Slope,
    Summary,
)
from surefoot.envs.language import Example, Task
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.method import GroupRollout, Rollout
from surefoot.methods.language.baselines import GRPO
from surefoot.methods.language.ghpo import GHPO, all_wrong
from surefoot.models.language.nano import Nano, fresh

# --- one batch -----------------------------------------------------------------------------------------------------

ONCE: dict[str, Any] = {"prompts": 16, "samples": 8, "max_tokens": 2}
GUIDED = GHPO(**ONCE, hint_text="[{hint}]", cold_start=0)
PLAIN = GHPO(**ONCE, hints=())


@dataclass(frozen=True)
class Digits(Task):
    """Write a digit; an untrained model does so one time in ten. Or a digit counts only if half of the solution is
    shown."""

    name: ClassVar[str] = "digits"
    locked: bool = False

    def make(self, rng: np.random.Generator) -> Example:
        return Example("abcdefgh"[int(rng.integers(8))] + "=", "", "7654")

    def reward(self, example: Example, completion: str) -> float:
        if self.locked:
            return float("[76" in example.prompt and completion[:1].isdigit())
        return float(completion[:1] not in tuple("xyz"))


def one_batch(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Of an untrained model: where all prompts are solved, how far the gradient of GHPO is from GRPO's, and the batches it
    writes; where a prompt is solved only with half of its solution, the norm of GRPO's gradient and of GHPO's, the largest
    weight that a token of a prompt has, and the number of prompts that each stage asks beyond the one before."""
    names = ("solved, apart", "solved, batches", "locked, grpo", "locked, ghpo", "weight of a prompt", "asked more")
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed in seeds:
        model = fresh(Nano(width=16, layers=1, heads=2, context=16), seed)
        for task in (Digits(), Digits(locked=True)):
            made = learner(GUIDED, model, task, seed, 1, 1e-3)
            iteration = Iteration(made)
            rollout = GUIDED.collect(iteration)
            terms = GUIDED.terms(rollout)
            mine = gradient(made, terms)
            plain = learner(PLAIN, model, task, seed, 1, 1e-3)
            theirs = gradient(plain, PLAIN.terms(plain.collect()[0]))
            if not task.locked:
                found["solved, apart"].append(float((mine - theirs).abs().max()))
                found["solved, batches"].append(len(iteration.written))
                continue
            found["locked, grpo"].append(float(theirs.norm()))
            found["locked, ghpo"].append(float(mine.norm()))
            valid = terms[0].sequences.valid
            weights = terms[0].objective.aggregation.weights(valid)
            written = torch.arange(valid.shape[1]) >= (terms[0].sequences.lengths - valid.sum(1))[:, None]
            found["weight of a prompt"].append(float(weights[~written].abs().max()))
            asked = [len(one.index) for one in iteration.written]
            found["asked more"].append(int(max(np.diff(asked))))
    return found


def of_one_batch(found: Measurements) -> Summary:
    facts = found["batch"]
    return {f"worst: {name}": max(values) for name, values in facts.items()} | {
        "least: locked, ghpo": min(facts["locked, ghpo"])
    }


# --- chains --------------------------------------------------------------------------------------------------------

TOKENS, RATES = 60_000, (100.0, 1000.0)
SIZES: dict[str, Any] = {"prompts": 16, "samples": 8}


@dataclass(frozen=True)
class AlwaysHinted(GHPO):
    """Half of the solution in every prompt, whatever the policy can do."""

    def collect(self, iteration: Iteration) -> Rollout:
        index = iteration.choose(self.prompts)
        return iteration.write(index, [self.hinted(iteration.task.example(int(i)), 0.5) for i in index])


METHODS: dict[str, GroupRollout] = {
    "grpo": GHPO(**SIZES, hints=()),
    "resampling": GRPO(**SIZES, minibatches=1, unbiased=True, informative=1.0, resamples=4),
    "always hinted": AlwaysHinted(**SIZES, hint_text="{hint}"),
    "ghpo": GHPO(**SIZES, hint_text="{hint}", cold_start=0),
}


def chains(arm: str, rate: float, seeds: Sequence[int]) -> dict[str, list[Any]]:
    """Accuracy without hints after a number of written tokens; by quarters of the run the mean share of a solution that is
    shown; the shares of prompts without a right chain when they are first asked and in the end."""
    runs = [learn(METHODS[arm], seed, rate) for seed in seeds]
    return {name: [run[name] for run in runs] for name in runs[0]}


def learn(method: GroupRollout, seed: int, rate: float) -> dict[str, Any]:
    (table, right), used, count = start(seed), 0, 0
    shown, failed, left = [], [], []
    while used < TOKENS:
        iteration = ChainIteration(table, right, seed, count, SIZES["samples"])
        rollout = method.collect(iteration)  # type: ignore[arg-type]
        table = step(method, table, rollout, rate)
        used += sum(int(one.sequences.valid.sum()) for one in iteration.written)
        count += 1
        shown.append(np.mean([(len(e.prompt) - 1) / len(e.answer) for e in rollout.examples]))
        failed.append(float(all_wrong(iteration.written[0]).float().mean()))
        left.append(float(all_wrong(rollout).float().mean()))
    quarters = [float(np.mean(part)) for part in np.array_split(shown, 4)]
    facts = {"iterations": count, "shown": quarters, "failed": float(np.mean(failed)), "left": float(np.mean(left))}
    return {**solved(table, right), **facts}


def of_chains(found: Measurements) -> Summary:
    series: dict[str, Any] = {f"{name}, {arm}": x for arm, facts in found.items() for name, x in facts.items()}
    series |= {f"half failed, {arm}": [x / 2 for x in facts["failed"]] for arm, facts in found.items()}
    return {**series, "quarter": [0, 1, 2, 3]}


def grpo_learns(summary: Summary) -> bool:
    return min(float(np.mean(summary[f"easy, grpo, {rate:g}"])) for rate in RATES) > 0.9


def has_room(summary: Summary) -> bool:
    return all(0.01 < float(np.mean(summary[f"hard, grpo, {rate:g}"])) < 0.9 for rate in RATES)


GATES = (
    Gate("control", grpo_learns, "GRPO solves more than 0.9 of the short chains"),
    Gate("room", has_room, "GRPO solves between 0.01 and 0.9 of the long chains"),
)

CLAIM = Claim(
    slug="ghpo",
    sentence="A prompt that every completion failed has a gradient once the beginning of its solution is shown; hints "
    "that grow only as far as needed, and shrink as the policy learns, teach hard prompts sooner than rewards alone.",
    source="Liu et al. 2025 (arXiv:2507.10628), abstract, §3 and Table 1",
    method=GHPO,
    experiments={
        "one batch": Experiment(
            "mechanism",
            {"batch": one_batch},
            seeds=8,
            minutes=0.03,
            setting="the gradient on one batch of 16 prompts × 8 completions of an untrained model, where every prompt is "
            "solved, and where one is only with half of its solution; no training",
            arms={"GHPO": GUIDED, "GRPO": PLAIN},
            summary=of_one_batch,
        ),
        "chains": Experiment(
            "miniature",
            {f"{arm}, {rate:g}": partial(chains, arm, rate) for arm in METHODS for rate in RATES},
            seeds=20,
            minutes=1.2,
            setting="a table of logits for chains of 2 and of 8 symbols, 32 keys, at first right one time in four and in "
            "256; the hint is the chain's beginning, from which the policy goes on; 16 prompts × 8 chains an iteration, "
            "gradient ascent at 100 and 1000 until 60,000 symbols are written, those with hints included; exact accuracy "
            "without hints",
            arms=METHODS,
            summary=of_chains,
            differs=(
                "a table in place of Qwen2.5-7B: a hint helps with nothing but what follows it",
                "chains in place of competition mathematics, 32 prompts that return in place of 18,000",
                "arms write the same number of symbols; the paper's take the same number of steps",
                "gradient ascent in the logits in place of AdamW, two step sizes",
            ),
        ),
    },
    parts=(
        Part(
            "where every prompt is solved it is GRPO",
            "primary",
            "one batch",
            Exact("worst: solved, apart"),
            Less(1e-9, against=1e-9),
        ),
        Part(
            "and writes nothing more",
            "secondary",
            "one batch",
            Exact("worst: solved, batches"),
            Less(1.5, against=1.5),
        ),
        Part(
            "where every completion fails rewards have no gradient",
            "primary",
            "one batch",
            Exact("worst: locked, grpo"),
            Less(1e-9, against=1e-9),
            says="§3: reward sparsity, the advantages of a group that fails are all 0",
        ),
        Part(
            "and with half of the solution they have one",
            "primary",
            "one batch",
            Exact("least: locked, ghpo"),
            More(1e-3),
        ),
        Part(
            "nothing is learned from the tokens of a hint",
            "primary",
            "one batch",
            Exact("worst: weight of a prompt"),
            Less(1e-12, against=1e-12),
        ),
        Part(
            "no stage asks more prompts than the one before",
            "secondary",
            "one batch",
            Exact("worst: asked more"),
            Less(0.5, against=0.5),
        ),
        *(
            part
            for rate in RATES
            for part in (
                Part(
                    f"solves more long chains than GRPO, step size {rate:g}",
                    "primary",
                    "chains",
                    Difference(f"hard, ghpo, {rate:g}", f"hard, grpo, {rate:g}"),
                    More(0.1, against=0.0),
                    gates=GATES,
                    says="Table 1: mean of six benchmarks 39.8 to 44.2",
                ),
                Part(
                    f"more than GRPO with resampling, step size {rate:g}",
                    "primary",
                    "chains",
                    Difference(f"hard, ghpo, {rate:g}", f"hard, resampling, {rate:g}"),
                    More(0.1, against=0.0),
                    gates=GATES,
                ),
                Part(
                    f"more than with half of the solution in every prompt, step size {rate:g}",
                    "secondary",
                    "chains",
                    Difference(f"hard, ghpo, {rate:g}", f"hard, always hinted, {rate:g}"),
                    More(0.1, against=0.0),
                    gates=GATES,
                ),
                Part(
                    f"less is shown from quarter to quarter of the run, step size {rate:g}",
                    "secondary",
                    "chains",
                    Slope(f"shown, ghpo, {rate:g}", "quarter"),
                    Less(),
                ),
                Part(
                    f"hints halve the prompts that nothing solves, step size {rate:g}",
                    "secondary",
                    "chains",
                    Difference(f"left, ghpo, {rate:g}", f"half failed, ghpo, {rate:g}"),
                    Less(),
                    says="§5: about 60 % of a batch needs a hint",
                ),
                Part(
                    f"loses nothing on short chains, step size {rate:g}",
                    "secondary",
                    "chains",
                    Difference(f"easy, ghpo, {rate:g}", f"easy, grpo, {rate:g}"),
                    NoWorse(0.02),
                ),
            )
        ),
    ),
    not_run="Qwen2.5-7B on 18,000 problems of competition mathematics, some 160 updates of 1,568 completions of up to 2048 "
    "tokens and up to three more rounds for those that fail: days of eight GPUs, and no weights are at hand",
)
