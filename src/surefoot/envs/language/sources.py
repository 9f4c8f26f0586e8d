"""Rows in memory and on the Hugging Face hub: lists, data frames, and what the library `datasets` holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from surefoot.errors import UsageError, message_of

HUB = "hf:"  # hf:NAME or hf:NAME,CONFIGURATION
MOST = 1_000_000  # rows that are read from a stream, which may have no end
SPLITS = ("train", ("validation", "test"))  # what is learned from, and the first of these that there is


def splits(given: Any) -> tuple[Any, Any]:
    """What is to be learned from, and what is held out, None if nothing is: of several splits by name, or rows."""
    if not isinstance(given, Mapping):
        return given, None
    learned, held_out = SPLITS
    if learned not in given:
        names = ", ".join(map(repr, given)) or "none"
        raise UsageError(f"the data have no split {learned!r} (they have {names}); give the rows of one: data[…].")
    return given[learned], next((given[name] for name in held_out if name in given), None)


def sequence(given: Any) -> Sequence[Any]:
    """Rows in memory as a sequence. A data frame and a stream are read as a whole.

    Raises:
        UsageError: they are no rows, can be read only once, or do not end.
    """
    if hasattr(given, "iloc"):  # a data frame of pandas
        return given.to_dict("records")
    if hasattr(given, "to_dicts"):  # of polars
        return given.to_dicts()
    if isinstance(given, Sequence) or (hasattr(given, "__getitem__") and hasattr(given, "__len__")):
        return given
    if isinstance(given, Iterator):
        raise UsageError(f"the rows are a {type(given).__name__}, which can be read only once; give a list of them.")
    if not isinstance(given, Iterable):
        raise UsageError(f"task={given!r} is not allowed; give a Task, its name, a file of prompts, or a list of rows.")
    found = list(islice(given, MOST + 1))
    if len(found) > MOST:
        raise UsageError(f"the rows are a stream of more than {MOST:,}; give a part of it, such as data.take(10_000).")
    return found


def from_hub(name: str) -> Any:
    """The splits, or the rows, of a data set on the hub; no code of it is run.

    Raises:
        UsageError: `datasets` is not installed, or the data set cannot be loaded.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UsageError('data sets of the hub need datasets: pip install "surefoot[language]".') from error
    place, _, configuration = name.removeprefix(HUB).partition(",")
    try:
        return load_dataset(place, configuration or None)
    except Exception as error:  # of the network, the hub, or one of many readers
        raise UsageError(
            f"{name} cannot be loaded ({message_of(error)}); check the name and the connection, write "
            f"{HUB}NAME,CONFIGURATION where it has several, or give a file."
        ) from error
