"""Files named by the sha256 of their bytes: models and images that the host has pushed.

A file arrives in order, chunk by chunk, as `<sha256>.part`, and gets its name only when its
digest is right and its bytes are on the disk. A cut push goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Sequence
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

_SYNC_BYTES: Final = 16 << 20
"""Written to the disk at least so often, so that no call waits for more than this."""
_READ_BYTES: Final = 1 << 20
_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")


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
    ) -> None:
        make_private(directory)
        self._directory = directory
        self._reserve_bytes = reserve_bytes
        self._limit_bytes = limit_bytes
        self._free = free
        self._mutex = threading.Lock()
        self._arriving: dict[str, _Arriving] = {}
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
        """Which are complete, and how much of the others has arrived."""
        complete, partial = [], {}
        for sha256 in digests:
            if self.size_bytes(sha256) is not None:
                complete.append(sha256)
                continue
            with contextlib.suppress(FileNotFoundError):
                partial[sha256] = self._part(sha256).stat().st_size
        return Has(tuple(complete), partial)

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
            self._check_room(total_bytes - have)
            return self._append(sha256, data, have, total_bytes)

    def _part(self, sha256: str) -> Path:
        return self._directory / f"{checked_digest(sha256)}.part"

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

    def _check_room(self, needed_bytes: int) -> None:
        if self._free(self._directory) - needed_bytes < self._reserve_bytes:
            raise self._full(needed_bytes)
        if self._held_bytes + needed_bytes > self._limit_bytes:
            raise Refused(
                FailureKind.DISK_FULL,
                f"{needed_bytes} bytes are needed, and {self._directory} holds "
                f"{self._held_bytes} of at most {self._limit_bytes} bytes; stop the agent and "
                f"delete files there that no run needs any more",
            )

    def _full(self, needed_bytes: int) -> Refused:
        free = self._free(self._directory)
        return Refused(
            FailureKind.DISK_FULL,
            f"{needed_bytes} bytes are needed, {free} are free and {self._reserve_bytes} of them "
            f"are kept for the system; make room, for instance in {self._directory}",
        )


def sync_directory(directory: Path) -> None:
    """Make the names in a directory survive a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
