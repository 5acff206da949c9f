"""Pushing files to a board by digest: only what is missing moves, and a cut push goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from agent import wire
from orchestrator.boards.base import Session
from orchestrator.errors import TransferFailed


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
) -> PushState:
    """Make every file present on the board; returns what moved.

    Stops early, without an error, when `keep_going` says so. Raises BoardDiskFull,
    TransferFailed (also when a file changed under its name), BoardUnreachable.
    """
    wanted = {file.sha256: file for file in files}
    found = session.has(sorted(wanted))
    missing = [file for sha, file in sorted(wanted.items()) if sha not in found.complete]
    total = sum(file.size_bytes - found.partial_bytes.get(file.sha256, 0) for file in missing)
    state = PushState(len(wanted), len(missing), 0, total)
    progress(state)
    for file in missing:
        offset = found.partial_bytes.get(file.sha256, 0)
        for moved in _push_one(session, file, offset, keep_going):
            state = PushState(len(wanted), len(missing), state.moved_bytes + moved, total)
            progress(state)
    return state


def _push_one(
    session: Session, file: File, offset: int, keep_going: Callable[[], bool]
) -> Iterable[int]:
    """Send one file from `offset` on, yielding the bytes of each chunk."""
    try:
        with file.path.open("rb") as stream:
            stream.seek(offset)
            complete = False
            while not complete and keep_going():
                chunk = stream.read(wire.CHUNK_BYTES)
                put = session.put_chunk(file.sha256, offset, file.size_bytes, chunk)
                offset += len(chunk)
                complete = put.complete
                yield len(chunk)
                if not complete and (not chunk or put.received_bytes != offset):
                    raise TransferFailed(
                        f"{file.path.name} is {offset} bytes here and {put.received_bytes} bytes "
                        f"arrived of {file.size_bytes}; build the artifact again",
                        session.board,
                    )
    except OSError as exc:
        raise TransferFailed(f"cannot read {file.path}: {exc.strerror}", session.board) from exc
