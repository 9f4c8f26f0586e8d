"""BNPO's claim: the worst density decides."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.claims.language.bnpo import fit, of_variances


def test_of_the_densities_the_worst_one_counts():
    def arm(*raw):
        return {"raw": [list(raw)], "equal step": [[1.0, 1.0, 1.0]]}

    seen = of_variances({"fit": [1.0], "bnpo": arm(1, 1, 3), "reinforce": arm(2, 4, 2), "grpo": arm(4, 4, 4)})
    assert seen["raw, bnpo over reinforce"] == pytest.approx([np.log(1.5)])
    assert seen["raw, bnpo over grpo"] == pytest.approx([np.log(0.75)])
    assert seen["raw, reinforce over grpo"] == pytest.approx([0.0])


def test_the_fit_comes_to_the_least_variance():
    assert fit([1000]) == pytest.approx([1.0], abs=0.02)
