"""Running the experiments of claims: on the seeds that they name or on others, into the reader's own folder."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from surefoot.claims.parts import TIERS, Claim, Experiment
from surefoot.claims.records import Record, keep
from surefoot.errors import UsageError
from surefoot.loops.common.run import versions

HOME = Path("surefoot-claims")
"""Where records go unless a folder is named: in the current folder, never in the package."""


def chosen(claim: Claim, tier: str | None) -> dict[str, Experiment]:
    """The experiments of a tier, or all of them."""
    if tier is not None and tier not in TIERS:
        raise UsageError(f"tier={tier!r} is not allowed; it must be one of {', '.join(TIERS)}.")
    found = {name: one for name, one in claim.experiments.items() if tier in (None, one.tier)}
    if not found:
        there = ", ".join(known for known in TIERS if known in {one.tier for one in claim.experiments.values()})
        raise UsageError(f"{claim.slug} has no experiment of tier {tier!r}; it has {there}. {claim.not_run}".strip())
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
    claim: Claim, module: str, folder: Path = HOME, *, tier: str | None = None, seeds: Sequence[int] | None = None
) -> list[Record]:
    """Run a claim's experiments (of one tier) and keep each record as soon as it is there.

    Args:
        claim: what is examined.
        module: the module that defines it; its hash names the records' folder.
        folder: where records go.
        tier: "mechanism", "miniature" or "instance"; all if not given.
        seeds: other seeds than the experiments' own, 0 to n − 1.
    """
    experiments, threads, records = chosen(claim, tier), torch.get_num_threads(), []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error}). Name another folder with --out.") from error
    try:
        torch.set_num_threads(1)
        for name, experiment in experiments.items():
            wanted, began = list(range(experiment.seeds) if seeds is None else seeds), time.time()
            measurements = experiment.measure(wanted)
            date, minutes = time.strftime("%Y-%m-%d", time.gmtime(began)), round((time.time() - began) / 60, 1)
            record = Record(name, tuple(wanted), date, minutes, measurements, facts())
            keep(record, claim.slug, module, folder)
            records.append(record)
    finally:
        torch.set_num_threads(threads)
    return records


def facts() -> dict[str, Any]:
    """What a result may depend on besides its seeds."""
    machine = {"system": platform.system(), "processor": _processor()}
    return {"command": " ".join(["surefoot", *sys.argv[1:]]), "commit": _commit(), "threads": 1, "machine": machine} | {
        "versions": versions()
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _commit() -> str | None:
    """The commit of the checkout that this is, if it is one."""
    try:
        here = Path(__file__).parent
        done = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None
