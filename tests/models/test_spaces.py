"""Spaces go to JSON and back unchanged, and damaged descriptions are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gymnasium import spaces as gs

from surefoot.errors import UsageError
from surefoot.models.spaces import from_json, to_json

SPACES = [
    gs.Box(-1, 1, (3,)),
    gs.Box(np.array([-np.inf, 0]), np.array([1, np.inf]), dtype=np.float64),
    gs.Box(np.float32([[0.1, -0.2]]), np.float32([[0.3, 0.4]])),
    gs.Box(-np.inf, np.inf, (2, 2)),
    gs.Box(0, 255, (40, 40, 3), np.uint8),
    gs.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
    gs.Box(-1, 1, ()),
    gs.Box(-1, 1, (0,)),
    gs.Discrete(3, start=-2),
    gs.MultiDiscrete([2, 3], start=[1, 5]),
    gs.MultiBinary(3),
    gs.MultiBinary((2, 2)),
    gs.Dict([("z", gs.Discrete(2)), ("a", gs.Discrete(3))]),
    gs.Dict(a=gs.Discrete(2), b=gs.Dict(c=gs.Box(0, 1, (1,)), action_mask=gs.MultiBinary(4))),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_round_trip(space):
    text = json.dumps(to_json(space), allow_nan=False)
    again = from_json(json.loads(text))
    assert again == space and again.dtype == space.dtype
    if isinstance(space, gs.Dict):
        assert list(again.spaces) == list(space.spaces)
    if isinstance(space, gs.Discrete | gs.MultiDiscrete):
        assert np.array_equal(again.start, space.start)
    sample = space.sample()
    assert again.contains(sample)


def test_an_image_takes_no_thousands_of_numbers():
    assert len(json.dumps(to_json(SPACES[4]))) < 150


@pytest.mark.parametrize("space", [gs.Text(3), gs.Tuple([gs.Discrete(2)]), gs.Dict(a=gs.Text(3))], ids=str)
def test_other_spaces_are_refused(space):
    with pytest.raises(UsageError, match="not supported; use Box, Discrete"):
        to_json(space)


@pytest.mark.parametrize("data", [{}, {"kind": "Text"}, {"shape": [3]}])
def test_damaged_descriptions_are_refused(data):
    with pytest.raises(UsageError, match="damaged or of a newer version"):
        from_json(data)
