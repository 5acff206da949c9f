"""A transport over a process that runs `agent dial`: here directly, or on a board through ssh.

The process gets one end of a socket pair as its standard input and output; rpyc speaks over
the other end. The board is offered nothing (VoidService), frames are capped before they are
allocated, and every wait has a deadline.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

import rpyc
from rpyc.core.stream import SocketStream
from rpyc.utils.factory import connect_channel

from agent import wire
from agent.wire.channel import CappedChannel
from orchestrator.boards.base import Argument, Pending
from orchestrator.errors import AgentDied, BoardUnreachable

CALL_TIMEOUT_S = 30.0
"""Longest answer waited for; no exposed method lasts, a 1 MiB chunk to a slow card does."""

_BANNER_LIMIT_BYTES = 1 << 16
_STDERR_LIMIT_BYTES = 8192

_CONFIG: dict[str, Any] = {
    "allow_safe_attrs": False,
    "allow_exposed_attrs": False,
    "allow_public_attrs": False,
    "allow_all_attrs": False,
    "allow_getattr": False,
    "allow_setattr": False,
    "allow_delattr": False,
    "allow_pickle": False,
    "import_custom_exceptions": False,
    "instantiate_custom_exceptions": False,
    "propagate_KeyboardInterrupt_locally": False,
    "include_local_traceback": False,
    "log_exceptions": False,
    "sync_request_timeout": CALL_TIMEOUT_S,
}


class DialFailed(Exception):
    """The dialling process ended before it reached an agent; its own words are the message."""

    def __init__(self, exit_code: int | None, stderr: str) -> None:
        super().__init__(stderr)
        self.exit_code = exit_code
        self.stderr = stderr


class ProcessLink:
    """A transport that owns the process it talks through."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket, board: str) -> None:
        self._process = process
        self._sock = sock
        self._board = board
        channel = CappedChannel(SocketStream(sock))
        self._connection = connect_channel(channel, rpyc.VoidService, dict(_CONFIG))
        self._root: Any = None
        self._methods: dict[str, Any] = {}

    @classmethod
    def dial(cls, argv: Sequence[str], board: str, timeout_s: float) -> ProcessLink:
        """Start the process and wait for the agent's magic line.

        Raises DialFailed when the process ends first, BoardUnreachable at the deadline.
        """
        ours, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as stderr:
            # A session of its own: Ctrl-C in the terminal is for the host to act on, in order.
            process = subprocess.Popen(
                list(argv),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=stderr,
                start_new_session=True,
            )
            theirs.close()
            try:
                _await_magic(ours, process, stderr, board, timeout_s)
            except BaseException:
                ours.close()
                _end(process)
                raise
        ours.settimeout(CALL_TIMEOUT_S)  # a peer that stalls inside a frame
        return cls(process, ours, board)

    def begin(self, method: str, *args: Argument) -> Pending:
        """Send a call; see `Transport.begin`."""
        with self._translated(method):
            if method not in self._methods:
                self._methods[method] = rpyc.async_(getattr(self._connection.root, method))
            result = self._methods[method](*args)
            result.set_expiry(CALL_TIMEOUT_S)
        return lambda: self._answer(method, result)

    def _answer(self, method: str, result: Any) -> str | bytes:
        with self._translated(method):
            answer = result.value
        if type(answer) not in (str, bytes):
            raise wire.WireError(f"{self._board}: {method} answered neither text nor bytes")
        checked: str | bytes = answer
        return checked

    @contextlib.contextmanager
    def _translated(self, method: str) -> Iterator[None]:
        """Turn rpyc's and the socket's errors into ours; the link is of no use after one."""
        try:
            yield
        except TimeoutError as exc:
            self.close()
            raise BoardUnreachable(
                f"{self._board}: no answer to {method} within {CALL_TIMEOUT_S:.0f} s; "
                f"check the board's power and network"
            ) from exc
        except (EOFError, OSError) as exc:
            self.close()
            raise AgentDied(
                f"{self._board}: the connection to the agent ended during {method}; "
                f"agent or board may have stopped (log.txt in the agent's directory says why)"
            ) from exc
        except wire.BenchError:
            raise
        except Exception as exc:  # the far side chooses what is raised here
            self.close()
            raise wire.WireError(
                f"{self._board}: {method} failed inside the agent: {type(exc).__name__}"
            ) from exc

    def close(self) -> None:
        """Close at once: rpyc's own close asks the far side first, so the socket goes before."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(Exception):
            self._connection.close()
        with contextlib.suppress(OSError):
            self._sock.close()
        _end(self._process)


def _await_magic(
    sock: socket.socket,
    process: subprocess.Popen[bytes],
    stderr: IO[bytes],
    board: str,
    timeout_s: float,
) -> None:
    """Read up to the magic line and no further; what a login script printed is skipped."""
    deadline = time.monotonic() + timeout_s
    seen = bytearray()
    while not seen.endswith(wire.MAGIC):
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise BoardUnreachable(
                f"{board}: no agent answered within {timeout_s:.0f} s; "
                f"is the board switched on and on the network?"
            )
        sock.settimeout(remaining)
        try:
            byte = sock.recv(1)
        except TimeoutError:
            continue
        if not byte or len(seen) > _BANNER_LIMIT_BYTES:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=min(2.0, max(0.1, remaining)))
            raise DialFailed(process.poll(), _tail(stderr))
        seen += byte


def _tail(stream: IO[bytes]) -> str:
    stream.seek(0, os.SEEK_END)
    stream.seek(max(0, stream.tell() - _STDERR_LIMIT_BYTES))
    return stream.read().decode(errors="replace").strip()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process we started, and whatever it started (ssh's proxy command)."""
    for number, patience_s in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0)):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=patience_s)
