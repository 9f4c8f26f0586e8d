"""Records of claims are append-only, stale where the experiment has changed, and judged anew whenever they are read."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from surefoot.claims import records, running
from surefoot.claims.judge import line
from surefoot.claims.records import Record, declared, defects, findings, keep, limits, pooled, read, spec, summaries
from surefoot.errors import UsageError

NUMBERS = itertools.count()
SOURCE = '''"""A claim for tests."""
from functools import partial
from surefoot.claims.parts import Claim, Difference, Exact, Experiment, Less, More, Part

STEP = 0.1

def ours(seeds):
    """Docstrings do not count."""
    return [2.0 + STEP * seed for seed in seeds]

def constant(value, seeds):
    return [value for _ in seeds]

def error(seeds):
    return 1e-12

def unused(seeds):
    return 3

CLAIM = Claim(
    slug="fake", sentence="It gains.", source="a paper", method=object, not_run="there is none",
    experiments={
        "identity": Experiment("mechanism", {"error": error}, 1, 0.1, "exact"),
        "race": Experiment("miniature", {"ours": ours, "theirs": partial(constant, 1.0)}, 5, 1.0, "a race"),
    },
    parts=(
        Part("is exact", "primary", "identity", Exact("error"), Less(1e-9, against=1e-9)),
        Part("gains", "primary", "race", Difference("ours", "theirs"), More()),
    ),
)
'''


def record(claim, experiment, seeds, measurements, date="2026-01-01", parts=None):
    return Record(experiment, tuple(seeds), date, 0.1, measurements, parts or declared(claim, experiment))


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A claim whose source can be changed, made from a module of its own."""
    (tmp_path / "modules").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "modules")
    made = []

    def claim(source: str = SOURCE):
        name = f"fake_claim_{next(NUMBERS)}"  # sources are remembered by name
        made.append(name)
        (tmp_path / "modules" / f"{name}.py").write_text(source, encoding="utf-8")
        return __import__(name).CLAIM

    yield claim
    for name in made:
        del sys.modules[name]


# --- hashes ----------------------------------------------------------------------------------------------------------


def race(claim):
    return spec(claim.experiments["race"])


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("Docstrings do not count.", "Indeed.", True),
        ("def ours", "# a comment\n\n\ndef ours", True),
        ("return 3", "return 4", True),  # not reached
        ("More()", "More(0.5)", True),  # how it is judged is no matter of what is measured
        ("STEP = 0.1", "STEP = 0.2", False),  # reached through a name
        ("2.0 +", "2.5 +", False),
        ("partial(constant, 1.0)", "partial(constant, 1.5)", False),
    ],
)
def test_the_hash_is_that_of_what_runs(old, new, same, fake):
    first, other = (claim.experiments["race"] for claim in (fake(), fake(SOURCE.replace(old, new))))
    assert (spec(first) == spec(other)) == same


def test_the_hash_follows_helpers_of_the_package(fake):
    source = SOURCE.replace("def ours", "from surefoot.claims.training import area\n\ndef ours")
    helped = source.replace("STEP * seed for", "STEP * len(area([])) for")
    texts = records._reached("surefoot.claims.training", "area")
    assert any(text.startswith("metric_of: ") for text in texts)
    assert spec(fake(source).experiments["race"]) != spec(fake(helped).experiments["race"])


def test_declared_parts_are_hashed_apart(fake):
    first, other = fake(), fake(SOURCE.replace("More()", "More(0.5)"))
    assert declared(first, "race") != declared(other, "race")
    assert declared(first, "identity") == declared(other, "identity")


# --- running and keeping ---------------------------------------------------------------------------------------------


def test_a_run_is_kept_and_judged(fake, tmp_path):
    claim = fake()
    made = running.run(claim, tmp_path / "mine")
    kept, stale = read(claim, tmp_path / "mine")
    assert [(r.experiment, r.seeds) for r in kept] == [("identity", (0,)), ("race", (0, 1, 2, 3, 4))] and stale == 0
    assert [replace(r, facts={}) for r in made] == [replace(r, facts={}) for r in kept]
    found = findings(claim, kept)
    assert {name: one.word for name, one in found.items()} == {"is exact": "supported", "gains": "supported"}
    assert line(claim, found) == "mechanism 1 of 1 · miniature 1 of 1 · paper's instance not run"
    assert limits(claim, kept) == ["paper's instance: not run; there is none"] and defects(claim, kept, stale) == []
    facts = kept[0].facts
    assert facts["threads"] == 1 and "torch" in facts["versions"] and facts["machine"]["processor"]
    assert not list((tmp_path / "mine").rglob(".*"))


