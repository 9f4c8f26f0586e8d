"""What claims measured, kept for good: one file a run, never overwritten, under the hash of what was run.

    <folder>/<slug>/<spec>/<date>-<experiment>-<seeds>.json

A changed experiment has another hash, which makes older records *stale*, not gone. Words are never stored: they are
judged from the measurements whenever they are shown, so that a change of the judge needs no new run.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from surefoot import catalogue
from surefoot.claims.judge import LEVEL, Finding, effect, judge, seeds_for
from surefoot.claims.parts import Claim, Exact, Experiment, Measurements, Share, ShareDifference, Summary
from surefoot.envs.names import imported
from surefoot.errors import UsageError, nearest

SHIPPED = Path(__file__).parent / "records"
MACHINERY = ("surefoot.claims.parts", "surefoot.claims.judge", "surefoot.claims.records", "surefoot.claims.running")


@dataclass(frozen=True)
class Record:
    """One run of one experiment of a claim."""

    experiment: str
    seeds: tuple[int, ...]
    date: str
    minutes: float
    measurements: Measurements
    parts: str  # the hash of the parts as they were declared when it ran
    facts: Mapping[str, Any] = field(default_factory=dict)  # command, commit, threads, versions, machine


# --- hashes of what is run and of what was declared ------------------------------------------------------------------


def spec(experiment: Experiment) -> str:
    """The hash of what an experiment runs: its pieces and all that they reach in the package of claims, by syntax, so
    that comments, docstrings and formatting do not count."""
    found = hashlib.sha256()
    for name, piece in sorted(experiment.measure.items()):
        function, given = (
            (piece.func, (piece.args, piece.keywords)) if isinstance(piece, partial) else (piece, ((), {}))
        )
        found.update(repr((name, given)).encode())
        for text in sorted(set(_reached(function.__module__, function.__name__))):
            found.update(text.encode())
    return found.hexdigest()[:8]


def declared(claim: Claim, experiment: str) -> str:
    """The hash of the parts that read an experiment."""
    texts = sorted(part.declared for part in claim.parts if part.experiment == experiment)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]


def _reached(module: str, name: str) -> list[str]:
    """The syntax of a module's definition and of those that it names, also in other modules of claims."""
    found, waiting = {}, [(module, name)]
    while waiting:
        place = waiting.pop()
        definitions = _definitions(place[0])
        if place in found or place[1] not in definitions:
            continue
        node = definitions[place[1]]
        if isinstance(node, ast.ImportFrom):
            source = str(node.module)
            names = [alias.name for alias in node.names if (alias.asname or alias.name) == place[1]]
            found[place] = f"from {source} import {names[0]}"
            waiting += [(source, names[0])] if source.startswith("surefoot.claims.") and source not in MACHINERY else []
            continue
        found[place] = ast.dump(node)
        waiting += [(place[0], part.id) for part in ast.walk(node) if isinstance(part, ast.Name)]
    return [f"{name}: {text}" for (_, name), text in found.items()]


@cache
def _definitions(module: str) -> dict[str, ast.stmt]:
    """What a module defines or imports at its top level, by name, without docstrings."""
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(inspect.getsource(importlib.import_module(module))).body:
        for inner in ast.walk(node):
            if isinstance(inner, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(inner, clean=False):
                inner.body = inner.body[1:] or [ast.Pass()]
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: node for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {part.id: node for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return found


# --- keeping and reading ---------------------------------------------------------------------------------------------


def keep(record: Record, claim: Claim, folder: Path) -> Path:
    """Write a record to a name of its own, whole or not at all."""
    place = folder / claim.slug / spec(claim.experiments[record.experiment])
    name = f"{record.date}-{record.experiment.replace(' ', '-')}-{named(record.seeds)}"
    draft = place / f".{name}.{os.getpid()}.part"
    try:
        place.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(asdict(record), ensure_ascii=False) + "\n", encoding="utf-8")
        for number in range(1, 1000):
            path = place / (f"{name}.json" if number == 1 else f"{name}-{number}.json")
            try:
                os.link(draft, path)  # fails where the name is taken, also by another process
            except FileExistsError:
                continue
            return path
    except OSError as error:
        raise UsageError(f"{place} cannot be written ({error}). Set its permissions right, or make room.") from error
    finally:
        draft.unlink(missing_ok=True)
    raise UsageError(f"{place} holds 999 records of these seeds and this day; give another folder.")


def named(seeds: Sequence[int]) -> str:
    """Seeds as file names and tables have them: 0-9 for consecutive ones, else their number."""
    first, last = min(seeds), max(seeds)
    return f"{first}-{last}" if list(seeds) == list(range(first, last + 1)) else f"{len(seeds)}-seeds"


def read(claim: Claim, folder: Path = SHIPPED) -> tuple[list[Record], int]:
    """The records of what the claim's experiments are now, oldest first, and how many there are of earlier forms."""
    now, records, stale = {spec(one) for one in claim.experiments.values()}, [], 0
    for path in sorted((folder / claim.slug).glob("*/*.json"), key=lambda path: path.name):
        if path.parent.name not in now:
            stale += 1
            continue
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            records.append(Record(**{**data, "seeds": tuple(data["seeds"])}))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path} is not a readable record ({error}); remove it or put it back.") from error
    return records, stale


