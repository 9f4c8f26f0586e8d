from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from surefoot import catalogue
from surefoot.errors import UsageError
from surefoot.evaluate.explain import explain


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An empty package in which a test builds what a paper needs."""
    catalogue.papers(), catalogue.baselines()  # read the real rows first
    monkeypatch.setattr(catalogue, "_PACKAGE", tmp_path)

    def write(path: str, text: str = "") -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    return write


def test_every_paper_is_there_once_and_whole():
    rows = catalogue.papers()
    assert {p.setting for p in rows} == {
        "control", "robust", "tabular", "offline", "generative", "language", "preference", "supervised",
    }  # fmt: skip
    for field in ("slug", "title", "arxiv", "module", "summary"):
        assert len({getattr(p, field) for p in rows}) == len(rows), field
    for p in rows:
        assert re.fullmatch(r"\d{4}\.\d{5}|\d{4}\.\d{4}", p.arxiv), p.slug
        assert 0 <= p.year - (2000 + int(p.arxiv[:2])) <= 2, p.slug
        assert p.module == f"surefoot.methods.{p.setting}.{p.slug.replace('-', '_')}"
        assert len(p.summary) <= 160 and p.summary.endswith("."), p.slug
        assert p.source in ("text", "code", "reconstruction"), p.slug


def test_a_paper_is_found_by_its_slug_and_a_typo_gets_the_nearest():
    assert catalogue.paper("spo").arxiv == "2401.16025"
    with pytest.raises(UsageError, match="'polychromic'"):
        catalogue.paper("polycromic")


def test_what_is_built_and_claimed_follows_the_modules(package):
    spo = catalogue.paper("spo")
    assert not spo.built and not spo.claimed
    package("methods/control/spo.py")
    assert spo.built and not spo.claimed and [m.slug for m in catalogue.methods()] == ["spo"]
    package("claims/control/spo.py")
    assert spo.built and spo.claimed


def test_a_method_that_is_not_built_says_so(package):
    package("methods/control/ppo.py")
    with pytest.raises(UsageError, match="not built yet. Built: ppo"):
        catalogue.method_class("spo")
    with pytest.raises(UsageError, match="No method is called 'pppo'. Did you mean 'ppo'"):
        catalogue.method_class("pppo")


@pytest.mark.parametrize("entry", catalogue.methods(), ids=lambda e: e.slug)
def test_every_built_method_can_be_had_by_its_slug(entry):
    method = catalogue.method_class(entry.slug)
    assert isinstance(method, type) and method.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_no_method_or_result_lies_outside_the_catalogue():
    known = {entry.module for entry in (*catalogue.papers(), *catalogue.baselines())}
    root = Path(catalogue.__file__).parent
    modules = {f"surefoot.methods.{f.parent.name}.{f.stem}" for f in root.glob("methods/*/[!_]*.py")}
    assert modules <= known
    assert {f.name for f in root.glob("claims/records/*/")} <= {p.slug for p in catalogue.papers()}


def test_what_a_method_was_built_from_is_said_where_it_is_not_the_paper(monkeypatch):
    spo = catalogue.paper("spo")
    method = catalogue.method_class("spo")()
    assert "SOURCE" not in explain(method, "spo")
    changed = dataclasses.replace(spo, source="reconstruction")
    monkeypatch.setattr(catalogue, "papers", lambda: (changed,))
    assert "A reconstruction: the paper's own equations" in explain(method, "spo")
