"""Tables on a terminal: figures to the right, headers on one line, strangers' text made safe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.text import printable

NONE: Final = "-"
"""What stands where there is no figure."""
_UNLIMITED_WIDTH: Final = 10_000
_SHORTEST: Final = 8
"""Places that text keeps where it has to be cut."""
_GAPS: Final = (2, 1)
"""Blanks between columns: as many as fit."""
_BOX: Final = box.SIMPLE_HEAD
_SMALLEST_PLAIN: Final = 1e-4
_LARGEST_PLAIN: Final = 1e15
"""Figures outside these are written with an exponent."""


class PipeConsole(Console):
    """A console that leaves a closed pipe to the command line's one place for it."""

    def on_broken_pipe(self) -> NoReturn:
        """Raises BrokenPipeError."""
        raise BrokenPipeError


@dataclass(frozen=True)
class Column:
    """A column by its header, which has the unit; `figures` stand to the right.

    Where the terminal is too narrow for all, the columns with the highest `spare` are left
    out first; those with 0 never are.
    """

    header: str
    figures: bool = False
    spare: int = 0


def console(file: TextIO | None = None) -> Console:
    """A console on `file` or stdout: as wide as the terminal, unlimited where there is none."""
    target = sys.stdout if file is None else file
    made = PipeConsole(file=target, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = _UNLIMITED_WIDTH
    return made


def show(out: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> tuple[int, ...]:
    """Print a table whose cells stand in the order of `columns`; returns the columns shown.

    Where it is too wide, columns first move together, then those to spare are left out; then the
    longest text is cut, and figures only where that is not enough.
    """
    kept = list(range(len(columns)))
    while True:
        for gap in _GAPS:
            table = _table(columns, rows, kept, gap)
            if _width(out, table) <= out.width:
                out.print(table)
                return tuple(kept)
        spare, index = max((columns[index].spare, index) for index in kept)
        if not spare:
            excess = _width(out, table) - out.width
            out.print(_table(columns, rows, kept, _GAPS[-1], excess))
            return tuple(kept)
        kept.remove(index)


def show_query(out: Console, names: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print the answer of a query: as a table, or record by record where that is too wide."""
    figures = [_is_figures([row[index] for row in rows]) for index in range(len(names))]
    columns = [
        Column(printable(name), figures=numeric)
        for name, numeric in zip(names, figures, strict=True)
    ]
    cells = [[value_text(value) for value in row] for row in rows]
    table = _table(columns, cells, range(len(columns)), _GAPS[0])
    if _width(out, table) <= out.width:
        out.print(table)
        return
    label_width = max(len(column.header) for column in columns)
    for number, row in enumerate(cells, start=1):
        out.print(Text(f"row {number}", style="bold"))
        for column, cell in zip(columns, row, strict=True):
            out.print(Text(f"  {column.header:<{label_width}}  {cell}"), soft_wrap=True)


def value_text(value: object) -> str:
    """A database's value for a person: NULL, rounded figures, bytes in hex, safe text."""
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return figure(value)
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return printable(str(value))


def figure(value: float, digits: int = 6) -> str:
    """A float with `digits` significant digits at least, and no exponent unless it is needed."""
    if value == 0 or not _SMALLEST_PLAIN <= abs(value) < _LARGEST_PLAIN:
        return f"{value:.{digits}g}"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    text = f"{value:.{max(0, digits - whole)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    kept: Sequence[int],
    gap: int,
    excess: int = 0,
) -> Table:
    """The kept columns, `gap` blanks apart (one of them is the box's own).

    The longest column of text is `excess` narrower than it would be.
    """
    widths = {index: _column_width(columns, rows, index) for index in kept}
    texts = [index for index in kept if not columns[index].figures]
    cut = max(texts, key=lambda index: widths[index]) if excess and texts else None
    table = Table(box=_BOX, pad_edge=False, show_edge=False, padding=(0, gap - 1, 0, 0))
    for index in kept:
        column = columns[index]
        table.add_column(
            Text(column.header),
            justify="right" if column.figures else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=max(_SHORTEST, widths[index] - excess) if index == cut else None,
        )
    for row in rows:
        table.add_row(*(Text(row[index]) for index in kept))
    return table


def _column_width(columns: Sequence[Column], rows: Sequence[Sequence[str]], index: int) -> int:
    """Places on the screen that a column takes; letters of Korean take two."""
    return max(map(cell_len, (columns[index].header, *(row[index] for row in rows))))


def _width(out: Console, table: Table) -> int:
    """Columns that the table takes when nothing is cut."""
    return out.measure(table, options=out.options.update(max_width=_UNLIMITED_WIDTH)).maximum


def _is_figures(values: Sequence[object]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(isinstance(value, int | float) for value in known)
