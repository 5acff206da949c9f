"""A second, append-only copy of the samples, forced to the disk while they are taken.

samples.bin is written through a memory map: it outlives every process, but of what the kernel had
not yet written a power cut leaves zeros. So the agent, never the timed process, appends what is new
to samples.log about once a second and forces it out. Each record proves itself by a checksum, so
what a cut tore is told from what is whole; nothing is taken on trust from a page that may be half
written.

    record  magic "OBLG", count of samples (u32), index of the first (u64),
            counts of the finished phases (cold, warm-up, sample: u64 each),
            latencies (count u64), gaps (count u64), CRC-32 of all before (u32)

All little-endian. A record whose first index is not the number of samples before it ends the log.
"""

from __future__ import annotations

import os
import struct
import zlib
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_HEAD: Final = struct.Struct("<4sIQQQQ")
_CHECK: Final = struct.Struct("<I")
_MAGIC: Final = b"OBLG"
_WORD: Final = 8

MAX_RECORD_SAMPLES: Final = 65_536
"""One MiB a record: more is written as several."""


@dataclass(frozen=True)
class Logged:
    """What a log holds: samples from the first on, without a hole.

    `counts` are those of the phases that were finished by then (cold, warm-up, sample).
    """

    counts: tuple[int, int, int] = (0, 0, 0)
    latency_ns: array[int] = field(default_factory=lambda: array("Q"))
    gap_ns: array[int] = field(default_factory=lambda: array("Q"))


class SampleLog:
    """A log as it is written."""

    def __init__(self, path: Path) -> None:
        """Begin an empty one; raises OSError."""
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._size_bytes = 0
        self.samples = 0

    def append(self, counts: tuple[int, int, int], latency: bytes, gap: bytes) -> None:
        """Add samples and force them to the disk; raises OSError, and then nothing was added."""
        written, size_bytes = self.samples, self._size_bytes
        try:
            for start in range(0, len(latency), MAX_RECORD_SAMPLES * _WORD):
                end = start + MAX_RECORD_SAMPLES * _WORD
                record = _record(written, counts, latency[start:end], gap[start:end])
                size_bytes += _write_all(self._fd, record, size_bytes)
                written += len(latency[start:end]) // _WORD
            os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._size_bytes)
            raise
        self.samples, self._size_bytes = written, size_bytes

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


def read_log(path: Path) -> Logged:
    """What is whole in a log, up to the first record that is not; empty where there is none."""
    try:
        data = path.read_bytes()
    except OSError:
        return Logged()
    counts, latency, gap = (0, 0, 0), array("Q"), array("Q")
    at = 0
    while (found := _whole(data, at, len(latency))) is not None:
        count, counts = found
        at += _HEAD.size
        latency.frombytes(data[at : at + _WORD * count])
        gap.frombytes(data[at + _WORD * count : at + 2 * _WORD * count])
        at += 2 * _WORD * count + _CHECK.size
    return Logged(counts, latency, gap)


def _record(first: int, counts: tuple[int, int, int], latency: bytes, gap: bytes) -> bytes:
    head = _HEAD.pack(_MAGIC, len(latency) // _WORD, first, *counts)
    body = head + latency + gap
    return body + _CHECK.pack(zlib.crc32(body))


def _whole(data: bytes, at: int, first: int) -> tuple[int, tuple[int, int, int]] | None:
    """Number of samples and phase counts of the record at an offset; None where none is whole."""
    if len(data) < at + _HEAD.size:
        return None
    magic, count, index, *counts = _HEAD.unpack_from(data, at)
    end = at + _HEAD.size + 2 * _WORD * count
    if magic != _MAGIC or index != first or not 0 < count <= MAX_RECORD_SAMPLES:
        return None
    if len(data) < end + _CHECK.size:
        return None
    if _CHECK.unpack_from(data, end)[0] != zlib.crc32(memoryview(data)[at:end]):
        return None
    return count, (counts[0], counts[1], counts[2])


def _write_all(fd: int, data: bytes, offset: int) -> int:
    rest = memoryview(data)
    while rest:
        done = os.pwrite(fd, rest, offset)
        rest, offset = rest[done:], offset + done
    return len(data)
