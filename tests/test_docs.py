"""The pages of the documentation run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="language models need surefoot[language]")

PAGES = Path(__file__).parents[1] / "docs"


def test_write_your_own_loss(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUREFOOT_CACHE", str(tmp_path / "cache"))
    names: dict = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", (PAGES / "language.md").read_text(), re.DOTALL)
    for block in blocks:
        exec(compile(block, "language.md", "exec"), names)
    said = capsys.readouterr().out
    assert "0.5·(R − mean(R)) + 0.5·(R − mean_{others}(R))" in said and "reward/short" in said
    assert len(names["run"].metrics()) == 2
