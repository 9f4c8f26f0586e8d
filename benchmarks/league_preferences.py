"""A league of methods on pairs: the same worlds, pairs and number of settings for all, and the regret of each.

    python benchmarks/league_preferences.py [--pairs 1000] [--seeds 20] [--tuning 5] [--workers 1]

Six worlds (`preference_worlds.py`), eighteen ways to learn from pairs (`preference_arms.py`). In each world and for
each measure a method has the one of its six settings that is best on the tuning seeds, and is judged on others;
intervals (95 %) are of the mean over the seeds. Writes docs/preference-league.md and .svg, and the figures into
results/.
"""

from __future__ import annotations

import argparse
import textwrap
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from peer_sb3 import store
from surefoot.evaluate.plots import COLOURS, STYLE
from surefoot.evaluate.statistics import confidence_interval, mean

DOCS = Path(__file__).parent.parent / "docs"
NAME, MEASURES = "preference_league", ("regret", "worst-group regret")
LEAST = 1e-3  # of the logarithmic axis
FIRST = 100  # seed; those below were there to develop on
Found = dict[str, dict[str, np.ndarray]]


def judged(count: int, seed: int) -> tuple[dict[str, dict[str, list[Any]]], dict[str, float]]:
    """Both regrets of every setting of every arm in every world, and what nobody can avoid in the worst group."""
    import torch

    from preference_arms import ARMS
    from preference_worlds import SETTINGS, World

    torch.set_num_threads(1)
    found: dict[str, dict[str, list[Any]]] = {}
    floors = {}
    for name in SETTINGS:
        world = World.of(name, seed)
        pairs, floors[name] = world.pairs(seed, count), world.unavoidable()
        found[name] = {
            slug: [world.regret(arm.fit(world, pairs, seed, **given)) for given in arm.settings]
            for slug, arm in ARMS.items()
        }
    return found, floors


def row(values: np.ndarray) -> list[float]:
    """The mean and its interval."""
    low, high = confidence_interval(values, mean) or (float(values.mean()),) * 2
    return [float(values.mean()), max(0.0, float(low)), float(high)]


def league(tuning: Sequence[Any], runs: Sequence[Any]) -> dict[str, Any]:
    """By world and arm: the setting, both regrets with intervals, and those with β at face value, where it is the
    strength of the reference in the value."""
    from preference_arms import ARMS

    table: dict[str, Any] = {}
    for name in runs[0]:
        table[name] = {}
        for slug, arm in ARMS.items():
            tried, mine = (np.array([one[name][slug] for one in some]) for some in (tuning, runs))
            entry: dict[str, Any] = {}
            for place, measure in enumerate(MEASURES):
                best = int(tried[..., place].mean(0).argmin())
                entry[f"{measure}, setting"] = dict(arm.settings[best])
                entry[measure] = row(mine[:, best, place])
                entry[f"{measure} by seed"] = [round(float(x), 6) for x in mine[:, best, place]]
                if arm.plain is not None:
                    entry[f"{measure}, untuned"] = row(mine[:, arm.plain, place])
            table[name][slug] = entry
        for measure in MEASURES:
            mark(table[name], measure)
    return table


def mark(rows: dict[str, Any], measure: str) -> None:
    """Who is not told apart from the one with the least mean: the interval of the paired difference contains 0."""
    first = min(rows, key=lambda slug: rows[slug][measure][0])
    for entry in rows.values():
        gap = np.subtract(entry[f"{measure} by seed"], rows[first][f"{measure} by seed"])
        ends = confidence_interval(gap, mean) if gap.any() else (0.0, 0.0)
        entry[f"{measure}, best"] = bool(ends is None or ends[0] <= 0)


def cell(entry: dict[str, Any], measure: str) -> str:
    value, low, high = (f"{x:.3f}" for x in entry[measure])
    return f"**{value}** [{low}, {high}]" if entry.get(f"{measure}, best") else f"{value} [{low}, {high}]"


def tables(table: dict[str, Any]) -> str:
    """The league in Markdown: a table for each measure, and one of β at face value."""
    head = ["| | " + " | ".join(table) + " |", "|---" * (1 + len(table)) + "|"]
    titles = {**{measure: measure for measure in MEASURES}, "regret, untuned": "regret with β = 1, untuned"}
    said = []
    for measure, title in titles.items():
        said += [f"**{title.capitalize()}**", "", *head]
        for slug, entry in table["clean"].items():
            if measure in entry:
                said.append(f"| {slug} | " + " | ".join(cell(rows[slug], measure) for rows in table.values()) + " |")
        said.append("")
    return "\n".join(said)


