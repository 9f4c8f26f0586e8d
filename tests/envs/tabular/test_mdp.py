"""The MDP: every form of kernel and reward means the same, and what is no MDP is refused with its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from surefoot.envs.tabular import Successors, TabularMDP
from surefoot.errors import UsageError

P = np.array([[[0.7, 0.3], [0.2, 0.8]], [[0.5, 0.5], [0.9, 0.1]]])
R = np.array([[1.0, 0.4], [0.0, 0.6]])
V = torch.tensor([1.0, 3.0], dtype=torch.float64)


@pytest.mark.parametrize(
    "kernel",
    [
        P,
        P.tolist(),
        torch.tensor(P),
        sparse.csr_matrix(P.reshape(4, 2)),
        [sparse.csr_matrix(P[:, a]) for a in range(2)],
        Successors(
            torch.tensor([[[1, 0], [0, 1]], [[0, 1], [1, 0]]]), [[[0.3, 0.7], [0.2, 0.8]], [[0.5, 0.5], [0.1, 0.9]]]
        ),
    ],
    ids=["numpy", "lists", "torch", "sparse", "a sparse one an action", "successors"],
)
def test_every_form_of_the_kernel_gives_the_same_expectations(kernel):
    mdp = TabularMDP(kernel, R)
    assert (mdp.states, mdp.actions) == (2, 2)
    torch.testing.assert_close(mdp.expectation(V), torch.tensor(P @ V.numpy()))


def test_rewards_of_states_pairs_and_transitions():
    assert TabularMDP(P, [1, 2]).reward.tolist() == [[1, 1], [2, 2]]
    each = np.arange(8.0).reshape(2, 2, 2)
    torch.testing.assert_close(TabularMDP(P, each).expected_reward(), torch.tensor((P * each).sum(-1)))
    assert TabularMDP(P, R).expected_reward().tolist() == R.tolist()


def test_steps_are_given_to_all_once_one_has_them():
    steps = np.stack([P, P[:, ::-1]])
    mdp = TabularMDP(steps, R, gamma=1, horizon=2, features=np.ones((2, 2, 3)))
    assert mdp.stepped and mdp.reward.shape == (2, 2, 2) and mdp.features.shape == (2, 2, 2, 3)
    second = mdp.at(1)
    assert not second.stepped and second.horizon is None
    torch.testing.assert_close(second.rows, torch.tensor(steps[1]))
    changing = TabularMDP(P, np.stack([R, 2 * R, 3 * R]), gamma=1, horizon=3)
    assert changing.stepped and changing.at(1).reward.tolist() == (2 * R).tolist()
    same = TabularMDP(P, R, gamma=1, horizon=2)
    assert not same.stepped and same.at(1).horizon is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"transition": P * 1.01}, r"state 0, action 0 sum to 1.01, \+0.01 from one \(4 rows"),
        ({"transition": -P}, r"transition\[0, 0, 0\] = -0.7 is not a probability"),
        ({"transition": np.where(P == 0.8, np.nan, P)}, r"transition\[0, 1, 1\] = nan"),
        ({"transition": P[:, :, :1]}, "must agree"),
        ({"transition": P[0]}, r"it must be \[S, A, S'\]"),
        ({"transition": np.stack([P, P])}, "horizon=H"),
        ({"transition": np.zeros((0, 2, 0))}, "at least one state"),
        ({"reward": np.ones((3, 2))}, r"reward has shape \[3, 2\]"),
        ({"reward": [[1, np.inf], [0, 0]]}, r"reward\[0, 1\] = inf"),
        ({"gamma": 1.5}, r"gamma=1.5.*\[0, 1\]"),
        ({"initial": [0.5, 0.6]}, "sums to 1.1"),
        ({"legal": [[True, False], [False, False]]}, "state 1 has no legal action"),
        ({"legal": [True, False]}, r"it must be \[S, A\]"),
        ({"transition": Successors(torch.tensor([[[2]]]), [[[1.0]]]), "reward": [0.0]}, "include state 2"),
        ({"transition": np.float32(P) * np.float32(1.01)}, r"sum to 1.01\d*, \+0.01 from one \(4 rows"),
        ({"initial": np.float32([0.5, 0.6])}, "sums to 1.1"),
        ({"transition": [[[1, 0], [1]]]}, "transition is not an array of numbers .* lists of equal length"),
        ({"features": np.ones((3, 2, 4))}, r"features has shape \[3, 2, 4\]; it must be \[S, A, d\] = \[2, 2, d\]"),
        ({"features": np.ones((5, 2, 2, 4))}, r"features has shape \[5, 2, 2, 4\].*with horizon=H"),
        ({"features": np.ones((2, 2))}, r"features has shape \[2, 2\]"),
        ({"features": np.full((2, 2, 1), np.nan)}, r"features\[0, 0, 0\] = nan; features must be finite"),
        ({"transition": [sparse.eye(2), sparse.eye(3)]}, r"shapes \[\(2, 2\), \(3, 3\)\]"),
    ],
)
def test_what_is_no_mdp_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        TabularMDP(**{"transition": P, "reward": R, **arguments})


def test_rows_of_pairs_that_do_not_exist_need_not_be_distributions():
    kernel = P.copy()
    kernel[1, 1] = 0
    assert TabularMDP(kernel, R, legal=[[True, True], [True, False]]).legal.tolist() == [[True, True], [True, False]]


def test_features_by_step_give_steps_to_all():
    mdp = TabularMDP(P, R, gamma=1, horizon=3, features=np.arange(12.0).reshape(3, 2, 2, 1))
    assert mdp.stepped and mdp.at(1).features.flatten().tolist() == [4, 5, 6, 7]


def rounded(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Random distributions, normalised in a precision."""
    rows = torch.rand(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    return rows / rows.sum(-1, keepdim=True)


def assert_sums_to_one(rows: torch.Tensor, like: torch.Tensor) -> None:
    assert rows.dtype == torch.float64 and rows.shape == like.shape
    assert bool(((like.double().sum(-1) - 1).abs() > 1e-8).any())  # else there would be nothing to do
    torch.testing.assert_close(rows.sum(-1), torch.ones_like(rows[..., 0]), rtol=0, atol=1e-15)
    torch.testing.assert_close(rows, like.double(), rtol=4 * torch.finfo(like.dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_of_lower_precision_are_made_to_sum_to_one(dtype):
    kernel, initial = rounded(50, 2, 50, dtype=dtype), rounded(50, dtype=dtype)
    mdp = TabularMDP(kernel, torch.ones(50), initial=initial)
    assert_sums_to_one(mdp.rows, kernel)
    assert_sums_to_one(mdp.initial, initial)
    successors = Successors(torch.arange(50).expand(50, 2, 50), kernel)
    assert_sums_to_one(TabularMDP(successors, torch.ones(50)).rows, kernel)
    if dtype == torch.float32:  # the only one of these that scipy.sparse has
        given = sparse.csr_matrix(kernel.flatten(0, 1).numpy())
        assert_sums_to_one(TabularMDP(given, torch.ones(50)).dense_rows, kernel)


def test_arrays_may_run_backwards():
    legal = np.array([[True, False], [True, True]])
    given = {"transition": P, "reward": R, "initial": np.array([0.3, 0.7]), "legal": legal, "features": R[..., None]}
    mdp = TabularMDP(**{name: x[::-1] for name, x in given.items()})
    for name, x in given.items():
        assert getattr(mdp, name).tolist() == x[::-1].tolist()
