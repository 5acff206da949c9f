"""Boards that lie, through the whole of a run: up to the stored trial and what is printed."""

from __future__ import annotations

import io
import resource
import time
from dataclasses import dataclass

import pytest
from rich.console import Console
from support.hostile import LIES, HostileBoard, raw_characters
from support.jobs import adhoc, job
from support.onnxmodels import tiny_model

from orchestrator import cli, final
from orchestrator.boards.fake import FakeAgent, FakeBoard
from orchestrator.clock import SystemClock
from orchestrator.dashboard import Display
from orchestrator.errors import BenchError
from orchestrator.progress import RunProgress
from orchestrator.runner import Report, Run
from results.queries import leaderboard
from results.store import Store

ONLY_TEXT = "nasty-names"
"""This board's lie is no figure, so what it measures is stored."""

REPORTED = {"nasty-failure"}
"""What failed is stored as failed, with the board's words and no figure."""

WALL_S = 60.0
GROWN_BYTES = 700 << 20
"""For all of them at once; the largest single part may have 256 MiB."""


@dataclass
class Night:
    """One run of all hostile boards beside an honest one, and what came of it."""

    trials: dict[str, list[str]]
    report: Report
    shown: str
    wall_s: float
    grown_bytes: int


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    folder = tmp_path_factory.mktemp("night")
    tiny_model(folder / "tiny.onnx")
    boards = [*map(HostileBoard, LIES), FakeBoard("honest", FakeAgent(SystemClock()))]
    todo = job(folder, adhoc(folder, "tiny.onnx"), boards)  # type: ignore[arg-type] # a list of both
    screen = io.StringIO()
    console = Console(file=screen, width=200, highlight=False, markup=False, emoji=False)
    display = Display(RunProgress.of([board.name for board in boards]), console, live=False)
    before, started = _peak_bytes(), time.monotonic()
    with Store.open(folder / "results.sqlite", create=True) as store, display.shown("a run"):
        report = Run(todo, store, display, SystemClock()).go()
        wall_s = time.monotonic() - started
        final.show(console, leaderboard(store, report.run_id), "fp32")
        rows = store.rows("SELECT board, state FROM trials")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cli.click, "echo", lambda text, err: screen.write(f"{text}\n"))
        with pytest.raises(BenchError) as caught:
            report.raise_if_incomplete()
        cli._report(caught.value, debug=False)
    trials: dict[str, list[str]] = {}
    for row in rows:
        trials.setdefault(row["board"], []).append(row["state"])
    return Night(trials, report, screen.getvalue(), wall_s, _peak_bytes() - before)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_the_honest_board_never_noticed(night: Night) -> None:
    """A board beside hostile ones is measured to its end."""
    assert night.trials["honest"] == ["finished", "finished"]


@pytest.mark.parametrize("lie", sorted(LIES))
def test_no_lie_is_stored_as_a_measurement(night: Night, lie: str) -> None:
    """What cannot be true ends that board's part, by name, and leaves no finished trial."""
    stored = night.trials.get(lie, [])
    if lie == ONLY_TEXT:
        assert stored == ["finished", "finished"]
        return
    assert stored == (["failed"] if lie in REPORTED else [])
    own = [str(error) for error in night.report.errors if str(error).startswith(f"{lie}: ")]
    assert len(own) == 1
    assert len(own[0]) < 6000


def test_nothing_reaches_the_terminal_raw(night: Night) -> None:
    """Neither the lines of a run, nor its table, nor its errors hold a control character."""
    assert "gnp.exe" in night.shown  # the nasty text is there, harmless
    assert raw_characters(night.shown) == set()


def test_bounded(night: Night) -> None:
    """All of them together cost the host a bounded time and memory."""
    assert night.wall_s < WALL_S
    assert night.grown_bytes < GROWN_BYTES


def test_a_traceback_is_escaped_too(capsys: pytest.CaptureFixture[str]) -> None:
    """The option --debug shows where an error came from, and no board's control characters."""
    cli._report(BenchError("pi: \x1b[2J\x1b]0;owned\x07"), debug=True)
    said = capsys.readouterr().err
    assert "owned" in said
    assert "\x1b" not in said
