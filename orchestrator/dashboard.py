"""The screen of a run while it works: live where there is a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.events import Event
from orchestrator.progress import BoardProgress, RunProgress

REFRESHES_PER_S = 2
"""Few, because a local board shares this machine with its own measurement."""
_MANY_BOARDS = 16
"""With more the screen is full, and drawing it is the largest cost of a run that only waits."""
LOG_LINES = 6
_HEADROOM_LINES = 9
_SPARKS = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH = 8
_SPARK_MIN_RANGE_C = 2.0
_WIDE_COLUMNS = 100
_URGENCY = ("failed", "measuring", "cooling", "pushing", "connecting", "ready", "waiting", "done")
_STYLES = {"failed": "bold red", "measuring": "green", "cooling": "cyan", "done": "dim"}


def sparkline(values: list[float]) -> str:
    """The last values as small bars; a range under 2 degrees is drawn flat, being noise."""
    shown = values[-_SPARK_WIDTH:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    span = max(high - low, _SPARK_MIN_RANGE_C)
    return "".join(_SPARKS[min(7, int(8 * (value - low) / span))] for value in shown)


def duration(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass
class Screen:
    """Draws a run's progress anew at each refresh, within the height that there is."""

    progress: RunProgress
    title: str
    started_s: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = options.max_height or console.height
        rows = max(3, height - _HEADROOM_LINES - LOG_LINES)
        yield self._header()
        yield _board_table(list(self.progress.boards.values()), rows, options.max_width)
        if self.progress.builds.builds:
            yield self.progress.builds.table(LOG_LINES)
            return
        yield Group(
            *[
                Text(f"  {line}", style="dim", no_wrap=True, overflow="ellipsis")
                for line in list(self.progress.log)[-LOG_LINES:]
            ]
        )

    def _header(self) -> Table:
        planned = sum(board.planned for board in self.progress.boards.values())
        ended = sum(board.ended for board in self.progress.boards.values())
        elapsed = duration(time.monotonic() - self.started_s)
        header = Table.grid(padding=(0, 1), expand=True)
        header.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        header.add_column(width=20)
        header.add_column(justify="right", no_wrap=True)
        bar = ProgressBar(total=planned or 1, completed=ended, width=20)
        counted = f"{ended}/{planned} trials" if planned else self.progress.stage
        header.add_row(Text(self.title, style="bold"), bar, Text(f"{counted}  {elapsed}"))
        return header


def _board_table(boards: list[BoardProgress], rows: int, width: int) -> Table:
    wide = width >= _WIDE_COLUMNS
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, show_edge=False)
    table.add_column("board", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("variant", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("phase", no_wrap=True)
    table.add_column("done", justify="right", no_wrap=True)
    table.add_column("p50 ms", justify="right", no_wrap=True)
    table.add_column("°C", justify="right", no_wrap=True)
    if wide:
        table.add_column("trend", no_wrap=True, width=_SPARK_WIDTH)
    shown = boards
    if len(boards) > rows:
        shown = sorted(boards, key=lambda board: _URGENCY.index(board.state))[: rows - 1]
    for board in shown:
        cells = _cells(board)
        table.add_row(*(cells if wide else cells[:-1]))
    if len(shown) < len(boards):
        hidden = f"… and {len(boards) - len(shown)} more boards"
        table.add_row(Text(hidden, style="dim"), *[""] * (7 + wide))
    return table


def _cells(board: BoardProgress) -> list[Text]:
    speed = "-"
    if board.emulated:
        speed = "emulated"
    elif board.recent_p50_ns is not None:
        speed = f"{board.recent_p50_ns / 1e6:.2f}"
    done = _of(board.samples, board.samples_wanted) if board.state == "measuring" else ""
    if board.phase == "evaluate":
        done = _of(board.images, board.images_wanted)
    temps = list(board.temps_c)
    count = f"{board.ended}/{board.planned}" if board.planned else "-"
    texts = [
        board.name,
        board.state,
        count,
        board.error if board.state == "failed" else board.variant,
        board.phase,
        done,
        speed,
        f"{temps[-1]:.1f}" if temps else "-",
        sparkline(temps),
    ]
    styles = ["bold", _STYLES.get(board.state, ""), "", "", "", "", "", "", "cyan"]
    return [Text(text, style=style) for text, style in zip(texts, styles, strict=True)]


def _of(done: int, wanted: int) -> str:
    """Progress towards a minimum; past it, time decides and only the count is left to say."""
    return f"{done}/{wanted}" if done < wanted else str(done)


class Display:
    """Hears events and shows them; `note` is for what is not an event of a board."""

    def __init__(self, progress: RunProgress, console: Console, *, live: bool) -> None:
        self.progress = progress
        self._console = console
        self._live = live

    def hear(self, event: Event) -> None:
        """Take an event in; without a live screen, print what is worth a line."""
        line = self.progress.fold(event)
        if line is not None:
            self._print(line)

    def note(self, line: str) -> None:
        """Say something that concerns no single board."""
        self.progress.note(line)
        self._print(self.progress.log[-1])

    def _print(self, line: str) -> None:
        if not self._live:
            self._console.print(Text(line), soft_wrap=True)

    @contextmanager
    def shown(self, title: str) -> Iterator[None]:
        """Keep the screen up while the block runs; it is cleared for the final table."""
        screen = Screen(self.progress, title, time.monotonic())
        if not self._live:
            self._console.print(Text(title, style="bold"))
            yield
            return
        many = len(self.progress.boards) > _MANY_BOARDS
        per_s = REFRESHES_PER_S / 2 if many else REFRESHES_PER_S
        with Live(screen, console=self._console, refresh_per_second=per_s, transient=True):
            yield
