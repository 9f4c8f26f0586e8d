"""The follow-up's example against the shares of 2000 runs written out one step at a time."""

from __future__ import annotations

import numpy as np
import pytest

from surefoot.claims.tabular.dynamic_pg import EXAMPLE_ARMS, READ, example, of_example

SHARES = {
    "dynamic": (0.24, 0.71, 0.82, 0.92, 0.97),
    "plain": (0.17, 0.58, 0.75, 0.79, 0.83),
    "plain, restarted": (0.89, 0.95, 0.97, 0.99, 0.99),
}


def test_shares_of_success():
    """Within three and a half standard errors of 500 runs."""
    seen = of_example({arm: example(arm, range(3000, 3500)) for arm in EXAMPLE_ARMS})
    for arm in EXAMPLE_ARMS:
        for n, known in zip(READ, SHARES[arm], strict=True):
            share = float(np.mean(seen[f"success of {arm} by {n}"]))
            assert share == pytest.approx(known, abs=3.5 * (known * (1 - known) / 500) ** 0.5)
