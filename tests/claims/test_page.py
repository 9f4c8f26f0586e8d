"""What a reader is shown of a claim follows from its records."""

from __future__ import annotations

import math

import pytest

from surefoot.claims import page
from surefoot.claims.judge import Finding
from surefoot.claims.parts import (
    Claim,
    Difference,
    Experiment,
    Less,
    LogRatio,
    Mean,
    More,
    NoWorse,
    Part,
    Published,
    Within,
)
from surefoot.claims.records import Record, declared, findings


def nothing(seeds):
    return []


PUBLISHED = Published(4.0, "Table 2, row 1", "read", spread="±1", n=5)
CLAIM = Claim(
    "fake",
    "It gains.",
    "a paper, §3",
    object,
    {
        "race": Experiment("instance", {"a": nothing, "b": nothing}, 4, 7.0, "a race", differs=("a shorter track",)),
        "law": Experiment("mechanism", {"e": nothing}, 4, 0.1, "a law"),
    },
    (
        Part("gains", "primary", "race", Difference("a", "b"), More(), published=PUBLISHED),
        Part("doubles", "secondary", "race", LogRatio("a", "b"), More(math.log(1.5), against=0.0), says="twice, §4"),
        Part("holds", "primary", "law", Mean("e"), Less(0.1, against=0.1)),
    ),
    amended=("A wider margin.",),
)


def record(experiment: str, measurements: dict) -> Record:
    return Record(
        experiment, (0, 1, 2, 3), "2026-01-01", 7.0, measurements, declared(CLAIM, experiment), {"commit": "c"}
    )


RACE = record("race", {"a": [3.0, 4.1, 4.9, 6.0], "b": [1.0, 2.0, 3.0, 4.0]})


def test_a_table_of_parts():
    lines = page.table(CLAIM, [RACE]).splitlines()
    assert lines[0] == "fake: It gains. (a paper, §3)"
    assert "mechanism not run · paper's instance 1 of 1" in lines
    header = next(line for line in lines if line.startswith("    part "))
    row = next(line for line in lines if line.startswith("  * gains "))
    law = next(line for line in lines if line.startswith("  * holds "))
    for title, cell in (("word ", "supported"), ("ours,", "2 ["), ("bar ", "> 0"), ("paper ", "4"), ("n", "4")):
        assert row[header.rindex(title) :].startswith(cell), title
    assert "not run" in law and lines.index(law) < lines.index(row)  # the mechanism comes first
    ratio = next(line for line in lines if line.startswith("    doubles"))
    assert "×1.97 [×" in ratio and "> ×1.5" in ratio  # (3/1 · 4.1/2 · 4.9/3 · 6/4)^(1/4)


def test_what_a_reader_must_know_stands_below():
    text = page.text(CLAIM, [RACE])
    for words in (
        "the paper's number is read from Table 2, row 1, spread ±1, n = 5; ours is 0.50 of it",
        "race: a shorter track",
        "doubles: twice, §4",
        "law (mechanism): not run, 0.1 core-minutes",
        "A wider margin.",
        "2026-01-01  race, seeds 0-3, 7 minutes, commit c",
        "surefoot claim fake --tier instance   (7 core-minutes)",
    ):
        assert words in text, words


def test_markdown_has_the_same_rows():
    text = page.markdown(CLAIM, [RACE], "fake.svg")
    assert "| **gains** | supported | 2 [" in text and "![Effects" in text and "### Race (the paper's instance)" in text
    assert "| **holds** | – | not run | < 0.1 |  |" in text


def test_the_forest_has_a_row_for_every_part_that_was_measured():
    found = findings(CLAIM, [RACE])
    figure = page.forest(CLAIM, found)
    assert figure is not None
    (axes,) = figure.axes
    assert [text.get_text().partition(":")[0] for text in axes.texts] == ["gains", "doubles"]
    interval = axes.lines[0].get_xdata()
    one = found["gains"]
    assert one.low is not None and one.high is not None
    assert list(interval) == pytest.approx([one.low / one.high, 1.0])
    assert page.forest(CLAIM, {}) is None


@pytest.mark.parametrize(
    ("test", "bars", "words"),
    [
        (More(0.2), [0.2], "> 0.2"),
        (Less(0.2, against=0.2), [0.2], "< 0.2"),
        (NoWorse(0.2), [-0.2], "≥ −0.2"),
        (Within(0.2), [-0.2, 0.2], "−0.2 to 0.2"),
    ],
)
def test_bars(test, bars, words):
    part = Part("x", "primary", "race", Mean("a"), test)
    assert page.bars(part) == bars and page.cells(part, None)[3] == words


def test_an_exact_number_has_no_interval():
    part = Part("x", "primary", "race", Mean("a"), More())
    assert page.ours(part, Finding("supported", 0.5, 0.5, 0.5, 0.05, 1)) == "0.5"
    assert page.ours(part, Finding("inconclusive", -0.5, None, None, 0.05, 1)) == "−0.5"
