"""The page of a comparison, and its numbers as CSV and LaTeX."""

from __future__ import annotations

import csv as tables
import io
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.evaluate import compare, plots
from surefoot.evaluate.compare import Comparison
from surefoot.evaluate.pages.page import Block, Chart, Charts, Code, Facts, Folded, Page, Section, Table, Text
from surefoot.evaluate.readable import measured, number, plural
from surefoot.evaluate.statistics import ConfidenceInterval, in_brackets

LATEX = {"\\": r"\textbackslash{}", "_": r"\_", "&": r"\&", "%": r"\%", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
THRESHOLDS = 61  # of a performance profile


def page_of(folder: Path) -> Page:
    """The page of the comparison in a folder."""
    return page(compare.read(folder / compare.FILE))


def page(found: Comparison) -> Page:
    """Intervals, curves, profiles and tables of a comparison."""
    seeds = plural(len(found.seeds), "seed")
    facts = [
        ("environments", ", ".join(found.envs)),
        ("seeds", f"{', '.join(map(str, found.seeds[:12]))}{', …' if len(found.seeds) > 12 else ''} ({seeds} each)"),
        ("final return", found.measured),
        ("compared with", found.first),
    ]
    sections = [Section("Final return", result(found)), *curves(found), *profiles(found)]
    sections.append(Section("Numbers", numbers(found)))
    *others, last = found.scores
    names = f"{', '.join(others)} and {last}" if others else last
    return Page(f"{names} on {', '.join(found.envs)}", summary=Facts(facts), sections=sections)


def result(found: Comparison) -> list[Block]:
    """The table of learners, their final returns, and the probability that each is better than the first."""
    rows, better = found.rows(), f"P(better than {found.first})"
    head = ["learner", "IQM of final return" if not found.scale else "IQM, normalised", "95 % interval", better]
    cells = []
    for row in rows:
        ends = None if row["low"] is None else ConfidenceInterval(row["low"], row["high"])
        chance = ""
        if "improves" in row:
            both = None if row["improves_low"] is None else (row["improves_low"], row["improves_high"])
            chance = f"{row['improves']:.2f} {in_brackets(both, '.2f')}".rstrip()  # type: ignore[arg-type]
        cells.append((row["learner"], number(row["iqm"]), in_brackets(ends, ".4g") or "none", chance))
    charts = [_scores(found, env) for env in found.envs]
    others = [(r["learner"], r["improves"], r["improves_low"], r["improves_high"]) for r in rows if "improves" in r]
    if others:
        figure = plots.intervals(others, x=better, reference=0.5, limits=(-0.03, 1.03))
        charts.append(Chart(better, figure, "Line: exact 95 % interval over seeds; dotted: neither is better."))
    said = [*([found.scale] if found.scale else []), _intervals_are(found)]
    return [Table(head, cells, frozenset(head[1:])), Text(said, faint=True), Charts(charts)]


def _intervals_are(found: Comparison) -> str:
    return (
        f"Intervals: 95 % over {plural(len(found.seeds), 'seed')}; of the interquartile mean (IQM) by its winsorised"
        " variance, of P(better) exact and conservative."
    )


def _scores(found: Comparison, env: str) -> Chart:
    each = [(name, value, ends) for place, name, value, ends in found.by_env() if place == env]
    rows: list[Any] = [(name, value, *(ends or (None, None))) for name, value, ends in each]
    points = [found.scores[name][:, found.envs.index(env)] for name, *_ in each]
    colours = [plots.COLOURS[i % len(plots.COLOURS)] for i in range(len(rows))]
    figure = plots.intervals(rows, x="final return", points=points, colours=colours)
    return Chart(env, figure, "Dot: IQM, line: its 95 % interval over seeds; pale dots: the seeds.")


def curves(found: Comparison) -> list[Section]:
    """The learning curves of every environment."""
    charts = []
    for env in found.envs:
        lines = {name: each[env] for name, each in found.curves.items() if env in each and len(each[env][0])}
        if lines:
            figure = plots.learning_curves(lines, x="steps", y="return")
            charts.append(Chart(env, figure, f"IQM over {plural(len(found.seeds), 'seed')}, band: its 95 % interval."))
    said = "Mean return of training episodes in a sliding window of a tenth of training; it ends at the final return."
    return [Section("Learning curves", [Charts(charts), Text([said], faint=True)])] if charts else []


def profiles(found: Comparison) -> list[Section]:
    """The share of runs above every score; none with one seed."""
    scores = found.normalised() if found.scale else dict(found.scores)
    every = np.concatenate([values.ravel() for values in scores.values()])
    if len(found.seeds) < 2 or every.min() == every.max():
        return []
    figure = plots.profiles(scores, np.linspace(every.min(), every.max(), THRESHOLDS), x=_score(found))
    said = "The share of runs (and environments) above each score; band: exact pointwise 95 % interval."
    return [Section("Performance profiles", [Charts([Chart("Share of runs above a score", figure, said)])])]


def _score(found: Comparison) -> str:
    return "normalised final return" if found.scale else "final return"


def numbers(found: Comparison) -> list[Block]:
    """Every environment's table, the seeds' own scores, the files beside, and the command."""
    head = ("environment", "learner", "IQM, 95 % interval")
    rows = [(env, name, measured(value, ends)) for env, name, value, ends in found.by_env()]
    seeds = ("learner", "environment", *(f"seed {s}" for s in found.seeds))
    each = [
        (name, env, *map(number, scores[:, i]))
        for name, scores in found.scores.items()
        for i, env in enumerate(found.envs)
    ]
    blocks: list[Block] = [
        Table(head, rows, frozenset(head[2:])),
        Folded("The final return of every seed", [Table(seeds, each, frozenset(seeds[2:]))]),
        Text(["Beside this page: scores.csv with every seed, table.tex with the first table for LaTeX."], faint=True),
    ]
    return [*blocks, Code(found.command)] if found.command else blocks


def csv(found: Comparison) -> str:
    """One row per learner, environment and seed."""
    text = io.StringIO()
    writer = tables.writer(text, lineterminator="\n")
    writer.writerow(["learner", "environment", "seed", "final_return", "mean_return_over_training"])
    for name, scores in found.scores.items():
        for i, env in enumerate(found.envs):
            for k, seed in enumerate(found.seeds):
                writer.writerow([name, env, seed, scores[k, i], found.areas[name][k, i]])
    return text.getvalue()


def latex(found: Comparison) -> str:
    """A table for `booktabs`: a row per learner, a column per environment."""
    cells = {(env, name): (value, ends) for env, name, value, ends in found.by_env()}
    seeds = len(found.seeds)
    lines = [
        "% needs \\usepackage{booktabs}",
        f"% IQM of the final return over {plural(seeds, 'seed')} with its 95 % interval",
        f"% Final return: {found.measured}.",
        rf"\begin{{tabular}}{{l{'c' * len(found.envs)}}}",
        r"\toprule",
        " & ".join(["", *map(_escaped, found.envs)]) + r" \\",
        r"\midrule",
    ]
    for name in found.scores:
        shown = [measured(*cells[env, name]).replace("-", "$-$") for env in found.envs]
        lines.append(" & ".join([_escaped(name), *shown]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _escaped(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)
