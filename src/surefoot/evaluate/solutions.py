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
from torch import Tensor

from surefoot.envs.tabular import ZOO, Kernel, Successors, TabularMDP
from surefoot.evaluate.grids import picture
from surefoot.evaluate.named import action_name, first_step, mixture, state_name
from surefoot.solvers import Progress, Solution, evaluate_policy, solve
from surefoot.solvers.solution import measure

OVER = "(over)"  # in place of the policy in ended states


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
    return float(mdp.initial @ first_step(mdp, solution)[0]) if solution.gain is None else solution.gain


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
    value, policy = first_step(mdp, solution)
    beside = None if nominal is None or solution.gain is not None else first_step(mdp, nominal)[0]
    names = [state_name(mdp, s) for s in range(mdp.states if limit is None else min(limit, mdp.states))]
    wide = max(len("state"), *map(len, names))
    lines = [f"{'state':<{wide}}{'value':>14}{'' if beside is None else '       nominal'}  policy"]
    for s, name in enumerate(names):
        more = "" if beside is None else f"{beside[s]:>14.6g}"
        acts = OVER if mdp.ended[s] else mixture(mdp, policy[s])
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
        places = state_name(mdp, change.state), action_name(mdp, change.action), state_name(mdp, change.next_state)
        rows.append((step, *places, *numbers))
    if all(change.step is None for change in changes):
        rows = [row[1:] for row in rows]
    wide = [max(map(len, column)) for column in zip(*rows)]
    text = len(wide) - 3
    lines = []
    for row in rows:
        cells = [f"{c:<{w}}" if i < text else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, wide))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


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
            places = state_name(mdp, change.state), action_name(mdp, change.action), state_name(mdp, change.next_state)
            step = "" if change.step is None else change.step
            writer.writerow([step, *places, change.nominal, change.worst, change.difference])
    paths.append(save_policy(mdp, solution.value, solution.policy, folder / "policy.csv"))
    if mdp.grid is not None:
        paths.append(folder / "grid.png")
        picture(mdp, solution, ambiguity).savefig(paths[-1], dpi=150)
    return paths


def save_policy(mdp: TabularMDP, value: Tensor, policy: Tensor, path: Path) -> Path:
    """Write value and policy of every state (and step, with a horizon), one column per action."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "state", "over", "value", *(action_name(mdp, a) for a in range(mdp.actions))])
        stepped = value.ndim == 2 or policy.ndim == 3
        steps = range(max(len(value) if value.ndim == 2 else 1, len(policy) if policy.ndim == 3 else 1))
        for h in steps:
            worth_, acts = (x if x.ndim == n else x[h] for x, n in ((value, 1), (policy, 2)))
            rows = zip(worth_.tolist(), acts.tolist(), mdp.ended.tolist(), strict=True)
            for s, (v, row, over) in enumerate(rows):
                writer.writerow([h if stepped else "", state_name(mdp, s), int(over), v, *row])
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
