"""Commands on a terminal of some width: a real one, or its width alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence

import pytest

from orchestrator import tables

_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def on_terminal(args: Sequence[str], columns: int) -> list[str]:
    """The lines that `orchestrator ARGS` prints on a terminal so wide, without its styles."""
    master, slave = os.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "LINES": "40", "TERM": "xterm-256color"}
    with subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *args],
        stdout=slave,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env=environment,
    ) as process:
        os.close(slave)
        text = b""
        while chunk := _read(master):
            text += chunk
        os.close(master)
        process.wait(30)
    lines = _STYLE.sub("", text.decode()).replace("\r\n", "\n").split("\n")
    return [line.rstrip() for line in lines]


def narrow_to(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tables as wide as a terminal of so many columns, within this process."""
    monkeypatch.setattr(
        tables, "console", lambda: tables.PipeConsole(file=sys.stdout, width=columns, markup=False)
    )


def _read(master: int) -> bytes:
    """What is there; nothing once the other side is closed, which Linux reports as EIO."""
    try:
        return os.read(master, 65536)
    except OSError:
        return b""