def test_a_run_that_was_stopped_goes_on_after_its_last_piece(fake, tmp_path):
    waits = SOURCE.replace("return [value for", "open(STOP).close()\n    return [value for")
    claim = fake(waits.replace("STEP = 0.1", f"STEP = 0.1\nSTOP = {str(tmp_path / 'go on')!r}"))
    with pytest.raises(FileNotFoundError):
        running.run(claim, tmp_path, tier="miniature")
    (path,) = tmp_path.rglob("*.json")
    assert path.name == "ours.json" and read(claim, tmp_path)[0] == []
    path.write_text(json.dumps({"measured": [9.0] * 5, "minutes": 2.0}))  # can be told from a new measurement
    (tmp_path / "go on").touch()
    (made,) = running.run(claim, tmp_path, tier="miniature")
    assert made.measurements == {"ours": [9.0] * 5, "theirs": [1.0] * 5} and made.minutes == 2.0
    assert not path.parent.exists()


def test_nothing_is_overwritten(fake, tmp_path):
    claim = fake()
    paths = [keep(record(claim, "race", (0, 1), {}), claim, tmp_path) for _ in range(3)]
    assert [p.name for p in paths] == [f"2026-01-01-race-0-1{end}.json" for end in ("", "-2", "-3")]
    assert all(p.exists() for p in paths) and not list(paths[0].parent.glob(".*"))


def test_one_experiment_by_name(fake, tmp_path):
    (made,) = running.run(fake(), tmp_path, experiment="identity")
    assert made.experiment == "identity"


def test_what_is_missing(fake, tmp_path):
    claim = fake()
    assert running.missing(claim, tmp_path, None, None) == ["identity", "race"]
    running.run(claim, tmp_path, tier="miniature")
    assert running.missing(claim, tmp_path, None, None) == ["identity"]
    assert running.missing(claim, tmp_path, "miniature", None) == []
    assert running.missing(claim, tmp_path, "miniature", [3, 4]) == []
    assert running.missing(claim, tmp_path, "miniature", [4, 5]) == ["race"]


# --- reading and judging ---------------------------------------------------------------------------------------------


def test_a_changed_experiment_leaves_stale_records(fake, tmp_path):
    running.run(fake(), tmp_path)
    claim = fake(SOURCE.replace("STEP = 0.1", "STEP = 0.2"))
    kept, stale = read(claim, tmp_path)
    assert [r.experiment for r in kept] == ["identity"] and stale == 1
    assert defects(claim, kept, stale)[0].startswith("1 records are stale: the experiment has changed since")
    assert "race (miniature): not run, 1 core-minutes" in limits(claim, kept)


def test_parts_that_change_after_the_numbers_must_be_accounted_for(fake, tmp_path):
    running.run(fake(), tmp_path)
    changed = SOURCE.replace("More()", "More(0.5)")
    claim = fake(changed)
    told = fake(changed.replace('not_run="there is none"', 'not_run="there is none", amended=("wider margin",)'))
    assert defects(claim, *read(claim, tmp_path)) == [
        f"the parts of race changed after {read(claim, tmp_path)[0][0].date}, and amended does not say why"
    ]
    assert defects(told, *read(told, tmp_path)) == []


def test_a_word_that_changes_between_runs_is_unstable(fake, tmp_path):
    claim = fake()
    running.run(claim, tmp_path, tier="miniature")
    opposite = {"ours": [1.0, 1.1, 0.9, 1.0, 1.2], "theirs": [2.0] * 5}
    keep(record(claim, "race", range(100, 105), opposite), claim, tmp_path)
    kept, stale = read(claim, tmp_path)
    found = findings(claim, kept)["gains"]
    assert found.word == "inconclusive" and found.notes[0].startswith("unstable: contradicted and supported")
    assert any(note.startswith("gains: unstable") for note in defects(claim, kept, stale))


def test_a_failing_mechanism_is_a_defect(fake, tmp_path):
    claim = fake(SOURCE.replace("return 1e-12", "return 1e-3"))
    running.run(claim, tmp_path, tier="mechanism")
    assert defects(claim, *read(claim, tmp_path)) == ["is exact: a mechanism fails: contradicted: 0.001 [0.001, 0.001]"]


