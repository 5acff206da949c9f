"""The screen of a run: within its terminal, whatever happens on however many boards."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from orchestrator.dashboard import Display, Screen, duration, sparkline
from orchestrator.errors import BoardUnreachable
from orchestrator.events import BoardConnecting, BoardDone, BoardFailed, PushProgress
from orchestrator.progress import BoardProgress, RunProgress

STATES = ("failed", "measuring", "cooling", "pushing", "connecting", "ready", "waiting", "done")
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def board(name: str, state: str = "measuring", **more: object) -> BoardProgress:
    made = BoardProgress(
        name, "Raspberry Pi 5", state, planned=12, ended=3, variant="tinydet/int8_ptq",
        phase="sample", samples=120, samples_wanted=662, recent_p50_ns=23_456_000,
    )  # fmt: skip
    made.temps_c.extend([55.0, 58.5, 61.2])
    for field, value in more.items():
        setattr(made, field, value)
    return made


def drawn(boards: Sequence[BoardProgress], width: int, height: int, log: int = 50) -> list[str]:
    """The lines of the screen on a terminal of that size, without styles."""
    progress = RunProgress({one.name: one for one in boards}, "measuring")
    for number in range(log):
        progress.note(f"line {number} " + "of a log that is wider than any terminal " * 5)
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=True)
    console.print(Screen(progress, "demo · quick · run 20260101-000000-abcdef", 0.0))
    return _STYLE.sub("", out.getvalue()).rstrip("\n").split("\n")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 12), (60, 20)])
@pytest.mark.parametrize("count", [1, 3, 200])
def test_it_fits(width: int, height: int, count: int) -> None:
    """The screen never is higher or wider than its terminal."""
    boards = [board(f"pi{n:03}", STATES[n % len(STATES)]) for n in range(count)]
    lines = drawn(boards, width, height)
    assert len(lines) <= height
    assert max(cell_len(line) for line in lines) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_long_names_fit(width: int) -> None:
    """Names and errors of any length are cut, not wrapped."""
    boards = [
        board("a-board-with-a-very-long-name-in-a-rack" * 3, variant="m" * 300),
        board("b", "failed", error="a long story " * 50),
        board("c", samples=10**9, samples_wanted=10**9, ended=99999, planned=99999),
    ]
    lines = drawn(boards, width, 24)
    assert len(lines) <= 24
    assert max(cell_len(line) for line in lines) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_what_is_shown(width: int) -> None:
    """A board's line has its state, trial, variant, phase, count, median and temperature."""
    text = "\n".join(drawn([board("pi5")], width, 24))
    for part in (
        "pi5",
        "measuring",
        "3/12",
        "tinydet/int8_ptq",
        "sample",
        "120/662",
        "23.46",
        "61.2",
    ):
        assert part in text
    assert "3/12 trials" in text
    assert "demo · quick" in text


def test_the_trend_where_there_is_room() -> None:
    """The course of the temperature is drawn on wide terminals only."""
    assert "▁" in "\n".join(drawn([board("pi5")], 120, 24))
    assert "▁" not in "\n".join(drawn([board("pi5")], 80, 24))


def test_the_urgent_ones_first() -> None:
    """Of too many boards the failed and the busy are shown, and the rest is counted."""
    boards = [board(f"done{n}", "done") for n in range(100)]
    boards += [board("broken", "failed", error="no answer"), board("busy")]
    text = "\n".join(drawn(boards, 80, 24))
    assert text.index("broken") < text.index("busy") < text.index("done0")
    shown = len(re.findall(r"^(?:done\d+|broken|busy)\b", text, re.MULTILINE))
    assert f"… and {102 - shown} more boards" in text


def test_the_order_of_the_inventory_where_all_fit() -> None:
    """Where every board fits, lines do not jump about with the states."""
    text = "\n".join(drawn([board("a", "done"), board("b", "failed"), board("c")], 80, 24))
    assert re.findall(r"^[abc]\b", text, re.MULTILINE) == ["a", "b", "c"]


def test_emulated_boards_show_no_time() -> None:
    """Where the time would stand, an emulated board says that it is one."""
    text = "\n".join(drawn([board("virtual", emulated=True)], 120, 24))
    assert "emulated" in text
    assert "23.46" not in text


def test_absent_figures() -> None:
    """A board without sensor, plan or time shows dashes, not zeros."""
    bare = BoardProgress("bare", state="ready")
    line = next(line for line in drawn([bare], 120, 24) if line.startswith("bare"))
    assert re.fullmatch(r"bare\s+ready\s+-\s+-\s+-\s*", line)


@pytest.mark.parametrize("state", [state for state in STATES if state != "measuring"])
def test_counts_belong_to_a_trial(state: str) -> None:
    """Samples are shown while a trial runs, not beside a push or a cool-down."""
    assert "120/662" not in "\n".join(drawn([board("pi5", state)], 120, 24))


