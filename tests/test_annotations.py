"""The test run holds the objectives to their annotations (see `conftest.py`)."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from surefoot.objectives.advantages import discounted_sum


def test_a_wrong_type_or_shape_is_an_error():
    x = torch.ones(3, 2)
    assert discounted_sum(x, x).shape == (3, 2)
    for wrong in ([1.0], x.long(), torch.ones(4, 2)):
        with pytest.raises(TypeCheckError, match="decay"):
            discounted_sum(x, wrong)
