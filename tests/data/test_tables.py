"""Tables: every way to give one reads the same samples, rows keep their numbers, and mistakes name the row."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from surefoot.data.tables import Table, read
from surefoot.errors import UsageError

X = np.array([[1.0, 2.0], [3.0, 4.5], [5.0, -6.0]])
Y = np.array([0, 1, 1])
FRAME = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "who": ["x", "y", "x"], "t": Y})


def same(one: Table, other: Table) -> bool:
    return bool((one.X == other.X).all() and (one.y == other.y).all())


def test_files_frames_and_arrays_read_the_same_samples(tmp_path):
    plain = FRAME.drop(columns="who")
    plain.to_csv(tmp_path / "t.csv", index=False)
    plain.to_csv(tmp_path / "semicolons.csv", index=False, sep=";")
    plain.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    plain.to_csv(tmp_path / "bare.csv", index=False, header=False)
    plain.to_parquet(tmp_path / "t.parquet")
    np.savetxt(tmp_path / "t.txt", plain.to_numpy())
    for name in ("t.csv", "semicolons.csv", "t.tsv", "bare.csv", "t.parquet", "t.txt"):
        found = read(tmp_path / name)
        assert same(found, Table(X, Y)) and found.name == str(tmp_path / name)
        assert found.features == (("x0", "x1") if name in ("bare.csv", "t.txt") else ("a", "b"))
    assert same(read(plain), Table(X, Y)) and same(read((plain[["a", "b"]], plain["t"])), Table(X, Y))
    assert same(read([X.tolist(), Y.tolist()]), Table(X, Y)) and same(read((X, Y[:, None])), Table(X, Y))


def test_columns_are_target_groups_clients_or_features():
    found = read(FRAME, target="b", groups="who", clients="t")
    assert found.features == ("a",) and found.target == "b" and found.y.tolist() == [2.0, 4.5, -6.0]
    assert found.groups.tolist() == ["x", "y", "x"] and found.clients.tolist() == [0, 1, 1]


def test_data_sets_of_scikit_learn_need_no_download():
    found = read("sklearn:breast-cancer")
    assert found.X.shape == (569, 30) and set(found.y.tolist()) == {0, 1} and found.name == "sklearn:breast-cancer"


def test_rows_keep_their_numbers_through_splits():
    table = Table(np.arange(20.0)[:, None], np.arange(20), groups=np.arange(20) % 2)
    here, there = table.split(0.25, seed=3)
    assert len(there) == 5 and sorted([*here.index, *there.index]) == list(range(20))
    for part in (here, there):
        assert (part.X[:, 0] == part.index).all() and (part.groups == part.index % 2).all()
        assert (np.diff(part.index) > 0).all()
    assert (table.split(0.25, seed=3)[1].index == there.index).all()
    assert (table.split(0.25, seed=4)[1].index != there.index).any()
    assert (there.split(0.4)[1].index == there.index[np.isin(there.index, there.split(0.4)[1].index)]).all()
    with pytest.raises(UsageError, match="held_out=0.01 is not allowed: it holds out 0 of 20 rows"):
        table.split(0.01)


def test_the_digest_is_of_the_samples():
    digest = Table(X, Y).digest()
    assert Table(X.copy(), Y.tolist()).digest() == digest
    for other in (
        Table(X + 1, Y),
        Table(X, Y[::-1]),
        Table(X, Y, groups=Y),
        Table(X, list("abc")),
        Table(X[:, ::-1], Y),
    ):
        assert other.digest() != digest


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Table([[1.0], [np.nan]], [0, 1]), "feature 'x0' is NaN in row 1"),
        (lambda: Table([[1.0], [np.inf]], [0, 1]), "feature 'x0' is inf in row 1"),
        (lambda: Table(X, [1.0, np.nan, np.nan]), r"target 'y' is NaN in row 1 \(2 such entries\)"),
        (lambda: Table(X, ["a", None, "b"]), "y is missing .* in row 1"),
        (lambda: Table(sparse.eye(3), Y), "X is sparse.*toarray"),
        (lambda: Table(X, Y[:2]), r"y has the shape \[2\]; X has 3 rows"),
        (lambda: Table(X[0], Y), r"X has the shape \[2\]; it must be \[samples, features\]"),
        (lambda: Table(X[:0], []), "there are no samples"),
        (lambda: Table([["a", "b"]] * 3, Y), "X is not an array of numbers"),
        (lambda: read(FRAME), "feature 'who' is 'x' in row 0, which is no number"),
        (lambda: read(FRAME, target="tt"), "target='tt' is not a column of frame. Did you mean 't'"),
        (lambda: read((X,)), "data has 1 parts"),
        (lambda: read(3), "data=int is not allowed"),
        (lambda: read("nowhere.csv"), "'nowhere.csv' cannot be read"),
        (lambda: read("table.xlsx"), "give sklearn:NAME, what is made.*or a file"),
        (lambda: read("sklearn:diabete"), "Did you mean 'diabetes'"),
        (lambda: read(pd.DataFrame([[1, 2]], columns=["a", "a"])), "columns of equal names"),
    ],
)
def test_mistakes_say_where_they_are(make, words):
    with pytest.raises(UsageError, match=words):
        make()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n3\n", "row 1 has 1 cells"),
        ("", "is empty"),
        ("a,a\n1,2\n", "columns of equal names"),
        ("a,b\n1,2\n,3\n", "feature 'a' is NaN in row 1"),
        ("a\n1\n", "has 1 columns; it needs a feature and a target"),
    ],
)
def test_files_that_are_no_tables(tmp_path, text, words):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UsageError, match=words):
        read(tmp_path / "t.csv")