def test_a_short_look_does_not_unsettle_a_whole_run(fake, tmp_path):
    claim = fake()
    running.run(claim, tmp_path, tier="miniature")
    running.run(claim, tmp_path, tier="miniature", seeds=[7])
    kept, _ = read(claim, tmp_path)
    assert findings(claim, kept)["gains"].word == "supported" and findings(claim, kept)["gains"].n == 5


def test_records_of_other_seeds_are_added_until_the_plan_is_met(fake, tmp_path):
    claim = fake()
    for seeds in ([0, 1], [2, 3, 4], [5, 6], [1, 9]):
        running.run(claim, tmp_path, tier="miniature", seeds=seeds)
    kept, _ = read(claim, tmp_path)
    seen = summaries(claim, kept)["race"]
    assert sorted(seen["ours"]) == pytest.approx([2.0, 2.1, 2.2, 2.3, 2.4]) and seen["theirs"] == [1.0] * 5


def test_measurements_are_joined_by_seed():
    first, second = {"a": [1, 2], "x": [0, 5, 9], "b": {"c": [[1], [2]]}}, {"a": [3], "x": [0, 5, 9], "b": {"c": [[3]]}}
    assert pooled(first, second, 2, 1) == {"a": [1, 2, 3], "x": [0, 5, 9], "b": {"c": [[1], [2], [3]]}}
    assert pooled(first, {**second, "x": [1, 5, 9]}, 2, 1) is None
    assert pooled(first, {"a": [3]}, 2, 1) is None


def test_an_underpowered_part_says_how_many_seeds_it_needs(fake, tmp_path):
    claim = fake(SOURCE.replace("2.0 + STEP * seed", "1.0 + (-1.0) ** seed + 0.3").replace("More()", "More(0.3)"))
    running.run(claim, tmp_path, tier="miniature")
    assert any("underpowered, 5 seeds of about" in note for note in limits(claim, read(claim, tmp_path)[0]))


# --- what is refused -------------------------------------------------------------------------------------------------


def test_tiers_and_seeds_that_are_not_there_are_refused(fake, tmp_path):
    claim = fake()
    with pytest.raises(
        UsageError, match="no experiment of tier 'instance'; it has mechanism, miniature. there is none"
    ):
        running.run(claim, tmp_path, tier="instance")
    with pytest.raises(UsageError, match="tier='fast'"):
        running.run(claim, tmp_path, tier="fast")
    assert running.seeds_of("3") == [0, 1, 2] and running.seeds_of("100:103") == [100, 101, 102]
    for text in ("0", "x", "5:5", "-3:2", "1:2:3"):
        with pytest.raises(UsageError, match="seeds="):
            running.seeds_of(text)


def test_a_place_that_cannot_be_written_says_so_before_the_work(fake, tmp_path):
    claim = fake(SOURCE.replace("return 1e-12", "raise AssertionError"))
    (tmp_path / "taken").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be written"):
        running.run(claim, tmp_path / "taken")


def test_threads_are_one_while_it_runs_and_restored_after(fake, tmp_path):
    claim = fake(
        SOURCE.replace("return 1e-12", "import torch\n    return 0.0 if torch.get_num_threads() == 1 else 1.0")
    )
    torch.set_num_threads(2)
    try:
        (made,) = running.run(claim, tmp_path, tier="mechanism")
        assert torch.get_num_threads() == 2 and made.measurements == {"error": 0.0}
    finally:
        torch.set_num_threads(1)


def test_a_damaged_record_is_named(fake, tmp_path):
    claim = fake()
    path = keep(record(claim, "race", (0, 1), {}), claim, tmp_path)
    path.write_text(json.dumps([1]))
    with pytest.raises(UsageError, match="not a readable record"):
        read(claim, tmp_path)


def test_a_paper_without_a_claim_says_which_have_one():
    with pytest.raises(UsageError, match="'maddpg' has no claim to run yet"):
        records.claim("maddpg")
    with pytest.raises(UsageError, match="No paper is called 'ppi'. Did you mean"):
        records.claim("ppi")


def test_records_are_never_written_into_the_package():
    assert not running.HOME.is_absolute() and Path(records.SHIPPED).is_absolute()
