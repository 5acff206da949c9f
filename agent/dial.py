"""`agent dial`: starts the agent if it does not run, then joins stdin and stdout to its socket.

The host runs it, on a board through ssh. It prints the magic line first, so that whatever a
login script printed can be skipped; everything after it belongs to the agent and the host.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from agent.errors import AgentUnavailable, AlreadyServing
from agent.home import Home, open_home
from agent.wire.base import MAGIC
from agent.wire.bundle import bundle_digest

START_TIMEOUT_S: Final = 180.0
"""A 3B+ with a slow card takes several seconds to start an interpreter with its packages, an
emulated board on a busy host minutes; a host that waits less hangs up first."""

LINGER_S: Final = 10.0
"""How long the agent may take to finish its last answer after the host has hung up."""

FAREWELL_S: Final = 0.5
"""An agent that was told to close does so a moment before the host's own hang-up arrives."""

BUFFER_BYTES: Final = 1 << 20
LOG_LIMIT_BYTES: Final = 1 << 20
_LOG_TAIL_BYTES: Final = 4096
_RETRY_S: Final = 0.05
_UCRED: Final = struct.Struct("3i")


def dial(
    home: Home,
    serve: Sequence[str],
    *,
    stdin: int = 0,
    stdout: int = 1,
    timeout_s: float = START_TIMEOUT_S,
) -> None:
    """Connect, starting `serve` if needed, and carry bytes until either side hangs up.

    Raises AgentUnavailable with the end of the agent's log when it does not come up in time, or
    when it hangs up first.
    """
    sock = reach(home, serve, timeout_s)
    _write_all(stdout, MAGIC)
    hung_up = threading.Event()
    threading.Thread(target=_send, args=(stdin, sock, hung_up), daemon=True).start()
    with contextlib.suppress(OSError):  # either side is gone: that is how it ends
        _copy(sock.recv_into, lambda data: _write_all(stdout, data))
    if not hung_up.wait(FAREWELL_S):
        raise AgentUnavailable(f"the agent ended the connection; see {home.log}")


def reach(home: Home, serve: Sequence[str], timeout_s: float) -> socket.socket:
    """A connection to the agent, which is started if it does not run; raises AgentUnavailable."""
    deadline = time.monotonic() + timeout_s
    child: subprocess.Popen[bytes] | None = None
    log_start = 0
    while True:
        sock = connect(home, deadline - time.monotonic())
        if sock is not None:
            return sock
        if child is None:
            log_start = _rotate_log(home)
            child = _start(home, serve)
        code = child.poll()
        if code in (0, AlreadyServing.exit_code):
            child = None  # another dial's daemon is coming up, or an idle one went just now
        elif code is not None:
            raise AgentUnavailable(
                f"the agent could not be started (exit code {code}): {_log_tail(home, log_start)}"
            )
        if time.monotonic() > deadline:
            raise AgentUnavailable(
                f"the agent did not answer within {timeout_s:.0f} s: {_log_tail(home, log_start)}"
            )
        time.sleep(_RETRY_S)


def connect(home: Home, timeout_s: float) -> socket.socket | None:
    """A connection that the agent has greeted, or None where no agent of ours answers."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(max(_RETRY_S, timeout_s))
        sock.connect(str(home.socket))
        packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        if _UCRED.unpack(packed)[1] != os.geteuid():
            raise AgentUnavailable(f"another account listens on {home.socket}; remove it")
        greeting = b""
        while len(greeting) < len(MAGIC):
            piece = sock.recv(len(MAGIC) - len(greeting))
            if not piece:
                raise ConnectionResetError("the agent was about to stop")
            greeting += piece
    except OSError:
        sock.close()
        return None
    except BaseException:
        sock.close()
        raise
    sock.settimeout(None)
    return sock


def _start(home: Home, serve: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the daemon so that the end of this process, or of its ssh session, leaves it alone."""
    log = os.open(home.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            list(serve),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    except OSError as exc:
        raise AgentUnavailable(f"cannot run {serve[0]}: {exc.strerror}") from exc
    finally:
        os.close(log)


def _rotate_log(home: Home) -> int:
    """Size of the log before the agent starts; a long one is put aside first."""
    try:
        size = home.log.stat().st_size
        if size > LOG_LIMIT_BYTES:
            home.log.replace(home.log.with_name("log.old.txt"))
            return 0
    except OSError:
        return 0
    return size


def _log_tail(home: Home, start: int) -> str:
    try:
        with home.log.open("rb") as stream:
            stream.seek(max(start, stream.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            said = stream.read().decode(errors="replace").strip()
    except OSError:
        said = ""
    return said or "it said nothing"


def _send(stdin: int, sock: socket.socket, hung_up: threading.Event) -> None:
    """Carry the host's bytes; when it hangs up, let the agent finish, but not for ever."""
    with contextlib.suppress(OSError):  # the agent is gone: the other direction ends too
        _copy(lambda buffer: _read(stdin, buffer), sock.sendall)
        hung_up.set()
        sock.shutdown(socket.SHUT_WR)
        time.sleep(LINGER_S)
        sock.shutdown(socket.SHUT_RDWR)


def _read(stdin: int, buffer: memoryview) -> int:
    try:
        return os.readv(stdin, [buffer])
    except OSError:  # reset by the host: a hang-up like any other
        return 0


def _copy(read: Callable[[memoryview], int], write: Callable[[memoryview], object]) -> None:
    buffer = memoryview(bytearray(BUFFER_BYTES))
    while count := read(buffer):
        write(buffer[:count])


def _write_all(fd: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def run(root: Path, serve: Sequence[str]) -> int:
    """`dial` as a command: the exit code, with the reason on stderr."""
    try:
        dial(open_home(root, bundle_digest(Path(__file__).resolve().parent)), serve)
    except AgentUnavailable as exc:
        sys.stderr.write(f"agent: {exc}\n")
        return exc.exit_code
    return 0
