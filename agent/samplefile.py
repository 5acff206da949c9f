"""Reading the samples that a worker is writing, and closing the file it left behind.

The worker fills the slots of samples.bin in order and counts a phase in the header only when
the phase is over, so what it has recorded since is found by the slots that are not zero.
"""

from __future__ import annotations

import itertools
import mmap
import os
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.artifacts import sync_directory
from agent.wire import SAMPLES_HEADER, Scenario, WireError, samples_header

RECENT: Final = 64
"""How many of the last samples the median of a poll is taken over."""

_WORD: Final = 8


@dataclass(frozen=True)
class Recorded:
    """What a samples file holds: calls of each phase (cold, warmup, sample), last latencies."""

    counts: tuple[int, int, int]
    recent_ns: tuple[int, ...]
    """Up to RECENT latencies of the phase `sample`, oldest first."""


NOTHING: Final = Recorded((0, 0, 0), ())


def look(path: Path, scenario: Scenario) -> Recorded:
    """How far a worker is; touches a few pages only. Nothing where there is no valid file yet."""
    try:
        with (
            path.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
        ):
            capacity, counts = _header(view)
            with _column(view, capacity, 0).cast("Q") as latency:
                done = _first_zero(latency, sum(counts), capacity)
                counts = attribute(counts, done, scenario)
                start = max(done - RECENT, counts[0] + counts[1])
                return Recorded(counts, tuple(latency[start:done]))
    except (OSError, ValueError, WireError):
        return NOTHING


def close(path: Path, scenario: Scenario) -> tuple[int, int, int]:
    """Cut a samples file to what was recorded, with the right counts; returns those.

    Slots with latency 0 were never recorded (a crash, or pages lost with the power). The file
    is replaced in one step. Raises WireError when it is not a samples file, OSError.
    """
    with memoryview(path.read_bytes()) as view:
        capacity, header_counts = _header(view)
        used = -(-len(bytes(_column(view, capacity, 0)).rstrip(b"\0")) // _WORD)
        latency, gap = (
            array("Q", bytes(_column(view, capacity, index)[: used * _WORD])) for index in (0, 1)
        )
    slots = attribute(header_counts, used, scenario)
    kept = [n - latency[end - n : end].count(0) for n, end in _ends(slots)]
    counts = (kept[0], kept[1], kept[2])
    if 0 in latency:
        gap = array("Q", itertools.compress(gap, latency))
        latency = array("Q", filter(None, latency))
    if (capacity, header_counts) != (len(latency), counts):
        columns = latency.tobytes() + gap.tobytes()
        replace_file(path, samples_header(len(latency), counts) + columns)
    return counts


def attribute(counts: tuple[int, int, int], done: int, scenario: Scenario) -> tuple[int, int, int]:
    """Counts by phase of the first `done` slots, where `counts` names the finished phases.

    What lies beyond the finished phases belongs to the next one. A finished warm-up may be
    empty: then, and only then, the scenario asks for none.
    """
    cold, warmup, sample = counts
    beyond = done - cold - warmup - sample
    if beyond < 0:  # the header counts more than is recorded
        cold = min(cold, done)
        warmup = min(warmup, done - cold)
        return cold, warmup, done - cold - warmup
    if beyond and not cold:
        cold, beyond = 1, beyond - 1
    warms_up = scenario.warmup_min_samples > 0 or scenario.warmup_min_duration_ns > 0
    if warms_up and not warmup and not sample:
        return cold, beyond, 0
    return cold, warmup, sample + beyond


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that after a power cut there is the old one or the new one, whole."""
    new = path.with_name(path.name + ".new")
    with new.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(path)
    sync_directory(path.parent)


def _header(view: memoryview) -> tuple[int, tuple[int, int, int]]:
    """Capacity and counts; raises WireError when the file's size contradicts them."""
    if len(view) < SAMPLES_HEADER.size:
        raise WireError(f"samples: {len(view)} bytes are shorter than the header")
    magic, capacity, cold, warmup, sample = SAMPLES_HEADER.unpack_from(view)
    expected = samples_header(capacity, (cold, warmup, sample))
    if view[: SAMPLES_HEADER.size] != expected:
        raise WireError(f"samples: unknown magic {magic!r}")
    if len(view) != SAMPLES_HEADER.size + 2 * _WORD * capacity or cold + warmup + sample > capacity:
        raise WireError(
            f"samples: {len(view)} bytes for capacity {capacity}, counts {cold}+{warmup}+{sample}"
        )
    return capacity, (cold, warmup, sample)


def _column(view: memoryview, capacity: int, index: int) -> memoryview:
    start = SAMPLES_HEADER.size + index * _WORD * capacity
    return view[start : start + _WORD * capacity]


def _first_zero(column: memoryview, low: int, high: int) -> int:
    """Index of the first slot not yet written, by halving: slots fill in order."""
    while low < high:
        middle = (low + high) // 2
        if column[middle]:
            low = middle + 1
        else:
            high = middle
    return low


def _ends(slots: tuple[int, int, int]) -> list[tuple[int, int]]:
    """(length, end) of each phase's range of slots."""
    return list(zip(slots, itertools.accumulate(slots), strict=True))
