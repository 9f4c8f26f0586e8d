"""The card of a run's agent with what has been measured of it: the evaluation and the stress tests in the folder."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

from surefoot.errors import UsageError, printable
from surefoot.evaluate.periodic import keep, result_file
from surefoot.loops.common.card import card
from surefoot.loops.common.folder import Run, agent_folder
from surefoot.loops.common.kinds import loop
from surefoot.models.saved import KINDS, read_facts

HEAD = "| perturbation | nominal | mean | worst | CVaR 10 % | episodes a cell |\n|---|---|---|---|---|---|"


def written(run: Run, seed: int | None = None, **options: Any) -> str:
    """The card of one seed's agent, by default the first's; the measurements in the folder are of that one."""
    seeds = run.config_with("seeds")["seeds"]
    chosen = seeds[0] if seed is None else seed
    facts = read_facts(agent_folder(run.path, seeds, chosen))
    if missing := {"seed", "steps", "ended"} - facts.keys():
        raise UsageError(f"{run.path}: its agent.json lacks {', '.join(sorted(missing))}; restore the original file.")
    measured = {"evaluation": _evaluation(run), "stress": _stress(run)} if chosen == seeds[0] else {}
    return card(run, facts, _unit(facts), **measured, **options)


def _unit(facts: dict[str, Any]) -> str:
    """The unit of the steps of an agent's kind of loop."""
    kind = KINDS.get(facts.get("format", ""), ("", ""))[1]
    kinds = {
        "TabularAgent": "tabular",
        "LanguageAgent": "group-rollout",
        "RewardModel": "group-rollout",
        "LinearModel": "finite-sum",
        "RowModel": "supervised",
        "SetModel": "supervised",
        "SequenceModel": "supervised",
        "PairModel": "supervised",
    }
    return loop(kinds.get(kind, "on-policy")).measured


def keep_result(folder: Path, name: str, text: str) -> None:
    """Keep a measurement in the folder of its run, and write the card of the run's agent again. The measurement matters
    more than either file, so a failure only warns."""
    keep(result_file(folder, name), text)
    try:
        run = Run(folder)
        seeds = run.config_with("seeds")["seeds"]
        keep(agent_folder(run.path, seeds, seeds[0]) / "README.md", written(run))
    except UsageError as error:
        warnings.warn(f"the agent's card was not renewed: {error}", stacklevel=3)


def _evaluation(run: Run) -> dict[str, Any] | None:
    """The figures of `evaluation.json` that a card shows, if there is one of its kind and in the run's environment."""
    from surefoot.evaluate.read_back import LARGEST, figures

    path = run.path / "evaluation.json"
    if not path.exists():
        return None
    found = figures(path)
    if not isinstance(found, dict) or "returns" not in found or found.get("env") != run.config["env"]["env"]:
        return None
    interval = found.get("mean_interval")
    numbers = [found.get("mean"), *([] if interval is None else interval), *found["returns"]]
    if not found["returns"] or not all(type(x) in (int, float) and abs(x) <= LARGEST for x in numbers):
        raise UsageError(f"{path} is not an evaluation; remove it, and run surefoot evaluate again.")
    return {"deterministic": True, "episodes": len(found["returns"]), **found}


def _stress(run: Run) -> str:
    """One row for every stress test in the folder, with its intervals; empty if there is none."""
    from surefoot.evaluate.read_back import stress_report

    rows = []
    for path in sorted(run.path.glob("stress-*.json")):
        report = stress_report(path)
        found = {name: (value, interval) for name, value, interval, _ in report.figures()}
        cells = [_cell(*found[name]) for name in ("nominal", "mean", "worst", "cvar")]
        name = printable(report.perturbation).replace("|", "\\|")
        rows.append(f"| {name} | {' | '.join(cells)} | {len(report.seeds)} |")
    told = "\n\nReturns with 95 % intervals over episodes; `surefoot report` draws them."
    return "\n".join([HEAD, *rows]) + told if rows else ""


def _cell(value: float, interval: str) -> str:
    return f"{value:.6g} {interval}".strip() if math.isfinite(value) else "none"
