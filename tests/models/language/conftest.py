"""A language model of a few thousand weights."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.models.language.nano import Nano, fresh

TINY = Nano(width=16, layers=2, heads=2, context=64, warmup=0)


@pytest.fixture
def tiny():
    return fresh(TINY, seed=1)
