"""Solutions of finite MDPs as pages: the policy and its world beside the nominal ones, and what robustness costs."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surefoot.envs.tabular import Kernel, Successors, TabularMDP
from surefoot.envs.tabular.files import from_npz, to_npz
from surefoot.errors import UsageError
from surefoot.evaluate import sweeps, trained
from surefoot.evaluate.grids import LARGEST, draw, draw_change
from surefoot.evaluate.named import action_name, first_step, mixture, state_name
from surefoot.evaluate.pages.page import Block, Chart, Charts, Code, Facts, Folded, Page, Section, Table, Text
from surefoot.evaluate.read_back import figures
from surefoot.evaluate.readable import number, plural
from surefoot.evaluate.solutions import OVER, kernel_difference, worth
from surefoot.evaluate.sweeps import PriceOfRobustness
from surefoot.solvers import Solution, evaluate_policy, solve
from surefoot.solvers.solution import measure

FILE = "solve.json"
SHOWN, ALL = 20, 1000  # states in the open table, and in the folded one
TOP = 20  # changes of the worst world


@dataclass(frozen=True)
class Solved:
    """What was solved, besides the MDP and the arrays of the solution."""

    name: str
    ambiguity: str | None = None
    rectangular: str = "sa"
    nature: str = "worst"
    assumed: bool = False  # whether the discount is a default
    command: str = ""


# --- the folder of a solution ----------------------------------------------------------------------------------------


def write(folder: Path, mdp: TabularMDP, solution: Solution, about: Solved) -> Path:
    """Write the page of a solution into the folder that `solutions.save` has filled, and what it can be made from
    again: `mdp.npz` and `solve.json`."""
    kept = {name: getattr(solution, name) for name in ("gap", "iterations", "converged", "gain", "criterion")}
    with suppress(UsageError):  # an MDP of more than its tables has a page, which cannot be made again
        to_npz(mdp, folder / "mdp.npz")
        text = json.dumps({**dataclasses.asdict(about), **kept}, ensure_ascii=False, indent=2)
        (folder / FILE).write_text(text, encoding="utf-8")
    return page(mdp, solution, about).write(folder / "report.html")


def page_of(folder: Path) -> Page:
    """The page of a folder that `surefoot solve --out` has written."""
    data, mdp = figures(folder / FILE), from_npz(folder / "mdp.npz")
    try:
        about = Solved(**{field.name: data[field.name] for field in dataclasses.fields(Solved)})
        arrays = _arrays(folder / "solution.npz")
        kept = {name: data[name] for name in ("gap", "iterations", "converged", "gain", "criterion")}
        solution = Solution(arrays["value"], arrays["policy"], make_worst_kernel=lambda: _kernel(arrays), **kept)
        if solution.value.shape[-1] != mdp.states or solution.policy.shape[-2:] != (mdp.states, mdp.actions):
            raise ValueError("the solution is not of this MDP")
        return page(mdp, solution, about)
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, AttributeError, zipfile.BadZipFile) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{folder} holds no whole solution ({error!r}); run surefoot solve again.") from error


def _arrays(path: Path) -> dict[str, torch.Tensor]:
    with np.load(path) as held:
        return {name: torch.from_numpy(held[name]) for name in held.files if held[name].ndim}


def _kernel(arrays: dict[str, torch.Tensor]) -> Kernel:
    if "worst_kernel" in arrays:
        return arrays["worst_kernel"]
    return Successors(arrays["worst_successor_state"], arrays["worst_successor_probability"])


# --- its page --------------------------------------------------------------------------------------------------------


def page(mdp: TabularMDP, solution: Solution, about: Solved) -> Page:
    """The page of a solution; with a set, beside that of the nominal MDP."""
    nominal = None if about.ambiguity is None else solve(mdp, criterion=solution.criterion)
    measured = measure(mdp, solution.criterion, about.assumed)
    world = "nominal world" if nominal is None else f"{about.nature} world of {about.ambiguity}"
    facts = [
        ("value from the start" if solution.gain is None else "average reward", f"{worth(mdp, solution):.6g}"),
        ("in the", world),
        ("what is summed", measured),
        ("certified gap", f"{solution.gap:.2g}" + ("" if solution.converged else ", not converged")),
        ("size", f"{plural(mdp.states, 'state')}, {plural(mdp.actions, 'action')}"),
    ]
    if about.ambiguity is not None:
        sets = {"sa": "for every state and action on its own", "s": "for every state, shared by its actions"}
        facts.append(("the adversary chooses", sets.get(about.rectangular, about.rectangular)))
    sections = [*price(mdp, solution, nominal, about), *pictures(mdp, solution, nominal)]
    sections.append(Section("Policy and values", states(mdp, solution, nominal)))
    if nominal is not None:
        sections.append(Section(f"The {about.nature} world", changes(mdp, solution, about)))
    if about.command:
        sections.append(Section("Command", [Code(about.command)]))
    title = about.name if about.ambiguity is None else f"{about.name} against {about.ambiguity}"
    return Page(title, summary=Facts(facts), sections=sections)


def price(mdp: TabularMDP, solution: Solution, nominal: Solution | None, about: Solved) -> Iterator[Section]:
    """The robust and the nominal policy, each in both worlds."""
    if nominal is None:
        return
    options: dict[str, Any] = {"criterion": solution.criterion}
    try:
        own = worth(mdp, evaluate_policy(mdp, solution.policy, **options))
        options |= {"rectangular": about.rectangular, "nature": about.nature}
        hurt = worth(mdp, evaluate_policy(mdp, nominal.policy, about.ambiguity, **options))
    except UsageError:  # such as a set that cannot be put around a fixed policy
        return
    best, robust = worth(mdp, nominal), worth(mdp, solution)
    size = 2 * max(solution.gap, nominal.gap)  # smaller differences are within the accuracy of the solutions

    def less(x: float, y: float) -> str:
        return number(x - y) if abs(x - y) > size else "0"

    world = f"{about.nature} world"
    head = ("", "nominal world", world, "difference")
    rows = [
        ("this policy", number(own), number(robust), less(robust, own)),
        ("the best policy of the nominal world", number(best), number(hurt), less(hurt, best)),
        ("difference", less(own, best), less(robust, hurt), ""),
    ]
    said = "The worst world is each policy's own. The last row is what robustness costs and what it gains."
    yield Section("The price of robustness", [Table(head, rows, frozenset(head[1:])), Text([said])])


def pictures(mdp: TabularMDP, solution: Solution, nominal: Solution | None) -> Iterator[Section]:
    """A grid with the policy; with a set also the nominal one, what was lost, and where the adversary pushes."""
    if mdp.grid is None or 1 in mdp.grid:
        return
    value, policy = first_step(mdp, solution)
    step = " of the first step" if solution.policy.ndim == 3 else ""
    caption = f"Colour: value{step}; arrows: actions, as long as they are likely."
    if nominal is None:
        yield Section("On the grid", [Charts([Chart("Policy and values", draw(mdp, value, policy), caption)])])
        return
    other, acts = first_step(mdp, nominal)
    charts = [
        Chart("Robust policy in the worst world", draw(mdp, value, policy), caption),
        Chart("Best policy of the nominal world", draw(mdp, other, acts), caption),
    ]
    if mdp.states <= LARGEST and not mdp.stepped and mdp.horizon is None:
        figure = draw_change(mdp, value - other, solution.worst_kernel, policy, label="robust − nominal value")
        said = (
            "Colour: the robust value minus the nominal one; arrows: the mean change of the next cell from the nominal"
            " world to the worst one, the longest as long as a cell."
        )
        charts.append(Chart("What the worst world takes, and where it pushes", figure, said))
    yield Section("On the grid", [Charts(charts)])


def states(mdp: TabularMDP, solution: Solution, nominal: Solution | None) -> list[Block]:
    """Value and policy of every state, beside the nominal ones."""
    value, policy = first_step(mdp, solution)
    both = nominal is not None and solution.gain is None
    head = ["state", "value", *(["nominal value"] if both else []), "policy", *(["nominal policy"] if nominal else [])]
    other, acts = (None, None) if nominal is None else first_step(mdp, nominal)
    rows = []
    for s in range(min(mdp.states, ALL)):
        over = bool(mdp.ended[s])
        row = [state_name(mdp, s), number(float(value[s]))]
        row += [number(float(other[s]))] if both and other is not None else []
        row.append(OVER if over else mixture(mdp, policy[s]))
        row += [OVER if over else mixture(mdp, acts[s])] if acts is not None else []
        rows.append(row)
    numeric = frozenset({"value", "nominal value"})
    blocks: list[Block] = [Table(head, rows[:SHOWN], numeric)]
    if len(rows) > SHOWN:
        more = "" if mdp.states == len(rows) else f"; policy.csv has all {mdp.states:,}"
        blocks.append(Folded(f"All {len(rows):,} states{more}", [Table(head, rows, numeric)]))
    return blocks


def changes(mdp: TabularMDP, solution: Solution, about: Solved) -> list[Block]:
    """The transitions that changed most, of the pairs that the policy takes."""
    found = kernel_difference(mdp, solution.worst_kernel, TOP, policy=solution.policy)
    if not found:
        return [Text([f"The {about.nature} world is the nominal one."])]
    stepped = found[0].step is not None
    head = [*(["step"] if stepped else []), "state", "action", "next state", "nominal", about.nature, "change"]
    rows = []
    for one in found:
        row = [str(one.step)] if stepped else []
        row += [state_name(mdp, one.state), action_name(mdp, one.action), state_name(mdp, one.next_state)]
        rows.append([*row, f"{one.nominal:.4g}", f"{one.worst:.4g}", f"{one.difference:+.4g}"])
    said = Text([f"The {len(rows)} transitions whose probability differs most; worst_case.csv has more."], faint=True)
    return [Table(head, rows, frozenset({"nominal", about.nature, "change"})), said]


# --- the size of the set ---------------------------------------------------------------------------------------------


def sweep(folder: Path) -> Page:
    """The page of a folder with a sweep over the size of a set."""
    return page_of_sweep(sweeps.read(folder / sweeps.FILE))


def page_of_sweep(found: PriceOfRobustness) -> Page:
    """The price of robustness over the size of the set, as curves and as a table."""
    figure = found.plot()
    figure.axes[0].set_title("", loc="left")
    head = ("size", "robust, worst world", "robust, nominal world", "nominal policy, worst world", "gap")
    rows = [tuple(map(number, point)) for point in found.points]
    facts = [("what is summed", found.measured), ("best in the nominal world", number(found.nominal))]
    blocks: list[Block] = [
        Charts([Chart("Value from the start", figure, "Every point is solved exactly, to the gap in the table.")]),
        Table(head, rows, frozenset(head)),
    ]
    sections = [Section("Robustness and its price", blocks)]
    if found.command:
        sections.append(Section("Command", [Code(found.command)]))
    return Page(f"{found.name}: the price of robustness", summary=Facts(facts), sections=sections)


# --- in the page of a run --------------------------------------------------------------------------------------------


def of_run(folder: Path) -> Iterator[Section]:
    """The policy of a run on a finite MDP, with its exact value, on its grid if it has one."""
    if (found := trained.read(folder)) is None:
        return
    blocks: list[Block] = [Text(found.lines())]
    with suppress(UsageError, OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile):
        mdp, arrays = from_npz(folder / "mdp.npz"), _arrays(folder / trained.ARRAYS)
        figure = draw(mdp, arrays["value"], arrays["policy"])
        blocks.append(Charts([Chart("Policy and values", figure, "Colour: value; arrows: actions.")]))
    yield Section("Policy", [*blocks, Code(found.table)])
