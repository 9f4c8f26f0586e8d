"""Solutions of finite MDPs in readable form: tables, pictures of grids, the worst world's changes, and files."""

from __future__ import annotations

import csv
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from surefoot.envs.tabular import ZOO, Kernel, Successors, TabularMDP
from surefoot.errors import UsageError
from surefoot.evaluate.plots import STYLE
from surefoot.solvers import Progress, Solution, evaluate_policy, solve
from surefoot.solvers.solution import measure

DIRECTIONS = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}  # (columns, rows)
ARROW: dict[str, Any] = {
    **dict.fromkeys(("angles", "scale_units", "units"), "xy"), "scale": 1, "width": 0.035,
    "headwidth": 3, "headlength": 3, "headaxislength": 2.7,
}  # fmt: skip
OVER = "(over)"  # in place of the policy in ended states
LABELLED = 150  # maximum number of cells for which values are written into them


# --- the worst world -------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """A transition whose probability the adversary changed; `step` is None without a horizon."""

    step: int | None
    state: int
    action: int
    next_state: int
    nominal: float
    worst: float

    @property
    def difference(self) -> float:
        return self.worst - self.nominal


def kernel_difference(
    mdp: TabularMDP, worst_kernel: Kernel, top: int = 20, *, policy: Tensor | None = None
) -> list[Change]:
    """The `top` largest changes of a worst kernel against the nominal one, the largest first.

    `worst_kernel`: as in `Solution.worst_kernel`. `policy`: `[S, A]` or `[H, S, A]`; only pairs that it takes count.
    Illegal pairs never count.
    """
    probability = worst_kernel.probability if isinstance(worst_kernel, Successors) else worst_kernel
    if probability.ndim == 3:
        return _changes(mdp, worst_kernel, top, policy, None)
    found: list[Change] = []
    for h in range(len(probability)):
        kernel = Successors(*(x[h] for x in worst_kernel)) if isinstance(worst_kernel, Successors) else worst_kernel[h]
        row = policy if policy is None or policy.ndim == 2 else policy[h]
        found += _changes(mdp.at(h), kernel, top, row, h)
    return sorted(found, key=lambda change: -abs(change.difference))[:top]


