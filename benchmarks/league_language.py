"""A league of language methods: one start model, the same task, batches, tokens and sweep of step sizes for all.

    python benchmarks/league_language.py [--seeds 8] [--tokens 16000] …     # goes on from what is stored
    python benchmarks/league_language.py --name language_league_full --task arithmetic:digits=2,terms=3 --width 192 \
        --layers 3 --warmup 400 --prompts 32 --tokens 1000000 --rates 3e-5 1e-4 3e-4 --workers 8     # eight core-hours

A nano model that was taught the task for a while learns on by reward, `--prompts` × 8 completions a step (REBEL writes
pairs), until it has written so many tokens; SFT and PSFT imitate as many. All runs start from the same weights; a seed
is that of the prompts and of what is sampled, and the same seeds serve all methods. After each quarter of the tokens
the model answers 64 held-out prompts 4 times. Of the step sizes each method has the one whose area under that curve
is largest on one further seed. pass@8 is unbiased, from 16 answers to 64 held-out prompts after the last step.
Intervals are 95 % Student intervals over the seeds; differences from GRPO are paired by seed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np

from peer_sb3 import RESULTS, store

SLUGS = ("bnpo", "capo", "copg", "cpgd", "d3s", "delta-l", "dynamic-reward-weighting", "empg", "ghpo", "gpg", "hpt")
SLUGS += ("lens", "max-at-k", "pcl", "psft", "pspo", "rebel", "riskpo", "rloop", "rpg-kl", "tbrm")
SLUGS += ("grpo", "dr-grpo", "dapo", "gspo", "cispo", "rloo", "ppo-critic", "rft", "sft")
SHOWN = ("ghpo", "hpt", "psft", "sft")  # those that see demonstrations
PAIRS, IMITATE, BASE = ("rebel",), ("psft", "sft"), "grpo"
OWN: dict[str, dict[str, Any]] = {"riskpo": {"bundle": 4}}  # a bundle must divide the prompts
SWEPT, CHECKS, SAMPLES, FAR = 100, 4, 8, 10**7
FIGURES = ("area", "last accuracy", "pass@8")
PICTURE = RESULTS.parents[1] / "docs/language-league.svg"
Run = tuple[str, float, int]


@cache
def taught(task: str, width: int, layers: int, warmup: int) -> Any:
    """The model that all runs start from."""
    from surefoot.envs.language import resolve
    from surefoot.loops.group_rollout.language import WARMUP_EXAMPLES
    from surefoot.models.language.nano import Nano, nano

    made = resolve(task)

    def example(index: int) -> tuple[str, str]:
        found = made.example(WARMUP_EXAMPLES + index)
        return found.prompt, str(found.demonstration)

    return nano(example, task, size=Nano(width=width, layers=layers, heads=4, warmup=warmup), seed=0)


def learned(run: Run, given: argparse.Namespace) -> dict[str, Any]:
    """The accuracy at the start and after every quarter of the tokens, and pass@8 at the end."""
    import torch

    from surefoot.catalogue import method_class
    from surefoot.envs.language import resolve
    from surefoot.evaluate.language import pass_at_k
    from surefoot.loops.group_rollout.learner import LanguageLearner
    from surefoot.loops.group_rollout.rewards import make_rewards
    from surefoot.models.language.generation import generate

    torch.set_num_threads(1)
    began, (slug, rate, seed) = time.process_time(), run
    task, completions = resolve(given.task), given.prompts * SAMPLES
    size = {"prompts": given.prompts, "samples": SAMPLES} | OWN.get(slug, {})
    size = {"prompts": completions // 2, "samples": 2} if slug in PAIRS else size
    size = {"prompts": completions} if slug in IMITATE else size
    method = method_class(slug)(max_tokens=given.max_tokens, warmup=given.rise, **size)
    model = deepcopy(taught(given.task, given.width, given.layers, given.warmup))
    shown = model.encode_completions([str(task.example(i).demonstration) for i in range(256)])
    imitated = round(completions * np.mean([len(row) for row in shown]))
    learner = LanguageLearner(
        method,
        model,
        task,
        make_rewards(task, None, None),
        generate,
        seed=seed,
        total_steps=max(1, given.tokens // imitated),
        learning_rate=rate,
        patience=None,
    )
    learner.drawn = seed * FAR  # an endless task has its prompts in one order, so every seed begins elsewhere
    curve, tokens, steps = [solved(learner, 64, 4).mean() / 4], 0, 0
    while len(curve) <= CHECKS:
        tokens, steps = tokens + (int(learner.iterate()[0].get("tokens", 0)) or imitated), steps + 1
        if tokens >= len(curve) * given.tokens / CHECKS:
            curve.append(solved(learner, 64, 4).mean() / 4)
    best = pass_at_k(solved(learner, 64, 16), 16, 8).mean()
    facts = {"tokens": tokens, "steps": steps, "core_seconds": round(time.process_time() - began, 2)}
    return {"accuracy": [float(x) for x in curve], "pass@8": float(best), **facts}


def solved(learner: Any, examples: int, samples: int) -> np.ndarray:
    """How many of the samples solve each of the held-out examples."""
    from surefoot.claims.language.learning import held_out

    return (held_out(learner.model, learner.task, examples, samples, learner.method.max_tokens) >= 1).sum(1)


def area(found: dict[str, Any]) -> float:
    return float(np.trapezoid(found["accuracy"], dx=1 / CHECKS))


def figures(found: dict[str, Any]) -> list[float]:
    """The figures of the table for one run."""
    return [area(found), found["accuracy"][-1], found["pass@8"]]


def key(run: Run) -> str:
    return f"{run[0]}/{run[1]:g}/{run[2]}"


def carried_out(wanted: Iterable[Run], runs: dict[str, Any], given: argparse.Namespace) -> None:
    """The runs that are missing, each stored as soon as it ends."""
    missing = [run for run in wanted if key(run) not in runs]
    with ProcessPoolExecutor(given.workers) as pool:
        going = {pool.submit(learned, run, given): run for run in missing}
        for done in as_completed(going):
            runs[key(going[done])] = done.result()
            print(f"{key(going[done]):<36}area {area(done.result()):.3f}", flush=True)
            store(given.name, {"setting": setting(given), "runs": runs})


def setting(given: argparse.Namespace) -> dict[str, Any]:
    """What the stored runs depend on."""
    return {name: x for name, x in vars(given).items() if name not in ("name", "seeds", "workers", "methods")}


def chosen(runs: dict[str, Any], slugs: Sequence[str], rates: Sequence[float]) -> dict[str, float]:
    """The best step size of each method, by the seed of the sweep."""
    return {slug: max(rates, key=lambda rate: area(runs[key((slug, rate, SWEPT))])) for slug in slugs}


def league(runs: dict[str, Any], best: dict[str, float], seeds: int) -> dict[str, Any]:
    """The rows of the table, the largest area first: means with intervals, and paired differences from the base."""
    from surefoot.evaluate.statistics import confidence_interval, mean

    values = {
        slug: np.array([figures(runs[key((slug, rate, seed))]) for seed in range(seeds)]) for slug, rate in best.items()
    }
    rows = {}
    for slug, rate in best.items():
        steps = np.mean([runs[key((slug, rate, seed))]["steps"] for seed in range(seeds)])
        rows[slug] = {"rate": rate, "steps": float(steps), "sees answers": slug in SHOWN}
        for column, name in enumerate(FIGURES):
            for title, each in ((name, values[slug]), (f"{name} − {BASE}", values[slug] - values[BASE])):
                numbers = each[:, column]
                rows[slug][title] = [float(numbers.mean()), *(confidence_interval(numbers, mean) or (None, None))]
    return dict(sorted(rows.items(), key=lambda row: -row[1]["area"][0]))


def with_interval(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def shown(table: dict[str, Any]) -> str:
    """The table in Markdown."""
    titles = ["area", f"area − {BASE}", "last accuracy", "pass@8", f"pass@8 − {BASE}"]
    lines = ["| method | step size | " + " | ".join(titles) + " |", "|---" * (len(titles) + 2) + "|"]
    for slug, row in table.items():
        cells = [with_interval(*row[name]) for name in titles]
        lines.append(f"| {slug}{' †' if row['sees answers'] else ''} | {row['rate']:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(table: dict[str, Any], runs: dict[str, Any], given: argparse.Namespace) -> None:
    """The differences from the base, of every seed and with intervals, as docs/language-league.svg."""
    from surefoot.evaluate.plots import intervals

    rows, points = [], []
    for slug, row in table.items():
        if slug == BASE:
            continue
        both = [
            [area(runs[key((one, table[one]["rate"], seed))]) for seed in range(given.seeds)] for one in (slug, BASE)
        ]
        points.append(np.subtract(*both))
        rows.append((slug + " †" * row["sees answers"], *row[f"area − {BASE}"]))
    figure = intervals(rows, x=f"area under the accuracy curve − that of {BASE}", points=points, reference=0.0)
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="language_league", help="of the file in results/")
    parser.add_argument("--task", default="sorting:count=3,below=10")
    parser.add_argument("--methods", nargs="+", default=SLUGS)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=150, help="supervised steps of the start model")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16_000, help="written in a run")
    parser.add_argument("--rates", type=float, nargs="+", default=(3e-4, 1e-3))
    parser.add_argument("--rise", type=int, default=5, help="steps over which the step size rises")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    slugs = tuple(dict.fromkeys([*given.methods, BASE]))
    stored = RESULTS / f"{given.name}.json"
    found = json.loads(stored.read_text()) if stored.exists() else {}
    if found and found.get("setting") != json.loads(json.dumps(setting(given))):
        raise SystemExit(f"{stored} has runs of another setting, {found.get('setting')}; give another --name.")
    runs = found.get("runs", {})
    carried_out(((slug, rate, SWEPT) for slug in slugs for rate in given.rates), runs, given)
    best = chosen(runs, slugs, given.rates)
    carried_out(((slug, best[slug], seed) for seed in range(given.seeds) for slug in slugs), runs, given)
    table = league(runs, best, given.seeds)
    print(shown(table))
    draw(table, runs, given)
    spent = sum(run["core_seconds"] for run in runs.values()) / 60
    print(f"{len(runs)} runs, {spent:.1f} core-minutes")
    store(given.name, {"setting": setting(given), "core_minutes": round(spent, 1), "table": table, "runs": runs})


if __name__ == "__main__":
    main()
