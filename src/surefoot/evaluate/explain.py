"""A method on one screen, flattened: nothing to follow through base classes."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from typing import Any

from surefoot import catalogue
from surefoot.hyperparameters import allowed
from surefoot.loops.on_policy import OnPolicy


def explain(method: Any, slug: str) -> str:
    """What the method is for, its objective, the algorithm step by step, and every hyperparameter with its range."""
    module = sys.modules[type(method).__module__]
    parts = [inspect.cleandoc(module.__doc__ or type(method).__doc__ or ""), ""]
    if isinstance(method, OnPolicy):
        parts += ["OBJECTIVE", _indent(str(method.objective())), "", "ALGORITHM", *_steps(method), ""]
    parts += ["HYPERPARAMETERS", *_fields(method)]
    for paper in catalogue.papers():
        if paper.slug == slug:
            parts += ["", f"CLAIM  {_claim(paper)}"]
    return "\n".join(parts)


def _steps(method: OnPolicy) -> list[str]:
    """The loop as this method runs it: its own description of its steps where it replaces them."""
    batch = method.num_envs * method.num_steps
    collect = f"collect {method.num_envs} envs × {method.num_steps} steps = {batch} with the current policy"
    estimate = f"Â = {method.advantage()};  G = V + {method.target()}"
    lines = [collect, estimate, *method.steps()]
    if method.normalize_observations or method.normalize_rewards:
        which = " and ".join(
            w for w, on in (("observation", method.normalize_observations), ("reward", method.normalize_rewards)) if on
        )
        lines.append(f"take the batch into the running {which} statistics")
    return [f"  {number}. {line}" for number, line in enumerate(lines, 1)]


def _fields(method: Any) -> list[str]:
    rows = []
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        changed = "" if value == field.default else f" (default {field.default!r})"
        limits = allowed(field.metadata) if set(field.metadata) - {"help"} else ""
        rows.append(f"  {field.name:<24}{value!r:<12}{limits:<26} {field.metadata.get('help', '')}{changed}".rstrip())
    return rows


def _claim(paper: catalogue.Paper) -> str:
    result = paper.result
    if result is None:
        return f"status: {paper.status}; run it with: surefoot claim {paper.slug}"
    return f"{result['claim']}\n       verdict: {result['verdict']} ({result['date']}, {len(result['seeds'])} seeds)"


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