def test_images_while_evaluating() -> None:
    """While images are evaluated, those are counted."""
    text = "\n".join(drawn([board("pi", phase="evaluate", images=5, images_wanted=64)], 120, 24))
    assert "5/64" in text
    assert "120/662" not in text


def test_an_error_stands_in_the_line() -> None:
    """A failed board shows its reason where the variant stood."""
    text = "\n".join(drawn([board("pi5", "failed", error="no route to host")], 120, 24))
    assert "no route to host" in text
    assert "tinydet" not in text


def test_the_latest_lines_of_the_log() -> None:
    """The screen ends with the latest lines of the log."""
    lines = drawn([board("pi5")], 120, 24, log=9)
    assert [line.split()[1] for line in lines if line.strip().startswith("line ")][-1] == "8"


def test_no_boards() -> None:
    """A screen without boards can be drawn too."""
    assert drawn([], 80, 24)


HOSTILE = "\x1b[31m\x1b[2J\x1b]8;;http://x\x07[bold]red[/bold] \u202egnp \u2066x\u200b\r\n\x9b5m"


@pytest.mark.parametrize("live", [True, False])
def test_hostile_words_are_neutralised(live: bool) -> None:
    """Nothing that a board says reaches the terminal as a command, and markup is mere text."""
    out = io.StringIO()
    console = Console(file=out, width=300, height=24, force_terminal=True, color_system=None)
    progress = RunProgress.of(["pi5"])
    display = Display(progress, console, live=live)
    with display.shown("title"):
        display.hear(BoardFailed("pi5", BoardUnreachable(HOSTILE, "pi5")))
        display.note(HOSTILE)
        if live:
            console.print(Screen(progress, "title", 0.0))
    text = re.sub(r"\x1b\[(?:\?25[lh]|\d*[AK]|2K|1A)", "", out.getvalue())  # rich's own moves
    assert "[bold]red[/bold]" in text
    bad = {c for c in text if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\r"}
    assert bad == set()


# ---------------------------------------------------------------- plain lines and live screens


def console_for(*, terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=40, height=20, force_terminal=terminal), out


def test_plain_lines() -> None:
    """Without a live screen each line is printed once, whole, whatever the width."""
    console, out = console_for(terminal=False)
    display = Display(RunProgress.of(["pi"]), console, live=False)
    with display.shown("a title"):
        display.hear(BoardConnecting("pi", 1))
        display.hear(PushProgress("pi", 3, 0, 0, 0))
        display.note("a note that is longer than forty columns are wide, and yet not broken")
        display.hear(BoardDone("pi"))
    assert out.getvalue().splitlines() == [
        "a title",
        "pi: all 3 files are on the board already",
        "a note that is longer than forty columns are wide, and yet not broken",
    ]


def test_live_screen_is_cleared() -> None:
    """A live screen prints no lines of its own, and leaves room for the table at its end."""
    console, out = console_for(terminal=True)
    display = Display(RunProgress.of(["pi"]), console, live=True)
    with display.shown("a title"):
        display.hear(PushProgress("pi", 3, 0, 0, 0))
    assert "already" not in _STYLE.sub("", out.getvalue()).splitlines()[-1]
    assert "\x1b[?25h" in out.getvalue()  # the cursor is back
    assert list(display.progress.log) == ["pi: all 3 files are on the board already"]


def test_the_screen_survives_an_error() -> None:
    """An error inside the block comes out, and the cursor is back."""
    console, out = console_for(terminal=True)
    display = Display(RunProgress.of(["pi"]), console, live=True)
    with pytest.raises(ZeroDivisionError), display.shown("a title"):
        raise ZeroDivisionError
    assert "\x1b[?25h" in out.getvalue()


# ---------------------------------------------------------------- parts


def test_sparkline() -> None:
    """The last values are drawn from the lowest to the highest bar."""
    assert sparkline([]) == ""
    assert sparkline([50.0]) == "▁"
    assert sparkline([40.0, 50.0, 60.0]) == "▁▅█"
    assert sparkline([0.0] * 20 + [10.0]) == "▁▁▁▁▁▁▁█"
    assert sparkline([50.0, 50.2, 49.9]) == "▁▂▁"  # noise is drawn flat


@given(st.lists(st.floats(-40, 120), max_size=50))
def test_sparkline_of_anything(values: list[float]) -> None:
    """Any temperatures give at most eight bars, the highest of them for the highest value."""
    bars = sparkline(values)
    assert len(bars) == min(8, len(values))
    assert set(bars) <= set("▁▂▃▄▅▆▇█")
    shown = values[-8:]
    if shown:
        assert bars[shown.index(max(shown))] == max(bars)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0:00"),
        (59.9, "0:59"),
        (60, "1:00"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (90061, "25:01:01"),
    ],
)
def test_duration(seconds: float, expected: str) -> None:
    """Minutes and seconds, with hours where there are any."""
    assert duration(seconds) == expected
