"""Data sets: what they say of their episodes, and what is refused with the row that is wrong."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
from micro_data import BOX, made

from surefoot.data.transitions import COLUMNS, joined
from surefoot.errors import UsageError


def test_episodes_bounds_and_returns():
    data = made()
    assert data.bounds.tolist() == [[0, 4], [4, 5], [5, 8]] and data.episodes == 3 and len(data) == 8
    np.testing.assert_allclose(data.returns, [data.reward[:4].sum(), data.reward[4], data.reward[5:].sum()], rtol=1e-6)
    assert data.terminated.nonzero()[0].tolist() == [3, 7] and data.truncated.nonzero()[0].tolist() == [4]
    assert data.follows.all()


def test_the_last_row_is_a_cut_and_a_termination_wins():
    data = made()
    open_end = dataclasses.replace(data, terminated=np.zeros(8, bool), truncated=np.zeros(8, bool))
    assert open_end.truncated.tolist() == [False] * 7 + [True] and open_end.episodes == 1
    both = dataclasses.replace(data, truncated=np.ones(8, bool))
    assert not (both.terminated & both.truncated).any() and both.terminated.sum() == 2


def test_the_best_episodes_are_those_with_the_highest_returns():
    data = made((2, 2, 2, 2))
    best = data.best(0.5)
    assert best.episodes == 2 and set(best.returns) == set(np.sort(data.returns)[-2:])
    order = np.argsort(-data.returns)[:2]
    assert best.returns.tolist() == data.returns[np.sort(order)].tolist()  # in the order of the data


def test_the_scale_is_that_of_the_numbers_as_given():
    data = made()
    mean, deviation = data.scale()
    np.testing.assert_allclose(mean, data.observation.astype(float).mean(0))
    np.testing.assert_allclose(deviation, data.observation.astype(float).std(0))
    both = np.concatenate([data.observation, data.next_observation]).astype(float)
    np.testing.assert_allclose(data.scale(following=True), (both.mean(0), both.std(0)))


def test_the_digest_knows_every_number():
    data, again = made(), made()
    assert data.digest() == again.digest()
    for column in COLUMNS:
        changed = np.array(getattr(data, column))
        changed[2] = ~changed[2] if changed.dtype == bool else changed[2] + 0.5
        assert dataclasses.replace(data, **{column: changed}).digest() != data.digest(), column


def test_joined_data_are_one_set():
    one, other = made((3,)), made((2, 2), seed=1)
    both = joined([one, other])
    assert both.episodes == 3 and both.reward[3:].tolist() == other.reward.tolist()


@pytest.mark.parametrize(
    ("column", "row", "said"),
    [
        ("reward", 3, r"made: reward is not finite in row 3 \(nan\)"),
        ("observation", 5, "made: observation is not finite in row 5 "),
        ("action", 0, "made: action is not finite in row 0 and 1 more row "),
    ],
)
def test_a_number_that_is_not_finite_is_named_by_its_row(column, row, said):
    data = made()
    wrong = np.array(getattr(data, column))
    wrong[row] = np.nan
    if column == "action":
        wrong[row + 4] = np.inf
    with pytest.raises(UsageError, match=said):
        dataclasses.replace(data, **{column: wrong})


def test_other_data_that_are_no_data_are_refused():
    data = made()
    with pytest.raises(UsageError, match="every array needs the same number"):
        dataclasses.replace(data, reward=data.reward[:-1])
    with pytest.raises(UsageError, match="every array needs the same number, at least 1"):
        dataclasses.replace(data, **{name: getattr(data, name)[:0] for name in COLUMNS})
    with pytest.raises(UsageError, match="reward has the type <U1, which is no number"):
        dataclasses.replace(data, reward=np.array(["a"] * 8))
    with pytest.raises(UsageError, match=r"observations have the shape \(3,\), next observations \(2,\)"):
        dataclasses.replace(data, next_observation=data.next_observation[:, :2])


def test_actions_lie_in_their_space():
    data = made()
    outside = data.action.copy()
    outside[6, 1] = 2.5
    with pytest.raises(UsageError, match=r"made has the action \[.*2.5\] in row 6, outside of Box\(-2"):
        dataclasses.replace(data, action=outside)
    almost = data.action.copy()
    almost[6, 1] = np.float32(2.00001)  # a rounding of single precision
    dataclasses.replace(data, action=almost)
    unsaid = dataclasses.replace(data, action=outside, action_space=None)
    with pytest.raises(UsageError, match=r"row 6, outside of \[-1, 1\].*env=…, --env.*low=-2.5, high=2.5"):
        unsaid.actions_in()
    assert dataclasses.replace(data, action_space=None).actions_in() == gym.spaces.Box(-1, 1, (2,), np.float32)
    wide = gym.spaces.Box(-3, 3, (2,), np.float32)
    assert unsaid.actions_in(wide) == wide and data.actions_in() == BOX


def test_actions_of_another_kind_are_refused():
    discrete = made(space=gym.spaces.Discrete(3))
    assert discrete.discrete and dataclasses.replace(discrete, action_space=None).actions_in().n <= 3
    with pytest.raises(UsageError, match="has discrete actions, but the action space is Box"):
        discrete.actions_in(BOX)
    with pytest.raises(UsageError, match=r"continuous actions of the shape \(2,\), but the action space is Discrete"):
        made().actions_in(gym.spaces.Discrete(3))
    with pytest.raises(UsageError, match="has no bounds"):
        made().actions_in(gym.spaces.Box(-np.inf, np.inf, (2,), np.float32))
    with pytest.raises(UsageError, match="not supported"):
        made().actions_in(gym.spaces.MultiBinary(2))
