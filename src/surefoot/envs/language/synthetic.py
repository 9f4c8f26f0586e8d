"""Surefoot's own tasks: arithmetic, countdown, sorting, and pairs of answers whose utilities are known."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from surefoot.envs.language.answers import final_answer
from surefoot.envs.language.task import Example, Task
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter


@dataclass(frozen=True)
class Arithmetic(Task):
    """`12+7-30=` → `-11`: sums and differences of `terms` whole numbers of up to `digits` digits.

    The numbers of terms and digits of an example are sampled uniformly up to the maximum, so that some are easy.
    """

    name: ClassVar[str] = "arithmetic"

    digits: int = hyperparameter(2, low=1, high=9, help="Maximum number of digits.")
    terms: int = hyperparameter(3, low=2, high=20, help="Maximum number of terms of an example; the minimum is 2.")

    def make(self, rng: np.random.Generator) -> Example:
        terms, digits = rng.integers(2, self.terms + 1), rng.integers(1, self.digits + 1)
        numbers = [int(n) for n in rng.integers(0, 10**digits, terms)]
        signs = ["" if i == 0 else "+-"[int(s)] for i, s in enumerate(rng.integers(0, 2, terms))]
        answer = str(sum(-n if s == "-" else n for s, n in zip(signs, numbers)))
        return Example("".join(s + str(n) for s, n in zip(signs, numbers)) + "=", answer, answer)


@dataclass(frozen=True)
class Sorting(Task):
    """`sort 31 4 15:` → `4 15 31`. The reward is the share of correct positions, if all the numbers occur."""

    name: ClassVar[str] = "sorting"

    count: int = hyperparameter(5, low=2, high=50, help="Maximum number of terms of an example; the minimum is 2.")
    below: int = hyperparameter(100, low=2, high=10**9, help="Exclusive upper bound on the numbers.")

    def make(self, rng: np.random.Generator) -> Example:
        numbers = [int(n) for n in rng.integers(0, self.below, rng.integers(2, self.count + 1))]
        answer = " ".join(map(str, sorted(numbers)))
        return Example(f"sort {' '.join(map(str, numbers))}:", answer, answer)

    def reward(self, example: Example, completion: str) -> float:
        wanted, found = example.answer.split(), final_answer(completion).split()
        if sorted(wanted) != sorted(found):
            return 0.0
        return float(np.mean([a == b for a, b in zip(wanted, found, strict=True)]))


@dataclass(frozen=True)
class Countdown(Task):
    """`make 24 from 3 4 6 2:` → `4*6`: an expression of + - * / with that value, each number used at most once."""

    name: ClassVar[str] = "countdown"

    numbers: int = hyperparameter(3, low=2, high=8, help="Number of numbers.")
    below: int = hyperparameter(20, low=3, high=10**9, help="Exclusive upper bound on the numbers.")

    def make(self, rng: np.random.Generator) -> Example:
        numbers = [int(n) for n in rng.integers(1, self.below, self.numbers)]
        order = rng.permutation(self.numbers)
        text, value = str(numbers[order[0]]), Fraction(numbers[order[0]])
        for place in order[1:]:
            n, sign = numbers[place], "+-*"[int(rng.integers(3))]
            text = f"({text}){sign}{n}" if sign == "*" and not text.isdigit() else f"{text}{sign}{n}"
            value = value * n if sign == "*" else value + n if sign == "+" else value - n
        prompt = f"make {value} from {' '.join(map(str, numbers))}:"
        return Example(prompt, str(value), text, {"numbers": numbers, "target": int(value)})

    def reward(self, example: Example, completion: str) -> float:
        found = evaluated(final_answer(completion))
        if found is None:
            return 0.0
        value, used = found
        left = list(example.fields["numbers"])
        for n in used:
            if n not in left:
                return 0.0
            left.remove(n)
        return float(value == example.fields["target"])


@dataclass(frozen=True)
class Preferences(Task):
    """`near 37:` → `41` rather than `12`: pairs of numbers, labelled by how near they are, and not always rightly.

    The utility of an answer is −|answer − number|/`scale`, and the answer a is preferred to b with probability σ(u_a −
    u_b) (Bradley-Terry); the field `utilities` has both, the chosen one's first. The reward is exp(u), 0 for what is no
    number, so the best policy writes the number itself, and log reward is the reward that the pairs are labelled by.
    """

    name: ClassVar[str] = "preferences"

    below: int = hyperparameter(100, low=2, high=10**9, help="Exclusive upper bound on the numbers.")
    scale: float = hyperparameter(5.0, above=0, help="Distance that costs one unit of utility; small: certain labels.")
    pairs: int = hyperparameter(1000, low=10, help="Number of training pairs; a tenth as many are held out.")

    @property
    def size(self) -> int:  # type: ignore[override]
        return self.pairs

    @property
    def held_out_size(self) -> int:  # type: ignore[override]
        return self.pairs // 10

    def make(self, rng: np.random.Generator) -> Example:
        number, first = (int(n) for n in rng.integers(0, self.below, 2))
        second = int((first + rng.integers(1, self.below)) % self.below)
        utilities = [-abs(number - n) / self.scale for n in (first, second)]
        if rng.random() >= 1 / (1 + np.exp(utilities[1] - utilities[0])):
            first, second, utilities = second, first, utilities[::-1]
        pair = {"chosen": str(first), "rejected": str(second), "utilities": utilities}
        return Example(f"near {number}:", str(number), str(first), pair)

    def reward(self, example: Example, completion: str) -> float:
        found = final_answer(completion)
        if not re.fullmatch(r"\d{1,12}", found):
            return 0.0
        return float(np.exp(-abs(int(found) - int(example.answer)) / self.scale))


OPERATIONS = {ast.Add: "__add__", ast.Sub: "__sub__", ast.Mult: "__mul__", ast.Div: "__truediv__"}
LONGEST = 200  # maximum number of characters of an expression


def evaluated(text: str) -> tuple[Fraction, list[int]] | None:
    """The value and the numbers of an expression of whole numbers, + - * / and brackets; None if it is not one."""
    if len(text) > LONGEST or not re.fullmatch(r"[0-9+\-*/() ]+", text):
        return None
    try:
        tree = ast.parse(text, mode="eval").body
        return _value(tree), [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]  # type: ignore[misc]
    except (SyntaxError, ZeroDivisionError, UsageError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        return getattr(_value(node.left), OPERATIONS[type(node.op)])(_value(node.right))
    raise UsageError(f"{ast.dump(node)} is not arithmetic.")
