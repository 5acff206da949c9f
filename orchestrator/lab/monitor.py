"""The emulator's machine protocol (QMP): one command over a Unix socket, with a deadline."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from orchestrator.lab.errors import VirtualBoardFailed

TIMEOUT_S: Final = 5.0
_LONGEST_ANSWER_BYTES: Final = 1 << 20


def command(path: Path, name: str, /, **arguments: object) -> Any:
    """Run one QMP command and return what it returned.

    Raises VirtualBoardFailed when the emulator is gone, frozen, or refuses.
    """
    board = path.parent.name
    try:
        with connected(path, TIMEOUT_S) as sock, sock.makefile("rwb", buffering=0) as stream:
            _answer(stream, board)  # the greeting
            _ask(stream, {"execute": "qmp_capabilities"}, board)
            return _ask(stream, {"execute": name, "arguments": arguments}, board)
    except TimeoutError as exc:
        raise VirtualBoardFailed(
            f"{board}: its emulator did not answer '{name}' within {TIMEOUT_S:.0f} s; is it frozen?"
        ) from exc
    except OSError as exc:
        raise VirtualBoardFailed(
            f"{board}: its emulator is gone ({exc.strerror or exc}); start it with "
            f"`orchestrator lab up {board}`"
        ) from exc


@contextlib.contextmanager
def connected(path: Path, timeout_s: float) -> Iterator[socket.socket]:
    """A connection to a Unix socket, however long its path is (a name has 107 bytes at most)."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(timeout_s)
            sock.connect(f"/proc/self/fd/{folder}/{path.name}")
            yield sock
    finally:
        os.close(folder)


def _ask(stream: socket.SocketIO, request: dict[str, Any], board: str) -> Any:
    stream.write(json.dumps(request).encode() + b"\n")
    while True:
        answer = _answer(stream, board)
        if "error" in answer:
            said = answer["error"].get("desc", "no reason given")
            raise VirtualBoardFailed(
                f"{board}: its emulator refused '{request['execute']}': {said}"
            )
        if "return" in answer:
            return answer["return"]


def _answer(stream: socket.SocketIO, board: str) -> dict[str, Any]:
    line = stream.readline(_LONGEST_ANSWER_BYTES)
    try:
        answer = json.loads(line)
    except ValueError as exc:
        raise VirtualBoardFailed(f"{board}: its emulator ended in the middle of an answer") from exc
    if not isinstance(answer, dict):
        raise VirtualBoardFailed(f"{board}: its emulator answered {type(answer).__name__}")
    return answer