def summaries(claim: Claim, records: Sequence[Record]) -> dict[str, Summary]:
    """What each experiment measured, as its parts read it: of several records the one with most seeds, then the last;
    while it has fewer seeds than the experiment plans, records of other seeds are added to it."""
    found = {}
    for name, experiment in claim.experiments.items():
        ordered = [record for record in records if record.experiment == name]
        if not ordered:
            continue
        first = max(ordered, key=lambda record: (len(record.seeds), ordered.index(record)))
        seeds, measurements = list(first.seeds), first.measurements
        for record in ordered:
            if len(seeds) < experiment.seeds and not set(record.seeds) & set(seeds):
                both = pooled(measurements, record.measurements, len(seeds), len(record.seeds))
                if both is not None:
                    seeds, measurements = [*seeds, *record.seeds], both
        found[name] = experiment.summary(measurements)
    return found


def pooled(first: Any, second: Any, few: int, more: int) -> Any:
    """Measurements on `few` seeds and on `more` others as if they had been made together: lists of one entry a seed
    are joined, all else must be equal. `None` where that is not so."""
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        both = {key: pooled(first[key], second[key], few, more) for key in first}
        return None if any(x is None and first[key] is not None for key, x in both.items()) else both
    if isinstance(first, list) and isinstance(second, list) and (len(first), len(second)) == (few, more):
        return first + second
    return first if first == second else None


def findings(claim: Claim, records: Sequence[Record]) -> dict[str, Finding]:
    """The finding of every part that was measured. A word that differs between records with as many seeds as the claim
    asks for is *unstable*, and that is inconclusive."""
    found = judge(claim, summaries(claim, records))
    whole = [r for r in records if r.experiment in claim.experiments]
    whole = [r for r in whole if len(r.seeds) >= claim.experiments[r.experiment].seeds]
    words: dict[str, set[str]] = {}
    for record in whole:
        alone = judge(claim, {record.experiment: claim.experiments[record.experiment].summary(record.measurements)})
        for name, one in alone.items():
            words.setdefault(name, set()).add(one.word)
    for name, one in found.items():
        if len(words.get(name, ())) > 1:
            note = f"unstable: {' and '.join(sorted(words[name]))} in records of as many seeds"
            found[name] = replace(one, word="inconclusive", notes=(note,))
    return found


# --- what is missing -------------------------------------------------------------------------------------------------


def defects(claim: Claim, records: Sequence[Record], stale: int) -> list[str]:
    """What must be mended before the records can be relied on."""
    notes = (
        [f"{stale} records are stale: the experiment has changed since; remove them or run it again"] if stale else []
    )
    for record in records:
        if record.experiment not in claim.experiments:
            notes.append(f"the record of {record.date} is of {record.experiment!r}, which is no experiment")
        elif record.parts != declared(claim, record.experiment) and not claim.amended:
            notes.append(f"the parts of {record.experiment} changed after {record.date}, and amended does not say why")
    for name, one in findings(claim, records).items():
        notes += [f"{name}: {note}" for note in one.notes if note.startswith("unstable")]
        if one.word == "contradicted" and claim.tier(claim.part(name)) == "mechanism":
            notes.append(f"{name}: a mechanism fails: {one}")
    return notes


def limits(claim: Claim, records: Sequence[Record]) -> list[str]:
    """What a reader should know of how far the evidence reaches: void, underpowered, not run and why."""
    found, seen, notes = findings(claim, records), summaries(claim, records), []
    for name, experiment in claim.experiments.items():
        if name not in seen:
            notes.append(f"{name} ({experiment.tier}): not run, {experiment.minutes:g} core-minutes")
    if claim.not_run:
        notes.append(f"paper's instance: not run; {claim.not_run}")
    for part in claim.parts:
        one = found.get(part.name)
        if one is None or one.word in ("supported", "contradicted"):
            continue
        if one.word == "void":
            notes.append(f"{part.name}: void, {one.notes[0]}")
        elif not isinstance(part.contrast, (Exact, Share, ShareDifference)):
            value, n = effect(part, seen[part.experiment])
            size = part.test.distance or abs(value)
            wanted = seeds_for(part.contrast.values(seen[part.experiment]), size, LEVEL)
            if wanted is not None and wanted > n:
                notes.append(f"{part.name}: underpowered, {n} seeds of about {wanted} for an effect of {size:.3g}")
    return notes


def claim(slug: str) -> Claim:
    """The claim of a paper, or one of the user's own as `module:NAME`; a `UsageError` where there is none yet."""
    if ":" in slug:
        found = imported(slug, "claim")
        if not isinstance(found, Claim):
            raise UsageError(f"{slug!r} is a {type(found).__name__}; name a surefoot.claims.parts.Claim.")
        return found
    paper = catalogue.paper(slug)
    if not paper.claimed:
        raise UsageError(f"{slug!r} has no claim to run yet. {nearest(slug, claimed())}")
    return importlib.import_module(paper.claim_module).CLAIM


def claimed() -> list[str]:
    """The papers that have a claim."""
    return [paper.slug for paper in catalogue.papers() if paper.claimed]
