"""The report of a run: one self-contained HTML file that is readable on a phone and makes no requests."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib import rc_context

from surefoot import catalogue
from surefoot.errors import UsageError
from surefoot.evaluate import plots, trained
from surefoot.evaluate.read_back import figures, rows, stress_report
from surefoot.evaluate.statistics import confidence_interval, in_brackets, mean
from surefoot.files import write_whole
from surefoot.loops.common.final import definition, final_returns, sliding_mean, training_returns
from surefoot.loops.common.run import Run

POINTS = 300
TAIL = 0.1
DIAGNOSTICS = {
    "kl": "KL between old and new policy",
    "clip_fraction": "Share of ratios outside the clip range",
    "explained_variance": "Explained variance of the critic",
    "entropy": "Entropy of the policy",
    "grad_norm": "Gradient norm before clipping",
    "truncated_share": "Share of truncated episodes",
    "length": "Tokens per completion",
    "truncated": "Share of completions cut off by the token limit",
    "degenerate": "Share of prompts whose completions all have the same reward",
}
STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --faint: #67707e; --rule: #dde2e8; --line: #0b6e6e; --ground: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --faint: #98a2b0; --rule: #353d48; --line: #4fc3c3; --ground: #14181e; }
}
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 46rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1rem 0 .25rem; }
svg { display: block; width: 100%; max-width: 100%; height: auto; }
pre, code { font: .85rem/1.5 ui-monospace, monospace; } pre { white-space: pre-wrap; margin: .5rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; } .wide { overflow-x: auto; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--rule); }
th { width: 45%; font-weight: 500; color: var(--faint); } td { font-variant-numeric: tabular-nums; }
.faint { color: var(--faint); }
.axis { stroke: var(--rule); } .tick { fill: var(--faint); font: 11px system-ui, sans-serif; }
.run { fill: none; stroke: var(--line); stroke-width: 1; opacity: .35; }
.mean { fill: none; stroke: var(--line); stroke-width: 2; }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

Curve = list[tuple[float, float]]


def write_report(run_dir: str | Path | Run) -> Path:
    """Write `report.html` into a run folder from the contents of the folder, and return its path.

    Only its configuration is required; `metrics.jsonl`, `evaluation.json` and `stress-*.json` are shown if present.
    """
    run = run_dir if isinstance(run_dir, Run) else Run(Path(run_dir))
    path = run.path / "report.html"
    page = "".join(_page(run)).encode(errors="backslashreplace")  # for text that is not valid Unicode
    try:
        write_whole(path, page)
    except OSError as error:
        raise UsageError(f"{path} could not be written: {error}. Free disk space or fix the permissions.") from error
    return path


def _page(run: Run) -> Iterator[str]:
    config, folder = run.config, run.path
    heading = f"{config['method']} on {config['env']['env']}"
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield f"<title>{escape(heading)}</title><style>{STYLE}</style></head><body>\n<h1>{escape(heading)}</h1>\n"
    yield from _method(config)
    yield from _training(rows(folder / "metrics.jsonl"))
    yield from trained.page(folder)
    for path in sorted(folder.glob("stress-*.json")):
        yield from _stress(path)
    if (folder / "evaluation.json").is_file():
        yield "<h2>Evaluation</h2>\n" + table(flat(figures(folder / "evaluation.json")))
    settings = {key: value for key, value in config.items() if key not in {"objective", "versions", "command"}}
    yield "<h2>Configuration</h2>\n" + table(flat(settings))
    yield "<h2>Versions</h2>\n" + table(flat(config.get("versions", {})))
    yield f"<h2>Command</h2>\n<pre>{escape(config.get('command', ''))}</pre>\n</body></html>\n"


def _method(config: Mapping[str, Any]) -> Iterator[str]:
    paper = next((paper for paper in catalogue.papers() if paper.slug == config["method"]), None)
    if paper is not None:
        source = f'{escape(paper.title)} ({paper.year}), <span class="faint">arXiv:{escape(paper.arxiv)}</span>'
        yield f"<p>{escape(paper.summary)}<br>{source}</p>\n"
    yield f"<pre>{escape(config.get('objective', ''))}</pre>\n"


def _stress(path: Path) -> Iterator[str]:
    report = stress_report(path)
    named = []
    for name, value, interval, remark in report.figures(TAIL):
        named.append((f"{name}, {remark}" if remark else name, f"{number(value)} {interval}".rstrip()))
    with rc_context({"text.parse_math": False}):  # a dollar sign in a name is not mathematics
        figure = report.plot()
        figure.set_size_inches(4.6, 3.6)  # so that text is legible at the width of a phone
        figure.axes[0].set_title("", loc="left")  # the heading has the title, and can wrap
        picture = plots.to_svg(figure)
    yield f"<h2>Under stress on {escape(report.env)}: {escape(report.perturbation)}</h2>\n{picture}\n"
    yield table(named) + "".join(f'<p class="faint">{escape(note)}</p>\n' for note in report.notes)


def _training(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    seeds, steps, *returns = training_returns(rows)
    means = sliding_mean(*returns) if seeds else []
    lines = [[(x, y) for x, y in zip(steps.tolist(), line) if math.isfinite(y)] for line in means]
    if lines := [line for line in lines if line]:
        label = "Mean training return in a sliding window of a tenth of the iterations"
        yield "<h2>Learning curve</h2>\n" + chart(lines, label)
        last = [value for value in final_returns(rows).values() if math.isfinite(value)]
        final = ", ".join(map(number, last)) or "no episode ended in the last tenth of training"
        if len(last) > 1:
            final = f"{number(sum(last) / len(last))} {in_brackets(confidence_interval(last, mean), '.4g')}".rstrip()
            final += f", mean of {len(last)} seeds ({', '.join(map(number, last))})"
        yield f'<p class="faint">{label}. Final return ({definition(rows)}): {final}.</p>\n'
    shown = {name: found for name in DIAGNOSTICS if (found := curves(rows, name))}
    if shown:
        yield "<h2>Diagnostics</h2>\n"
    for name, found in shown.items():
        title = DIAGNOSTICS[name]
        yield f"<h3>{escape(title)}</h3>\n" + chart(found.values(), f"{title} over steps")


def curves(rows: Iterable[Mapping[str, Any]], name: str) -> dict[Any, Curve]:
    """The finite values of a metric over steps, one curve per seed; rows without it are skipped."""
    found: dict[Any, Curve] = defaultdict(list)
    for row in rows:
        step, value = row.get("step"), row.get(name)
        if isinstance(step, (int, float)) and isinstance(value, (int, float)) and math.isfinite(value):
            found[row.get("seed", 0)].append((float(step), float(value)))
    return dict(found)


def chart(lines: Iterable[Curve], label: str, width: int = 360, height: int = 190) -> str:
    """An inline SVG with one thin line per seed and, if there are several, a bold one for their mean."""
    lines = [_thin(line) for line in lines]
    xs, ys = ([point[axis] for line in lines for point in line] for axis in (0, 1))
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    (left, right), (low, high) = (min(xs + x_ticks[:1]), max(xs)), (min(ys + y_ticks), max(ys + y_ticks))
    inner = (46, width - 16, height - 24, 8)  # left, right, bottom, top

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / (right - left) if right > left else 0.5
        up = (y - low) / (high - low) if high > low else 0.5
        return inner[0] + across * (inner[1] - inner[0]), inner[2] + up * (inner[3] - inner[2])

    def polyline(points: Curve, kind: str) -> str:
        placed = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        return f'<polyline class="{kind}" points="{placed}"/>'

    def text(x: float, y: float, anchor: str, value: float) -> str:
        return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{number(value)}</text>'

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">']
    for y in y_ticks:
        level = place(left, y)[1]
        parts.append(f'<line class="axis" x1="{inner[0]}" x2="{inner[1]}" y1="{level:.1f}" y2="{level:.1f}"/>')
        parts.append(text(inner[0] - 5, level + 4, "end", y))
    for x in (t for t in x_ticks if left <= t <= right):
        parts.append(text(place(x, low)[0], height - 8, "middle", x))
    parts += [polyline(line, "run" if len(lines) > 1 else "mean") for line in lines]
    if len(lines) > 1:
        parts.append(polyline(_mean(lines), "mean"))
    return "".join(parts) + "</svg>\n"


def _thin(line: Curve) -> Curve:
    """At most `POINTS` points, always including the last one."""
    stride = math.ceil(len(line) / POINTS)
    return line[::-1][::stride][::-1]


def _mean(lines: Sequence[Curve]) -> Curve:
    """The mean over lines at the steps that all of them have."""
    tables = [dict(line) for line in lines]
    shared = sorted(set(tables[0]).intersection(*tables[1:]))
    return [(x, sum(t[x] for t in tables) / len(tables)) for x in shared]


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers, `about` steps of 1, 2 or 5 times a power of ten, that cover [low, high]."""
    if high - low < 1e-300:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda m: abs(m * power - rough))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def number(value: float) -> str:
    """A number in readable form: three or four digits, k and M for large ones."""
    for size, suffix in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if suffix == 'k' else size):.4g}{suffix}"
    return f"{value:.4g}"


def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested JSON as pairs of dotted name and text."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, float):
        yield name, number(value)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def table(pairs: Iterable[tuple[str, str]]) -> str:
    """Two columns of escaped text."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>\n" for name, text in pairs)
    return f"<table>{rows}</table>\n"
