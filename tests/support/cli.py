"""The command `orchestrator` as users run it: a process of its own, in a workspace of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil


@dataclass
class Desk:
    """A folder with an inventory of local boards; nothing outside of it is touched."""

    root: Path
    boards: tuple[str, ...] = ("here",)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        lines = ["boards:"]
        for name in self.boards:
            home, lock = self.root / f"home-{name}", self.root / f"{name}.lock"
            lines += [f"  {name}:", "    local: true", f"    home: {home}", f"    lock: {lock}"]
        (self.root / "inventory.yaml").write_text("\n".join(lines) + "\n")

    @property
    def database(self) -> Path:
        return self.root / "results.sqlite"

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Begin a command; stdout and stderr are pipes."""
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *args],
            cwd=self.root,
            env=os.environ | {"COLUMNS": "120"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *args: str, timeout_s: float = 110) -> subprocess.CompletedProcess[str]:
        """A whole command."""
        process = self.start(*args)
        out, err = process.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Rows of the database, read beside whatever writes it."""
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(sql)]

    def await_rows(self, sql: str, timeout_s: float = 60) -> list[dict[str, Any]]:
        """Wait until a query has an answer."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(sqlite3.Error):
                if rows := self.rows(sql):
                    return rows
            time.sleep(0.05)
        raise AssertionError(f"no row within {timeout_s} s: {sql}")

    def processes(self, *words: str) -> list[psutil.Process]:
        """Our agents and workers whose command line has every word."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                ours = any(str(self.root) in argument for argument in line)
                if ours and all(word in line for word in words):
                    found.append(process)
        return found

    def await_process(self, *words: str, timeout_s: float = 30) -> psutil.Process:
        """Wait for one of our processes."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if found := self.processes(*words):
                return found[0]
            time.sleep(0.02)
        raise AssertionError(f"no process with {words}")

    def clean(self) -> None:
        """End what is left, by pid."""
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()
        for left in self.processes():
            with contextlib.suppress(psutil.Error):
                left.kill()
                left.wait(5)


@contextlib.contextmanager
def desk(root: Path, *boards: str) -> Iterator[Desk]:
    """A workspace that leaves no process behind."""
    made = Desk(root, boards or ("here",))
    try:
        yield made
    finally:
        made.clean()


def table(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What `--json` printed."""
    assert result.stdout, result.stderr
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed
