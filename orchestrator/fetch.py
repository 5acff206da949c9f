"""Bringing an ended trial home: outcome, samples, readings and what was found, each verified."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agent import wire
from orchestrator.boards.base import Session
from orchestrator.errors import TransferFailed
from orchestrator.pace import Pace

MAX_PART_BYTES: Final = 256 << 20
"""No honest journal comes near it; a board cannot make the host allocate more."""

MAX_LINES: Final = 1_000_000
"""A reading a second for a week, the longest deadline, is 604,800."""

MAX_LINE_BYTES: Final = 8 << 20
"""The largest mask in text has 5.6 MB; what a line becomes is larger than the line."""


@dataclass(frozen=True)
class Journal:
    """What a board recorded of one trial; a part that it did not write is None or empty."""

    outcome: wire.Outcome
    samples: wire.Samples | None
    readings: tuple[wire.Reading, ...]
    detections: tuple[wire.ImageDetections, ...] | None
    masks: tuple[wire.ImageMask, ...] | None = None


def fetch(session: Session, trial_id: str, now_s: Callable[[], float] = time.monotonic) -> Journal:
    """Read the journal of an ended trial.

    Raises TransferFailed when a part does not verify, WireError when it is not what it should be.
    """
    outcome = session.outcome(trial_id)
    if outcome.trial_id != trial_id:
        raise TransferFailed(f"asked for trial {trial_id}, got {outcome.trial_id}", session.board)
    pace = Pace(now_s=now_s)
    parts: dict[str, bytes] = {
        name: _read_part(session, trial_id, name, part, pace)
        for name, part in outcome.parts.items()
    }
    try:
        return _decoded(outcome, parts)
    except wire.WireError as exc:
        raise wire.WireError(f"{session.board}: trial {trial_id}: {exc}") from exc


def _decoded(outcome: wire.Outcome, parts: Mapping[Any, bytes]) -> Journal:
    samples = parts.get("samples")
    detections, masks = parts.get("detections"), parts.get("masks")
    return Journal(
        outcome,
        None if samples is None else wire.decode_samples(samples),
        _lines(parts.get("readings", b""), wire.Reading),
        None if detections is None else _lines(detections, wire.ImageDetections),
        None if masks is None else _lines(masks, wire.ImageMask),
    )


def _read_part(session: Session, trial_id: str, name: str, part: wire.Part, pace: Pace) -> bytes:
    if not 0 <= part.size_bytes <= MAX_PART_BYTES:
        raise TransferFailed(
            f"the {name} of trial {trial_id} would be {part.size_bytes} bytes; "
            f"at most {MAX_PART_BYTES} are accepted",
            session.board,
        )
    data = bytearray()
    while len(data) < part.size_bytes:
        want, sent_s = min(pace.chunk_bytes, part.size_bytes - len(data)), pace.sent()
        piece = session.read(trial_id, name, len(data), want)
        pace.answered(len(piece), sent_s)
        data += piece
        if len(piece) < want:  # byte by byte a board could keep the host busy for years
            break
    found = hashlib.sha256(data).hexdigest()
    if found != part.sha256:
        raise TransferFailed(
            f"the {name} of trial {trial_id} arrived as {len(data)} of {part.size_bytes} bytes "
            f"with digest {found[:12]} instead of {part.sha256[:12]}; it is still on the board",
            session.board,
        )
    return bytes(data)


def _lines(data: bytes, kind: Any) -> tuple[Any, ...]:
    """A message a line; one at a time, for a list of empty lines would take far more memory."""
    found = []
    for number, line in enumerate(io.BytesIO(data), start=1):
        if number > MAX_LINES:
            raise wire.WireError(f"{kind.__name__}: more than {MAX_LINES} lines")
        if len(line) > MAX_LINE_BYTES:
            raise wire.WireError(f"{kind.__name__}: line {number} has {len(line)} bytes")
        if line.strip():
            found.append(wire.decode(line, kind))
    return tuple(found)
