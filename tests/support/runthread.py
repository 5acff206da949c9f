"""A run in a thread of its own, so that a test can do harm while it goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator import invocation, past
from orchestrator.clock import SystemClock
from orchestrator.dashboard import Display
from orchestrator.events import Event
from orchestrator.execute import Patience
from orchestrator.progress import RunProgress
from orchestrator.runner import Report, Run
from orchestrator.workspace import Workspace
from results.store import Store


class _Watched(Display):
    """A display that keeps every event, after `meanwhile` was told of it."""

    def __init__(self, boards: list[str], meanwhile: Callable[[Event], None]) -> None:
        super().__init__(RunProgress.of(boards), Console(file=io.StringIO()), live=False)
        self.events: list[Event] = []
        self._meanwhile = meanwhile

    def hear(self, event: Event) -> None:
        self._meanwhile(event)
        self.events.append(event)
        super().hear(event)


class RunThread:
    """One run of an experiment on boards of a workspace, or the resumption of the latest.

    `meanwhile` is called with each event in the run's own thread: a trial that has ended is
    stored then, and its board does not know it yet.
    """

    def __init__(
        self,
        place: Workspace,
        boards: str,
        experiment: str | None,
        patience: Patience,
        meanwhile: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self.database = place.database
        with contextlib.chdir(place.root):
            if experiment is None:
                self._asked = invocation.recall(None, None, place.database, None)
            else:
                given: dict[str, Any] = defaultdict(lambda: None, shapes=())  # no option is given
                self._asked = invocation.resolve(boards, experiment, place.database, None, given)
        self._patience = patience
        self._display = _Watched([entry.name for entry in self._asked.entries], meanwhile)
        self._report: Report | None = None
        self._error: BaseException | None = None
        self._began_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._measure()
        except BaseException as exc:  # noqa: BLE001 - raised where the end is awaited
            self._error = exc

    def _measure(self) -> None:
        asked = self._asked
        with Store.open(asked.location, create=True) as store:
            before = past.recall(store, asked.request.run_id) if asked.resumed else None
            job = invocation.job_for(asked, self._display, before)
            job = dataclasses.replace(job, patience=self._patience)
            self._report = Run(job, store, self._display, SystemClock()).go()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    def events(self, kind: type[Event], board: str | None = None) -> list[Any]:
        return [
            e for e in list(self._display.events) if type(e) is kind and board in (None, e.board)
        ]

    def await_event(
        self,
        kind: type[Event],
        board: str,
        is_it: Callable[[Any], bool] = lambda _: True,
        timeout_s: float = 400,
        after: int = 0,
    ) -> Any:
        """The first event of that kind from that board for which `is_it` holds.

        Those before number `after` of the kind do not count.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            for event in self.events(kind, board)[after:]:
                if is_it(event):
                    return event
            assert self._thread.is_alive(), self._error or self._report
            assert time.monotonic() < deadline, [type(e).__name__ for e in self._display.events]
            time.sleep(0.05)

    def end(self, bound_s: float) -> Report:
        """Wait for the run's own end; the bound is on the whole run."""
        self._thread.join(bound_s - self.elapsed_s)
        assert not self._thread.is_alive(), f"the run did not end within {bound_s} s"
        if self._error is not None:
            raise self._error
        assert self._report is not None
        return self._report

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return rows_of(self.database, sql, self._asked.request.run_id)


def rows_of(database: Path, sql: str, run_id: str | None = None) -> list[dict[str, Any]]:
    """A query over one run alone, whatever else the database has; over all where none is named."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        for table in ("runs", "trials") if run_id is not None else ():
            db.execute(
                f"CREATE TEMP VIEW {table} AS SELECT * FROM main.{table} "  # noqa: S608 - our own
                f"WHERE run_id = '{run_id}'"
            )
        return [dict(row) for row in db.execute(sql)]
