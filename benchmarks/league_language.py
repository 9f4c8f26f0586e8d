"""A league of language methods: the same nano models, task, batches, tokens and sweep of step sizes for all.

    python benchmarks/league_language.py [--workers 2]     # goes on from what is stored, and prints the table

Nano models that were taught sums and differences of two digits for 150 steps learn on by reward, 256 completions a step
(32 × 8, REBEL 128 × 2), until they have written so many tokens; SFT imitates as many. After each eighth of them they
answer 64 held-out sums 8 times. Of three step sizes each method has the one whose area under this accuracy is largest
on one seed; the table is of three others. pass@8 is unbiased, from 16 answers to 128 held-out sums after the last step.
Intervals are 95 % bootstrap intervals of the mean over the seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import numpy as np

from peer_sb3 import RESULTS, store

SLUGS = ("bnpo", "gpg", "delta-l", "pspo", "cpgd", "rebel", "hpt")
SLUGS += ("grpo", "dr-grpo", "dapo", "gspo", "cispo", "rloo", "ppo-critic", "rft", "sft")
SIZES = {"rebel": {"prompts": 128, "samples": 2}, "sft": {"prompts": 256}}
TASK, WARMUP = "arithmetic:digits=1,terms=2", 150
RATES, SWEEP, SEEDS = (1e-4, 3e-4, 1e-3), (100,), (0, 1, 2)
TOKENS, CHECKS = 96_000, 8
NAME = "language_league"
Run = tuple[str, float, int]


def learned(run: Run) -> dict[str, Any]:
    """The accuracy at the start and after every eighth of the tokens, and pass@8 at the end."""
    import torch

    from surefoot.catalogue import method_class
    from surefoot.claims.language.learning import TOKENS as LONGEST
    from surefoot.claims.language.learning import start
    from surefoot.evaluate.language import pass_at_k

    torch.set_num_threads(1)
    slug, rate, seed = run
    method = method_class(slug)(max_tokens=LONGEST, **SIZES.get(slug, {"prompts": 32, "samples": 8}))
    learner = start(method, seed, steps=10**6, task=TASK, learning_rate=rate, warmup=WARMUP)
    shown = [str(learner.task.example(i).demonstration) for i in range(256)]
    imitated = round(method.prompts * np.mean([len(row) for row in learner.model.encode_completions(shown)]))
    curve, tokens, steps = [solved(learner, 64, 8).mean() / 8], 0, 0
    while len(curve) <= CHECKS:
        tokens, steps = tokens + (int(learner.iterate()[0].get("tokens", 0)) or imitated), steps + 1
        if tokens >= len(curve) * TOKENS / CHECKS:
            curve.append(solved(learner, 64, 8).mean() / 8)
    best = pass_at_k(solved(learner, 128, 16), 16, 8).mean()
    return {"accuracy": [float(x) for x in curve], "pass@8": float(best), "tokens": tokens, "steps": steps}


def solved(learner: Any, examples: int, samples: int) -> np.ndarray:
    """How many of the samples solve each of the held-out examples."""
    from surefoot.claims.language.learning import held_out

    return (held_out(learner.model, learner.task, examples, samples, learner.method.max_tokens) >= 1).sum(1)


def area(found: dict[str, Any]) -> float:
    return float(np.trapezoid(found["accuracy"], dx=1 / CHECKS))


def key(run: Run) -> str:
    return f"{run[0]}/{run[1]:g}/{run[2]}"


def carried_out(wanted: Iterable[Run], runs: dict[str, Any], workers: int) -> None:
    """The runs that are missing, each stored as soon as it ends."""
    missing = [run for run in wanted if key(run) not in runs]
    with ProcessPoolExecutor(workers) as pool:
        going = {pool.submit(learned, run): run for run in missing}
        for done in as_completed(going):
            runs[key(going[done])] = done.result()
            print(f"{key(going[done]):<24}area {area(done.result()):.3f}", flush=True)
            store(NAME, {"runs": runs})


def rates(runs: dict[str, Any]) -> dict[str, float]:
    """The best step size of each method, by the seeds of the sweep."""
    return {
        slug: max(RATES, key=lambda rate: np.mean([area(runs[key((slug, rate, seed))]) for seed in SWEEP]))
        for slug in SLUGS
    }


def league(runs: dict[str, Any]) -> dict[str, Any]:
    """The rows of the table, the largest area first."""
    from surefoot.evaluate.statistics import confidence_interval, mean

    rows = {}
    for slug, rate in rates(runs).items():
        mine = [runs[key((slug, rate, seed))] for seed in SEEDS]
        figures = {"area": [area(one) for one in mine], "pass@8": [one["pass@8"] for one in mine]}
        figures["last accuracy"] = [one["accuracy"][-1] for one in mine]
        rows[slug] = {"rate": rate, "steps": float(np.mean([one["steps"] for one in mine]))}
        for name, values in figures.items():
            low, high = confidence_interval(values, mean) or (0.0, 1.0)
            rows[slug][name] = [float(np.mean(values)), max(0.0, low), min(1.0, high)]  # of shares, all three
    return dict(sorted(rows.items(), key=lambda row: -row[1]["area"][0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    workers = parser.parse_args().workers
    stored = RESULTS / f"{NAME}.json"
    runs = json.loads(stored.read_text())["runs"] if stored.exists() else {}
    carried_out(((slug, rate, seed) for seed in SWEEP for slug in SLUGS for rate in RATES), runs, workers)
    best = rates(runs)
    carried_out(((slug, best[slug], seed) for seed in SEEDS for slug in SLUGS), runs, workers)
    table = league(runs)
    print(f"{'':<12}{'rate':>7}{'steps':>7}" + "".join(f"{name:^28}" for name in ("area", "last accuracy", "pass@8")))
    for slug, row in table.items():
        figures = (row[name] for name in ("area", "last accuracy", "pass@8"))
        text = "".join(f"{value:>9.3f}  [{low:.3f}, {high:.3f}]" for value, low, high in figures)
        print(f"{slug:<12}{row['rate']:>7g}{row['steps']:>7.0f}{text}")
    store(NAME, {"table": table, "command": "python benchmarks/league_language.py", "runs": runs})


if __name__ == "__main__":
    main()
