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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from surefoot import catalogue
from surefoot.claims.judge import LEVEL, Finding, effect, judge, seeds_for
from surefoot.claims.parts import TIERS, Claim, Exact, Measurements, Share, ShareDifference, Summary
from surefoot.errors import UsageError

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
    facts: Mapping[str, Any] = field(default_factory=dict)  # command, commit, threads, versions, machine


# --- the hash of what is run ---------------------------------------------------------------------------------------


def spec(module: str) -> str:
    """The hash of a claim's module, and of the experiments' helpers that it imports from the claims' package: of their
    syntax, so that comments, docstrings and formatting do not count."""
    found = hashlib.sha256()
    for name in sorted(_helpers(module)):
        found.update(_syntax(name).encode())
    return found.hexdigest()[:8]


def _helpers(module: str) -> set[str]:
    names = {module}
    for node in ast.walk(ast.parse(_source(module))):
        imported = str(node.module) if isinstance(node, ast.ImportFrom) else ""
        if imported.startswith("surefoot.claims.") and imported not in MACHINERY:
            names |= _helpers(imported)
    return names


def _source(module: str) -> str:
    return inspect.getsource(importlib.import_module(module))


def _syntax(module: str) -> str:
    tree = ast.parse(_source(module))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


# --- keeping and reading ---------------------------------------------------------------------------------------------


def keep(record: Record, slug: str, module: str, folder: Path) -> Path:
    """Write a record to a name of its own, whole or not at all."""
    place = folder / slug / spec(module)
    try:
        place.mkdir(parents=True, exist_ok=True)
        name = f"{record.date}-{record.experiment.replace(' ', '-')}-{spoken(record.seeds)}"
        draft = place / f".{name}.{os.getpid()}.part"
        draft.write_text(json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
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


def spoken(seeds: Sequence[int]) -> str:
    """Seeds as file names and tables have them: 0-9 for consecutive ones, else their number."""
    first, last = min(seeds), max(seeds)
    return f"{first}-{last}" if list(seeds) == list(range(first, last + 1)) else f"{len(seeds)}-seeds"


def read(slug: str, module: str, folder: Path) -> tuple[list[Record], int]:
    """The records of what the claim is now, oldest first, and how many there are of earlier forms."""
    now, records, stale = spec(module), [], 0
    for path in sorted((folder / slug).glob("*/*.json")):
        if path.parent.name != now:
            stale += 1
            continue
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            records.append(Record(**{**data, "seeds": tuple(data["seeds"])}))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path} is not a readable record ({error}); remove it or put it back.") from error
    return records, stale


def summaries(claim: Claim, records: Sequence[Record]) -> dict[str, Summary]:
    """What each experiment measured, as its parts read it: of several records the one with most seeds, then the last."""
    chosen: dict[str, Record] = {}
    for record in records:
        best = chosen.get(record.experiment)
        if record.experiment in claim.experiments and (best is None or len(record.seeds) >= len(best.seeds)):
            chosen[record.experiment] = record
    return {name: claim.experiments[name].summary(record.measurements) for name, record in chosen.items()}


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
            found[name] = Finding("inconclusive", one.value, one.low, one.high, one.level, one.n, (note,))
    return found


# --- what is missing -------------------------------------------------------------------------------------------------


def shortcomings(claim: Claim, records: Sequence[Record], stale: int) -> list[str]:
    """What a reader should know of a claim's standing: stale, unstable, void, underpowered, not run and why."""
    found, notes = findings(claim, records), []
    measured = {record.experiment for record in records}
    for name, experiment in claim.experiments.items():
        if name not in measured:
            notes.append(f"{name} ({experiment.tier}): not run, {experiment.minutes:g} core-minutes")
    if not any(experiment.tier == "instance" for experiment in claim.experiments.values()):
        notes.append(f"paper's instance: not run; {claim.not_run}")
    if stale:
        notes.append(f"{stale} records are stale: the experiment has changed since")
    seen = summaries(claim, records)
    for part in sorted(claim.parts, key=lambda p: TIERS.index(claim.tier(p))):
        one = found.get(part.name)
        if one is None or one.word in ("supported", "contradicted"):
            continue
        if one.word == "void" or any(note.startswith("unstable") for note in one.notes):
            notes.append(f"{part.name}: {one.word if one.word == 'void' else 'unstable'}, {one.notes[0]}")
        elif not isinstance(part.contrast, (Exact, Share, ShareDifference)):
            value, n = effect(part, seen[part.experiment])
            size = part.test.distance or abs(value)
            wanted = seeds_for(part.contrast.values(seen[part.experiment]), size, LEVEL)
            if wanted is not None and wanted > n:
                notes.append(f"{part.name}: underpowered, {n} seeds of about {wanted} for an effect of {size:.3g}")
    return notes


def claim(slug: str) -> Claim:
    """The claim of a paper; a `UsageError` where there is none yet."""
    paper = catalogue.paper(slug)
    if not paper.claimed:
        known = ", ".join(p.slug for p in catalogue.papers() if p.claimed)
        raise UsageError(f"{slug!r} has no claim to run yet. There are: {known}.")
    return importlib.import_module(paper.claim_module).CLAIM