def picture(table: dict[str, Any], floors: dict[str, float]) -> Figure:
    """A panel for each world: regret filled, worst-group regret in outline, the best regret on top."""
    figure = Figure(figsize=(9.6, 10.8), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(3, 2, sharex=True).ravel(), table.items(), strict=True):
        order = sorted(rows, key=lambda slug: -rows[slug][MEASURES[0]][0])
        for measure, colour, style in zip(MEASURES, COLOURS, ({}, {"fillstyle": "none"}), strict=False):
            value, low, high = np.clip(np.array([rows[slug][measure] for slug in order]).T, LEAST, None)
            ends = np.maximum([value - low, high - value], 0)
            axes.errorbar(value, np.arange(len(order)), xerr=ends, fmt="o", markersize=4, color=colour, **style)
        if floors[name]:
            axes.axvline(floors[name], color=COLOURS[6], linewidth=0.8, linestyle=":")
        axes.set_yticks(np.arange(len(order)), order)
        axes.set(title=name, xscale="log", xlim=(LEAST * 5, 1))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    figure.supxlabel("regret (blue) and regret of the worst group (orange); dotted: what no policy can avoid in it")
    return figure


def page(table: dict[str, Any], floors: dict[str, float], command: str) -> str:
    """The page of the documentation."""
    from preference_worlds import SETTINGS

    made = f"""Made by `{command}`: twelve prompts with six answers each, log-linear policies over eight features, the
    shipped losses minimised to the end. The value of a policy is E[r] − KL(π ‖ π_ref), and its regret what the best
    policy has more; with circles it is the probability with which the strongest other answer wins, less ½. The worst
    group is, with a minority, the people who lose most against their own best policy (one policy for both loses at
    least {floors["minority"]:.3f} on average), else the half of the prompts that loses most. `cdpo` and `rdpo` know the
    true flip rate, reward models and the judge of `drpo` are fitted to the same pairs, `group-robust-dpo` and
    `maxmin-rlhf` know who belongs to which group, `reward-mixture` finds out. `one-shot-safety` and `rps`, which answer
    other questions (constraints, directions of preference), have no row."""
    chosen = """Every method has six settings, of which the one is shown that is best on other seeds, for each table by
    its own measure; that uses the truth, as a clean validation set would. Means over the seeds and [95 %
    intervals](statistics.md); bold is what cannot be told from the best."""
    said = [textwrap.fill(" ".join(text.split()), 120, break_on_hyphens=False) for text in (made, chosen)]
    worlds = "\n".join(f"- *{name}*: {words}" for name, words in SETTINGS.items())
    head = "# A league of methods on pairs\n\n![Regret of every method in every world](preference-league.svg)"
    return "\n\n".join([head, said[0], worlds, said[1], tables(table)])


def written(table: dict[str, Any], floors: dict[str, float], command: str) -> None:
    """The page and its picture."""
    (DOCS / "preference-league.md").write_text(page(table, floors, command))
    with matplotlib.rc_context(STYLE):
        picture(table, floors).savefig(DOCS / "preference-league.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000, help="pairs to learn from")
    parser.add_argument("--seeds", type=int, default=20, help="seeds that are judged")
    parser.add_argument("--tuning", type=int, default=5, help="seeds on which settings are chosen")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    began, seeds = time.process_time(), range(FIRST, FIRST + given.seeds + given.tuning)
    found, floors = [], []
    with ProcessPoolExecutor(given.workers) as pool:
        for done, (one, floor) in enumerate(pool.map(partial(judged, given.pairs), seeds), 1):
            found, floors = [*found, one], [*floors, floor]
            print(f"seed {done} of {len(seeds)}", flush=True)
    table = league(found[given.seeds :], found[: given.seeds])
    unavoidable = {name: float(np.mean([one[name] for one in floors[: given.seeds]])) for name in floors[0]}
    command = f"python benchmarks/league_preferences.py --pairs {given.pairs} --seeds {given.seeds}"
    command += f" --tuning {given.tuning}"
    written(table, unavoidable, command)
    store(NAME, {"table": table, "unavoidable": unavoidable, "command": command})
    print(tables(table), f"{time.process_time() - began:.0f} s in this process")


if __name__ == "__main__":
    main()
