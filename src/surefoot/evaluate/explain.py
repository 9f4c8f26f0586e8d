"""A method on one screen, flattened, without the need to read its base classes."""

from __future__ import annotations

import inspect
import sys
import textwrap
from typing import Any

from surefoot import catalogue
from surefoot.claims import records
from surefoot.claims.page import table
from surefoot.hyperparameters import allowed, declared, presets

WIDEST = (30, 16, 44)  # characters of a name, a value and its range; longer ones stick out


def explain(method: Any, slug: str) -> str:
    """The method's purpose, objective, algorithm step by step, and every hyperparameter with its range."""
    module = sys.modules[type(method).__module__]
    parts = [inspect.cleandoc(module.__doc__ or type(method).__doc__ or ""), ""]
    steps = [f"  {number}. {line}" for number, line in enumerate(method.algorithm(), 1)]
    parts += ["OBJECTIVE", _indent(str(method.objective())), "", "ALGORITHM", *steps, ""]
    parts += ["HYPERPARAMETERS", *_columns(hyperparameters(method)), *_presets(method)]
    for paper in catalogue.papers():
        if paper.slug == slug:
            parts += [*_source(paper), *_claim(paper)]
    return "\n".join(parts)


def hyperparameters(method: Any) -> list[tuple[str, str, str, str]]:
    """Name, value, allowed range and meaning of every hyperparameter that has an effect."""
    rows = []
    unused = (*getattr(method, "without_effect", ()), "parts")
    for field, kind in declared(type(method)):
        if field.name in unused:
            continue
        value = getattr(method, field.name)
        changed = "" if value is field.default or value == field.default else f" (default {field.default!r})"
        limits = allowed(field.metadata, kind) if set(field.metadata) - {"help", "tune"} else ""
        rows.append((field.name, repr(value), limits, f"{field.metadata.get('help', '')}{changed}"))
    return rows


def _columns(rows: list[tuple[str, str, str, str]]) -> list[str]:
    """Rows in columns as wide as their entries need; the few that are longer than `WIDEST` stick out."""
    widths = [max((len(row[i]) for row in rows if len(row[i]) <= most), default=0) for i, most in enumerate(WIDEST)]
    lines = []
    for *cells, sentence in rows:
        lines.append("  ".join(["", *(f"{cell:<{width}}" for cell, width in zip(cells, widths)), sentence]).rstrip())
    return lines


def _presets(method: Any) -> list[str]:
    """Named settings of other sources, with what they change."""
    rows = []
    for name, values in presets(type(method)).items():
        words = ", ".join(f"{key}={value!r}" for key, value in values.items())
        rows += textwrap.wrap(f"{name}: {words}", 120, initial_indent="  ", subsequent_indent="    ")
    return ["", "PRESETS  (--preset NAME)", *rows] if rows else []


BUILT_FROM = {
    "code": "Built from the released code; the paper's text was not at hand.",
    "reconstruction": "A reconstruction: the paper's own equations were not at hand, and details may differ.",
}


def _source(paper: catalogue.Paper) -> list[str]:
    """What the method was built from, where that is not the paper's text."""
    return ["", "SOURCE", _indent(BUILT_FROM[paper.source])] if paper.source in BUILT_FROM else []


def _claim(paper: catalogue.Paper) -> list[str]:
    """The paper's claim with the table of its parts, from the shipped records."""
    if not paper.claimed:
        return []
    found = records.claim(paper.slug)
    return ["", "CLAIM", _indent(table(found, records.read(found)[0])), "", f"  More: surefoot claim {paper.slug}"]


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
