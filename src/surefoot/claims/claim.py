"""A claim: one sentence, what would support it, what would refute it, and the experiment that decides.

An experiment measures both arms on the same seeds; a judge, written before the numbers are seen, turns the
measurements into a verdict. Everything is stored, whatever the verdict is.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from surefoot import catalogue
from surefoot.errors import UsageError, nearest
from surefoot.evaluate.statistics import ConfidenceInterval, confidence_interval, in_brackets, interquartile_mean
from surefoot.loops.common.run import versions

RESULTS = Path(__file__).parent / "results"
Verdict = Literal["shown", "not shown", "refuted"]
Measurements = dict[str, Any]
"""What an experiment saw: JSON-ready numbers and lists by name, one number a seed wherever there are seeds."""


@dataclass(frozen=True)
class Estimate:
    """An interquartile mean over seeds with its 95 % interval, without ends where one seed or equal values give none."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} {in_brackets(self.interval, '.4g') or '(no interval)'}"

    @property
    def interval(self) -> ConfidenceInterval | None:
        """Both ends; `None` where there are none."""
        return ConfidenceInterval(self.low, self.high) if math.isfinite(self.high - self.low) else None

    def to_dict(self) -> dict[str, float | None]:
        """As a result stores it."""
        low, high = self.interval or (None, None)
        return {"value": self.value, "low": low, "high": high}


def estimate(values: Sequence[float]) -> Estimate:
    """Interquartile mean over seeds and its interval; one value a seed."""
    scores = np.asarray(values, dtype=float)
    low, high = confidence_interval(scores) or (-math.inf, math.inf)
    return Estimate(float(interquartile_mean(scores)), low, high)


def difference(method: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """The estimate of the paired differences, seed by seed: both arms must have run on the same seeds."""
    if len(method) != len(baseline):
        raise UsageError(f"{len(method)} values against {len(baseline)}; both arms must have run on the same seeds.")
    return estimate(np.asarray(method, dtype=float) - np.asarray(baseline, dtype=float))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Claim:
    """An experiment on a paper's headline claim.

    `measure(seeds)` runs all arms on those seeds. `judge(measurements)` gives the verdict and the estimates it rests
    on; it sees nothing but what was measured.
    """

    slug: str
    sentence: str
    baseline: str
    metric: str
    supported_by: str
    refuted_by: str
    measure: Callable[[Sequence[int]], Measurements]
    judge: Callable[[Measurements], tuple[Verdict, dict[str, Estimate]]]
    seeds: int = 5


def claim(slug: str) -> Claim:
    """The claim of a paper; a `UsageError` where there is none yet."""
    paper = catalogue.paper(slug)
    if not paper.claimed:
        known = [p.slug for p in catalogue.papers() if p.claimed]
        raise UsageError(f"{slug!r} has no claim to run yet. {nearest(slug, known)}")
    return importlib.import_module(paper.claim_module).CLAIM


def run_claim(slug: str, seeds: int | None = None, results: Path = RESULTS) -> dict[str, Any]:
    """Run a claim on its seeds and store the result, or on another number of them and only return it: a short look does
    not take the place of what the claim asks for."""
    made, torch_threads = claim(slug), torch.get_num_threads()
    count = made.seeds if seeds is None else seeds
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UsageError(f"seeds={seeds!r} is not allowed; it must be a whole number of at least 1.")
    began, draft = time.time(), results / f".{slug}.json.part"
    try:
        results.mkdir(parents=True, exist_ok=True)
        draft.touch()  # a place that cannot be written says so before the work
        draft.unlink()
    except OSError as error:
        raise UsageError(f"{results} cannot be written ({error}). Set its permissions right, or make room.") from error
    try:
        torch.set_num_threads(1)
        measurements = made.measure(range(count))
        verdict, estimates = made.judge(measurements)
        result = {
            "slug": slug,
            "claim": made.sentence,
            "baseline": made.baseline,
            "metric": made.metric,
            "supported_by": made.supported_by,
            "refuted_by": made.refuted_by,
            "verdict": verdict,
            "estimates": {name: e.to_dict() for name, e in estimates.items()},
            "measurements": measurements,
            "seeds": list(range(count)),
            "command": f"surefoot claim {slug}" + ("" if count == made.seeds else f" --seeds {seeds}"),
            "date": time.strftime("%Y-%m-%d", time.gmtime(began)),
            "minutes": round((time.time() - began) / 60, 1),
            "versions": versions(),
            "machine": {"system": platform.system(), "processor": platform.machine()},
        }
        if count == made.seeds:
            draft.write_text(json.dumps(result, indent=1) + "\n")
            os.replace(draft, results / f"{slug}.json")
    finally:
        torch.set_num_threads(torch_threads)
        draft.unlink(missing_ok=True)
    return result


def run_missing(workers: int = 1, results: Path = RESULTS) -> Iterator[dict[str, Any]]:
    """Run every claim that has no stored result, `workers` at a time in processes of their own; gives each result as
    soon as it is stored.

    Raises:
        UsageError: at the end, for the claims that broke off; all others have run by then.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise UsageError(f"workers={workers!r} is not allowed; it must be a whole number of at least 1.")
    missing = [p.slug for p in catalogue.papers() if p.claimed and not (results / f"{p.slug}.json").exists()]
    broken: dict[str, BaseException] = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(run_claim, slug, results=results): slug for slug in missing}
        for future in as_completed(running):
            if error := future.exception():
                broken[running[future]] = error
            else:
                yield future.result()
    if broken:
        killed = any(isinstance(error, BrokenProcessPool) for error in broken.values())
        hint = f" A killed process most likely ran out of memory: use fewer than {workers} workers." if killed else ""
        each = "; ".join(f"{slug}: {type(error).__name__}: {error}" for slug, error in broken.items())
        raise UsageError(
            f"{len(broken)} of {len(missing)} claims broke off ({each}). The results of the others are stored; the same "
            f"command runs what is still missing, and surefoot claim SLUG shows where one breaks.{hint}"
        )
