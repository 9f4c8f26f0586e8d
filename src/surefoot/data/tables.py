"""Tables of samples: features, a target, and where given the group and the client of every row.

    read((X, y))                          # arrays, lists, data frames
    read(frame, target="price")           # one data frame, or a .csv, .txt or .parquet file
    read("sklearn:diabetes")
    read("knapsack:8,instances=100")      # samples of a two-stage problem, which are made then

Every row keeps its number in the source through all splits (`index`), by which a method knows a sample again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.data.table_files import Columns, columns_of, columns_of_file
from surefoot.errors import UsageError, nearest
from surefoot.seeding import numpy_stream

MADE = {  # modules whose `made` makes the table that a text describes
    "knapsack": "surefoot.envs.recourse.sampled",
    "capital-budgeting": "surefoot.envs.recourse.sampled",
    "visemes": "surefoot.data.visemes",
}
IMAGES = {"digits": (1, 8, 8)}
BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "wine")  # data sets within scikit-learn


@dataclass(frozen=True)
class Table:
    """Samples: X `[n, d]` float64, y `[n]` numbers or labels, and where given groups `[n]` and clients `[n]`.

    index: `[n]`, the number of every row in the source. shape: of a row, `(d,)`, or (channels, height, width) where
    rows are images, of which X may be given as `[n, height, width]` or `[n, channels, height, width]`. name, features
    and target are for display.

    Raises `UsageError` for shapes that do not fit, sparse X, text among the features, and for the first entry that is
    missing or infinite.
    """

    X: Any
    y: Any
    name: str = "arrays"
    features: tuple[str, ...] = ()
    target: str = "y"
    groups: Any = None
    clients: Any = None
    index: Any = field(default=None, repr=False)
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        X, shape = _features(self.X, self.shape)
        features = self.features or tuple(f"x{i}" for i in range(X.shape[1]))
        y = _column(self.y, len(X), "y")
        found = {"X": X, "y": y, "shape": shape, "features": features}
        found |= {"index": np.arange(len(X)) if self.index is None else self.index}
        for name in ("groups", "clients"):
            if (given := getattr(self, name)) is not None:
                found[name] = _column(given, len(X), name)
        for name, value in found.items():
            object.__setattr__(self, name, value)
        self._check_numbers()

    def _check_numbers(self) -> None:
        """Raise `UsageError` for the first NaN or infinity, with its row."""
        check_finite(self.X, "feature", self.features, self.index)
        if np.issubdtype(self.y.dtype, np.floating):
            check_finite(self.y[:, None], "target", (self.target,), self.index)

    def __len__(self) -> int:
        return len(self.X)

    def rows(self, which: np.ndarray) -> Table:
        """The rows at these places, or where a mask is True."""
        chosen = {name: getattr(self, name) for name in ("X", "y", "groups", "clients", "index")}
        return replace(self, **{name: None if x is None else x[which] for name, x in chosen.items()})

    def split(self, share: float, seed: int = 0) -> tuple[Table, Table]:
        """The rows to learn from and a held-out `share` of them, drawn by the seed; both in the order of the source."""
        held = round(share * len(self))
        if not 0 < held < len(self):
            raise UsageError(
                f"held_out={share!r} is not allowed: it holds out {held} of {len(self)} rows, and both parts need some."
            )
        mask = np.zeros(len(self), dtype=bool)
        mask[numpy_stream(seed, "held-out rows").permutation(len(self))[:held]] = True
        return self.rows(~mask), self.rows(mask)

    def digest(self) -> str:
        """A hash of the samples, by which a resumed run recognises the same table."""
        images = self.shape[1:] and (self.shape,)
        found = hashlib.sha256(repr((self.X.shape, self.features, self.target, *images)).encode())
        for x in (self.X, self.y, self.groups, self.clients, self.index):
            words = x is not None and x.dtype.kind not in "fiub"
            found.update(
                b"" if x is None else repr(x.tolist()).encode() if words else np.ascontiguousarray(x).tobytes()
            )
        return found.hexdigest()[:16]


def read(data: Any, *, target: str | None = None, groups: str | None = None, clients: str | None = None) -> Table:
    """The table that `data` is or names: a `Table`, a pair (X, y), a data frame, a file, sklearn:NAME, or a text
    such as knapsack:8 that describes what is made.

    target: column to predict, the last one by default. groups, clients: columns that say to which group and client a
    row belongs; they are no features. These three are for frames and files.
    """
    if isinstance(data, Table):
        return data
    if isinstance(data, (tuple, list)):
        return _of_pair(data, target)
    if isinstance(data, str) and (module := MADE.get(data.partition(":")[0])):
        if beside := [name for name in (target, groups, clients) if name is not None]:
            raise UsageError(f"{beside[0]!r} is no column of data={data!r}, whose rows are made; leave it out.")
        return import_module(module).made(data)
    if isinstance(data, Path) or (isinstance(data, str) and not data.startswith("sklearn:")):
        return _of_columns(columns_of_file(Path(data)), str(data), target, groups, clients)
    if hasattr(data, "columns"):
        return _of_columns(columns_of(data), "frame", target, groups, clients)
    if isinstance(data, str):
        found = _of_columns(_bundled(data), data, target, groups, clients)
        shape = IMAGES.get(data.removeprefix("sklearn:"), ())
        return replace(found, shape=shape) if math.prod(shape) == len(found.features) else found
    raise UsageError(
        f"data={type(data).__name__} is not allowed; give a pair (X, y), a data frame, a .csv, .txt or .parquet file, "
        "or sklearn:NAME."
    )


def _of_pair(data: Any, target: str | None) -> Table:
    if len(data) != 2:
        raise UsageError(f"data has {len(data)} parts; give the pair (X, y) of features [n, d] and target [n].")
    X, y = data
    features = tuple(map(str, X.columns)) if hasattr(X, "columns") else ()
    return Table(X, y, features=features, target=target or str(getattr(y, "name", None) or "y"))


def _of_columns(columns: Columns, name: str, target: str | None, groups: str | None, clients: str | None) -> Table:
    """A table of columns by name, one of which is the target."""
    if len(columns) < 2:
        raise UsageError(f"{name} has {len(columns)} columns; it needs a feature and a target at least.")
    target = list(columns)[-1] if target is None else target
    for argument, column in (("target", target), ("groups", groups), ("clients", clients)):
        if column is not None and column not in columns:
            raise UsageError(f"{argument}={column!r} is not a column of {name}. {nearest(column, columns)}")
    features = tuple(one for one in columns if one not in (target, groups, clients))
    beside: dict[str, Any] = {
        key: None if one is None else columns[one] for key, one in (("groups", groups), ("clients", clients))
    }
    X = np.column_stack([_numbers(columns[one], one, name) for one in features]) if features else np.empty((0, 0))
    return Table(X, columns[target], name, features, target, **beside)


def _numbers(column: np.ndarray, name: str, source: str) -> np.ndarray:
    """A feature as float64."""
    try:
        return np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError):
        row, text = next((i, x) for i, x in enumerate(column.tolist()) if not _is_number(x))
        raise UsageError(
            f"{source}: the feature {name!r} is {text!r} in row {row}, which is no number; encode it as numbers (one "
            "column of 0 and 1 for each of its values), or name it as target, groups or clients."
        ) from None


def _is_number(x: Any) -> bool:
    try:
        float(x)
    except (TypeError, ValueError):
        return False
    return True


def _bundled(text: str) -> Columns:
    """The columns of a data set that comes with scikit-learn; nothing is downloaded."""
    name = text.removeprefix("sklearn:").replace("-", "_")
    if name not in BUNDLED:
        raise UsageError(f"data={text!r} is unknown. {nearest(name, BUNDLED)} These come with scikit-learn.")
    try:
        found: Any = getattr(import_module("sklearn.datasets"), f"load_{name}")()
    except ImportError as error:
        raise UsageError(
            f"data={text!r} needs the package scikit-learn; install it with: pip install 'surefoot[supervised]'"
        ) from error
    columns = dict(zip(map(str, found.feature_names), found.data.T, strict=True))
    return columns | {"target": found.target}


def _features(given: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """X as float64 `[n, d]`, and the shape of a row."""
    if hasattr(given, "toarray"):  # a sparse matrix
        raise UsageError("X is sparse, and dense arrays are needed; give X.toarray() if it fits into memory.")
    try:
        X = np.asarray(given)
        X = X if X.dtype == np.float64 else X.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"X is not an array of numbers ({error}); encode texts and dates as numbers.") from error
    if X.ndim in (3, 4):
        shape, X = X.shape[1:] if X.ndim == 4 else (1, *X.shape[1:]), X.reshape(len(X), -1)
    if X.ndim != 2:
        raise UsageError(f"X has the shape {list(X.shape)}; it must be [samples, features]. Reshape your data.")
    if shape and math.prod(shape) != X.shape[1]:
        raise UsageError(f"shape={shape!r} is not allowed: the rows of X have {X.shape[1]} features.")
    if 0 in X.shape:
        raise UsageError(f"X has the shape {list(X.shape)}: there are no {'samples' if len(X) == 0 else 'features'}.")
    return X, shape or X.shape[1:]


def _column(given: Any, rows: int, name: str) -> np.ndarray:
    """Numbers or labels, one for every row."""
    column = np.asarray(given)
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    if column.shape != (rows,):
        raise UsageError(f"{name} has the shape {list(column.shape)}; X has {rows} rows, so it must be [{rows}].")
    if column.dtype.kind == "c":
        raise UsageError(f"{name} holds complex numbers; give its real part if that is intended.")
    if column.dtype == object:
        missing = [i for i, x in enumerate(column.tolist()) if x is None or x != x]
        if missing:
            raise UsageError(f"{name} is missing (NaN or None) in row {missing[0]}; fill it in, or leave the row out.")
        column = np.array(column.tolist())
    return column


def check_finite(numbers: np.ndarray, kind: str, names: Sequence[str], index: Sequence[int] | np.ndarray) -> None:
    """Raise `UsageError` for the first NaN or infinity of numbers `[n, d]`, with the name of its column, a `kind` such
    as "feature", and the number of its row in `index`."""
    wrong = ~np.isfinite(numbers)
    if not wrong.any():
        return
    row, place = map(int, np.argwhere(wrong)[0])
    what = "NaN" if np.isnan(numbers[row, place]) else "inf"
    more = f" ({count} such entries)" if (count := int(wrong.sum())) > 1 else ""
    raise UsageError(
        f"the {kind} {names[place]!r} is {what} in row {index[row]}{more}; fill it in, or leave the row out."
    )
