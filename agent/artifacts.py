"""Files named by the sha256 of their bytes: models and images that the host has pushed.

A file arrives in order, chunk by chunk, as `<sha256>.part`, and gets its name only when its
digest is right and its bytes are on the disk. A cut push goes on where it stopped.

Where room is short, files go that were used longest ago (their mtime says when), but none that
the run holding the lease has asked for, pushed or started a trial with.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from agent.errors import Refused
from agent.home import make_private
from agent.wire import CHUNK_BYTES, FailureKind, Has, Put

RESERVE_BYTES: Final = 256 << 20
"""Left free on the disk: a board without any room does not work, nor does its journal."""

LIMIT_BYTES: Final = 16 << 30
"""Largest sum of all artifacts of one agent."""

STALE_PART_S: Final = 7 * 24 * 3600.0
"""What arrived of a file that nobody went on pushing is deleted after so long."""

_SYNC_BYTES: Final = 16 << 20
"""Written to the disk at least so often, so that no call waits for more than this."""
_READ_BYTES: Final = 1 << 20
_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")
_PART: Final = ".part"


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass
class _Arriving:
    """A part file as far as this process has followed it."""

    hasher: _Hash
    size_bytes: int
    unsynced_bytes: int = 0


def checked_digest(sha256: str) -> str:
    """The digest itself; raises Refused unless it is 64 hex digits: it becomes a file name."""
    if not _SHA256.match(sha256):
        raise Refused(
            FailureKind.BAD_REQUEST, f"{sha256[:80]!r} is not a sha256 of 64 hexadecimal digits"
        )
    return sha256


def free_bytes(directory: Path) -> int:
    """Room that this account may use on the directory's disk."""
    return shutil.disk_usage(directory).free


