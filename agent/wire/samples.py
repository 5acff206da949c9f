"""Timed samples as bytes: a header, then one column of latencies and one of gaps."""

from __future__ import annotations

import struct
from array import array
from typing import Final

import msgspec

from agent.wire.base import WireError

SAMPLE_PHASES: Final = ("cold", "warmup", "sample")
_SAMPLES_MAGIC: Final = b"OBSAMPL1"
SAMPLES_HEADER: Final = struct.Struct("<8sQQQQ")
"""magic, capacity, then how many samples each phase of SAMPLE_PHASES holds, in order."""


class Samples(msgspec.Struct, frozen=True):
    """All timed inferences of a trial in order.

    `latency_ns[i]` is the time of call i, `gap_ns[i]` the time from the end of the previous
    call to its start (0 for the first); `counts` says how many belong to each phase.
    """

    counts: tuple[int, int, int]
    latency_ns: array[int]
    gap_ns: array[int]

    def phases(self) -> list[str]:
        """The phase of each sample, as long as `latency_ns`."""
        return [name for name, n in zip(SAMPLE_PHASES, self.counts, strict=True) for _ in range(n)]


def samples_header(capacity: int, counts: tuple[int, int, int]) -> bytes:
    """The header of a samples file; the two columns of `capacity` u64 follow it."""
    return SAMPLES_HEADER.pack(_SAMPLES_MAGIC, capacity, *counts)


def decode_samples(data: bytes) -> Samples:
    """Decode a samples file: header, then columns latency and gap of `capacity` u64 each.

    Raises WireError when the sizes do not add up.
    """
    if len(data) < SAMPLES_HEADER.size:
        raise WireError(f"samples: {len(data)} bytes are shorter than the header")
    magic, capacity, *counts = SAMPLES_HEADER.unpack_from(data)
    total = sum(counts)
    if magic != _SAMPLES_MAGIC or len(data) != SAMPLES_HEADER.size + 16 * capacity:
        raise WireError(f"samples: magic {magic!r}, capacity {capacity}, {len(data)} bytes")
    if total > capacity:
        raise WireError(f"samples: {total} samples recorded in {capacity} places")
    start = SAMPLES_HEADER.size
    latency, gap = array("Q"), array("Q")
    latency.frombytes(data[start : start + 8 * total])
    gap.frombytes(data[start + 8 * capacity : start + 8 * (capacity + total)])
    return Samples((counts[0], counts[1], counts[2]), latency, gap)
