"""A run in a thread of its own, so that a test can do harm while it goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sqlite3
import threading
import time
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

_OPTIONS = ("seed", "model", "recipes", "data", "calibration", "imgsz", "profile", "threads")


class _Watched(Display):
    """A display that keeps every event."""

    def __init__(self, boards: list[str]) -> None:
        super().__init__(RunProgress.of(boards), Console(file=io.StringIO()), live=False)
        self.events: list[Event] = []

    def hear(self, event: Event) -> None:
        self.events.append(event)
        super().hear(event)


class RunThread:
    """One run of an experiment on boards of a workspace, or the resumption of the latest."""

    def __init__(
        self, place: Workspace, boards: str, experiment: str | None, patience: Patience
    ) -> None:
        self.database = place.database
        with contextlib.chdir(place.root):
            if experiment is None:
                self._asked = invocation.recall(None, None, place.database, None)
            else:
                given = dict.fromkeys(_OPTIONS) | {"shapes": ()}
                self._asked = invocation.resolve(boards, experiment, place.database, None, given)
        self._patience = patience
        self._display = _Watched([entry.name for entry in self._asked.entries])
        self._report: Report | None = None
        self._began_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
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
        timeout_s: float = 120,
    ) -> Any:
        """The first event of that kind from that board for which `is_it` holds."""
        deadline = time.monotonic() + timeout_s
        while True:
            for event in self.events(kind, board):
                if is_it(event):
                    return event
            assert self._thread.is_alive(), self._report
            assert time.monotonic() < deadline, [type(e).__name__ for e in self._display.events]
            time.sleep(0.05)

    def end(self, bound_s: float) -> Report:
        """Wait for the run's own end; the bound is on the whole run."""
        self._thread.join(bound_s - self.elapsed_s)
        assert not self._thread.is_alive(), f"the run did not end within {bound_s} s"
        assert self._report is not None
        return self._report

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return rows_of(self.database, sql, self._asked.request.run_id)


def rows_of(database: Path, sql: str, run_id: str) -> list[dict[str, Any]]:
    """A query over one run alone, whatever else the database has."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        for table in ("runs", "trials"):
            db.execute(
                f"CREATE TEMP VIEW {table} AS SELECT * FROM main.{table} "  # noqa: S608 - our own
                f"WHERE run_id = '{run_id}'"
            )
        return [dict(row) for row in db.execute(sql)]
