"""A method on one screen, flattened, without the need to read its base classes."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from surefoot import catalogue
from surefoot.hyperparameters import allowed, declared


def explain(method: Any, slug: str) -> str:
    """The method's purpose, objective, algorithm step by step, and every hyperparameter with its range."""
    module = sys.modules[type(method).__module__]
    parts = [inspect.cleandoc(module.__doc__ or type(method).__doc__ or ""), ""]
    steps = [f"  {number}. {line}" for number, line in enumerate(method.algorithm(), 1)]
    parts += ["OBJECTIVE", _indent(str(method.objective())), "", "ALGORITHM", *steps, ""]
    parts += ["HYPERPARAMETERS", *_fields(method)]
    for paper in catalogue.papers():
        if paper.slug == slug:
            parts += ["", f"CLAIM  {_claim(paper)}"]
    return "\n".join(parts)


def _fields(method: Any) -> list[str]:
    rows = []
    unused = (*getattr(method, "without_effect", ()), "parts")
    for field, kind in declared(type(method)):
        if field.name in unused:
            continue
        value = getattr(method, field.name)
        changed = "" if value is field.default or value == field.default else f" (default {field.default!r})"
        limits = allowed(field.metadata, kind) if set(field.metadata) - {"help"} else ""
        rows.append(f"  {field.name:<24}{value!r:<12}{limits:<26} {field.metadata.get('help', '')}{changed}".rstrip())
    return rows


def _claim(paper: catalogue.Paper) -> str:
    result = paper.result
    if result is None:
        return f"status: {paper.status}; run it with: surefoot claim {paper.slug}"
    return f"{result['claim']}\n       verdict: {result['verdict']} ({result['date']}, {len(result['seeds'])} seeds)"


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
