"""Files: what is written is read, tables of other tools are read, and mistakes are named with their rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from surefoot.envs.tabular import (
    Successors,
    TabularMDP,
    from_csv,
    from_npz,
    from_transitions,
    memory,
    resolve,
    to_csv,
    to_npz,
)
from surefoot.envs.tabular import transitions as transitions_module
from surefoot.envs.tabular.zoo import ZOO
from surefoot.errors import UsageError

PLAIN = [name for name in ZOO if type(resolve(name)) is TabularMDP]
HEADER = "state,action,next_state,probability,reward\n"


def full(mdp: TabularMDP) -> torch.Tensor:
    if not mdp.sparse:
        return mdp.rows
    wide = torch.zeros(*mdp.rows.shape[:-1], mdp.states, dtype=torch.float64)
    return wide.scatter_add_(-1, mdp.transition.state, mdp.rows)


def assert_same(one: TabularMDP, other: TabularMDP) -> None:
    assert torch.equal(full(one), full(other)) and one.sparse == other.sparse
    for name in ("reward", "initial", "legal", "features"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None) and (a is None or torch.equal(a, b)), name
    for name in ("gamma", "horizon", "name", "grid"):
        assert getattr(one, name) == getattr(other, name), name
    for name in ("states_named", "actions_named"):
        assert tuple(getattr(one, name)) == tuple(getattr(other, name)), name


def changing() -> TabularMDP:
    kernel = np.full((2, 3, 2, 3), 1 / 3)
    reward = np.arange(36.0).reshape(2, 3, 2, 3)
    return TabularMDP(kernel, reward, gamma=1, horizon=2, features=np.ones((3, 2, 4)), initial=[0.2, 0.3, 0.5])


@pytest.mark.parametrize(
    "mdp", [*map(resolve, PLAIN), resolve("garnet:3000,2,3"), changing()], ids=lambda mdp: mdp.name
)
def test_npz_keeps_all(mdp, tmp_path):
    assert_same(mdp, from_npz(to_npz(mdp, tmp_path / "mdp.npz")))


@pytest.mark.parametrize(
    "name", [n for n in [*PLAIN, "garnet:3000,2,3", "gym:FrozenLake-v1"] if not resolve(n).stepped]
)
def test_csv_keeps_the_transitions_to_the_bit(name, tmp_path):
    mdp = resolve(name)
    read = from_csv(to_csv(mdp, tmp_path / "mdp.csv"))
    # Names are numbered as they appear, so the rows are compared in the order of the names.
    state = [list(read.states_named).index(n) for n in mdp.states_named] or list(range(mdp.states))
    action = [list(read.actions_named).index(n) for n in mdp.actions_named] or list(range(mdp.actions))
    assert torch.equal(full(read)[state][:, action][:, :, state], full(mdp))
    pairs = (mdp.rows * (mdp.reward if mdp.reward.ndim == 3 else 0)).sum(-1)
    pairs = mdp.reward if mdp.reward.ndim == 2 else pairs
    if mdp.legal is not None:
        assert read.legal is not None and torch.equal(read.legal, mdp.legal)
        pairs = torch.where(mdp.legal, pairs, 0)
    torch.testing.assert_close(read.expected_reward()[state][:, action], pairs, rtol=0, atol=1e-15)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**31 - 1), st.booleans(), st.booleans())
def test_any_list_of_transitions_gives_the_sums_of_its_entries(states, actions, seed, thin, of_next):
    """Against a loop over the entries, which come in any order and repeat."""
    draw = np.random.default_rng(seed)
    entries = [
        (s, a, draw.integers(states), draw.random(), draw.normal())
        for s in range(states) for a in range(actions) for _ in range(draw.integers(1, 5))
    ]  # fmt: skip
    draw.shuffle(entries)
    s, a, n = (np.array([e[i] for e in entries], dtype=int) for i in range(3))
    p, r = (np.array([e[i] for e in entries]) for i in (3, 4))
    p = p / np.bincount(s * actions + a, p)[s * actions + a]
    r = r if of_next else (s * 10.0 + a)
    kernel, reward = np.zeros((states, actions, states)), np.zeros((states, actions))
    for where in zip(s, a, n, p, r):
        kernel[where[:3]] += where[3]
        reward[where[:2]] += where[3] * where[4]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transitions_module, "DENSE", 0 if thin else 10**6)
        mdp = from_transitions(s, a, n, p, r, states=states, actions=actions)
    np.testing.assert_allclose(full(mdp), kernel, atol=1e-12)
    np.testing.assert_allclose(mdp.expected_reward(), reward, atol=1e-12)
    assert of_next or mdp.reward.ndim == 2


def test_what_a_file_would_lose_is_not_written(tmp_path):
    for write in (to_npz, to_csv):
        with pytest.raises(UsageError, match="a file would lose its bounds, length, noise, stages"):
            write(resolve("layers"), tmp_path / "mdp.npz")


def write(tmp_path, text: str):
    path = tmp_path / "mdp.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_names_are_numbered_as_they_appear(tmp_path):
    work = "work,risky,work,0.95,1\nwork,risky,pit,0.05,1\nwork,safe,work,1,0.7\n"
    rows = work + "\npit,risky,work,0.2,0\npit,risky,pit,0.8,0\n"
    mdp = from_csv(write(tmp_path, HEADER + rows), gamma=0.9)
    assert mdp.states_named == ("work", "pit") and mdp.actions_named == ("risky", "safe")
    assert mdp.legal is not None and mdp.legal.tolist() == [[True, True], [True, False]]
    assert mdp.rows[0].tolist() == [[0.95, 0.05], [1, 0]] and mdp.reward[0].tolist() == [1, 0.7]
    assert (mdp.gamma, mdp.name) == (0.9, "mdp")


def test_columns_stand_in_any_order_and_have_the_names_of_other_tools(tmp_path):
    text = "\ufeffIDStateFrom, idaction,reward,idstateto,Probability,note\n0,0,5,0,1,x\n"
    mdp = from_csv(write(tmp_path, text))
    assert mdp.rows.tolist() == [[[1]]] and mdp.reward.tolist() == [[5]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0,0,0,1\n", "row 2: 4 cells, but the header has 5"),
        ("0,0,0,1,0\n\n0,1,0,one,0\n", "row 4: probability 'one' is not a finite number"),
        ("0,0,0,1,nan\n", "row 2: reward 'nan' is not a finite number"),
        ("0,0,0,1.5,0\n0,0,0,-0.5,0\n", "row 3: probability -0.5 is below 0"),
        (
            "0,0,0,0.5,0\n0,0,1,0.4,0\n1,0,1,1,0\n",
            r"state 0, action 0 sum to 0.9, not to one \(rows 2, 3; 1 such pairs",
        ),
        ("0,0,1,1,0\n", "state 1 has no row, so"),
        ("1,0,1,1,0\n", "state 0 has no row, so.*numbered from 0 without gaps"),
        ("a,go,b,1,0\n", "state b has no row, so"),
        ("", "a header but no transitions"),
    ],
)
def test_mistakes_in_a_table_are_named_with_their_rows(rows, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        from_csv(write(tmp_path, HEADER + rows))


def test_a_table_needs_its_columns(tmp_path):
    with pytest.raises(UsageError, match="no column 'next_state'.*must have state,action,next_state"):
        from_csv(write(tmp_path, "state,action,to,probability,reward\n0,0,0,1,0\n"))


def test_a_table_cannot_hold_steps(tmp_path):
    with pytest.raises(UsageError, match="to_npz"):
        to_csv(changing(), tmp_path / "mdp.csv")


def test_archives_of_other_makers_are_read(tmp_path):
    path = tmp_path / "own.npz"
    np.savez(path, P=np.eye(2)[:, None], R=np.array([[1.0], [2.0]]), gamma=0.5)
    mdp = from_npz(path)
    assert mdp.rows.tolist() == [[[1, 0]], [[0, 1]]] and (mdp.gamma, mdp.name) == (0.5, "own")
    state = np.array([[[1]], [[0]]])
    np.savez(path, successor_state=state, successor_probability=np.ones((2, 1, 1)), reward=[1.0, 2.0])
    assert isinstance(from_npz(path).transition, Successors)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"R": np.ones((1, 1))}, "no array 'transition'"),
        ({"P": np.ones((1, 1, 1))}, "no array 'reward'"),
        ({"P": np.ones((1, 1, 1)), "R": np.ones((1, 1)), "rewrd": np.ones(1)}, "has 'rewrd'.*Did you mean 'reward'"),
        (
            {"P": np.full((1, 1, 1), 0.5), "R": np.ones((1, 1))},
            "does not contain a valid MDP: the probabilities of state 0",
        ),
        ({"P": np.array([object()]), "R": np.ones((1, 1))}, "not a readable .npz file"),
    ],
)
def test_archives_that_hold_no_mdp_are_refused(arrays, message, tmp_path):
    np.savez(tmp_path / "mdp.npz", **arrays)
    with pytest.raises(UsageError, match=message):
        from_npz(tmp_path / "mdp.npz")


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "model.npz").write_text("no archive")
    with pytest.raises(UsageError, match="not a readable .npz"):
        from_npz(tmp_path / "model.npz")
    with pytest.raises(UsageError, match="does not exist. Did you mean 'model.npz'"):
        from_npz(tmp_path / "modl.npz")


def test_what_does_not_fit_the_memory_is_said_before_it_is_made(tmp_path, monkeypatch):
    csv, npz = (write(tmp_path, HEADER + "0,0,0,1,0\n"), to_npz(resolve("two-state"), tmp_path / "a.npz"))
    monkeypatch.setattr(memory, "_free_memory", lambda: 50)
    for make in (lambda: from_csv(csv), lambda: from_npz(npz), lambda: resolve("garnet")):
        with pytest.raises(UsageError, match="GiB, but 0.0 GiB are free"):
            make()
    monkeypatch.setattr(memory, "_free_memory", lambda: 1000)
    one = np.zeros(1, int)
    with pytest.raises(UsageError, match="a kernel of 10 states"):
        from_transitions(one, one, one, np.ones(1), np.ones(1), states=10, actions=10)
    with pytest.raises(UsageError, match="100 rows, of which the longest has 5 entries, needs"):
        TabularMDP(sparse.csr_matrix(np.tile(np.eye(10)[:5].sum(0) / 5, (100, 1))), np.zeros((10, 10)))
