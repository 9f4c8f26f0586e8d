"""TD3+BC, IQL and PRDC against d3rlpy's, which needs an environment of its own: SUREFOOT_D3RLPY names its Python."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import pytest

PYTHON = os.environ.get("SUREFOOT_D3RLPY")
BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.mark.skipif(PYTHON is None, reason="SUREFOOT_D3RLPY names no Python with d3rlpy")
@pytest.mark.parametrize("slug", ["td3-bc", "iql", "prdc"])
def test_one_update_is_that_of_d3rlpy(slug, monkeypatch):
    """Weights are compared loosely where a gradient is nearly 0: Adam's first step is its sign."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    found = import_module("bench_offline").agreement(slug, PYTHON)
    assert found["losses"] < 1e-5 and found["gradients"] < 1e-4
    assert found["weights_mean"] < 1e-2 and found["weights"] < 1