class Artifacts:
    """The store below one directory; safe to use from several threads."""

    def __init__(
        self,
        directory: Path,
        *,
        reserve_bytes: int = RESERVE_BYTES,
        limit_bytes: int = LIMIT_BYTES,
        free: Callable[[Path], int] = free_bytes,
        holder: Callable[[], str | None] = lambda: None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """`holder` says which run has the lease now, if any."""
        make_private(directory)
        self._directory = directory
        self._reserve_bytes = reserve_bytes
        self._limit_bytes = limit_bytes
        self._free = free
        self._holder = holder
        self._mutex = threading.RLock()
        self._arriving: dict[str, _Arriving] = {}
        self._run: str | None = None
        self._kept: set[str] = set()
        _remove_stale_parts(directory, now_s() - STALE_PART_S)
        self._held_bytes = sum(entry.stat().st_size for entry in os.scandir(directory))

    @property
    def directory(self) -> Path:
        """Where the complete files are, each under its digest."""
        return self._directory

    def size_bytes(self, sha256: str) -> int | None:
        """Size of a complete artifact, None where it is absent."""
        try:
            return (self._directory / checked_digest(sha256)).stat().st_size
        except FileNotFoundError:
            return None

    def has(self, digests: Sequence[str]) -> Has:
        """Which are complete, and how much of the others has arrived; they are in use now."""
        complete, partial = [], {}
        for sha256 in self.keep(digests):
            if self.size_bytes(sha256) is not None:
                complete.append(sha256)
                continue
            with contextlib.suppress(FileNotFoundError):
                partial[sha256] = self._part(sha256).stat().st_size
        return Has(tuple(complete), partial)

    def keep(self, digests: Iterable[str]) -> list[str]:
        """Note that files are in use: they are the last to go, and stay while this lease lasts.

        Raises Refused (bad_request) for what is no digest.
        """
        named = [checked_digest(sha256) for sha256 in digests]
        with self._mutex:
            spared = self._spared()
            if self._run is not None:
                spared.update(named)
            for sha256 in named:
                with contextlib.suppress(OSError):
                    os.utime(self._directory / sha256)
        return named

    def _spared(self) -> set[str]:
        """What the run that has the lease uses; the set of a run before is forgotten."""
        run = self._holder()
        if run != self._run:
            self._run, self._kept = run, set()
        return self._kept

    def discard_damaged(self, digests: Iterable[str]) -> list[str]:
        """Delete those whose bytes are others than their names say; returns which."""
        damaged = []
        for sha256 in digests:
            path = self._directory / checked_digest(sha256)
            with self._mutex, contextlib.suppress(FileNotFoundError):
                if file_digest(path) != sha256:
                    self._remove(path)
                    damaged.append(sha256)
        return damaged

    def put(self, sha256: str, offset: int, total_bytes: int, data: bytes) -> Put:
        """Append a chunk at `offset`, which must be what has arrived so far.

        Raises Refused: bad_request, disk_full with both figures, digest_mismatch when all bytes
        are here and are others than promised (they are deleted then).
        """
        checked_digest(sha256)
        if not (0 <= offset <= offset + len(data) <= total_bytes and len(data) <= CHUNK_BYTES):
            raise Refused(
                FailureKind.BAD_REQUEST,
                f"{len(data)} bytes at {offset} do not fit a file of {total_bytes} "
                f"(at most {CHUNK_BYTES} a chunk)",
            )
        with self._mutex:
            size = self.size_bytes(sha256)
            if size is not None:
                return Put(received_bytes=size, complete=True)
            part = self._part(sha256)
            have = part.stat().st_size if part.exists() else 0
            if have > total_bytes:
                self._drop(sha256, f"{have} bytes had arrived of a file of {total_bytes}")
            if offset != have:
                raise Refused(
                    FailureKind.BAD_REQUEST,
                    f"{sha256[:12]}: offset {offset}, but {have} bytes have arrived",
                )
            self.keep([sha256])
            self._make_room(total_bytes - have, sha256)
            return self._append(sha256, data, have, total_bytes)

    def _part(self, sha256: str) -> Path:
        return self._directory / f"{checked_digest(sha256)}{_PART}"

    def _append(self, sha256: str, data: bytes, have: int, total_bytes: int) -> Put:
        part = self._part(sha256)
        try:
            with part.open("ab", buffering=0) as stream:
                arriving = self._follow(sha256, part, have)
                self._write(stream.fileno(), data, have)
                arriving.hasher.update(data)
                arriving.size_bytes += len(data)
                self._held_bytes += len(data)
                arriving.unsynced_bytes += len(data)
                if arriving.size_bytes == total_bytes:
                    self._complete(sha256, stream.fileno(), arriving)
                    return Put(received_bytes=total_bytes, complete=True)
                if arriving.unsynced_bytes >= _SYNC_BYTES:
                    os.fdatasync(stream.fileno())
                    arriving.unsynced_bytes = 0
        except OSError as exc:
            self._arriving.pop(sha256, None)
            if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise self._full(total_bytes - have) from exc
        return Put(received_bytes=arriving.size_bytes, complete=False)

    def _follow(self, sha256: str, part: Path, have: int) -> _Arriving:
        """The running hash of what is here; read back once after a restart or a cut push."""
        arriving = self._arriving.get(sha256)
        if arriving is None or arriving.size_bytes != have:
            arriving = _Arriving(hashlib.sha256(), have)
            with part.open("rb", buffering=0) as stream:
                while block := stream.read(_READ_BYTES):
                    arriving.hasher.update(block)
            self._arriving[sha256] = arriving
        return arriving

    def _write(self, fd: int, data: bytes, have: int) -> None:
        """Write all or nothing: a half-written chunk would shift all that follows."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(fd, rest) :]
        except OSError:
            os.ftruncate(fd, have)
            raise

    def _complete(self, sha256: str, fd: int, arriving: _Arriving) -> None:
        found = arriving.hasher.hexdigest()
        if found != sha256:
            self._drop(sha256, f"{arriving.size_bytes} bytes arrived with digest {found[:12]}")
        os.fsync(fd)
        self._part(sha256).rename(self._directory / sha256)
        sync_directory(self._directory)
        self._arriving.pop(sha256, None)

    def _drop(self, sha256: str, why: str) -> None:
        part = self._part(sha256)
        self._held_bytes -= part.stat().st_size
        part.unlink()
        self._arriving.pop(sha256, None)
        raise Refused(
            FailureKind.DIGEST_MISMATCH,
            f"{sha256[:12]}: {why}; they were deleted, push the file again",
        )

    def _make_room(self, needed_bytes: int, arriving: str) -> None:
        """Delete what was used longest ago until `needed_bytes` fit; raises Refused."""
        over_bytes = max(
            self._reserve_bytes + needed_bytes - self._free(self._directory),
            self._held_bytes + needed_bytes - self._limit_bytes,
        )
        if over_bytes <= 0:
            return
        spared = self._spared() | {arriving}
        files = [Path(entry) for entry in os.scandir(self._directory)]
        unused = [path for path in files if path.name.removesuffix(_PART) not in spared]
        unused.sort(key=lambda path: path.stat().st_mtime_ns)
        if sum(path.stat().st_size for path in unused) < over_bytes:
            raise self._full(needed_bytes)
        for path in unused:
            if over_bytes <= 0:
                return
            over_bytes -= self._remove(path)

    def _remove(self, path: Path) -> int:
        """Delete a file of the store; returns the bytes it had."""
        size = path.stat().st_size
        path.unlink()
        self._held_bytes -= size
        self._arriving.pop(path.name.removesuffix(_PART), None)
        return size

    def _full(self, needed_bytes: int) -> Refused:
        free = self._free(self._directory)
        return Refused(
            FailureKind.DISK_FULL,
            f"{needed_bytes} bytes are needed; {free} are free, of which {self._reserve_bytes} are "
            f"kept for the system, and {self._directory} holds {self._held_bytes} of at most "
            f"{self._limit_bytes} bytes, which this run uses; make room on the board, or measure "
            f"fewer variants in one run",
        )


def file_digest(path: Path) -> str:
    """Sha256 of a file's bytes; raises OSError."""
    with path.open("rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_intact(path: Path) -> None:
    """Raise Refused (digest_mismatch) unless a file's bytes are those that its name promises."""
    found = file_digest(path)
    if found != path.name:
        raise Refused(
            FailureKind.DIGEST_MISMATCH,
            f"{path.name[:12]}: its bytes on the board have the digest {found[:12]} now; it was "
            f"not used, push it again",
        )


def _remove_stale_parts(directory: Path, before_s: float) -> None:
    for part in directory.glob(f"*{_PART}"):
        if part.stat().st_mtime < before_s:
            part.unlink()


def sync_directory(directory: Path) -> None:
    """Make the names in a directory survive a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
