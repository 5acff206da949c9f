"""All boards of a run at once: a thread each, and one place where events are heard and stored.

The thread that calls `conduct` is the only one that writes to the database and the screen.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from agent.wire import BenchError
from orchestrator.boards.base import Board
from orchestrator.clock import Clock
from orchestrator.errors import Interrupted
from orchestrator.events import (
    BoardConnected,
    BoardDone,
    BoardFailed,
    Event,
    TrialEnded,
    TrialProgress,
)
from orchestrator.execute import PATIENCE, Assignment, BoardRun, Order, Patience
from results.errors import RecordRefused

STOP_PATIENCE_S = 20.0
"""After Ctrl-C: a worker ends within seconds; a board that does not answer is left behind."""

Prepare = Callable[[Mapping[str, BoardConnected]], Mapping[str, Assignment]]
Listener = Callable[[Event], None]


@dataclass
class _Desk:
    """What the board threads and the main thread share: a queue, and a flag to stop."""

    inbox: queue.SimpleQueue[tuple[Event, Future[None] | None] | None] = field(
        default_factory=queue.SimpleQueue
    )
    """Events with the receipt their sender waits for; None stands for Ctrl-C."""
    stop: threading.Event = field(default_factory=threading.Event)

    def emit(self, event: Event) -> None:
        self.inbox.put((event, None))

    def store(self, event: TrialEnded) -> None:
        receipt: Future[None] = Future()
        self.inbox.put((event, receipt))
        # Answered by the conductor for as long as it listens; when it no longer does, the run is
        # over, and this thread is a daemon's: the process ends without it.
        receipt.result()


@dataclass(frozen=True)
class Ending:
    """How each board ended."""

    failed: Mapping[str, BenchError]
    interrupted: bool


def conduct(
    boards: Sequence[Board],
    *,
    run_id: str,
    holder: str,
    host: str,
    prepare: Prepare,
    listen: Listener,
    clock: Clock,
    stop_patience_s: float = STOP_PATIENCE_S,
    patience: Patience = PATIENCE,
    stored: frozenset[str] = frozenset(),
) -> Ending:
    """Run every board to its end and pass each event to `listen`, in order, on this thread.

    `stored` are attempts that are in the database already, by the ids that boards know them by: a
    board that still has one may forget it.

    `prepare` is called once, when every board has either answered or failed; it plans and
    builds. Whatever `listen` or `prepare` raise stops the boards and is raised again: journals
    that were not stored stay on the boards. Ctrl-C cancels the running trials, which are
    stored too.
    """
    desk = _Desk()
    assignments: dict[str, Future[Assignment | None]] = {}
    threads = []
    for board in boards:
        assignments[board.name] = Future()
        order = Order(run_id, holder, host, assignments[board.name], desk.stop, patience, stored)
        work = BoardRun(board, order, clock, desk.emit, desk.store)
        threads.append(threading.Thread(target=work.run, name=board.name, daemon=True))
    for thread in threads:
        thread.start()
    conductor = _Conductor(desk, assignments, prepare, listen, stop_patience_s)
    try:
        with _interrupts(conductor):
            conductor.until_done()
    except KeyboardInterrupt:
        conductor.wind_up()
        return Ending(conductor.failed, interrupted=True)
    except BaseException as exc:
        conductor.abandon(exc)
        raise
    return Ending(conductor.failed, interrupted=False)


class _Conductor:
    def __init__(
        self,
        desk: _Desk,
        assignments: Mapping[str, Future[Assignment | None]],
        prepare: Prepare,
        listen: Listener,
        patience_s: float,
    ) -> None:
        self._desk = desk
        self._patience_s = patience_s
        self._assignments = assignments
        self._prepare = prepare
        self._listen = listen
        self._connected: dict[str, BoardConnected] = {}
        self._ended: set[str] = set()
        self._prepared = False
        self.preparing = False
        self.failed: dict[str, BenchError] = {}

    def until_done(self) -> None:
        """Hear events until every board has ended."""
        while len(self._ended) < len(self._assignments):
            # Every board's thread says that it ended, whatever happened (BoardRun.run), and each of
            # its own waits has an end; Ctrl-C puts None here.
            item = self._desk.inbox.get()
            if item is None:
                raise KeyboardInterrupt
            self._hear(*item)
            if not self._prepared and self._all_answered():
                self._hand_out()

    def _hear(self, event: Event, receipt: Future[None] | None) -> None:
        try:
            self._listen(event)
        except RecordRefused as exc:
            if receipt is None:
                raise
            # What this board reported contradicts itself; it is no reason to stop the others.
            receipt.set_exception(RecordRefused(f"{event.board}: {exc}"))
            return
        except BaseException as exc:
            if receipt is not None:
                receipt.set_exception(BenchError(f"{event.board}: not stored: {exc}"))
            raise
        if receipt is not None:
            receipt.set_result(None)
        if isinstance(event, BoardConnected):
            self._connected.setdefault(event.board, event)
        elif isinstance(event, BoardFailed):
            self.failed[event.board] = event.error
            self._ended.add(event.board)
        elif isinstance(event, BoardDone):
            self._ended.add(event.board)

    def _all_answered(self) -> bool:
        return all(name in self._connected or name in self._ended for name in self._assignments)

    def _hand_out(self) -> None:
        self._prepared = True
        self.preparing = True
        alive = {name: at for name, at in self._connected.items() if name not in self._ended}
        assignments = self._prepare(alive) if alive else {}
        self.preparing = False
        for name, future in self._assignments.items():
            future.set_result(assignments.get(name))

    def _dismiss(self) -> None:
        self._desk.stop.set()
        for future in self._assignments.values():
            if not future.done():
                future.set_result(None)

    def wind_up(self) -> None:
        """After Ctrl-C: cancel what runs, store it, and wait for the boards, not for ever.

        A board that only reports progress is not on its way to an end.
        """
        self._dismiss()
        self._prepared = True
        until_s = time.monotonic() + self._patience_s
        while len(self._ended) < len(self._assignments):
            try:
                item = self._desk.inbox.get(timeout=max(0.0, until_s - time.monotonic()))
            except queue.Empty:
                item = None
            if item is not None:
                self._hear(*item)
            if item is not None and not isinstance(item[0], TrialProgress):
                until_s = time.monotonic() + self._patience_s
            elif time.monotonic() >= until_s:
                self._give_up_waiting()
                return

    def abandon(self, cause: BaseException) -> None:
        """After an error here: stop the boards; what they hold unstored stays with them."""
        self._dismiss()
        self._prepared = True
        self._listen = lambda event: _refuse(event, cause)
        while len(self._ended) < len(self._assignments):
            try:
                item = self._desk.inbox.get(timeout=self._patience_s)
            except queue.Empty:
                return
            if item is None:
                continue
            try:
                self._hear(*item)
            except BenchError:
                continue

    def interrupt(self) -> None:
        """Ctrl-C: at once while building, else between two events, never inside a transaction."""
        if self.preparing:
            raise KeyboardInterrupt
        self._desk.inbox.put(None)  # SimpleQueue.put may be called from a signal handler

    def _give_up_waiting(self) -> None:
        for name in self._assignments.keys() - self._ended:
            self.failed[name] = Interrupted(
                f"{name}: did not let go within {self._patience_s:g} s of the interruption; "
                f"its lease expires by itself"
            )


@contextmanager
def _interrupts(conductor: _Conductor) -> Iterator[None]:
    """Send the first SIGINT to the conductor; a second one ends the process the usual way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        conductor.interrupt()

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _refuse(event: Event, cause: BaseException) -> None:
    if isinstance(event, TrialEnded):
        raise BenchError(f"the run was stopped by: {cause}")
