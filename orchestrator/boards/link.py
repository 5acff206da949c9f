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
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

import rpyc
from rpyc.core.stream import SocketStream
from rpyc.utils.factory import connect_channel

from agent import wire
from agent.wire.channel import CappedChannel, FrameRefused
from orchestrator.boards.base import Argument, Pending
from orchestrator.errors import AgentDied, BoardUnreachable

CALL_TIMEOUT_S = 30.0
"""Longest answer waited for; no exposed method lasts, a 1 MiB chunk to a slow card does."""

_BANNER_LIMIT_BYTES = 1 << 16
_STDERR_LIMIT_BYTES = 8192
_NAME_LIMIT = 80
_PATIENCE = 2
"""A call that outlasts its time-out so many times is cut: each of its messages has one."""
_LAST_WORDS_S = 1.0
"""How long a process whose connection has ended may take to say why."""

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
        super().__init__(f"exit code {exit_code}: {stderr or 'it said nothing'}")
        self.exit_code = exit_code
        self.stderr = stderr


class LastWords:
    """The end of what a process says on stderr, however much that is; it never has to wait."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._last = b""
        self._thread = threading.Thread(target=self._listen, args=(process.stderr,), daemon=True)
        self._thread.start()

    def _listen(self, stream: IO[bytes]) -> None:
        with stream:
            while said := os.read(stream.fileno(), _STDERR_LIMIT_BYTES):
                self._last = (self._last + said)[-_STDERR_LIMIT_BYTES:]

    def text(self) -> str:
        """What was said last; to be asked when the process has ended."""
        self._thread.join(_LAST_WORDS_S)
        return self._last.decode(errors="replace").strip()


class ProcessLink:
    """A transport that owns the process it talks through."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        sock: socket.socket,
        board: str,
        words: LastWords,
        call_timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        self._process = process
        self._sock = sock
        self._board = board
        self._words = words
        self._call_timeout_s = call_timeout_s
        sock.settimeout(call_timeout_s)  # a peer that stalls inside a frame
        config = {**_CONFIG, "sync_request_timeout": call_timeout_s}
        channel = CappedChannel(SocketStream(sock))
        self._connection = connect_channel(channel, rpyc.VoidService, config)
        self._methods: dict[str, Any] = {}

    @classmethod
    def dial(
        cls,
        argv: Sequence[str],
        board: str,
        timeout_s: float,
        call_timeout_s: float = CALL_TIMEOUT_S,
    ) -> ProcessLink:
        """Start the process and wait for the agent's magic line.

        Raises DialFailed when the process ends first or says too much else, BoardUnreachable at
        the deadline, OSError when there is no such program.
        """
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as undo, theirs:
            undo.callback(ours.close)
            # A session of its own: Ctrl-C in the terminal is for the host to act on, in order.
            process = subprocess.Popen(
                list(argv),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            undo.callback(end_process, process)
            theirs.close()
            words = LastWords(process)
            _await_magic(ours, process, words, board, timeout_s)
            link = cls(process, ours, board, words, call_timeout_s)
            undo.pop_all()
        return link

    def begin(self, method: str, *args: Argument) -> Pending:
        """Send a call; see `Transport.begin`."""
        with self._translated(method):
            if method not in self._methods:
                self._methods[method] = rpyc.async_(getattr(self._connection.root, method))
            result = self._methods[method](*args)
            result.set_expiry(self._call_timeout_s)
        return lambda: self._answer(method, result)

    def _answer(self, method: str, result: Any) -> str | bytes:
        with self._translated(method):
            answer = result.value
        if type(answer) not in (str, bytes):
            self.close()
            raise wire.WireError(f"{self._board}: {method} answered neither text nor bytes")
        checked: str | bytes = answer
        return checked

    @contextlib.contextmanager
    def _translated(self, method: str) -> Iterator[None]:
        """Turn rpyc's and the socket's errors into ours; the link is of no use after one.

        A peer that sends a byte now and then meets no time-out of the socket's, hence the timer.
        """
        too_late = threading.Timer(_PATIENCE * self._call_timeout_s, self._hang_up)
        too_late.daemon = True
        too_late.start()
        try:
            yield
        except BaseException as exc:
            error = self._explain(method, exc)
            self.close()
            if error is None:
                raise
            raise error from exc
        finally:
            too_late.cancel()

    def _explain(self, method: str, exc: BaseException) -> wire.BenchError | None:
        """Our error for one that a call ended with; None for one that is not the call's own.

        The far side chooses what is raised here, SystemExit and KeyboardInterrupt included.
        """
        if isinstance(exc, FrameRefused):
            return wire.WireError(f"{self._board}: {method}: {exc}")
        if hasattr(exc, "_remote_tb"):  # rpyc puts it on what the far side raised
            name = type(exc).__name__[:_NAME_LIMIT]
            return wire.WireError(f"{self._board}: {method} failed inside the agent: {name}")
        if isinstance(exc, TimeoutError):
            return BoardUnreachable(
                f"{self._board}: no answer to {method} within {self._call_timeout_s:g} s; "
                f"check the board's power and network"
            )
        if isinstance(exc, EOFError | OSError):
            return self._ended(method)
        if isinstance(exc, Exception):  # rpyc could not decode what came
            return wire.WireError(
                f"{self._board}: {method}: the agent's answer is not one: {type(exc).__name__}"
            )
        return None

    def _ended(self, method: str) -> AgentDied:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_WORDS_S)
        self.close()
        said = self._words.text() or "log.txt in the agent's directory says why"
        return AgentDied(
            f"{self._board}: the connection to the agent ended during {method}; agent or board "
            f"may have stopped ({said})"
        )

    def close(self) -> None:
        """Close at once: rpyc's own close asks the far side first, so the socket goes before."""
        self._hang_up()
        with contextlib.suppress(Exception):
            self._connection.close()
        with contextlib.suppress(OSError):
            self._sock.close()
        end_process(self._process)

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


def _await_magic(
    sock: socket.socket,
    process: subprocess.Popen[bytes],
    words: LastWords,
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
                f"{board}: no agent answered within {timeout_s:g} s; "
                f"is the board switched on and on the network?"
            )
        sock.settimeout(remaining)
        try:
            byte = sock.recv(1)
        except TimeoutError:
            continue
        if len(seen) > _BANNER_LIMIT_BYTES:
            raise DialFailed(None, f"it printed more than {_BANNER_LIMIT_BYTES} other bytes")
        if not byte:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(_LAST_WORDS_S, remaining))
            raise DialFailed(process.poll(), words.text())
        seen += byte


def end_process(process: subprocess.Popen[bytes]) -> None:
    """End the process we started, and whatever it started (ssh's proxy command)."""
    for number, patience_s in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0)):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=patience_s)
