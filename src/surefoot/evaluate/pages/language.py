"""A language run as sections of a page: lengths, reward components, and completions as they were learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.envs.language.task import as_text
from surefoot.evaluate.pages.metrics import Rows, chart
from surefoot.evaluate.pages.page import Block, Chart, Facts, Samples, Section, Table, Text
from surefoot.evaluate.read_back import figures
from surefoot.evaluate.readable import flat, number

SAMPLES = 6
PASSED = ("pass_at", "pass_at_interval")

DIAGNOSTICS = {
    "kl": ("KL between old and new policy", "nats per token"),
    "clip_fraction": ("Ratios outside the clip range", "share of tokens"),
    "entropy": ("Entropy of the next token", "nats"),
    "degenerate": ("Prompts whose completions all have one reward", "share"),
    "grad_norm": ("Gradient norm before clipping", "norm"),
    "explained_variance": ("Explained variance of the critic", "share"),
}


def is_language(config: Mapping[str, Any]) -> bool:
    """Whether the run trains a language model."""
    return "model" in config["env"]


def charts(rows: Rows, steps: str) -> Iterator[Chart | str | None]:
    """Lengths and the components of the reward."""
    yield chart(rows, "length", "Length of a completion", "tokens", steps)
    yield chart(rows, "truncated", "Completions cut off by the token limit", "share", steps)
    for name in dict.fromkeys(name for row in rows for name in row if name.startswith("reward/")):
        yield chart(rows, name, f"Reward component: {name.removeprefix('reward/')}", "reward", steps)


def sections(folder: Path, rows: Rows) -> Iterator[Section]:
    """Whether the run collapsed, completions as they were learned, and the evaluation of the final model."""
    if noted := [x for row in rows if isinstance(x := row.get("collapsed"), (int, float))]:
        said = f"In iteration {number(noted[0])} the policy was found to have collapsed. The best weights are in best/."
        yield Section("Collapse", [Text([said])])
    if kept := [row for row in rows if isinstance(row.get("sample/completion"), str)]:
        places = sorted({round(i) for i in np.linspace(0, len(kept) - 1, SAMPLES)})
        said = "The first completion of the first prompt of an iteration, chosen before it was written."
        yield Section(
            "Completions as they were learned", [Samples([_sample(kept[i]) for i in places]), Text([said], True)]
        )
    path = folder / "evaluation.json"
    found = figures(path) if path.is_file() else None
    if isinstance(found, Mapping) and "accuracy" in found:
        yield Section("Evaluation on held-out examples", list(evaluation(found)))


def _sample(row: Mapping[str, Any]) -> tuple[str, str, str]:
    reward = row.get("sample/reward")
    worth = f" · reward {number(reward)}" if isinstance(reward, (int, float)) else ""
    return f"iteration {row.get('iteration', '?')}{worth}", str(row.get("sample/prompt", "")), row["sample/completion"]


def evaluation(found: Mapping[str, Any]) -> Iterator[Block]:
    """Accuracy and pass@k with their intervals, the other figures, and samples."""
    rows = [("accuracy, greedy", _share(found.get("accuracy")), _ends(found.get("accuracy_interval")))]
    passed, ends = (found.get(name) if isinstance(found.get(name), Mapping) else {} for name in PASSED)
    rows += [(f"pass@{k}", _share(value), _ends(ends.get(k))) for k, value in (passed or {}).items()]  # type: ignore[union-attr]
    yield Table(("", "share solved", "95 % interval"), rows, frozenset({"share solved", "95 % interval"}))
    names = ("task", "judge", "examples", "seed", "reward", "length", "truncated", "entropy")
    yield Facts([(name, text) for name in names if name in found for _, text in flat(found[name], name)])
    listed = found.get("samples")
    samples = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    if samples:
        yield Samples(
            [(f"reward {one.get('reward')}", as_text(one.get("prompt")), str(one.get("completion"))) for one in samples]
        )


def _share(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, (int, float)) else "–"


def _ends(ends: Any) -> str:
    given = isinstance(ends, (list, tuple)) and len(ends) == 2 and all(isinstance(x, (int, float)) for x in ends)
    return f"[{ends[0]:.3f}, {ends[1]:.3f}]" if given else ""
