"""Digests of what is stored, computed the same way before writing and when checking.

samples_sha256   sha256 over the three phase counts as little-endian u64, then all latencies
                 and then all gaps, each a little-endian u64, in order; NULL without samples.
content_sha256   sha256 over compact JSON with sorted keys of the trial's own columns, its
                 readings, its evaluation and that of each image. Left out: row numbers; this
                 digest; the host's times, which differ when the same trial is fetched from a
                 board twice. The samples take part by their digest; the summary is recomputable
                 and does not.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from array import array
from collections.abc import Mapping, Sequence

import msgspec

from agent.wire import Samples

Value = str | int | float | None
Row = Mapping[str, Value]

_NOT_CONTENT = frozenset(
    {"trial_no", "board_no", "evaluation_no", "content_sha256", "started_utc", "ended_utc"}
)


def canonical(value: object) -> str:
    """Compact JSON with sorted keys: equal values have equal text."""
    return msgspec.json.encode(value, order="deterministic").decode()


def text_digest(text: str) -> str:
    """Sha256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def samples_digest(samples: Samples) -> str:
    """See the top of this file."""
    digest = hashlib.sha256(struct.pack("<3Q", *samples.counts))
    for column in (samples.latency_ns, samples.gap_ns):
        digest.update(_little_endian(column))
    return digest.hexdigest()


def content_digest(
    trial: Row,
    readings: Sequence[Sequence[Value]],
    evaluation: Row | None,
    images: Sequence[Sequence[Value]],
) -> str:
    """See the top of this file; `readings` and `images` are the columns after `seq` and `place`."""
    scored = _content(evaluation) if evaluation else None
    return text_digest(canonical([_content(trial), readings, scored, images]))


def _content(row: Row) -> dict[str, Value]:
    return {name: value for name, value in row.items() if name not in _NOT_CONTENT}


def _little_endian(column: array[int]) -> array[int]:
    if sys.byteorder == "little":
        return column
    swapped = array("Q", column)
    swapped.byteswap()
    return swapped
