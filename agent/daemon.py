"""The agent's process: it listens on the Unix socket, one thread a connection, until idle.

No TCP port is opened. Only processes of the same account are answered, whatever the mode of
the socket's directory. It lives on when the ssh session that started it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import selectors
import signal
import socket
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from rpyc.core.stream import SocketStream

from agent import wire
from agent.connection import CONFIG
from agent.errors import AgentUnavailable, AlreadyServing, OtherVersionBusy
from agent.home import Home
from agent.service import Agent, AgentService
from agent.wire.channel import CappedChannel

MAX_CONNECTIONS: Final = 16
SILENCE_S: Final = 900.0
"""A connection without a call for so long is closed: its host is gone, ssh may not notice."""

STALL_S: Final = 60
"""A peer may pause so long in the middle of a frame."""

RETIRE_SIGNAL: Final = signal.SIGUSR1
"""Asks a daemon to make room for one of another version; it does if it is not in use."""

_TICK_S: Final = 0.5
_RETIRE_PATIENCE_S: Final = 3.0
_TIMEVAL: Final = struct.Struct("@ll")
_UCRED: Final = struct.Struct("3i")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Owner:
    """Who holds the lock of a directory."""

    pid: int
    digest: str


class Daemon:
    """Serves one agent on one socket."""

    def __init__(self, home: Home, agent: Agent, idle_s: float) -> None:
        self._home = home
        self._agent = agent
        self._service = AgentService(agent)
        self._idle_s = idle_s
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._connections = 0
        self._mutex = threading.Lock()
        self._stopping = False
        self._retiring = False

    def run(self) -> None:
        """Serve until idle or told to stop; the main thread's own, for it handles signals."""
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(RETIRE_SIGNAL, self._on_retire)
        for trial_id in self._agent.supervisor.recover():
            _log.warning("trial %s had been cut short; it was recovered", trial_id)
        listener = _listen(self._home.socket)
        try:
            _log.info("serving on %s as process %d", self._home.socket, os.getpid())
            self._serve(listener)
        finally:
            self._home.socket.unlink(missing_ok=True)
            listener.close()
            self._agent.supervisor.stop()
            self._agent.lease.close()
            _log.info("stopped")

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _on_retire(self, _number: int, _frame: FrameType | None) -> None:
        self._retiring = True

    def _serve(self, listener: socket.socket) -> None:
        active_s = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while not self._stopping:
                if selector.select(_TICK_S):
                    self._accept(listener)
                self._agent.lease.tick()
                if self._in_use():
                    self._retiring = False
                elif self._retiring:
                    _log.info("another version of the agent takes over")
                    return
                if self._in_use() or self._connections:
                    active_s = time.monotonic()
                elif time.monotonic() - active_s > self._idle_s:
                    _log.info("idle for %.0f s", self._idle_s)
                    return

    def _in_use(self) -> bool:
        return self._agent.supervisor.running() is not None or self._agent.lease.held()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # a peer that has already gone
            sock, _ = listener.accept()
            sock.setblocking(True)
            uid = _peer_uid(sock)
            if uid != os.geteuid() or not self._slots.acquire(blocking=False):
                _log.warning("refused a connection of uid %d", uid)
                sock.close()
                return
            with self._mutex:
                self._connections += 1
            threading.Thread(target=self._converse, args=(sock,), daemon=True).start()

    def _converse(self, sock: socket.socket) -> None:
        """Answer one peer until it goes, is silent for long, or does not speak the protocol."""
        connection: Any = None
        try:
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                sock.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(STALL_S, 0))
            sock.sendall(wire.MAGIC)
            channel = CappedChannel(SocketStream(sock))
            connection = self._service._connect(channel, CONFIG)  # noqa: SLF001 - rpyc's servers do so
            while not connection.closed and connection.serve(SILENCE_S):
                pass
        except (EOFError, OSError):
            pass
        except Exception:  # noqa: BLE001 - a malformed message ends its connection only
            _log.warning("a peer does not speak the protocol", exc_info=True)
        finally:
            sock.close()  # before rpyc's own close, which would ask the peer and wait
            with contextlib.suppress(Exception):
                if connection is not None:
                    connection.close()
            with self._mutex:
                self._connections -= 1
            self._slots.release()


def hold_home(home: Home, digest: str) -> int:
    """Be the one daemon of a directory: the lock's file descriptor; held until the process ends.

    A daemon of another version that is not in use is asked to make room. Raises AlreadyServing,
    OtherVersionBusy.
    """
    fd = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _RETIRE_PATIENCE_S
    asked = False
    while not _try_lock(fd):
        owner = _owner(fd)
        if owner is None or owner.digest == digest:
            os.close(fd)
            raise AlreadyServing(f"another process serves {home.root}")
        if not asked:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(owner.pid, RETIRE_SIGNAL)
            asked = True
        if time.monotonic() > deadline:
            os.close(fd)
            raise OtherVersionBusy(
                f"an agent of another version (process {owner.pid}) serves {home.root} and a run "
                f"is using it; wait until that run has ended"
            )
        time.sleep(_TICK_S / 10)
    text = json.dumps({"pid": os.getpid(), "digest": digest}).encode()
    os.pwrite(fd, text, 0)
    os.ftruncate(fd, len(text))
    return fd


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(fd: int) -> _Owner | None:
    try:
        said = json.loads(os.pread(fd, 4096, 0))
        return _Owner(int(said["pid"]), str(said["digest"]))
    except (ValueError, KeyError, TypeError):
        return None


def _listen(path: Path) -> socket.socket:
    """A listening socket that only this account can open; raises AgentUnavailable."""
    path.unlink(missing_ok=True)  # a dead daemon's: the lock is ours
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as exc:
        listener.close()
        raise AgentUnavailable(f"cannot listen on {path}: {exc.strerror}") from exc
    finally:
        os.umask(before)
    listener.listen(MAX_CONNECTIONS)
    return listener


def _peer_uid(sock: socket.socket) -> int:
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _pid, uid, _gid = _UCRED.unpack(packed)
    return int(uid)
