from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from orchestrator.tables import Column, PipeConsole, console, figure, show, show_query, value_text

COLUMNS = (
    Column("board"),
    Column("variant"),
    Column("p50 ms", figures=True),
    Column("instruction set", spare=1),
    Column("note", spare=2),
)
ROWS = (
    ("local", "tinydet/int8_ptq_all", "12.30", "x86_64-vnni", "n" * 40),
    ("pi5", "tinydet/fp32", "7.125", "aarch64-dotprod", "-"),
)


def narrow(width: int) -> PipeConsole:
    return PipeConsole(file=io.StringIO(), width=width, markup=False, highlight=False)


def text_of(out: PipeConsole) -> list[str]:
    assert isinstance(out.file, io.StringIO)
    return [line.rstrip() for line in out.file.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("width", "headers"),
    [
        (90, ["board", "variant", "p50 ms", "instruction set", "note"]),
        (80, ["board", "variant", "p50 ms", "instruction set"]),
        (40, ["board", "variant", "p50 ms"]),
    ],
)
def test_columns_that_do_not_fit_are_left_out_whole(width: int, headers: list[str]) -> None:
    """A narrow terminal loses the least needed columns; no header is ever wrapped or cut."""
    out = narrow(width)
    show(out, COLUMNS, ROWS)
    lines = text_of(out)
    assert lines[0].split() == " ".join(headers).split()
    assert len(lines) == 2 + len(ROWS)
    assert max(map(len, lines)) <= width


def test_text_is_cut_before_any_figure() -> None:
    """Where even the columns that stay have no room, the longest text is cut, and no figure."""
    out = narrow(28)
    show(out, COLUMNS, (*ROWS, ("pi3b", "가벼운 유넷/int8_ptq_all", "1234.5", "-", "-")))
    lines = text_of(out)
    assert [line.split()[-1] for line in lines[2:]] == ["12.30", "7.125", "1234.5"]
    assert lines[0].split() == ["board", "variant", "p50", "ms"]
    assert "…" in lines[2]
    assert all(cell_len(line) <= 28 for line in lines)


def test_columns_move_together_before_one_is_left_out() -> None:
    """Where a blank less between columns is enough, no column is left out."""
    header = "board variant              p50 ms instruction set note"
    out = narrow(len(header) + len(ROWS[0][4]) - len("note"))
    show(out, COLUMNS, ROWS)
    assert text_of(out)[0] == header


def test_figures_stand_to_the_right() -> None:
    """Figures end in the same column as their header, text begins where its header does."""
    out = narrow(120)
    show(out, COLUMNS, ROWS)
    header, _, first, second = text_of(out)
    end = header.index("p50 ms") + len("p50 ms")
    assert first[:end].endswith(" 12.30")
    assert second[:end].endswith(" 7.125")
    assert second.index("tinydet/fp32") == header.index("variant")


def test_markup_in_cells_is_text() -> None:
    """Brackets in a cell are shown as they are, not read as colours."""
    out = narrow(80)
    show(out, [Column("[bold]a")], [["[red]x[/red]"]])
    assert text_of(out)[0] == "[bold]a"
    assert text_of(out)[2] == "[red]x[/red]"


def test_an_answer_too_wide_for_the_terminal_is_shown_record_by_record() -> None:
    """Wide rows become one line a value, with nothing cut."""
    out = narrow(40)
    show_query(out, ["n", "text"], [(1, "x" * 60), (None, "a\x1b[31mb")])
    assert text_of(out) == [
        "row 1",
        "  n     1",
        "  text  " + "x" * 60,
        "row 2",
        "  n     NULL",
        "  text  a\\x1b[31mb",
    ]


def test_an_answer_that_fits_is_a_table() -> None:
    """Columns of figures stand to the right even with NULL among them."""
    out = narrow(40)
    show_query(out, ["count", "text"], [(1, "a"), (None, "b")])
    assert text_of(out)[2:] == ["    1  a", " NULL  b"]


def test_an_answer_without_rows_shows_its_columns() -> None:
    """A query that finds nothing still shows what it asked for."""
    out = narrow(40)
    show_query(out, ["a", "b"], [])
    assert text_of(out)[0].split() == ["a", "b"]


def test_without_a_terminal_nothing_is_cut() -> None:
    """Into a file or a pipe, a wide table is written whole."""
    file = io.StringIO()
    show_query(console(file), ["text"], [("x" * 500,)])
    assert "x" * 500 in file.getvalue()
    assert "\x1b" not in file.getvalue()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "NULL"),
        (0, "0"),
        (1234567890123, "1234567890123"),
        (0.1, "0.1"),
        (1.0, "1"),
        (12.3456789, "12.3457"),
        (123456789.25, "123456789"),
        (0.00012345678, "0.000123"),
        (1e-9, "1e-09"),
        (2.5e17, "2.5e+17"),
        (-0.5, "-0.5"),
        (float("inf"), "inf"),
        (b"\x00\xff", "x'00ff'"),
        ("a\nb", "a\\nb"),
    ],
)
def test_values_are_written_for_a_person(value: object, expected: str) -> None:
    """NULL, figures, bytes and text each have one clear form."""
    assert value_text(value) == expected


@given(st.floats(1e-4, 1e14))
def test_a_rounded_figure_stays_near_its_value(value: float) -> None:
    """What is shown differs from the value by one part in 100,000 at most, or by 5e-7."""
    assert float(figure(value)) == pytest.approx(value, rel=1e-5, abs=5e-7)


def test_a_closed_pipe_reaches_the_command_line() -> None:
    """A reader that went away is reported as BrokenPipeError, not as an exit of its own."""

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        show_query(console(Closed()), ["a"], [(1,)])
