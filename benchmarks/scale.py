"""Many boards in one run: wall time against one board, and what each board costs the host.

Fake boards that only wait (each trial lasts ten seconds of real time), in turns with a single one,
then local agents, which are real processes. Prints threads and open files before and after: none
may be left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil
from rich.console import Console

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from support.boards import agent_options
from support.onnxmodels import as_file, tiny_model
from support.runs import SCENARIO, assignment, model_file

from orchestrator.boards.base import Board
from orchestrator.boards.fake import FakeAgent, FakeBoard
from orchestrator.boards.local import LocalBoard
from orchestrator.clock import SystemClock
from orchestrator.conduct import conduct
from orchestrator.dashboard import Display, Screen
from orchestrator.events import BoardConnected, Event
from orchestrator.execute import Assignment
from orchestrator.progress import RunProgress

FAKE_BOARDS = 200
LOCAL_AGENTS = 32
ROUNDS = 3
GOAL = 1.1
TEN_SECONDS = msgspec.structs.replace(
    SCENARIO, min_duration_ns=10_000_000_000, max_duration_ns=20_000_000_000
)


@dataclass(frozen=True)
class Cost:
    """What one run took, and what the process held after it."""

    wall_s: float
    cpu_s: float
    rss_bytes: int
    threads: int
    files: int
    failed: int


def run(boards: Sequence[Board], assignments: Mapping[str, Assignment]) -> Cost:
    """Conduct the boards with a live dashboard drawn into nothing."""
    me = psutil.Process()
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=40)
    display = Display(RunProgress.of([board.name for board in boards]), console, live=True)
    cpu, started = time.process_time(), time.perf_counter()

    def prepare(_: Mapping[str, BoardConnected]) -> Mapping[str, Assignment]:
        display.progress.plan({name: len(todo.work) for name, todo in assignments.items()})
        return assignments

    def listen(event: Event) -> None:
        display.hear(event)

    with display.shown("scale"):
        ending = conduct(
            boards, run_id="run-1", holder="bench", host="host",
            prepare=prepare, listen=listen, clock=SystemClock(),
        )  # fmt: skip
    for name, error in list(ending.failed.items())[:1]:
        print(f"{name} failed: {error}")
    return Cost(
        time.perf_counter() - started,
        time.process_time() - cpu,
        me.memory_info().rss,
        me.num_threads(),
        me.num_fds(),
        len(ending.failed),
    )


def fakes(count: int, folder: Path) -> Cost:
    file = model_file(folder)
    boards = [FakeBoard(f"b{i}", FakeAgent(SystemClock())) for i in range(count)]
    return run(boards, {b.name: assignment(b.name, [("fp32", file)], TEN_SECONDS) for b in boards})


def locals_(count: int, folder: Path) -> Cost:
    file = as_file(tiny_model(folder / "tiny.onnx"))
    boards = []
    for i in range(count):
        place = folder / f"l{i}"
        place.mkdir()
        boards.append(
            LocalBoard(
                f"l{i}", home=place / "home", python=sys.executable, extra=agent_options(place)
            )
        )
    try:
        return run(boards, {b.name: assignment(b.name, [("fp32", file)]) for b in boards})
    finally:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(str(folder) in word for word in process.cmdline()):
                    process.kill()


def report(name: str, cost: Cost, boards: int) -> None:
    print(
        f"{name:<18} wall {cost.wall_s:6.2f} s  cpu {1e3 * cost.cpu_s / boards:7.2f} ms/board  "
        f"rss {cost.rss_bytes / 2**20:6.1f} MiB  threads {cost.threads}  files {cost.files}  "
        f"failed {cost.failed}"
    )


def screen_height(count: int) -> int:
    """Lines that the dashboard takes with that many boards, on 40."""
    console = Console(file=io.StringIO(), width=120, height=40, record=True)
    progress = RunProgress.of([f"b{i}" for i in range(count)])
    console.print(Screen(progress, "scale", time.monotonic()))
    return len(console.export_text().splitlines())


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--fakes", type=int, default=FAKE_BOARDS)
    options.add_argument("--locals", type=int, default=LOCAL_AGENTS)
    wanted = options.parse_args()
    me = psutil.Process()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fakes(1, folder)  # imports and caches
        threads, files, rss = me.num_threads(), me.num_fds(), me.memory_info().rss
        rounds = [(fakes(1, folder), fakes(wanted.fakes, folder)) for _ in range(ROUNDS)]
        for one, many in rounds:
            report("1 fake board", one, 1)
            report(f"{wanted.fakes} fake boards", many, wanted.fakes)
        per_board = (many.rss_bytes - rss) / wanted.fakes / 1024
        real = locals_(wanted.locals, folder)
        report(f"{wanted.locals} local agents", real, wanted.locals)
    ratios = [many.wall_s / one.wall_s for one, many in rounds]
    ratio = statistics.median(ratios)
    failed = real.failed + sum(many.failed for _, many in rounds)
    leak = (me.num_threads() - threads, me.num_fds() - files)
    print(
        f"wall time of {wanted.fakes} boards over one: {ratio:.2f} (median of {ROUNDS}: "
        f"{min(ratios):.2f} to {max(ratios):.2f}; goal: at most {GOAL}); "
        f"{per_board:.0f} KiB a board; left behind: {leak[0]} threads, {leak[1]} files"
    )
    height = screen_height(wanted.fakes)
    print(f"dashboard of {wanted.fakes} boards: {height} of 40 lines; {os.cpu_count()} cores")
    return 0 if ratio <= GOAL and max(leak) <= 0 and not failed else 1


if __name__ == "__main__":
    raise SystemExit(main())
