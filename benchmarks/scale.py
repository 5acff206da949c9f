"""Many boards in one run: wall time against one board, and what each board costs the host.

Fake boards that only wait (each trial lasts ten seconds of real time), in turns with a single one;
then local agents, which are real processes; then all of them together in one run. Each of the three
is measured in a process of its own, so that none uses memory that another one left, and prints the
threads, open files and child processes that it left behind: none may be.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
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


MIB = 1 << 20
Work = tuple[Sequence[Board], Mapping[str, Assignment]]


@dataclass(frozen=True)
class Held:
    """What this process holds."""

    rss_bytes: int
    threads: int
    files: int
    children: int

    @classmethod
    def now(cls) -> Held:
        """At this moment."""
        me = psutil.Process()
        children = len(me.children(recursive=True))
        return cls(me.memory_info().rss, me.num_threads(), me.num_fds(), children)

    def since(self, before: Held) -> Held:
        """What came on top of that."""
        return Held(
            self.rss_bytes - before.rss_bytes,
            self.threads - before.threads,
            self.files - before.files,
            self.children - before.children,
        )


@dataclass(frozen=True)
class Cost:
    """What one run took of this process and of its children, the lines to local agents."""

    boards: int
    wall_s: float
    cpu_s: float
    lines_cpu_s: float
    lines_bytes: int
    """Memory that the lines share with no other process, when all boards were connected."""
    held: Held
    failed: int


@dataclass(frozen=True)
class Measured:
    """Runs of one process, what it held before them, and what they left behind."""

    costs: list[Cost]
    before: Held
    left: Held


def run(boards: Sequence[Board], assignments: Mapping[str, Assignment]) -> Cost:
    """Conduct the boards with a live dashboard drawn into nothing."""
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=40)
    display = Display(RunProgress.of([board.name for board in boards]), console, live=True)
    lines_bytes = 0
    lines_cpu = _cpu_of_children_s()
    cpu, started = time.process_time(), time.perf_counter()

    def prepare(_: Mapping[str, BoardConnected]) -> Mapping[str, Assignment]:
        nonlocal lines_bytes
        lines_bytes = _memory_of_children()
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
        len(boards),
        time.perf_counter() - started,
        time.process_time() - cpu,
        _cpu_of_children_s() - lines_cpu,
        lines_bytes,
        Held.now(),
        len(ending.failed),
    )


def _cpu_of_children_s() -> float:
    """Of those that have ended; agents are nobody's children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory_of_children() -> int:
    total = 0
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            total += child.memory_full_info().uss
    return total


def fakes(count: int, folder: Path) -> Work:
    file = model_file(folder)
    boards = [FakeBoard(f"b{i}", FakeAgent(SystemClock())) for i in range(count)]
    return boards, {b.name: assignment(b.name, [("fp32", file)], TEN_SECONDS) for b in boards}


@contextlib.contextmanager
def agents(count: int, folder: Path) -> Iterator[Work]:
    """Local agents, each ended when its work is done."""
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
        yield boards, {b.name: assignment(b.name, [("fp32", file)]) for b in boards}
    finally:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(str(folder) in word for word in process.cmdline()):
                    process.kill()


def turns(count: int, folder: Path) -> list[Cost]:
    """One fake board and many, in turns."""
    return [run(*fakes(n, folder)) for _ in range(ROUNDS) for n in (1, count)]


def only_agents(count: int, folder: Path) -> list[Cost]:
    with agents(count, folder) as work:
        return [run(*work)]


def together(fake_count: int, agent_count: int, folder: Path) -> list[Cost]:
    """Both kinds in one run."""
    boards, todo = fakes(fake_count, folder)
    with agents(agent_count, folder) as (more, also):
        return [run([*boards, *more], {**todo, **also})]


def measured(work: Callable[..., list[Cost]], *counts: int) -> Measured:
    """Runs in this process, which has imported and cached everything before it counts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(*fakes(1, folder))
        before = Held.now()
        costs = work(*counts, folder)
        time.sleep(1)  # a thread that has said its last word needs a moment to end
        return Measured(costs, before, Held.now().since(before))


def alone(work: Callable[..., list[Cost]], *counts: int) -> Measured:
    """The same in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measured, work, *counts).result()


def report(name: str, cost: Cost) -> None:
    held, cpu_ms = cost.held, 1e3 * cost.cpu_s / cost.boards
    print(
        f"{name:<18} wall {cost.wall_s:6.2f} s  cpu {cpu_ms:7.2f} ms/board  "
        f"rss {held.rss_bytes / MIB:6.1f} MiB  threads {held.threads}  files {held.files}  "
        f"failed {cost.failed}"
    )


def per_board(kind: str, one: Measured) -> None:
    """What a board of this kind costs the host, its line included, the agent itself not."""
    cost = one.costs[-1]
    added = cost.held.since(one.before).rss_bytes
    print(
        f"{kind}: {added / cost.boards / 1024:.0f} KiB and "
        f"{1e3 * cost.cpu_s / cost.boards:.1f} ms of processor time in the orchestrator, "
        f"{cost.lines_bytes / cost.boards / MIB:.1f} MiB and "
        f"{1e3 * cost.lines_cpu_s / cost.boards:.0f} ms in its line, a board"
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
    many = alone(turns, wanted.fakes)
    rounds = list(zip(many.costs[::2], many.costs[1::2], strict=True))
    for single, all_ in rounds:
        report("1 fake board", single)
        report(f"{wanted.fakes} fake boards", all_)
    real = alone(only_agents, wanted.locals)
    report(f"{wanted.locals} local agents", real.costs[0])
    both = alone(together, wanted.fakes, wanted.locals)
    report("both in one run", both.costs[0])
    per_board("a fake board", many)
    per_board("a local agent", real)
    per_board("both in one run", both)
    ratios = [all_.wall_s / single.wall_s for single, all_ in rounds]
    ratio = statistics.median(ratios)
    print(
        f"wall time of {wanted.fakes} boards over one: {ratio:.2f} (median of {ROUNDS}: "
        f"{min(ratios):.2f} to {max(ratios):.2f}; goal: at most {GOAL})"
    )
    kinds = {"fake boards": many, "local agents": real, "both": both}
    for kind, one in kinds.items():
        left = one.left
        print(
            f"left behind by {kind}: {left.threads} threads, {left.files} files, "
            f"{left.children} processes"
        )
    height = screen_height(wanted.fakes)
    print(f"dashboard of {wanted.fakes} boards: {height} of 40 lines; {os.cpu_count()} cores")
    leak = max(max(m.left.threads, m.left.files, m.left.children) for m in kinds.values())
    failed = sum(cost.failed for one in kinds.values() for cost in one.costs)
    return 0 if ratio <= GOAL and leak <= 0 and not failed else 1


if __name__ == "__main__":
    raise SystemExit(main())