def _changes(mdp: TabularMDP, worst: Kernel, top: int, policy: Tensor | None, step: int | None) -> list[Change]:
    """The changes of one step."""
    counts = mdp.allowed
    if policy is not None:
        counts = counts & (policy > 0)
    nominal = mdp.transition
    if isinstance(nominal, Successors) or isinstance(worst, Successors):
        (keys, before), (others, after) = _entries(nominal, counts), _entries(worst, counts)
        every, where = torch.cat([keys, others]).unique(return_inverse=True)
        first = torch.zeros(len(every), dtype=torch.float64).index_add_(0, where[: len(keys)], before)
        second = torch.zeros(len(every), dtype=torch.float64).index_add_(0, where[len(keys) :], after)
        best = (second - first).abs().topk(min(top, len(every))).indices
        keys, first, second = every[best], first[best], second[best]
    else:
        change = ((worst - nominal) * counts.unsqueeze(-1)).flatten()
        keys = change.abs().topk(min(top, len(change))).indices
        keys = keys[change[keys] != 0]
        first, second = nominal.flatten()[keys], worst.flatten()[keys]
    pair, after = keys // mdp.states, keys % mdp.states
    rows = zip(*(x.tolist() for x in (pair // mdp.actions, pair % mdp.actions, after, first, second)))
    return [Change(step, *row) for row in rows if row[3] != row[4]]


def _entries(kernel: Kernel, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Keys (s·A + a)·S' + s' and probabilities of the possible transitions of the pairs that count."""
    probability = kernel.probability if isinstance(kernel, Successors) else kernel
    state, action, column = ((probability > 0) & counts.unsqueeze(-1)).nonzero().T
    after = kernel.state[state, action, column] if isinstance(kernel, Successors) else column
    states, actions = counts.shape
    return (state * actions + action) * states + after, probability[state, action, column]


# --- pictures --------------------------------------------------------------------------------------------------------


@rc_context(STYLE)
def draw(
    mdp: TabularMDP, values: Tensor, policy: Tensor | None = None, *, title: str = "", label: str = "value"
) -> Figure:
    """A grid with its values `[S]` as colours and its policy `[S, A]` as arrows, whose lengths are probabilities.

    Actions that are not named up, down, left or right are written out. States in which an episode is over have no
    arrows and are hatched.
    Raises `UsageError` for an MDP without a grid, or for shapes that do not fit.
    """
    if mdp.grid is None:
        raise UsageError(f"{mdp.name!r} is not a grid; give grid=(rows, columns) to its TabularMDP.")
    for name, x, wanted in (("values", values, (mdp.states,)), ("policy", policy, (mdp.states, mdp.actions))):
        if x is not None and tuple(x.shape) != wanted:
            raise UsageError(
                f"{name} has shape {list(x.shape)}; it must be {list(wanted)}. With a horizon, give one step."
            )
    rows, columns = mdp.grid
    size = max(0.55, min(1.0, 10 / columns))
    figure = Figure(figsize=(columns * size + 1.6, rows * size + 0.9), layout="constrained")
    axes = figure.add_subplot(title=title)
    axes.grid(False)
    image = axes.imshow(values.reshape(rows, columns).numpy(), aspect="equal")
    figure.colorbar(image, ax=axes, label=label)
    axes.set_xticks(range(columns))
    axes.set_yticks(range(rows))
    light = np.asarray(image.norm(values.numpy())) > 0.55  # for the contrast of numbers and arrows
    colours = np.where(light, "#000000", "#FFFFFF").tolist()
    y, x = np.divmod(np.arange(mdp.states), columns)

    def write(state: int, text: str, below: float) -> None:
        at = float(x[state]), float(y[state]) + below
        axes.text(*at, text, ha="center", va="center", fontsize=7, color=colours[state])

    if mdp.states <= LABELLED:
        for s, value in enumerate(values.tolist()):
            write(s, f"{value:.3g}", 0.36)
    for s in mdp.ended.nonzero().flatten().tolist():  # ended states are hatched
        corner = float(x[s]) - 0.5, float(y[s]) - 0.5
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="//", edgecolor=colours[s], alpha=0.4, linewidth=0))
    if policy is None:
        return figure
    shown = (policy * ~mdp.ended.unsqueeze(-1)).numpy()
    for action in range(mdp.actions):
        name = _action(mdp, action)
        (acts,) = np.nonzero(shown[:, action] > 0.01)
        if (direction := DIRECTIONS.get(name.lower())) is None:
            for s in acts[shown[acts, action] >= 0.5].tolist():
                write(s, name, -0.1)
            continue
        u, v = (0.36 * part * shown[acts, action] for part in direction)
        under = [colours[s] for s in acts]
        axes.quiver(x[acts], y[acts] - 0.1, u, v, color=under, **ARROW)
    return figure


# --- tables ----------------------------------------------------------------------------------------------------------


def report(
    mdp: TabularMDP,
    solution: Solution,
    name: str,
    ambiguity: str | None,
    top: int,
    *,
    nature: str = "worst",
    states: int | None = 20,
    assumed: bool = False,
) -> str:
    """The output of `surefoot solve`: the table, the summary, and the `top` largest changes of the worst world.

    states: the number of rows in the table (None: all). assumed: whether the discount is a default. With a set, the
    nominal values of this policy and of the best nominal policy are shown too.
    """
    parts = [f"{name} · {mdp.states:,} states, {mdp.actions:,} actions · {ambiguity or 'nominal'}"]
    if ambiguity is None:
        return "\n\n".join([*parts, table(mdp, solution, states), summary(mdp, solution, assumed)])
    nominal = solve(mdp, criterion=solution.criterion)
    here = evaluate_policy(mdp, solution.policy, criterion=solution.criterion)
    found, best = worth(mdp, here), worth(mdp, nominal)
    price = f"the same policy in the nominal world {found:.6g}, the best one there {best:.6g}"
    parts += [table(mdp, solution, states, nominal), f"{summary(mdp, solution, assumed)}\n{price}"]
    if top:
        changes = kernel_difference(mdp, solution.worst_kernel, top, policy=solution.policy)
        heading = f"where the {nature} world differs most from the nominal one"
        parts.append(f"{heading}\n{change_table(mdp, changes)}")
    return "\n\n".join(parts)


def worth(mdp: TabularMDP, solution: Solution) -> float:
    """The value from the start, or the average reward per step."""
    return float(mdp.initial @ _first(mdp, solution)[0]) if solution.gain is None else solution.gain


def zoo() -> str:
    """The named MDPs, with their parameters."""
    lines = []
    for name, factory in ZOO.items():
        numbers = ", ".join(f"{p.name}={p.default}" for p in inspect.signature(factory).parameters.values())
        lines += [f"{name:<21}{(factory.__doc__ or '').splitlines()[0]}", f"{'':<21}{numbers}"]
    return "\n".join(lines)


def table(mdp: TabularMDP, solution: Solution, limit: int | None = 20, nominal: Solution | None = None) -> str:
    """Value and policy of the first `limit` states (None: all), one line each; with a horizon those of the first step.

    nominal: a solution without an adversary, whose values are shown beside the others.
    """
    value, policy = _first(mdp, solution)
    beside = None if nominal is None or solution.gain is not None else _first(mdp, nominal)[0]
    names = [_state(mdp, s) for s in range(mdp.states if limit is None else min(limit, mdp.states))]
    wide = max(len("state"), *map(len, names))
    lines = [f"{'state':<{wide}}{'value':>14}{'' if beside is None else '       nominal'}  policy"]
    for s, name in enumerate(names):
        more = "" if beside is None else f"{beside[s]:>14.6g}"
        acts = OVER if mdp.ended[s] else _mixture(mdp, policy[s])
        lines.append(f"{name:<{wide}}{value[s]:>14.6g}{more}  {acts}")
    if mdp.states > len(names):
        lines.append(f"… and {mdp.states - len(names):,} more states")
    return "\n".join(lines)


def summary(mdp: TabularMDP, solution: Solution, assumed: bool = False) -> str:
    """The summary: the value from the start, or the average reward per step, with its certified gap."""
    found = f"gap {solution.gap:.2g} · {solution.iterations:,} sweeps"
    if solution.gain is not None:
        return f"average reward per step {solution.gain:.6g} · {found}"
    what = measure(mdp, solution.criterion, assumed)
    return f"value from the start {worth(mdp, solution):.6g} · {what} · {found}"


def change_table(mdp: TabularMDP, changes: list[Change]) -> str:
    """Changes of the kernel, one line each."""
    rows = [("step", "state", "action", "next", "nominal", "worst", "change")]
    for change in changes:
        numbers = f"{change.nominal:.6f}", f"{change.worst:.6f}", f"{change.difference:+.6f}"
        step = "" if change.step is None else str(change.step)
        rows.append(
            (step, _state(mdp, change.state), _action(mdp, change.action), _state(mdp, change.next_state), *numbers)
        )
    if all(change.step is None for change in changes):
        rows = [row[1:] for row in rows]
    wide = [max(map(len, column)) for column in zip(*rows)]
    text = len(wide) - 3
    lines = []
    for row in rows:
        cells = [f"{c:<{w}}" if i < text else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, wide))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _first(mdp: TabularMDP, solution: Solution) -> tuple[Tensor, Tensor]:
    """Values `[S]` and policy `[S, A]` of the first step; values below the accuracy of the solution are 0."""
    value = solution.value.reshape(-1, mdp.states)[0]
    value = torch.where(value.abs() > solution.gap, value, 0.0)
    return value, solution.policy.reshape(-1, mdp.states, mdp.actions)[0]


def _state(mdp: TabularMDP, state: int) -> str:
    if mdp.states_named:
        return mdp.states_named[state]
    if mdp.grid is not None and 1 not in mdp.grid:
        return "{},{}".format(*divmod(state, mdp.grid[1]))
    return str(state)


def _action(mdp: TabularMDP, action: int) -> str:
    return mdp.actions_named[action] if mdp.actions_named else str(action)


def _mixture(mdp: TabularMDP, row: Tensor) -> str:
    """The actions of a state, the most likely first, with their probabilities if there are several."""
    taken = sorted(((p, a) for a, p in enumerate(row.tolist()) if p > 5e-4), key=lambda one: (-one[0], one[1]))
    if len(taken) == 1:
        return _action(mdp, taken[0][1])
    return ", ".join(f"{_action(mdp, a)} {p:.3f}" for p, a in taken)


# --- files and progress ----------------------------------------------------------------------------------------------


def save(mdp: TabularMDP, solution: Solution, folder: str | Path, ambiguity: str | None = None) -> list[Path]:
    """Write `solution.npz` (value, policy, worst kernel, gap, gain), `worst_case.csv` (the thousand largest changes of
    the pairs that the policy takes), `policy.csv` and, for a grid, `grid.png`; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    worst = solution.worst_kernel
    arrays: Any = {name: getattr(solution, name) for name in ("value", "policy", "gap", "gain")}
    if isinstance(worst, Successors):
        arrays |= {"worst_successor_state": worst.state, "worst_successor_probability": worst.probability}
    else:
        arrays["worst_kernel"] = worst
    arrays = {name: np.asarray(x) for name, x in arrays.items() if x is not None}
    paths = [folder / "solution.npz", folder / "worst_case.csv"]
    np.savez(paths[0], **arrays)
    with paths[1].open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "state", "action", "next_state", "nominal", "worst", "change"])
        for change in kernel_difference(mdp, worst, 1000, policy=solution.policy):
            places = _state(mdp, change.state), _action(mdp, change.action), _state(mdp, change.next_state)
            step = "" if change.step is None else change.step
            writer.writerow([step, *places, change.nominal, change.worst, change.difference])
    paths.append(save_policy(mdp, solution.value, solution.policy, folder / "policy.csv"))
    if mdp.grid is not None:
        paths.append(folder / "grid.png")
        picture(mdp, solution, ambiguity).savefig(paths[-1], dpi=150)
    return paths


def picture(mdp: TabularMDP, solution: Solution, ambiguity: str | None = None) -> Figure:
    """A grid with a solution (with a horizon, that of the first step) and a title."""
    title = f"{mdp.name} · {ambiguity or 'nominal'}\n{measure(mdp, solution.criterion)}"
    return draw(mdp, *_first(mdp, solution), title=title)


def save_policy(mdp: TabularMDP, value: Tensor, policy: Tensor, path: Path) -> Path:
    """Write value and policy of every state (and step, with a horizon), one column per action."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "state", "over", "value", *(_action(mdp, a) for a in range(mdp.actions))])
        stepped = value.ndim == 2 or policy.ndim == 3
        steps = range(max(len(value) if value.ndim == 2 else 1, len(policy) if policy.ndim == 3 else 1))
        for h in steps:
            worth_, acts = (x if x.ndim == n else x[h] for x, n in ((value, 1), (policy, 2)))
            rows = zip(worth_.tolist(), acts.tolist(), mdp.ended.tolist(), strict=True)
            for s, (v, row, over) in enumerate(rows):
                writer.writerow([h if stepped else "", _state(mdp, s), int(over), v, *row])
    return path


@contextmanager
def watched(tolerance: float) -> Iterator[Callable[[Progress], None] | None]:
    """A live progress line, for the `progress` of `solve`; in a terminal only, None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = TextColumn("solving"), BarColumn(), TextColumn("{task.fields[facts]}")
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("solving", total=1.0, facts="")
        first: list[float] = []

        def show(at: Progress) -> None:
            first.append(at.gap)
            way = math.log(first[0] / tolerance) if first[0] > tolerance else 1.0
            done = math.log(first[0] / max(at.gap, tolerance)) / way if at.gap > 0 else 1.0
            facts = f"sweep {at.iteration:,} · gap {at.gap:.2g} of {tolerance:g} · {at.seconds:.0f} s"
            bar.update(task, completed=done, facts=facts)

        yield show
