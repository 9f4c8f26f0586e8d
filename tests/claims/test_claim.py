"""A claim is measured, judged and kept whole; many run side by side, and one that breaks costs none of the others."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from surefoot import catalogue
from surefoot.claims import claim as claims
from surefoot.claims.claim import Claim, Estimate, area, difference, estimate, final, metric_of, run_claim, run_missing
from surefoot.errors import UsageError
from surefoot.evaluate.statistics import confidence_interval

SLUGS = ("trpo", "ppo", "spo", "gae")


def measure(seeds):
    return {
        "method": [3.0 + seed for seed in seeds],
        "baseline": [1.0] * len(seeds),
        "threads": torch.get_num_threads(),
    }


def judge(measurements):
    gain = difference(measurements["method"], measurements["baseline"])
    return ("shown" if gain.low > 0 else "not shown"), {"gain": gain}


FAKE = Claim("ppo", "It gains.", "none", "return", "a gain above 0", "a loss", measure, judge, seeds=4)


@pytest.fixture
def fakes(monkeypatch):
    """Claims of our own in the place of the real ones, also in worker processes (forked, so that they have them)."""
    found = {slug: replace(FAKE, slug=slug) for slug in SLUGS}
    monkeypatch.setattr(claims, "claim", lambda slug: found[slug])
    monkeypatch.setattr(catalogue, "papers", lambda: [p for p in PAPERS if p.slug in SLUGS])
    asked = []
    monkeypatch.setattr(claims, "get_context", lambda kind: asked.append(kind) or multiprocessing.get_context("fork"))
    yield found
    assert set(asked) <= {"spawn"}  # what they are otherwise: torch's threads do not live through a fork


PAPERS = catalogue.papers()


def stored(results: Path) -> dict[str, str]:
    return {path.stem: json.loads(path.read_text())["verdict"] for path in results.glob("*.json")}


# --- one claim -------------------------------------------------------------------------------------------------------


def test_a_result_holds_what_was_claimed_measured_and_decided(fakes, tmp_path):
    torch.set_num_threads(2)
    try:
        result = run_claim("ppo", results=tmp_path / "results")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert json.loads((tmp_path / "results" / "ppo.json").read_text()) == result
    assert [p.name for p in (tmp_path / "results").iterdir()] == ["ppo.json"]
    told = {
        "slug": "ppo",
        "claim": "It gains.",
        "baseline": "none",
        "metric": "return",
        "supported_by": "a gain above 0",
        "refuted_by": "a loss",
        "verdict": "shown",
        "seeds": [0, 1, 2, 3],
        "measurements": {"method": [3.0, 4.0, 5.0, 6.0], "baseline": [1.0] * 4, "threads": 1},
        "command": "surefoot claim ppo",
    }
    assert {name: result[name] for name in told} == told
    assert result["estimates"]["gain"]["value"] == 3.5  # the middle half of 2, 3, 4, 5
    assert result["versions"]["torch"] and result["date"].count("-") == 2


def test_another_number_of_seeds_is_in_the_command_and_leaves_the_stored_result_alone(fakes, tmp_path):
    stored = run_claim("ppo", results=tmp_path)
    assert "--seeds" not in stored["command"]
    count = len(stored["seeds"]) + 1
    result = run_claim("ppo", count, tmp_path)
    assert result["seeds"] == list(range(count)) and result["command"] == f"surefoot claim ppo --seeds {count}"
    assert json.loads((tmp_path / "ppo.json").read_text())["seeds"] == stored["seeds"]


@pytest.mark.parametrize("seeds", [0, -1, 1.5, True, "2"])
def test_seeds_that_are_no_number_of_seeds(seeds, fakes, tmp_path):
    with pytest.raises(UsageError, match="seeds=.* is not allowed; it must be a whole number of at least 1"):
        run_claim("ppo", seeds, tmp_path)


def test_a_claim_that_breaks_leaves_the_older_result_as_it_was(fakes, tmp_path):
    run_claim("ppo", results=tmp_path)
    before = (tmp_path / "ppo.json").read_bytes()
    for broken in ({"measure": lambda seeds: 1 / 0}, {"judge": lambda measurements: 1 / 0}):
        fakes["ppo"] = replace(FAKE, **broken)
        with pytest.raises(ZeroDivisionError):
            run_claim("ppo", results=tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["ppo.json"]
        assert (tmp_path / "ppo.json").read_bytes() == before


def test_a_result_appears_whole_or_not_at_all(fakes, tmp_path, monkeypatch):
    seen = []

    def watched(source, target):
        seen.append((json.loads(Path(source).read_text())["verdict"], Path(target).exists()))
        os.rename(source, target)

    monkeypatch.setattr(claims.os, "replace", watched)
    run_claim("ppo", results=tmp_path)
    assert seen == [("shown", False)]  # it was written whole before it got its name


def test_a_place_that_cannot_be_written_says_so_before_the_work(fakes, tmp_path):
    fakes["ppo"] = replace(FAKE, measure=lambda seeds: pytest.fail("it was measured"))
    (tmp_path / "results").write_text("in the way")
    with pytest.raises(UsageError, match=r"results cannot be written .*permissions right, or make room"):
        run_claim("ppo", results=tmp_path / "results")


def test_a_paper_without_a_claim_says_which_have_one():
    unclaimed = next(p.slug for p in catalogue.papers() if not p.claimed)
    with pytest.raises(UsageError, match=f"'{unclaimed}' has no claim to run yet"):
        claims.claim(unclaimed)
    with pytest.raises(UsageError, match="No paper is called 'ppi'. Did you mean"):
        claims.claim("ppi")


@pytest.mark.parametrize("paper", [p for p in catalogue.papers() if p.claimed], ids=lambda p: p.slug)
def test_every_claim_of_the_catalogue_says_what_it_needs_to(paper):
    made = claims.claim(paper.slug)
    assert made.slug == paper.slug and made.seeds >= 1
    for words in (made.sentence, made.baseline, made.metric, made.supported_by, made.refuted_by):
        assert words and "\n" not in words


# --- all that are missing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_missing_runs_and_what_is_stored_is_left_alone(workers, fakes, tmp_path):
    (tmp_path / "spo.json").write_text('{"verdict": "refuted"}')
    results = list(run_missing(workers, tmp_path))
    assert {r["slug"] for r in results} == {"trpo", "ppo", "gae"}
    assert stored(tmp_path) == {"trpo": "shown", "ppo": "shown", "spo": "refuted", "gae": "shown"}
    assert list(run_missing(workers, tmp_path)) == []


def test_two_workers_work_at_the_same_time(fakes, tmp_path):
    def measured(seeds):
        """Waits until a second one has come."""
        (tmp_path / str(os.getpid())).touch()
        end = time.monotonic() + 30
        while len([p for p in tmp_path.iterdir() if p.name.isdigit()]) < 2:
            assert time.monotonic() < end, "alone"
            time.sleep(0.01)
        return measure(seeds)

    fakes["trpo"] = fakes["ppo"] = replace(FAKE, measure=measured)
    assert len(list(run_missing(2, tmp_path / "results"))) == 4


def fail(seeds):
    raise RuntimeError("the rope tore")


@pytest.mark.parametrize("workers", [1, 2])
def test_one_that_breaks_costs_none_of_the_others(workers, fakes, tmp_path):
    fakes["trpo"] = replace(FAKE, measure=fail)  # the first one
    given = []
    with pytest.raises(UsageError, match=r"1 of 4 claims broke off \(trpo: RuntimeError: the rope tore\)") as raised:
        given.extend(result["slug"] for result in run_missing(workers, tmp_path))
    assert "The results of the others are stored" in str(raised.value) and "\n" not in str(raised.value)
    assert set(given) == set(stored(tmp_path)) == {"ppo", "spo", "gae"}
    fakes["trpo"] = FAKE  # mended; the same command runs only that one
    assert [result["claim"] for result in run_missing(workers, tmp_path)] == ["It gains."]


def test_a_worker_that_is_killed_is_told_apart(fakes, tmp_path):
    fakes["gae"] = replace(FAKE, measure=lambda seeds: os._exit(9))
    with pytest.raises(UsageError, match=r"gae: BrokenProcessPool.*ran out of memory: use fewer than 2 workers"):
        list(run_missing(2, tmp_path))
    assert "gae" not in stored(tmp_path)


@pytest.mark.parametrize("workers", [0, -1, 1.5, True])
def test_workers_that_are_no_number_of_workers(workers):
    with pytest.raises(UsageError, match="workers=.* is not allowed; it must be a whole number of at least 1"):
        list(run_missing(workers))


# --- what experiments are made of ------------------------------------------------------------------------------------

HISTORY = [
    [{"return": 0.0}, {}],
    [{"return": 2.0}, {"return": 5.0}],
    [{}, {"return": 7.0}],
    [{"return": 4.0}, {"return": float("nan")}],
]  # [iterations][seeds]


def test_a_metric_holds_on_where_an_iteration_has_none():
    np.testing.assert_array_equal(metric_of(HISTORY, "return"), [[0, 2, 2, 4], [5, 5, 7, 7]])
    np.testing.assert_array_equal(metric_of(HISTORY, "unknown"), np.zeros((2, 4)))


def test_the_end_and_the_area_of_a_curve():
    assert area(HISTORY) == [2.0, 6.0]
    rows = [{"return": 1.0, "episodes": i + 1} for i in range(18)]
    last = [{"return": 6.0, "episodes": 19}, {"return": 9.0, "episodes": 21}]  # of one episode, and of two
    assert final([[row] for row in rows + last]) == [8.0]  # of 20 iterations the last two count
    assert final([[row] for row in rows + last + [{"episodes": 21}] * 2]) == [9.0]  # the last one known
    assert final([[{"return_mean": 2.0}, {"return_mean": 3.0}], [{"return_mean": 4.0}, {}]]) == [4.0, 3.0]


def test_differences_are_paired():
    gain = difference([10.0, 20.0, 30.0], [9.0, 18.0, 27.0])
    low, high = scipy.stats.ttest_rel([10.0, 20.0, 30.0], [9.0, 18.0, 27.0]).confidence_interval(0.95)
    assert (gain.value, gain.low, gain.high) == pytest.approx((2.0, low, high))
    with pytest.raises(UsageError, match="2 values against 1; both arms must have run on the same seeds"):
        difference([1.0, 2.0], [1.0])


def test_one_seed_or_equal_ones_decide_nothing():
    for one in (estimate([3.0]), difference([3.0, 4.0], [1.0, 2.0])):
        assert (one.low, one.high, one.interval) == (-math.inf, math.inf, None)
        assert str(one).endswith(" (no interval)")
        assert json.dumps(one.to_dict(), allow_nan=False)


def test_an_estimate_is_the_interquartile_mean_in_its_interval():
    made = estimate([0.0, 1.0, 2.0, 100.0])
    assert isinstance(made, Estimate) and made.value == 1.5
    assert made.interval == confidence_interval([0.0, 1.0, 2.0, 100.0]) and made.low < 1.5 < made.high
    assert str(made) == f"1.5 [{made.low:.4g}, {made.high:.4g}]"
