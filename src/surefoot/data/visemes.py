"""Words seen on lips: sequences of noisy frames in which some letters look alike, and only their neighbours tell which.

    visemes                                         # 2,000 words of 5 to 8 letters
    visemes:500,shortest=3,longest=5,noise=0.3,seed=7

A letter is shown for two or three frames, its own point of a space plus noise. Two pairs of letters share a point;
which of a pair is meant follows from the letter before. A row is `[1, frames, dimensions]`, after its last frame zeros,
and its target is the word.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surefoot.data.described_text import arguments
from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.hyperparameters import check, hyperparameter
from surefoot.seeding import numpy_stream

LETTERS = "abcdefghijkl"
ALIKE = ((0, 1), (2, 3))  # places of the letters of a pair
DIMENSIONS, FRAMES = 8, (2, 3)
POINTS_SEED = 0  # of the letters' points, which are the same in all tables


@dataclass(frozen=True)
class Words:
    """How many words, how long, and how noisy."""

    samples: int = hyperparameter(2000, low=1, help="Words.")
    shortest: int = hyperparameter(5, low=1, help="Least letters of a word.")
    longest: int = hyperparameter(8, low=1, help="Most letters of a word.")
    noise: float = hyperparameter(0.8, low=0, help="Standard deviation of a frame.")
    seed: int = hyperparameter(0, low=0, help="Random seed.")

    def __post_init__(self) -> None:
        check(self)
        if self.shortest > self.longest:
            raise UsageError(
                f"shortest={self.shortest} is not allowed with longest={self.longest}; it must not be more."
            )


def made(text: str) -> Table:
    """The table that a text describes."""
    given = arguments(text, Words, "samples")
    stream, points = numpy_stream(given.seed, "words"), _points()
    X = np.zeros((given.samples, 1, FRAMES[1] * given.longest, DIMENSIONS))
    words = []
    for row in X:
        letters = _word(stream, int(stream.integers(given.shortest, given.longest + 1)))
        shown = points[letters].repeat(stream.integers(FRAMES[0], FRAMES[1] + 1, len(letters)), axis=0)
        row[0, : len(shown)] = shown + given.noise * stream.normal(size=shown.shape)
        words.append("".join(LETTERS[i] for i in letters))
    return Table(X, words, text, target="word")


def _points() -> np.ndarray:
    """The point of every letter, `[letters, dimensions]`."""
    points = numpy_stream(POINTS_SEED, "points of letters").normal(size=(len(LETTERS), DIMENSIONS))
    for one, other in ALIKE:
        points[other] = points[one]
    return points


def _word(stream: np.random.Generator, length: int) -> list[int]:
    """Random letters; of a pair, the first after a letter of even place or at the beginning, else the second."""
    found: list[int] = []
    for letter in stream.integers(len(LETTERS), size=length).tolist():
        for pair in ALIKE:
            if letter in pair:
                letter = pair[found[-1] % 2 if found else 0]
        found.append(letter)
    return found
