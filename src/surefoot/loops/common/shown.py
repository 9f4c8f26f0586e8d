"""How a run shows itself: one line at the prompt, a small table with its learning curve in a notebook."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot.errors import UsageError, printable
from surefoot.loops.common.final import definition, final_returns, sliding_mean, training_returns

if TYPE_CHECKING:
    from surefoot.loops.common.folder import Run

WIDTH, HEIGHT, POINTS = 320, 90, 200  # of the curve, in pixels and points


def words(run: Run) -> str:
    """The run in one line: method, environment, steps, seeds and final return; never raises for a damaged folder."""
    return f"Run({str(run.path)!r}): " + " · ".join(
        text if name in ("method", "environment", "damaged") else f"{name} {text}" for name, text in _facts(run)
    )


def html(run: Run) -> str:
    """The same as a table, with the learning curve as inline SVG."""
    lines = [f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in _facts(run)]
    return f"<div><code>{escape(str(run.path))}</code><table>{''.join(lines)}</table>{_curve(run)}</div>"


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    """What is known of a run, as pairs of a name and a text."""
    try:
        config = run.config_with("steps", "seeds")
    except UsageError as error:
        yield "damaged", printable(str(error))
        return
    yield "method", printable(config["method"])
    yield "environment", printable(str(config["env"]["env"]))
    seeds = config["seeds"]
    yield ("seed" if len(seeds) == 1 else "seeds"), ", ".join(map(str, seeds[:6])) + ", …" * (len(seeds) > 6)
    rows = _rows(run)
    done = rows[-1]["step"] if rows else 0
    yield "steps", f"{done:,}" if done >= config["steps"] else f"{done:,} of {config['steps']:,}"
    finals = [value for value in final_returns(rows).values() if math.isfinite(value)]
    if finals:
        yield "final return", ", ".join(f"{x:.6g}" for x in finals[:6]) + ", …" * (len(finals) > 6)


def _rows(run: Run) -> Sequence[dict[str, Any]]:
    try:
        return run.metrics()
    except UsageError:
        return []


def _curve(run: Run) -> str:
    """The mean training return of every seed in a sliding window, with the range of its axes."""
    rows = _rows(run)
    seeds, steps, *returns = training_returns(rows)
    means = sliding_mean(*returns) if seeds else np.zeros((0, 0))
    finite = means[np.isfinite(means)]
    if finite.size < 2 or len(steps) < 2:
        return ""
    low, high = float(finite.min()), float(finite.max())
    across = (steps - steps[0]) / (steps[-1] - steps[0]) * WIDTH
    up = (1 - (means - low) / max(high - low, 1e-12)) * (HEIGHT - 4) + 2
    lines = []
    for line in up:
        kept = np.flatnonzero(np.isfinite(line))
        kept = kept[np.unique(np.linspace(0, len(kept) - 1, min(POINTS, len(kept))).astype(int))] if len(kept) else kept
        points = " ".join(f"{across[i]:.1f},{line[i]:.1f}" for i in kept)
        lines.append(f'<polyline fill="none" stroke="currentColor" stroke-width="1.5" points="{points}"/>')
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    about = f"{low:.4g} to {high:.4g} over {int(steps[-1]):,} steps: {definition(rows)}, in a sliding window"
    return f'<svg {size} role="img" aria-label="learning curve">{"".join(lines)}</svg><br><small>{about}</small>'
