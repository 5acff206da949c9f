"""Markdown of reports: tables, numbers, and text that cannot break out of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from orchestrator.text import printable

NONE: Final = "-"
_MARKUP: Final = {char: f"\\{char}" for char in "\\`*[]|"} | {"<": "&lt;", ">": "&gt;"}


def table(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> Iterator[str]:
    """Lines of a table; the first `texts` columns are text, the others are figures."""
    yield f"| {' | '.join(header)} |"
    yield f"|{'|'.join(['---'] * texts + ['---:'] * (len(header) - texts))}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def number(value: float | None, form: str) -> str:
    """A figure, or NONE where there is none."""
    return NONE if value is None else f"{value:{form}}"


def text(given: str) -> str:
    """Text of a board or file that cannot break the table or become a link or a tag."""
    return "".join(_MARKUP.get(char, char) for char in printable(given))
