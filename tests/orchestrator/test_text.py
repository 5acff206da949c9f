from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.text import printable


def test_plain_text_stays_as_it_is() -> None:
    """Letters of any language, signs and spaces are left alone."""
    for text in ("Raspberry Pi 5", "Größe 3,5 °C", "板 5", "a  b", ""):
        assert printable(text) == text


def test_what_moves_a_terminal_is_written_out() -> None:
    """Escape sequences, line ends, C1 controls and direction marks become visible text."""
    assert printable("a\x1b[31mb") == "a\\x1b[31mb"
    assert printable("a\r\nb\tc\x07\x7f") == "a\\r\\nb\\tc\\x07\\x7f"
    assert printable("\x9b2J") == "\\x9b2J"
    assert printable("\u202egnp.exe") == "\\u202egnp.exe"
    assert printable("\u2028") == "\\u2028"
    assert printable("\ud800") == "\\ud800"


@given(st.text(st.characters()))
def test_no_control_character_is_ever_left(text: str) -> None:
    """Whatever comes from a board, no control or format character is left in it."""
    kinds = {unicodedata.category(char) for char in printable(text)}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}
