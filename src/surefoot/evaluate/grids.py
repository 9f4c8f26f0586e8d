"""Pictures of finite MDPs whose states are the cells of a grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from surefoot.envs.tabular import Kernel, Successors, TabularMDP
from surefoot.errors import UsageError
from surefoot.evaluate.named import action_name, first_step
from surefoot.evaluate.plots import INK, STYLE, WIDTH, WORST, Short
from surefoot.solvers import Solution
from surefoot.solvers.solution import measure

DIRECTIONS = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}  # (columns, rows)
ARROW: dict[str, Any] = {
    **dict.fromkeys(("angles", "scale_units", "units"), "xy"), "scale": 1, "width": 0.035,
    "headwidth": 3, "headlength": 3, "headaxislength": 2.7,
}  # fmt: skip
LABELLED = 6  # maximum number of columns for which values are written into the cells
TICKS = 8  # maximum number of labels along a side
LARGEST = 2000  # maximum number of states for which a kernel is drawn


@rc_context(STYLE)
def draw(
    mdp: TabularMDP, values: Tensor, policy: Tensor | None = None, *, title: str = "", label: str = "value"
) -> Figure:
    """A grid with its values `[S]` as colours and its policy `[S, A]` as arrows, whose lengths are probabilities.

    Actions that are not named up, down, left or right are written out. States in which an episode is over have no
    arrows; a star is the goal, a cross another end, a ring the start.
    Raises `UsageError` for an MDP without a grid, or for shapes that do not fit.
    """
    if mdp.grid is None:
        raise UsageError(f"{mdp.name!r} is not a grid; give grid=(rows, columns) to its TabularMDP.")
    for name, x, wanted in (("values", values, (mdp.states,)), ("policy", policy, (mdp.states, mdp.actions))):
        if x is not None and tuple(x.shape) != wanted:
            raise UsageError(
                f"{name} has shape {list(x.shape)}; it must be {list(wanted)}. With a horizon, give one step."
            )
    figure, axes, colours = _cells(mdp, values, title, label)
    y, x = np.divmod(np.arange(mdp.states), mdp.grid[1])

    def write(state: int, text: str, below: float) -> None:
        at = float(x[state]), float(y[state]) + below
        axes.text(*at, text, ha="center", va="center", fontsize=7, color=colours[state])

    if mdp.grid[1] <= LABELLED:
        for s, value in enumerate(values.tolist()):
            write(s, f"{value:.3g}", 0.36)
    if policy is None:
        return figure
    shown = (policy * ~mdp.ended.unsqueeze(-1)).numpy()
    for action in range(mdp.actions):
        name = action_name(mdp, action)
        (acts,) = np.nonzero(shown[:, action] > 0.01)
        if (direction := DIRECTIONS.get(name.lower())) is None:
            for s in acts[shown[acts, action] >= 0.5].tolist():
                write(s, name, -0.1)
            continue
        u, v = (0.36 * part * shown[acts, action] for part in direction)
        axes.quiver(x[acts], y[acts] - 0.1, u, v, color=[colours[s] for s in acts], **ARROW)
    return figure


@rc_context(STYLE)
def draw_change(mdp: TabularMDP, values: Tensor, worst: Kernel, policy: Tensor, *, label: str = "value") -> Figure:
    """A grid with values `[S]` as colours and, as arrows, where another kernel pushes the state: the change of the mean
    next cell under the policy `[S, A]`, the longest arrow as long as a cell."""
    assert mdp.grid is not None
    figure, axes, _ = _cells(mdp, values, "", label)
    y, x = np.divmod(np.arange(mdp.states), mdp.grid[1])
    dense = worst.dense(mdp.states) if isinstance(worst, Successors) else worst
    moved = torch.einsum("sa,sat->st", policy * ~mdp.ended.unsqueeze(-1), dense - mdp.dense_rows).numpy()
    u, v = moved @ x, moved @ y
    longest = np.hypot(u, v).max()
    if longest > 1e-9:
        (seen,) = np.nonzero(np.hypot(u, v) > 0.02 * longest)
        scale = 0.9 / longest
        axes.quiver(x[seen], y[seen], scale * u[seen], scale * v[seen], color=WORST, **{**ARROW, "width": 0.06})
    return figure


def picture(mdp: TabularMDP, solution: Solution, ambiguity: str | None = None) -> Figure:
    """A grid with a solution (with a horizon, that of the first step) and a title."""
    title = f"{mdp.name} · {ambiguity or 'nominal'}\n{measure(mdp, solution.criterion)}"
    return draw(mdp, *first_step(mdp, solution), title=title)


def _cells(mdp: TabularMDP, values: Tensor, title: str, label: str) -> tuple[Figure, Axes, list[str]]:
    """The coloured cells with the marks of start, goal and other ends, and a colour of text for each."""
    assert mdp.grid is not None
    rows, columns = mdp.grid
    side = min(0.85, (WIDTH - 0.9) / columns)
    figure = Figure(figsize=(WIDTH, rows * side + (1.0 if title else 0.7)), layout="constrained")
    axes = figure.add_subplot(title=title)
    axes.grid(False)
    image = axes.imshow(values.reshape(rows, columns).numpy(), aspect="equal")
    bar = figure.colorbar(image, ax=axes, label=label, format=Short())
    bar.outline.set_visible(False)  # type: ignore[operator]
    for ticks, count in ((axes.set_xticks, columns), (axes.set_yticks, rows)):
        ticks(range(0, count, -(-count // TICKS)))
    light = np.asarray(image.norm(values.numpy())) > 0.55  # for the contrast of numbers and arrows
    colours = np.where(light, "#111111", "#FFFFFF").tolist()
    y, x = np.divmod(np.arange(mdp.states), columns)
    goals, start = goal_states(mdp), (mdp.initial == 1).nonzero().flatten()
    marks = {"start": (start, "o"), "goal": (goals.nonzero().flatten(), "*")}
    marks["end"] = (mdp.ended & ~goals).nonzero().flatten(), "X"
    size = 72 * side * 0.22
    for name, (states, marker) in marks.items():
        if not len(states):
            continue
        for s in states.tolist():
            fill = "none" if marker == "o" else colours[s]
            at = (x[s] - 0.3, y[s] - 0.3) if marker == "o" else (x[s], y[s] - 0.08)
            grown = {"*": 1.9, "X": 1.2, "o": 0.8}[marker] * size
            look: Any = {"markersize": grown, "markerfacecolor": fill, "markeredgecolor": colours[s]}
            axes.plot(*at, marker, **look, markeredgewidth=1)
        axes.plot([], [], marker, color=INK, markerfacecolor="none" if marker == "o" else INK, label=name)
    for s in (mdp.ended & ~goals).nonzero().flatten().tolist():
        corner = float(x[s]) - 0.5, float(y[s]) - 0.5
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="//", edgecolor=colours[s], alpha=0.35, linewidth=0))
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower left", ncols=3)
    return figure, axes, colours


def goal_states(mdp: TabularMDP) -> Tensor:
    """The states `[S]` in which an episode is over and whose entry pays the most, if some pay more than others."""
    one = mdp.at(0) if mdp.stepped else mdp
    rows = one.rows * ~mdp.ended[:, None, None]
    paid = rows * one.reward if one.reward.ndim == rows.ndim else rows * one.reward.reshape(mdp.states, -1, 1)
    if isinstance(one.transition, Successors):
        places = one.transition.state.long().flatten()
        sums = [torch.zeros(mdp.states, dtype=rows.dtype).index_add_(0, places, x.flatten()) for x in (paid, rows)]
    else:
        sums = [x.sum((0, 1)) for x in (paid, rows)]
    mean = torch.where(mdp.ended & (sums[1] > 0), sums[0] / sums[1].clamp(min=1e-300), -torch.inf)
    best, least = mean.max(), torch.where(mean > -torch.inf, mean, torch.inf).min()
    return (mean >= best - 1e-9 * (best - least)) & (best > least)
