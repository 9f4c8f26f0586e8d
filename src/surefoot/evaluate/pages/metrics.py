"""The metrics of a run as charts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from surefoot.evaluate import plots
from surefoot.evaluate.pages.page import Block, Chart, Charts, Section, Text
from surefoot.evaluate.readable import measured, number, plural
from surefoot.evaluate.statistics import confidence_interval, mean
from surefoot.loops.common.final import definition, final_returns, sliding_mean, training_returns

BAND = "95 % t-interval of the mean over seeds"
LENGTH, EVALUATION, PACE = "length_mean", "evaluation_mean", "steps_per_second"
DIAGNOSTICS = {  # title and unit of every metric that has a chart
    "kl": ("KL between old and new policy", "nats"),
    "clip_fraction": ("Ratios outside the clip range", "share"),
    "explained_variance": ("Explained variance of the critic", "share"),
    "entropy": ("Entropy of the policy", "nats"),
    "grad_norm": ("Gradient norm before clipping", "norm"),
    "truncated_share": ("Truncated episodes", "share"),
}

Rows = Sequence[Mapping[str, Any]]


def table_of(rows: Iterable[Mapping[str, Any]], name: str) -> tuple[list[Any], np.ndarray, np.ndarray]:
    """The seeds, steps `[t]` and finite values `[seeds, t]` of a metric, NaN where a row lacks it; steps at which no
    seed has it are left out."""
    found = [
        (row.get("seed", 0), float(row["step"]), float(row[name]))
        for row in rows
        if _numeric(row.get("step")) and _numeric(row.get(name))
    ]
    seeds, steps = list(dict.fromkeys(seed for seed, *_ in found)), sorted({step for _, step, _ in found})
    places = {step: place for place, step in enumerate(steps)}
    table = np.full((len(seeds), len(steps)), np.nan)
    for seed, step, value in found:
        table[seeds.index(seed), places[step]] = value
    return seeds, np.array(steps), table


def _numeric(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def over_seeds(count: int) -> str:
    """What the lines of a chart are."""
    if count == 1:
        return ""
    thin = "; thin: each seed" if count <= plots.FEW else ""
    return f"Mean of {count} seeds, band: {BAND}{thin}."


def chart(rows: Rows, name: str, title: str, unit: str, steps: str, *, dots: bool = False) -> Chart | str | None:
    """The chart of a metric; a sentence where it is constant, and None where no row has it."""
    seeds, at, table = table_of(rows, name)
    if not seeds:
        return None
    low, high = np.nanmin(table), np.nanmax(table)
    if low == high and len(at) > 1:
        return f"{title}: {number(float(low))} throughout."
    figure = plots.learning_curves({title: (at, table)}, x=steps, y=unit, statistic=mean, runs=not dots, dots=dots)
    caption = over_seeds(len(seeds))
    return Chart(title, figure, caption.replace("thin: each", "dots: each") if dots else caption)


def arranged(found: Iterable[Chart | str | None]) -> list[Block]:
    """The charts beside each other, and below them the sentences on what is constant."""
    made = [one for one in found if one is not None]
    charts, said = [c for c in made if isinstance(c, Chart)], [s for s in made if isinstance(s, str)]
    blocks: list[Block] = [Charts(charts)] if charts else []
    return [*blocks, Text([" ".join(said)], faint=True)] if said else blocks


def learning(rows: Rows, steps: str, noun: str = "return", more: Iterable[Chart | str | None] = ()) -> list[Section]:
    """The learning curve, evaluations during training and episode lengths; then `more` charts."""
    seeds, at, *returns = training_returns(rows)
    made: list[Chart | str | None] = []
    if seeds and np.isfinite(means := sliding_mean(*returns)).any():
        figure = plots.learning_curves({noun: (at, means)}, x=steps, y=noun, statistic=mean, runs=True)
        window = "Sliding window of a tenth of the iterations, sampled actions. "
        made.append(Chart(f"Training {noun}", figure, window + over_seeds(len(seeds))))
    made.append(chart(rows, EVALUATION, f"Evaluation {noun} during training", noun, steps, dots=True))
    made.append(chart(rows, LENGTH, "Episode length, last 100 episodes", "steps", steps))
    made += more
    alone = [row for row in rows if not seeds or row.get("seed", 0) == seeds[0]]  # all seeds have one pace
    speed = "Speed" if len(seeds) < 2 else "Speed, all seeds together"
    made.append(chart(alone, PACE, speed, f"{steps.split()[-1]} per second", steps))
    blocks = arranged(made)
    return [Section("Learning", [*blocks, Text([f"{final(rows, noun)}."], faint=True)])] if blocks else []


def final(rows: Rows, noun: str = "return") -> str:
    """The final return with its interval over seeds, its definition, and the values of the seeds."""
    last = [value for value in final_returns(rows).values() if math.isfinite(value)]
    if not last:
        return f"Final {noun}: none, because no episode ended in the last tenth of training"
    middle = measured(float(np.mean(last)), confidence_interval(last, mean) if len(last) > 1 else None)
    each = f"; mean of {len(last)} seeds ({', '.join(map(number, last))})" if len(last) > 1 else "; one seed"
    return f"Final {noun}: {middle}{each}. It is the {definition(rows)}"


def short_final(rows: Rows) -> str:
    """The final return in a few words."""
    last = [value for value in final_returns(rows).values() if math.isfinite(value)]
    if not last:
        return "none: no episode ended"
    interval = confidence_interval(last, mean) if len(last) > 1 else None
    return f"{measured(float(np.mean(last)), interval)}, {plural(len(last), 'seed')}"


def diagnostics(rows: Rows, steps: str, shown: Mapping[str, tuple[str, str]] = DIAGNOSTICS) -> list[Section]:
    """A small chart for each diagnostic of the update."""
    blocks = arranged(chart(rows, name, title, unit, steps) for name, (title, unit) in shown.items())
    return [Section("Diagnostics", blocks)] if blocks else []
