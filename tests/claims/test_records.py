"""Records of claims are append-only, stale where the experiment has changed, and judged anew whenever they are read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from surefoot.claims import records, running
from surefoot.claims.judge import line
from surefoot.claims.records import Record, findings, keep, read, shortcomings, spec
from surefoot.errors import UsageError

SOURCE = '''"""A claim for tests."""
from surefoot.claims.parts import Claim, Difference, Exact, Experiment, Less, More, Part

def measure(seeds):
    """Docstrings do not count."""
    return {"ours": [2.0 + 0.1 * seed for seed in seeds], "theirs": [1.0 for _ in seeds], "error": 1e-12}

CLAIM = Claim(
    slug="fake", sentence="It gains.", source="a paper", method=object, not_run="there is none",
    experiments={
        "identity": Experiment("mechanism", measure, 1, 0.1, "exact"),
        "race": Experiment("miniature", measure, 5, 1.0, "a race"),
    },
    parts=(
        Part("is exact", "primary", "identity", Exact("error"), Less(1e-9, against=1e-9)),
        Part("gains", "primary", "race", Difference("ours", "theirs"), More()),
    ),
)
'''


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A claim's module by name, whose source can be changed."""
    (tmp_path / "modules").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "modules")

    def module(source: str = SOURCE, name: str = "fake_claim"):
        (tmp_path / "modules" / f"{name}.py").write_text(source, encoding="utf-8")
        sys.modules.pop(name, None)
        return name, __import__(name).CLAIM

    yield module
    for name in [n for n in sys.modules if n.startswith("fake_claim")]:
        del sys.modules[name]


def test_the_hash_is_that_of_what_runs(fake):
    first = spec(fake(name="fake_claim_a")[0])
    commented = SOURCE.replace("Docstrings do not count.", "Indeed.").replace(
        "def measure", "# a comment\n\n\ndef measure"
    )
    assert spec(fake(commented, "fake_claim_b")[0]) == first
    assert spec(fake(SOURCE.replace("0.1 * seed", "0.2 * seed"), "fake_claim_c")[0]) != first
    assert spec(fake(SOURCE.replace("More()", "More(0.5)"), "fake_claim_d")[0]) != first


def test_a_run_is_kept_and_judged(fake, tmp_path):
    module, claim = fake()
    running.run(claim, module, tmp_path / "mine")
    kept, stale = read("fake", module, tmp_path / "mine")
    assert [(r.experiment, r.seeds) for r in kept] == [("identity", (0,)), ("race", (0, 1, 2, 3, 4))] and stale == 0
    found = findings(claim, kept)
    assert {name: one.word for name, one in found.items()} == {"is exact": "supported", "gains": "supported"}
    assert line(claim, found) == "fake  mechanism 1 of 1 · miniature 1 of 1 · paper's instance not run"
    assert shortcomings(claim, kept, stale) == ["paper's instance: not run; there is none"]
    facts = kept[0].facts
    assert facts["threads"] == 1 and "torch" in facts["versions"] and facts["machine"]["processor"]


def test_nothing_is_overwritten(fake, tmp_path):
    module, _ = fake()
    record = Record("race", (0, 1), "2026-01-01", 0.1, {})
    paths = [keep(record, "fake", module, tmp_path) for _ in range(3)]
    assert [p.name for p in paths] == [f"2026-01-01-race-0-1{end}.json" for end in ("", "-2", "-3")]
    assert all(p.exists() for p in paths) and not list(paths[0].parent.glob(".*"))


def test_a_changed_experiment_leaves_stale_records(fake, tmp_path):
    module, claim = fake()
    running.run(claim, module, tmp_path)
    module, claim = fake(SOURCE.replace("0.1 * seed", "0.2 * seed"), "fake_claim_changed")
    kept, stale = read("fake", module, tmp_path)
    assert kept == [] and stale == 2
    notes = shortcomings(claim, kept, stale)
    assert "2 records are stale: the experiment has changed since" in notes
    assert "race (miniature): not run, 1 core-minutes" in notes


def test_a_word_that_changes_between_runs_is_unstable(fake, tmp_path):
    module, claim = fake()
    running.run(claim, module, tmp_path, tier="miniature")
    opposite = {"ours": [1.0, 1.1, 0.9, 1.0, 1.2], "theirs": [2.0] * 5}
    keep(Record("race", tuple(range(100, 105)), "2026-01-01", 0.1, opposite), "fake", module, tmp_path)
    kept, stale = read("fake", module, tmp_path)
    found = findings(claim, kept)["gains"]
    assert found.word == "inconclusive" and found.notes[0].startswith("unstable: contradicted and supported")
    assert any(note.startswith("gains: unstable") for note in shortcomings(claim, kept, stale))


def test_a_short_look_does_not_unsettle_a_whole_run(fake, tmp_path):
    module, claim = fake()
    running.run(claim, module, tmp_path, tier="miniature")
    running.run(claim, module, tmp_path, tier="miniature", seeds=[7])
    kept, _ = read("fake", module, tmp_path)
    assert findings(claim, kept)["gains"].word == "supported" and findings(claim, kept)["gains"].n == 5


def test_an_underpowered_part_says_how_many_seeds_it_needs(fake, tmp_path):
    noisy = SOURCE.replace("2.0 + 0.1 * seed", "1.0 + (-1.0) ** seed + 0.3").replace("More()", "More(0.3)")
    module, claim = fake(noisy)
    running.run(claim, module, tmp_path, tier="miniature")
    kept, stale = read("fake", module, tmp_path)
    assert any("underpowered, 5 seeds of about" in note for note in shortcomings(claim, kept, stale))


def test_tiers_and_seeds_that_are_not_there_are_refused(fake, tmp_path):
    module, claim = fake()
    with pytest.raises(
        UsageError, match="no experiment of tier 'instance'; it has mechanism, miniature. there is none"
    ):
        running.run(claim, module, tmp_path, tier="instance")
    with pytest.raises(UsageError, match="tier='fast'"):
        running.run(claim, module, tmp_path, tier="fast")
    assert running.seeds_of("3") == [0, 1, 2] and running.seeds_of("100:103") == [100, 101, 102]
    for text in ("0", "x", "5:5", "-3:2", "1:2:3"):
        with pytest.raises(UsageError, match="seeds="):
            running.seeds_of(text)


def test_a_place_that_cannot_be_written_says_so_before_the_work(fake, tmp_path):
    module, claim = fake()
    (tmp_path / "taken").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be written"):
        running.run(claim, module, tmp_path / "taken")


def test_threads_are_one_while_it_runs_and_restored_after(fake, tmp_path):
    module, claim = fake(
        SOURCE.replace(
            "def measure(seeds):", "import torch\n\ndef measure(seeds):\n    assert torch.get_num_threads() == 1"
        )
    )
    before = torch.get_num_threads()
    running.run(claim, module, tmp_path, tier="mechanism")
    assert torch.get_num_threads() == before


def test_a_damaged_record_is_named(fake, tmp_path):
    module, _ = fake()
    path = keep(Record("race", (0, 1), "2026-01-01", 0.1, {}), "fake", module, tmp_path)
    path.write_text(json.dumps([1]))
    with pytest.raises(UsageError, match="not a readable record"):
        read("fake", module, tmp_path)


def test_a_paper_without_a_claim_says_which_have_one():
    with pytest.raises(UsageError, match="has no claim to run yet. There are: .*ppo"):
        records.claim("rarl")


def test_records_are_never_written_into_the_package():
    assert not running.HOME.is_absolute() and Path(records.SHIPPED).is_absolute()
