"""Text from boards, files and databases, made safe for a terminal."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """`text` with control, format and unpaired characters written as escapes.

    Line feeds and tabs become visible as well; nothing that is left can move a cursor, change
    colours or reverse the direction of writing.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(char) for char in text)


def _escape(char: str) -> str:
    if unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
        return char
    return char.encode("unicode_escape").decode()
