"""The lease of the whole board: one run at a time, whoever logged in.

A flock on one file of the board; the kernel lets go of it when its process dies. The file's
text says who holds it, for those that are refused. A lease ends without renewal, but never
under a running trial.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent.errors import Refused
from agent.wire import FailureKind, LeaseInfo, LeaseRequest, Wire, WireError, decode, encode

MAX_TTL_S: Final = 3600.0
MAX_NAME_LENGTH: Final = 200
_NS_PER_S: Final = 1_000_000_000
_NOTE_BYTES: Final = 4096
_OPEN_TO_ALL: Final = stat.S_ISVTX | stat.S_IWOTH
_TRIES: Final = 5
_TRY_INTERVAL_S: Final = 0.02
"""Another agent that only looks holds the lock for microseconds."""


class _Note(Wire, frozen=True):
    """What the lock file says; CLOCK_MONOTONIC is one clock for all processes of a board."""

    holder: str
    run_id: str
    expires_monotonic_ns: int


def board_lock_path(runtime: Path = Path("/run/lock"), temporary: Path = Path("/tmp")) -> Path:  # noqa: S108 - see open_lock
    """Where every account of this board finds the lock.

    It depends on the board alone: /run/lock where any account may write there, else /tmp.
    """
    name = "orchestrator-board.lock"
    try:
        shared = runtime.stat().st_mode & _OPEN_TO_ALL == _OPEN_TO_ALL
    except OSError:
        shared = False
    return (runtime if shared else temporary) / name


def open_lock(path: Path) -> int:
    """File descriptor of the lock file, made if absent; raises Refused.

    An existing file is opened without O_CREAT: in a sticky directory the kernel refuses
    O_CREAT on another account's file (fs.protected_regular). Links are not followed.
    """
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    error: OSError | None = None
    for _ in range(_TRIES):
        for attempt in (os.O_RDWR, os.O_RDONLY, os.O_RDWR | os.O_CREAT | os.O_EXCL):
            try:
                fd = os.open(path, flags | attempt, 0o666)
            except OSError as exc:
                error = exc
                continue
            if stat.S_ISREG(os.fstat(fd).st_mode):
                if attempt & os.O_CREAT:
                    os.fchmod(fd, 0o666)  # the umask must not shut the other accounts out
                return fd
            os.close(fd)
            raise Refused(FailureKind.INTERNAL, f"{path} is not a regular file; remove it")
    raise Refused(
        FailureKind.INTERNAL,
        f"cannot open the board's lock {path}: {error.strerror if error else ''}; "
        f"check its owner and mode",
    ) from error


class Lease:
    """The board's lease as one agent sees it; safe to use from several threads."""

    def __init__(self, path: Path, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._path = path
        self._clock = clock
        self._mutex = threading.RLock()
        self._fd: int | None = None
        self._held: LeaseRequest | None = None
        self._expires_ns = 0
        self._pinned = False

    def take(self, request: LeaseRequest) -> LeaseInfo:
        """Take the board, or take it again; raises Refused naming who holds it."""
        _check(request)
        with self._mutex:
            self.tick()
            if self._held is None:
                self._fd = self._lock_file()
            elif self._held.run_id != request.run_id:
                raise _refusal(self._info(self._held))
            self._held = request
            return self._extend()

    def renew(self, run_id: str) -> LeaseInfo:
        """Extend the lease by its time to live; raises Refused when it is no longer held."""
        with self._mutex:
            self.tick()
            if self._held is not None and self._held.run_id == run_id:
                return self._extend()
            now = self.current()
        state = (
            "nobody holds it now"
            if now is None
            else f"{now.holder} holds it now for run {now.run_id}"
        )
        raise Refused(
            FailureKind.LEASE_LOST,
            f"run {run_id} does not hold this board ({state}); take the lease again",
        )

    def touch(self, run_id: str) -> None:
        """Extend the lease if `run_id` holds it; no error otherwise."""
        with self._mutex:
            self.tick()
            if self._held is not None and self._held.run_id == run_id:
                self._extend()

    def release(self, run_id: str) -> None:
        """Give the board back, at once or when the running trial has ended."""
        with self._mutex:
            if self._held is not None and self._held.run_id == run_id:
                self._expires_ns = self._clock()
                self.tick()

    def pin(self, run_id: str) -> None:
        """Hold the board until `unpin`, whatever the clock says; raises Refused as `renew`."""
        with self._mutex:
            self.renew(run_id)
            self._pinned = True

    def unpin(self) -> None:
        """The trial has ended: the clock decides again."""
        with self._mutex:
            self._pinned = False
            self.tick()

    def held(self) -> bool:
        """Whether this agent holds the board for some run."""
        with self._mutex:
            self.tick()
            return self._held is not None

    def run_id(self) -> str | None:
        """The run for which this agent holds the board, if any."""
        with self._mutex:
            self.tick()
            return None if self._held is None else self._held.run_id

    def tick(self) -> None:
        """Let go of an expired lease, so that other accounts' agents can have the board."""
        with self._mutex:
            if self._held is None or self._pinned or self._clock() < self._expires_ns:
                return
            if self._fd is not None:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, 0)
                os.close(self._fd)
            self._fd = self._held = None

    def close(self) -> None:
        """Let go whatever the clock says; for the end of the process."""
        with self._mutex:
            self._pinned = False
            self._expires_ns = self._clock()
            self.tick()

    def current(self) -> LeaseInfo | None:
        """Who holds the board now, through this agent or another account's."""
        with self._mutex:
            self.tick()
            if self._held is not None:
                return self._info(self._held)
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return self._other(fd)
        finally:
            os.close(fd)
        return None

    def _lock_file(self) -> int:
        fd = open_lock(self._path)
        for _ in range(_TRIES):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(_TRY_INTERVAL_S)
            else:
                if os.fstat(fd).st_nlink:
                    return fd
                os.close(fd)  # removed since it was opened: nobody else would see this lock
                fd = open_lock(self._path)
        try:
            raise _refusal(self._other(fd))
        finally:
            os.close(fd)

    def _other(self, fd: int) -> LeaseInfo:
        """What the lock file says of the agent that holds it."""
        try:
            note = decode(os.pread(fd, _NOTE_BYTES, 0), _Note)
        except (OSError, WireError):
            return LeaseInfo(holder="another account", run_id="unknown", expires_in_s=0.0)
        left_ns = max(0, note.expires_monotonic_ns - self._clock())
        return LeaseInfo(note.holder, note.run_id, left_ns / _NS_PER_S)

    def _info(self, held: LeaseRequest) -> LeaseInfo:
        left_ns = max(0, self._expires_ns - self._clock())
        return LeaseInfo(held.holder, held.run_id, left_ns / _NS_PER_S)

    def _extend(self) -> LeaseInfo:
        held = self._held
        if held is None or self._fd is None:
            raise Refused(FailureKind.LEASE_LOST, "the lease is not held")
        self._expires_ns = self._clock() + round(held.ttl_s * _NS_PER_S)
        note = encode(_Note(held.holder, held.run_id, self._expires_ns)).encode()
        with contextlib.suppress(OSError):  # a read-only file still locks
            os.pwrite(self._fd, note, 0)
            os.ftruncate(self._fd, len(note))
        return self._info(held)


def _check(request: LeaseRequest) -> None:
    if not 0 < request.ttl_s <= MAX_TTL_S:
        raise Refused(
            FailureKind.BAD_REQUEST, f"ttl_s: {request.ttl_s} is not within 0..{MAX_TTL_S:.0f}"
        )
    for field, value in (("holder", request.holder), ("run_id", request.run_id)):
        if not value or len(value) > MAX_NAME_LENGTH or not value.isprintable():
            raise Refused(
                FailureKind.BAD_REQUEST,
                f"{field}: expected 1 to {MAX_NAME_LENGTH} printable characters",
            )


def _refusal(info: LeaseInfo) -> Refused:
    ends = f"in {info.expires_in_s:.0f} s unless renewed" if info.expires_in_s else "with its trial"
    return Refused(
        FailureKind.LEASE_HELD,
        f"{info.holder} measures here (run {info.run_id}); the lease ends {ends}; "
        f"wait, or stop that run",
    )
