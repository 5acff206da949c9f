"""Pushing files to a board by digest: only what is missing moves, and a cut push goes on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from agent import wire
from orchestrator.boards.base import Session
from orchestrator.errors import TransferFailed
from orchestrator.pace import Pace

CHUNKS_UNDER_WAY: Final = 4
"""Chunks sent before the first answer is waited for; at most 4 MiB in the board's buffers."""


@dataclass(frozen=True)
class File:
    """A file to be on the board, named by the sha256 of its bytes."""

    sha256: str
    size_bytes: int
    path: Path


@dataclass(frozen=True)
class PushState:
    """How far a push is; `moved_bytes` of `missing_bytes` have crossed."""

    files_total: int
    files_missing: int
    moved_bytes: int
    missing_bytes: int


def push(
    session: Session,
    files: Iterable[File],
    progress: Callable[[PushState], None],
    keep_going: Callable[[], bool] = lambda: True,
    now_s: Callable[[], float] = time.monotonic,
) -> PushState:
    """Make every file present on the board; returns what moved.

    Stops early, without an error, when `keep_going` says so. Raises BoardDiskFull,
    TransferFailed (also when a file changed under its name), BoardUnreachable.
    """
    wanted = {file.sha256: file for file in files}
    found = session.has(sorted(wanted))
    missing = [file for sha, file in sorted(wanted.items()) if sha not in found.complete]
    offsets = {file.sha256: _there(file, found) for file in missing}
    total = sum(file.size_bytes - offsets[file.sha256] for file in missing)
    state = PushState(len(wanted), len(missing), 0, total)
    progress(state)
    pace = Pace(CHUNKS_UNDER_WAY, now_s)
    for file in missing:
        for moved in _push_one(session, file, offsets[file.sha256], keep_going, pace):
            state = PushState(len(wanted), len(missing), state.moved_bytes + moved, total)
            progress(state)
    return state


def _there(file: File, found: wire.Has) -> int:
    """Bytes of the file that the board has, if what it says can be true."""
    return min(max(0, found.partial_bytes.get(file.sha256, 0)), file.size_bytes)


def _push_one(
    session: Session, file: File, offset: int, keep_going: Callable[[], bool], pace: Pace
) -> Iterable[int]:
    """Send one file from `offset` on, yielding the bytes of each chunk that has arrived.

    A few chunks are under way at once, so that reading, sending and storing overlap.
    """
    sent: deque[tuple[int, float, Callable[[], wire.Put]]] = deque()
    arrived = complete = False
    with _opened(session, file, offset) as stream:
        while not complete:
            while len(sent) < pace.under_way and not arrived and keep_going():
                wanted, sent_s = pace.chunk_bytes, pace.sent()
                chunk = _read(session, file, stream, wanted)
                arrived = len(chunk) < wanted
                wait = session.begin_put_chunk(file.sha256, offset, file.size_bytes, chunk)
                offset += len(chunk)
                sent.append((len(chunk), sent_s, wait))
            if not sent:
                break
            moved, sent_s, wait = sent.popleft()
            complete = wait().complete
            pace.answered(moved, sent_s)
            yield moved
    if arrived and not complete:
        raise TransferFailed(
            f"{file.path} is {offset} bytes now and was {file.size_bytes} when its digest was "
            f"taken; build it again",
            session.board,
        )


@contextmanager
def _opened(session: Session, file: File, offset: int) -> Iterator[BinaryIO]:
    try:
        stream = file.path.open("rb")
    except OSError as exc:
        raise TransferFailed(f"cannot read {file.path}: {exc.strerror}", session.board) from exc
    with stream:
        stream.seek(offset)
        yield stream


def _read(session: Session, file: File, stream: BinaryIO, size_bytes: int) -> bytes:
    try:
        return stream.read(size_bytes)
    except OSError as exc:
        raise TransferFailed(f"cannot read {file.path}: {exc.strerror}", session.board) from exc
