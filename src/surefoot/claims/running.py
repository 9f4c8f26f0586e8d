"""Running the experiments of claims: on the seeds that they name or on others, into the reader's own folder."""

from __future__ import annotations

import json
import platform
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from surefoot.claims import records
from surefoot.claims.judge import Finding
from surefoot.claims.parts import TIERS, Claim, Experiment
from surefoot.claims.records import Record, declared, keep, named, read, spec
from surefoot.cluster import spread
from surefoot.errors import UsageError, nearest
from surefoot.files import write_whole
from surefoot.loops.common.machine import processor
from surefoot.loops.common.settings import versions

HOME = Path("surefoot-claims")
"""Where records go unless a folder is named: in the current folder, never in the package."""


def chosen(claim: Claim, tier: str | None, experiment: str | None = None) -> dict[str, Experiment]:
    """The experiments of a tier or the one of a name, or all of them."""
    if experiment is not None and experiment not in claim.experiments:
        raise UsageError(f"experiment={experiment!r} is unknown. {nearest(experiment, claim.experiments)}")
    if tier is not None and tier not in TIERS:
        raise UsageError(f"tier={tier!r} is not allowed; it must be one of {', '.join(TIERS)}.")
    found = {
        name: one for name, one in claim.experiments.items() if tier in (None, one.tier) and experiment in (None, name)
    }
    if not found:
        there = ", ".join(known for known in TIERS if known in {one.tier for one in claim.experiments.values()})
        raise UsageError(f"{claim.slug} has no experiment of tier {tier!r}; it has {there}. {claim.not_run}".strip())
    return found


def missing(claim: Claim, folder: Path, tier: str | None, seeds: Sequence[int] | None) -> list[str]:
    """The experiments (of a tier) that no record in the folder covers on these seeds."""
    records = read(claim, folder)[0]
    found = []
    for name, experiment in claim.experiments.items():
        wanted = set(range(experiment.seeds) if seeds is None else seeds)
        there = any(wanted <= set(record.seeds) for record in records if record.experiment == name)
        if tier in (None, experiment.tier) and not there:
            found.append(name)
    return found


def seeds_of(text: str) -> list[int]:
    """`8` are the seeds 0 to 7, `100:120` those from 100 to 119."""
    first, colon, last = text.partition(":")
    try:
        numbers = range(int(first), int(last)) if colon else range(int(first))
    except ValueError:
        numbers = range(0)
    if not numbers or numbers[0] < 0:
        raise UsageError(f"seeds={text!r} is not allowed; give a number of seeds, or a range such as 100:120.")
    return list(numbers)


def run(
    claim: Claim,
    folder: Path = HOME,
    *,
    tier: str | None = None,
    experiment: str | None = None,
    seeds: Sequence[int] | None = None,
    on: str = "",
) -> list[Record]:
    """Run a claim's experiments (of one tier) and keep each record as soon as it is there. A run that was stopped goes
    on after the last piece that it finished.

    Args:
        claim: what is examined.
        folder: where records go.
        tier: "mechanism", "miniature" or "instance"; all if not given.
        experiment: the name of one experiment; all if not given.
        seeds: other seeds than the experiments' own, 0 to n − 1.
        on: a cluster for the pieces of an experiment (see `surefoot.cluster`).
    """
    experiments, threads, records = chosen(claim, tier, experiment), torch.get_num_threads(), []
    try:
        torch.set_num_threads(1)
        for name, one in experiments.items():
            wanted, began = list(range(one.seeds) if seeds is None else seeds), time.time()
            place = folder / claim.slug / spec(one) / f".{name.replace(' ', '-')}-{named(wanted)}"
            try:
                place.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(f"{folder} cannot be written ({error}). Name another folder with --out.") from error
            each = [(place.absolute(), part, measure, wanted) for part, measure in one.measure.items()]
            pieces = dict(zip(one.measure, spread(_piece, each, on), strict=True))
            date, minutes = (
                time.strftime("%Y-%m-%d", time.gmtime(began)),
                sum(piece["minutes"] for piece in pieces.values()),
            )
            command = f"surefoot claim {claim.slug} --experiment {shlex.quote(name)}"
            command += "" if seeds is None else f" --seeds {wanted[0]}:{wanted[-1] + 1}"
            measurements = {part: piece["measured"] for part, piece in pieces.items()}
            record = Record(
                name, tuple(wanted), date, round(minutes, 2), measurements, declared(claim, name), facts(command)
            )
            keep(record, claim, folder)
            records.append(record)
            shutil.rmtree(place)
    finally:
        torch.set_num_threads(threads)
    return records


def claim(
    slug: str,
    *,
    tier: str | None = None,
    seeds: Sequence[int] | None = None,
    out: str | Path = "surefoot-claims",
    on: str = "",
) -> dict[str, Finding]:
    """Run a paper's claim: the finding of every part that was measured, by the part's name.

    Args:
        slug: of the paper, or `"module:NAME"` of a claim of your own.
        tier: "mechanism", "miniature" or "instance"; all experiments if not given.
        seeds: random seeds, if not the experiments' own; any others make a replication.
        out: folder for the records.
        on: a cluster for the pieces of an experiment (see `surefoot.cluster`).
    """
    found = records.claim(slug)
    return records.findings(found, run(found, Path(out), tier=tier, seeds=seeds, on=on))


def _piece(place: Path, name: str, measure: Callable[[Sequence[int]], Any], seeds: list[int]) -> dict[str, Any]:
    """What a piece measured and the minutes that it took: read, or measured and kept."""
    path = place / f"{quote(name, safe=' ,')}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    began = time.time()
    piece = {"measured": measure(seeds), "minutes": (time.time() - began) / 60}
    write_whole(path, json.dumps(piece, ensure_ascii=False))
    return json.loads(path.read_text(encoding="utf-8"))


def facts(command: str) -> dict[str, Any]:
    """What a result may depend on besides its seeds, and the command that repeats it."""
    machine = {"system": platform.system(), "processor": processor()}
    return {"command": command, "commit": _commit(), "threads": 1, "machine": machine} | {"versions": versions()}


def _commit() -> str | None:
    """The commit of the checkout that this is, if it is one."""
    try:
        here = Path(__file__).parent
        done = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None
