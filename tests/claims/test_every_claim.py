"""Laws of all claims: the mechanism tier holds in every build, and the shipped records can be read and judged."""

from __future__ import annotations

import time

import pytest

from surefoot import catalogue
from surefoot.claims import records, running
from surefoot.claims.judge import judge
from surefoot.claims.page import forest, standing, text

SLUGS = records.claimed()


@pytest.mark.parametrize("slug", SLUGS)
def test_the_mechanism_holds(slug):
    """Run as a reader would; on a busy machine the five seconds planned for a paper may take longer."""
    claim = records.claim(slug)
    experiments = {name: one for name, one in claim.experiments.items() if one.tier == "mechanism"}
    assert experiments, "every paper has a mechanism that a build can check"
    began = time.process_time()
    seen = {
        name: one.summary({piece: measure(range(one.seeds)) for piece, measure in one.measure.items()})
        for name, one in experiments.items()
    }
    took = time.process_time() - began
    for name, found in judge(claim, seen).items():
        role = claim.part(name).role
        assert found.word == "supported" or (role != "primary" and found.word != "contradicted"), f"{name}: {found}"
    assert took < 30, f"{took:.0f} s"


@pytest.mark.parametrize("slug", SLUGS)
def test_a_claim_says_what_it_needs_to(slug):
    claim, method = records.claim(slug), catalogue.method_class(slug)
    assert claim.slug == slug and claim.method is method
    assert claim.sentence.endswith(".") and "\n" not in claim.sentence and claim.source
    arms = [arm for one in claim.experiments.values() for arm in one.arms.values()]
    assert any(type(arm) is method for arm in arms), "no arm is the method that the catalogue ships"
    has_instance = any(one.tier == "instance" for one in claim.experiments.values())
    assert has_instance or claim.not_run, "without an instance tier, not_run says why"
    for name, one in claim.experiments.items():
        assert one.seeds >= 1 and one.minutes > 0 and one.setting and one.measure, name
        assert one.tier == "mechanism" or one.differs or one.tier == "instance", f"{name}: how does it differ?"
        assert any(part.experiment == name for part in claim.parts), f"{name}: nothing reads it"


@pytest.mark.parametrize("slug", SLUGS)
def test_the_shipped_records_are_sound(slug):
    claim = records.claim(slug)
    kept, stale = records.read(claim)
    assert records.defects(claim, kept, stale) == []
    assert text(claim, kept)
    if kept:
        assert forest(claim, records.findings(claim, kept)) is not None
    for record in kept:
        found = judge(claim, {record.experiment: claim.experiments[record.experiment].summary(record.measurements)})
        assert set(found) == {part.name for part in claim.parts if part.experiment == record.experiment}


@pytest.mark.parametrize("slug", SLUGS)
def test_the_standing_that_methods_prints_is_that_of_the_records(slug):
    assert catalogue.paper(slug).standing == standing(records.claim(slug)), "run scripts/standing.py"


@pytest.mark.parametrize("slug", SLUGS)
def test_every_experiment_has_a_hash(slug):
    claim = records.claim(slug)
    hashes = {name: records.spec(one) for name, one in claim.experiments.items()}
    assert len(set(hashes.values())) == len(hashes)
    assert running.chosen(claim, "mechanism")
