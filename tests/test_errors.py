"""How names and foreign texts are shown: nothing in them moves the cursor or is cut in a misleading way."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from surefoot.errors import LONGEST_MESSAGE, message_of, printable


def test_control_characters_are_shown_and_words_of_any_language_stay():
    assert printable("\x1b[2Ja\rb\x9b1m\u202e") == "\\x1b[2Ja\\rb\\x9b1m\\u202e"
    words = "Größe\t数学\u3000は\nन\u200dम\u200c 👩\u200d🔬 \u00a0"
    assert printable(words) == words


@given(st.text())
def test_nothing_printable_controls_a_terminal(text):
    shown = printable(text)
    assert printable(shown) == shown
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]


def test_a_foreign_message_is_one_paragraph_with_its_beginning_and_its_end():
    assert (
        message_of(ValueError("none of:\n (1) a file,\n (2) another\x1b[m"))
        == "none of: (1) a file, (2) another\\x1b[m"
    )
    assert message_of(KeyError("base")) == "KeyError: 'base'"
    assert message_of(ValueError()) == "ValueError"
    long = message_of(RuntimeError("begins " + "x" * 5000 + " ends"))
    assert long.startswith("begins") and long.endswith("ends") and len(long) <= LONGEST_MESSAGE + 3
