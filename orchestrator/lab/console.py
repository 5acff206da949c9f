"""A terminal on a board's serial console, where a root shell waits."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from typing import Final

from orchestrator.lab import monitor
from orchestrator.lab.errors import VirtualBoardFailed
from orchestrator.lab.layout import BoardFolder
from orchestrator.text import printable

LEAVE: Final = b"\x1d"
"""Ctrl-]."""
_CHUNK_BYTES: Final = 4096


def attach(folder: BoardFolder) -> None:
    """Join this terminal to the console until Ctrl-]; raises VirtualBoardFailed."""
    try:
        with monitor.connected(folder.console, monitor.TIMEOUT_S) as sock, _raw(sys.stdin.fileno()):
            sock.settimeout(None)
            sock.sendall(b"\n")
            pump(sys.stdin.fileno(), sys.stdout.fileno(), sock.fileno())
    except OSError as exc:
        raise VirtualBoardFailed(
            f"{folder.name}: no console ({exc.strerror or exc}); is the board up?"
        ) from exc


def said(folder: BoardFolder) -> str:
    """Everything that the console has said, made safe for a terminal line by line."""
    try:
        text = folder.console_log.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return "".join(f"{printable(line)}\n" for line in text.splitlines())


def pump(keyboard: int, screen: int, console: int) -> None:
    """Carry bytes both ways until Ctrl-] is typed or one side ends."""
    while True:
        ready, _, _ = select.select([keyboard, console], [], [])
        if console in ready:
            said = os.read(console, _CHUNK_BYTES)
            if not said:
                return
            _write(screen, said)
        if keyboard in ready:
            typed = os.read(keyboard, _CHUNK_BYTES)
            before, leave, _ = typed.partition(LEAVE)
            _write(console, before)
            if leave or not typed:
                return


def _write(target: int, data: bytes) -> None:
    while data:
        data = data[os.write(target, data) :]


@contextlib.contextmanager
def _raw(terminal: int) -> Iterator[None]:
    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
