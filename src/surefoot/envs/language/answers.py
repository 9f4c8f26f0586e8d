"""Finding a completion's answer, and comparing it with the known one.

`final_answer` finds the answer: after the thoughts, between answer tags, in a box. `mathematics` compares it with the
known answer: as a formula if the whole known answer is one, otherwise as text.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from decimal import Decimal
from typing import Any

ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)
BOX = re.compile(r"\\f?boxed\s*\{")
CONNECTOR = re.compile(r"\b(?:is|was|are|were|be|equals|answer|option|choice)\b:?|(?<=[^\W\d]):|=|→|⇒")
NEGATION = re.compile(r"(?:\bnot|\bnever|n't)$")
WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\s*\{([^{}]*)\}")
# Texts with numbers that are not formulas: a time, a date, a list of numbers, a quotient with a remainder.
DATE = r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}"
COMPOUND = re.compile(
    rf"(?<![\d.])(?:\d+(?::\d+)+|{DATE}|\d[\d.,]*(?:[ \t]+[-−]?\d[\d.,]*)+|\d+[ \t]+[A-Za-z][ \t]+\d+)(?![\d])"
)
LIST = re.compile(r"[\[({][^\[\](){}\n]{0,1000},[^\[\](){}\n]{0,1000}[\])}]")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
SCIENTIFIC = re.compile(r"(?<![\w.])\d+(?:\.\d+)?[eE][+-]?\d{1,2}(?!\w)")
FUNCTIONS = {"sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "sqrt", "pi", "max", "min", "gcd", "lcm"}
LONGEST = 1000  # maximum number of characters of a formula


def final_answer(completion: str) -> str:
    """The answer in a completion: the text after `</think>`, between the last `<answer>` tags if there are any, and in
    the last `\\boxed{}` therein if there is one. Unfinished thoughts have no answer."""
    text = completion.rpartition("</think>")[2].partition("<think>")[0]
    tagged = ANSWER.findall(text)
    return _unboxed(tagged[-1] if tagged else text).strip()


def mathematics(completion: str, answer: str) -> float:
    """1 if the answer in a completion is the known one, else 0.

    A known answer that is a single formula (`1/2`, `$x+1$`, `1,000`, the text after `####`) is compared by value
    with the last formula of the completion, by math-verify if that is installed. Any other (a time, a date, a list,
    a letter, words) is compared as normalised text: with the whole answer, or its end after "is", "=" or ":".
    """
    wanted, given = _gold(answer), final_answer(completion)
    if _same_text(given, wanted):
        return 1.0
    return float(_is_formula(wanted) and _same_value(given, wanted))


def _unboxed(text: str) -> str:
    """The content of the last `\\boxed{…}` in a text; the text itself if there is none, or if it is not closed."""
    for begin in reversed([match.end() for match in BOX.finditer(text)]):
        depth = 1
        for place in range(begin, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if not depth:
                return text[begin:place]
    return text


def _gold(answer: str) -> str:
    """The known answer itself: the text after `####` (GSM8K) or in a box (MATH)."""
    return final_answer(answer.rpartition("####")[2])


def _same_text(given: str, wanted: str) -> bool:
    goal, lines = _normalized(wanted), [line for line in given.splitlines() if line.strip()]
    if _normalized(given) == goal:
        return True
    if not lines or not goal:
        return False
    last = lines[-1]
    ends = [match for match in CONNECTOR.finditer(last.lower()) if not NEGATION.search(last[: match.start()].rstrip())]
    return any(_normalized(last[match.end() :]) == goal for match in ends)


def _normalized(text: str) -> str:
    """A text without case, surplus space, enclosing marks and full stop; "(B)" is "b", "[1, 2]" is "[1,2]"."""
    text = unicodedata.normalize("NFKC", WRAPPED.sub(r"\1", text)).casefold()
    text = re.sub(r"\s*([,;])\s*", r"\1", re.sub(r"\s+", " ", text))
    text = text.strip(" .!?;,*_`'\"$“”‘’")
    inner = re.fullmatch(r"[(\[{](\w+)[)\]}]", text)
    return inner[1] if inner else text


def _is_formula(text: str) -> bool:
    """Whether a whole text is one formula, judging by its tokens."""
    text = THOUSANDS.sub("", _bare(text))
    if not text or len(text) > LONGEST or not re.search(r"[\d+*/^=<>\\-]", text):
        return False
    if ":" in text or re.fullmatch(DATE, text) or re.search(r"\d\s+[\dA-Za-z]|(?<![\d.])0\d", text):
        return False
    words = re.findall(r"(?<!\\)(?<![A-Za-z\\])[A-Za-z]{2,}", re.sub(r"\\[A-Za-z]+(?:\{[A-Za-z ]*\})?", " ", text))
    return set(words) <= FUNCTIONS


def _bare(text: str) -> str:
    """A formula without enclosing maths delimiters, currency and full stop; powers of ten are written out."""
    text = text.strip().rstrip(".").strip()
    for left, right in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if len(text) > len(left + right) and text.startswith(left) and text.endswith(right):
            text = text[len(left) : -len(right)]
            break
    return _written_out(text.strip().lstrip("$€£").strip())


def _written_out(text: str) -> str:
    return SCIENTIFIC.sub(lambda number: format(Decimal(number[0]), "f"), text)


def _same_value(given: str, wanted: str) -> bool:
    """Whether the last formula of a text equals another formula in value; False without math-verify."""
    try:
        from math_verify import parse, verify
    except ImportError:
        return False
    seconds: Any = 5 if threading.current_thread() is threading.main_thread() else None  # for its alarm
    gold = _bare(wanted)
    found = f"${_bare(given)}$" if _is_formula(given) else _after_compounds(given, lists="," not in gold)
    known, seen = (parse(text, parsing_timeout=seconds) for text in (f"${gold}$", found))
    return len(known) > 1 and bool(verify(known, seen, timeout_seconds=seconds))


def _after_compounds(text: str, lists: bool) -> str:
    """The text after the last time, date or list: a number inside one of these is not the answer."""
    text = _written_out(text)
    kinds = [COMPOUND, LIST] if lists else [COMPOUND]
    return text[max([match.end() for kind in kinds for match in kind.finditer(text)], default=0) :]
