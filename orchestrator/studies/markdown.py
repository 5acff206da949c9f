"""Markdown of reports: tables, numbers, and text that cannot break out of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from orchestrator.studies.findings import Figure
from orchestrator.text import printable

NONE: Final = "-"
_FORMS: Final = {"size": ".3f", "latency": ".3f", "accuracy": "+.4f", "price": "+.4f"}
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


def over(value: float | None, of: float | None) -> str:
    """The ratio of two figures, or NONE."""
    return NONE if value is None or of is None else f"{value / of:.3f}"


def less(value: float | None, of: float | None) -> str:
    """The difference of two figures, or NONE."""
    return NONE if value is None or of is None else f"{value - of:+.4f}"


def shown(what: str, figure: Figure | None) -> str:
    """A figure with its interval, where it has one, or NONE."""
    if figure is None:
        return NONE
    form = _FORMS[what]
    if figure.low == figure.high:
        return f"{figure.value:{form}}"
    return f"{figure.value:{form}} ({figure.low:{form}} … {figure.high:{form}})"


def counted(count: int, noun: str) -> str:
    """`1 block`, `2 blocks`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def text(given: str) -> str:
    """Text of a board or file that cannot break the table or become a link or a tag."""
    return "".join(_MARKUP.get(char, char) for char in printable(given))
