"""The one judge, in worlds whose truth is known: equal arms, perfect methods, ties, censored runs, few seeds."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from surefoot.claims.judge import (
    LEVEL,
    Finding,
    finding,
    holm,
    judge,
    line,
    mean_interval,
    needed_level,
    newcombe,
    seeds_for,
)
from surefoot.claims.parts import (
    Claim,
    Difference,
    Exact,
    Experiment,
    Gate,
    Less,
    LogRatio,
    Mean,
    More,
    NoWorse,
    Part,
    Share,
    ShareDifference,
    Slope,
    Within,
)
from surefoot.errors import UsageError

DIFFERENCE = Difference("ours", "theirs")


def part(test: Any = More(), contrast: Any = DIFFERENCE, name: str = "gain", **settings: Any) -> Part:  # noqa: B008
    return Part(name, **{"role": "primary", "experiment": "e", "contrast": contrast, "test": test, **settings})


def claim(*parts: Part, tier: str = "miniature") -> Claim:
    experiment = Experiment(tier, lambda seeds: {}, 10, 1.0, "a world")  # type: ignore[arg-type]
    return Claim("fake", "It gains.", "a paper", object, {"e": experiment}, parts)


def arms(ours: Any, theirs: Any) -> dict[str, Any]:
    return {"ours": np.asarray(ours, float), "theirs": np.asarray(theirs, float)}


def words(test: Any, worlds: int, n: int, gain: float, seed: int = 0) -> list[str]:
    """The words of that many experiments with n seeds, whose paired differences are normal around `gain`."""
    rng = np.random.default_rng(seed)
    return [finding(part(test), arms(rng.normal(gain, 1.0, n), np.zeros(n))).word for _ in range(worlds)]


# --- null worlds, perfect worlds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 8, 25])
@pytest.mark.parametrize("test", [More(), More(0.5), Less(-0.5), NoWorse(0.0), Within(0.0)])
def test_equal_arms_contradict_no_oftener_than_the_level(test, n):
    found = words(test, 400, n, gain=0.0)
    both_sides = isinstance(test, Within)
    assert found.count("contradicted") / 400 <= (LEVEL if both_sides else LEVEL / 2) + 0.025
    assert found.count("supported") / 400 <= LEVEL / 2 + 0.025


def test_many_equal_primary_parts_err_together_no_oftener_than_the_level():
    rng, wrong = np.random.default_rng(1), 0
    parts = [part(name=f"p{i}", contrast=Difference(f"a{i}", "zero")) for i in range(6)]
    for _ in range(150):
        summary = {f"a{i}": rng.normal(size=10) for i in range(6)} | {"zero": np.zeros(10)}
        found = judge(claim(*parts), {"e": summary})
        wrong += any(f.word != "inconclusive" for f in found.values())
    assert wrong / 150 <= LEVEL + 0.04


@pytest.mark.parametrize("test", [More(), More(0.5), NoWorse(0.1)])
def test_a_method_that_is_better_in_truth_is_hardly_ever_contradicted(test):
    assert "contradicted" not in words(test, 500, 10, gain=1.0)


def test_power_is_what_the_plan_of_seeds_says():
    n = seeds_for(np.array([-1.0, 1.0] * 50), effect=0.8)
    assert n == 15  # a one-sample t-test of effect size 0.8 with power 0.8
    found = words(More(), 400, n, gain=0.8)
    assert found.count("supported") / 400 == pytest.approx(0.8, abs=0.05)


def test_the_plan_of_seeds_has_a_floor_and_says_when_it_cannot_say():
    assert seeds_for(np.array([0.99, 1.01]), effect=10.0) == 8
    assert seeds_for(np.array([1.0]), effect=1.0) is None
    assert seeds_for(np.array([1.0, 2.0]), effect=0.0) is None


# --- ties, no spread, few seeds, gates -------------------------------------------------------------------------------


@pytest.mark.parametrize("test", [More(), More(0.1), Less(-0.1), NoWorse(0.1), Within(0.1)])
def test_ties_are_inconclusive(test):
    found = finding(part(test), arms(np.full(9, 410.0), np.full(9, 410.0)))
    assert found.word == "inconclusive" and found.low is None
    assert "no interval" in found.notes[0]


def test_one_seed_has_no_interval_and_two_have_a_wide_one():
    assert finding(part(), arms([1.0], [0.0])).word == "inconclusive"
    two = finding(part(), arms([1.0, 2.0], [0.0, 0.0]))
    assert two.word == "inconclusive" and two.low < -4


def test_a_failed_gate_voids_the_part_and_shows_the_numbers():
    gates = (Gate("uncensored", lambda s: np.mean(s["censored"]) < 0.2, "under 20 % of runs end at the budget"),)
    world = arms(np.arange(5.0) + 10, np.zeros(5)) | {"censored": np.ones(5)}
    found = finding(part(gates=gates), world)
    assert found.word == "void" and found.value == 12.0 and found.low > 0
    assert found.notes == ("uncensored: under 20 % of runs end at the budget",)
    assert finding(part(gates=gates), world | {"censored": np.zeros(5)}).word == "supported"


def test_a_void_part_takes_no_share_of_the_level():
    never = (Gate("room", lambda s: False, "there is no room"),)
    world = {"e": arms(np.random.default_rng(0).normal(1, 1, 10), np.zeros(10))}
    alone = judge(claim(part()), world)["gain"]
    beside = judge(claim(part(), part(name="void", gates=never)), world)["gain"]
    assert alone.level == beside.level == LEVEL


# --- tests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("test", "interval", "word"),
    [
        (More(0.1), (0.2, 0.3), "supported"),
        (More(0.1), (0.05, 0.3), "inconclusive"),
        (More(0.1), (0.01, 0.09), "inconclusive"),  # positive, below the claimed size
        (More(0.1), (-0.2, -0.1), "contradicted"),
        (Less(-0.1), (-0.3, -0.2), "supported"),
        (Less(-0.1), (-0.09, -0.01), "inconclusive"),
        (Less(-0.1), (0.1, 0.2), "contradicted"),
        (Within(0.1), (-0.1, 0.1), "supported"),
        (Within(0.1), (-0.2, 0.05), "inconclusive"),
        (Within(0.1), (0.2, 0.3), "contradicted"),
        (NoWorse(0.1), (-0.1, 5.0), "supported"),
        (NoWorse(0.1), (-0.2, 5.0), "inconclusive"),
        (NoWorse(0.1), (-0.3, -0.2), "contradicted"),
    ],
)
def test_words(test, interval, word):
    seen = (
        "supported" if test.supported(*interval) else "contradicted" if test.contradicted(*interval) else "inconclusive"
    )
    assert seen == word


def test_exact_parts_need_no_seeds():
    summary = {"error": 1e-12}
    assert finding(part(Within(1e-9), Exact("error")), summary).word == "supported"
    assert finding(part(Within(1e-13), Exact("error")), summary).word == "contradicted"


def test_margins_on_the_wrong_side_are_refused():
    with pytest.raises(UsageError, match="both could hold"):
        More(0.0, against=0.1)
    with pytest.raises(UsageError, match="both could hold"):
        Less(0.0, against=-0.1)


# --- contrasts and intervals -----------------------------------------------------------------------------------------


def test_contrasts_by_hand():
    summary = arms([2.0, 8.0], [1.0, 2.0]) | {"x": [0.0, 1.0, 2.0], "y": [[0, 2, 4], [1, 1, 1]]}
    assert DIFFERENCE.values(summary).tolist() == [1.0, 6.0]
    assert LogRatio("ours", "theirs").values(summary) == pytest.approx([math.log(2), math.log(4)])
    assert Mean("ours").values(summary).tolist() == [2.0, 8.0]
    assert Slope("y", "x").values(summary) == pytest.approx([2.0, 0.0])


@pytest.mark.parametrize(
    ("contrast", "summary", "message"),
    [
        (DIFFERENCE, {"ours": [1.0], "theirs": [1.0, 2.0]}, "same seeds"),
        (DIFFERENCE, {"ours": [1.0]}, "no series 'theirs'"),
        (LogRatio("ours", "theirs"), {"ours": [1.0], "theirs": [0.0]}, "positive"),
        (Share("ours"), {"ours": [0.5]}, "0 and 1"),
        (Mean("ours"), {"ours": [math.nan]}, "finite"),
    ],
)
def test_a_summary_that_does_not_fit_is_refused(contrast, summary, message):
    with pytest.raises(UsageError, match=message):
        finding(part(contrast=contrast), summary)


def test_below_twenty_seeds_it_is_students_interval():
    values = np.random.default_rng(0).normal(3, 2, 12)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values, 0.05) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("n", [2, 5, 12, 20, 30])
def test_the_interval_of_a_mean_covers_what_it_says(n):
    rng = np.random.default_rng(n)
    hits = [low < 0 < high for low, high in (mean_interval(rng.normal(size=n), 0.05) for _ in range(500))]
    assert np.mean(hits) >= 0.94 - 0.02


@pytest.mark.parametrize(("p", "q"), [(0.0, 0.0), (0.5, 0.5), (0.9, 0.2)])
def test_newcombes_interval_covers_and_never_degenerates(p, q):
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        low, high = newcombe((rng.random(12) < p).astype(float), (rng.random(15) < q).astype(float), 0.05)
        hits += low <= p - q <= high
        assert low < high
    assert hits / 400 >= 0.94


def test_two_of_eight_against_none_of_eight_is_no_proof():
    world = arms([1, 1, 0, 0, 0, 0, 0, 0], [0] * 8)
    assert finding(part(contrast=ShareDifference("ours", "theirs")), world).word == "inconclusive"
    assert finding(part(Less(0.2, against=0.5), Share("theirs")), world).word == "inconclusive"


# --- Holm, and what is printed ---------------------------------------------------------------------------------------


def test_needed_level_is_the_p_value():
    values = np.random.default_rng(3).normal(0.8, 1, 12)
    needed = needed_level(part(), arms(values, np.zeros(12)))
    assert needed == pytest.approx(ttest_1samp(values, 0).pvalue, rel=1e-3)


def test_holm_by_hand():
    """p-values 0.01, 0.02, 0.04 are told at 0.05/3, 0.05/2 and 0.05; with 0.03 in the middle it stops there."""
    rng = np.random.default_rng(0)
    shape = rng.normal(size=12)
    shape = (shape - shape.mean()) / shape.std(ddof=1)

    def with_p(p: float) -> np.ndarray:
        from scipy.stats import t

        return shape + t.ppf(1 - p / 2, 11) / math.sqrt(12)

    for ps, words_ in (((0.01, 0.02, 0.04), "sss"), ((0.01, 0.03, 0.04), "sii"), ((0.02, 0.02, 0.02), "iii")):
        parts = [part(name=f"p{i}", contrast=Mean(f"a{i}")) for i in range(3)]
        found = judge(claim(*parts), {"e": {f"a{i}": with_p(p) for i, p in enumerate(ps)}})
        assert "".join(f.word[0] for f in found.values()) == words_


def test_secondary_parts_are_told_at_the_full_level():
    values = {"e": arms(np.random.default_rng(3).normal(0.8, 1, 12), np.zeros(12))}
    parts = part(), part(name="other"), part(name="side", role="secondary")
    found = judge(claim(*parts), values)
    assert found["side"].level == LEVEL and found["gain"].level == LEVEL / 2


def test_holm_of_nothing():
    assert holm([], {}) == {}


def test_a_claim_on_one_line():
    world = {"e": arms(np.arange(8.0) + 5, np.zeros(8))}
    made = claim(part(), part(name="loss", test=Less()), part(name="side", role="secondary"))
    assert line(made, judge(made, world)) == "miniature 1 of 2, 1 contradicted · paper's instance not run"
    assert line(made, {}) == "miniature not run · paper's instance not run"


def test_an_inconclusive_part_says_what_is_excluded_and_what_would_settle_it():
    found = finding(part(), arms(np.random.default_rng(0).normal(-0.2, 1, 8), np.zeros(8)))
    assert isinstance(found, Finding) and found.word == "inconclusive"
    assert "excluded" in found.notes[0] and "seeds would settle" in found.notes[1]


def test_claims_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="two parts"):
        claim(part(), part())
    with pytest.raises(UsageError, match="names no experiment"):
        claim(part(experiment="another"))
    with pytest.raises(UsageError, match="no part is primary"):
        claim(dataclasses.replace(part(), role="secondary"))
