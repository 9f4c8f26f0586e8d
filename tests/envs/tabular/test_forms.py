"""One MDP in the forms in which people have it: lists of matrices, rounded numbers, tables of Gymnasium."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from surefoot.envs.tabular import TabularMDP, count_transitions, from_csv, from_transitions, resolve, tabular_from_gym
from surefoot.errors import UsageError

P = [np.array([[0.5, 0.5], [0.8, 0.2]]), np.array([[0.0, 1.0], [0.1, 0.9]])]
R = np.array([[5.0, 10.0], [-1.0, 2.0]])
HEADER = "state,action,next_state,probability,reward\n"


def objects(parts) -> np.ndarray:
    made = np.empty(len(parts), dtype=object)
    for i, part in enumerate(parts):
        made[i] = part
    return made


@pytest.mark.parametrize(
    "given",
    [
        P,
        tuple(P),
        [torch.tensor(p) for p in P],
        [np.asmatrix(p) for p in P],
        [csr_matrix(p) for p in P],
        objects(P),
        objects([csr_matrix(p) for p in P]),
        np.stack(P, axis=1),
        np.stack(P, axis=1).tolist(),
    ],
    ids=["arrays", "tuple", "tensors", "matrices", "sparse", "objects", "sparse objects", "array", "nested lists"],
)
def test_a_list_of_matrices_has_one_for_each_action(given):
    mdp = TabularMDP(given, R, gamma=0.9)
    assert mdp.dense_rows[:, 0].tolist() == P[0].tolist() and mdp.dense_rows[:, 1].tolist() == P[1].tolist()
    if not mdp.sparse:
        by_next = TabularMDP(given, [np.full((2, 2), 1.0), np.array([[1.0, 2], [3, 4]])])
        assert by_next.reward[1].tolist() == [[1, 1], [3, 4]]


def test_other_layouts_are_told_how_to_turn_round():
    with pytest.raises(UsageError, match=r"give np.moveaxis\(P, 0, 1\), or a list"):
        TabularMDP(np.full((3, 2, 2), 0.5), np.zeros((2, 3)))
    with pytest.raises(UsageError, match="reward.T"):
        TabularMDP(np.full((2, 3, 2), 0.5), np.zeros((3, 2)))
    with pytest.raises(UsageError, match=r"np.moveaxis\(R, 0, 1\)"):
        TabularMDP(np.full((2, 3, 2), 0.5), np.zeros((3, 2, 2)))


def test_what_rounding_leaves_below_zero_is_nothing():
    rows = [[[0.9, 0.1, 1 - 0.9 - 0.1]], [[0, 1, 0]], [[0, 0, 1]]]
    assert rows[0][0][2] < 0 and TabularMDP(rows, np.zeros((3, 1))).rows[0, 0].tolist() == [0.9, 0.1, 0]
    with pytest.raises(UsageError, match="is not a probability"):
        TabularMDP([[[1 + 1e-6, -1e-6]], [[0, 1]]], np.zeros((2, 1)))


def test_rounded_tables_are_divided_by_their_sums_with_a_word(tmp_path):
    path = tmp_path / "third.csv"
    rows = "".join(f"0,0,{n},0.333333,1\n" for n in range(3)) + "1,0,1,1,0\n2,0,2,1,0\n"
    path.write_text(HEADER + rows)
    with pytest.warns(RuntimeWarning, match="1 pairs do not exactly sum to one.*0.999999"):
        assert from_csv(path).rows[0, 0].tolist() == pytest.approx([1 / 3] * 3, abs=1e-15)
    path.write_text(HEADER + rows.replace("0.333333", "0.33333300000"))  # more digits explain less
    with pytest.raises(UsageError, match="sum to 0.999999"):
        from_csv(path)
    path.write_text(HEADER + "0,0,0,1,0\n")
    with pytest.raises(UsageError, match="has no discount; add it after the name"):
        resolve(str(path))
    assert resolve(f"{path},horizon=3").horizon == 3 and resolve(str(path), gamma=0.5).gamma == 0.5


class Own(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Discrete(2), gymnasium.spaces.Discrete(1)

    def __init__(self, table):
        self.P = table


@pytest.mark.parametrize(
    "table",
    [
        {0: {0: [(1.0, 1, 2.0, True)]}, 1: {0: [(1.0, 1, 0.0, True)]}},
        [[[(1.0, 1, 2.0, True)]], [[(1.0, 1, 0.0, True)]]],
        {0: {0: [(1.0, 1, 2.0, True)]}},
        ({0: ((1.0, 1, 2.0, True),)},),
    ],
)
def test_tables_of_dicts_and_lists_with_and_without_ended_states(table):
    mdp = tabular_from_gym(Own(table))
    assert mdp.rows.tolist() == [[[0, 1]], [[0, 1]]] and mdp.ended.tolist() == [False, True]
    assert mdp.reward.tolist() == [[2], [0]]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.full((2, 1, 2), 0.5), r"P is an array of shape \[2, 1, 2\]"),
        ({0: {0: [(1.0, 1, 2.0)]}}, r"P\[0\]\[0\] holds \(1.0, 1, 2.0\)"),
        ({"a": {0: [(1.0, "a", 0.0, False)]}}, r"P\['a'\]\[0\] holds"),
        ({0: {3: [(1.0, 0, 0.0, False)]}}, r"P\[0\]\[3\] holds"),
        ({0: {0: [(1.0, 1, 2.0, False)]}}, "leads from state 0 to state 1 without ending the episode"),
        ({0: None}, r"P\[0\] is None"),
        ({}, "P has no transitions"),
    ],
)
def test_other_tables_are_refused_with_the_place(table, message):
    with pytest.raises(UsageError, match=message):
        tabular_from_gym(Own(table))


def test_counts_make_the_frequencies():
    s, a, n = np.array([0, 0, 0, 1]), np.zeros(4, int), np.array([0, 1, 1, 0])
    mdp = from_transitions(s, a, n, None, np.array([1.0, 3, 3, 0]), states=2, actions=1, count=1)
    assert mdp.rows.tolist() == [[[1 / 3, 2 / 3]], [[1, 0]]]
    weighed = from_transitions(s, a, n, None, np.array([1.0, 3, 3, 0]), states=2, actions=1, count=[2, 1, 1, 5])
    assert weighed.rows[0, 0].tolist() == [0.5, 0.5]
    assert count_transitions(s, a, n, states=2, actions=1).tolist() == [[[1, 2]], [[1, 0]]]
    with pytest.raises(UsageError, match="give either probability"):
        from_transitions(s, a, n, None, np.zeros(4), states=2, actions=1)
    with pytest.raises(UsageError, match="action must hold whole numbers from 0 to 0"):
        count_transitions(s, a + 1, n, states=2, actions=1)
