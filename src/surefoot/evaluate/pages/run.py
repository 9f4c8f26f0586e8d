"""The page of a run: how it learned, how it was evaluated and stressed, and how it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from surefoot import catalogue
from surefoot.evaluate import plots
from surefoot.evaluate.pages import judged, language, made, metrics, solution, stress, tables
from surefoot.evaluate.pages.films import film
from surefoot.evaluate.pages.page import Block, Chart, Charts, Facts, Films, Folded, Page, Section, Table
from surefoot.evaluate.read_back import LARGEST, figures, rows
from surefoot.evaluate.readable import flat, number, plural
from surefoot.evaluate.statistics import in_brackets
from surefoot.loops.common.final import over_rows
from surefoot.loops.common.run import Run

MOST = 8  # evaluations that are drawn
DRAWN = {"returns", "lengths", "deterministic", "episodes", "mean", "mean_interval", "min", "max", "perturb", "video"}


def page(folder: Path) -> Page:
    """The page of a run's folder. Only its configuration is required."""
    run = Run(folder)
    config, found = run.config, rows(folder / "metrics.jsonl")
    writes = language.is_language(config)
    steps = made.steps_of(config)
    noun = "reward" if writes else "return"
    sections: list[Section] = []
    of_rows = over_rows(found)
    more = language.charts(found, steps) if writes else ()
    sections += tables.learning(found, steps) if of_rows else metrics.learning(found, steps, noun, more)
    sections += tables.measured(folder)
    sections += solution.of_run(folder)
    sections += evaluations(folder)
    sections += judged.sections(folder)
    sections += stress.sections(folder)
    sections += language.sections(folder, found) if writes else []
    sections += (
        [] if of_rows else metrics.diagnostics(found, steps, language.DIAGNOSTICS if writes else metrics.DIAGNOSTICS)
    )
    sections.append(made.section(config))
    summary = [(f"final {noun}", metrics.short_final(found)), *made.facts(config, found)] if found else []
    paper = next((paper for paper in catalogue.papers() if paper.slug == config["method"]), None)
    return Page(
        title=f"{config['method']} on {config['env']['env']}",
        lead=[] if paper is None else [paper.summary],
        link=None if paper is None else cited(paper),
        summary=Facts(summary) if summary else None,
        sections=sections,
    )


def cited(paper: catalogue.Paper) -> tuple[str, str]:
    """The address of a paper on arXiv, and its title."""
    return f"https://arxiv.org/abs/{paper.arxiv}", f"{paper.title} ({paper.year}), arXiv:{paper.arxiv}"


def evaluations(folder: Path) -> Iterator[Section]:
    """Evaluations kept in the folder: every return as a dot, figures, and a film if there is one."""
    found = {path: figures(path) for path in sorted(folder.glob("evaluation*.json"))}
    found = {path: one for path, one in found.items() if isinstance(one, Mapping) and "accuracy" not in one}
    if not found:
        return
    blocks: list[Block] = []
    drawn = {_under(one): one for one in found.values() if _numbers(one.get("returns")) and _number(one.get("mean"))}
    drawn = dict(list(drawn.items())[:MOST])
    if drawn:
        middle = {name: (float(one["mean"]), _ends(one)) for name, one in drawn.items()}
        figure = plots.dots({name: one["returns"] for name, one in drawn.items()}, middle, x="return of an episode")
        count = " and ".join(dict.fromkeys(plural(len(one["returns"]), "episode") for one in drawn.values()))
        caption = f"Each dot is one of {count}; diamond: mean, line: 95 % t-interval over episodes."
        charts = [Chart("Returns", figure, caption)]
        if lengths := {name: one["lengths"] for name, one in drawn.items() if _numbers(one.get("lengths"))}:
            means = {name: (float(sum(x) / len(x)), None) for name, x in lengths.items()}
            charts.append(Chart("Episode lengths", plots.dots(lengths, means, x="steps"), "Diamond: mean."))
        blocks.append(Charts(charts))
    head = ("", "episodes", "mean", "95 % interval", "lowest", "highest", "actions")
    rows = [(_under(one), *_row(one)) for one in found.values()]
    blocks.append(Table(head, rows, frozenset(head[1:6])))
    rest = [(f"{path.stem}: {n}", text) for path, one in found.items() for n, text in flat(_others(one)) if n]
    blocks += [Folded("All figures", [Facts(rest)])] if rest else []
    if (video := film(folder / "video.mp4", "One episode")) is not None:
        blocks.append(Films([video]))
    yield Section("Evaluation", blocks)


def _row(one: Mapping[str, Any]) -> list[str]:
    actions = {"True": "deterministic", "False": "sampled"}.get(str(one.get("deterministic")), "")
    middle, low, high = (number(one[x]) if _number(one.get(x)) else "" for x in ("mean", "min", "max"))
    return [str(one.get("episodes", "")), middle, in_brackets(_ends(one), ".4g"), low, high, actions]


def _others(one: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key not in DRAWN}


def _under(one: Mapping[str, Any]) -> str:
    return f"under {one['perturb']}" if isinstance(one.get("perturb"), str) else "undisturbed"


def _ends(one: Mapping[str, Any]) -> Any:
    ends: Any = one.get("mean_interval")
    return (float(ends[0]), float(ends[1])) if _numbers(ends) and len(ends) == 2 else None


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(map(_number, values))


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST
