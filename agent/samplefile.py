"""Reading the samples that a worker is writing, and closing the file it left behind.

The worker fills the slots of samples.bin in order and counts a phase in the header only when
the phase is over, so what it has recorded since is found by the slots that are not zero. After a
power cut some of its pages may be empty; the copy in samples.log (agent.samplelog) fills them.
"""

from __future__ import annotations

import mmap
import os
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.artifacts import sync_directory
from agent.samplelog import Logged, read_log
from agent.wire import SAMPLES_HEADER, Scenario, WireError, samples_header

NAME: Final = "samples.bin"
LOG_NAME: Final = "samples.log"

RECENT: Final = 64
"""How many of the last samples the median of a poll is taken over."""

_WORD: Final = 8
_NO_LIMIT: Final = 2**64 - 1


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


def since(path: Path, have: int) -> tuple[tuple[int, int, int], bytes, bytes] | None:
    """Counts of the finished phases, latencies and gaps from slot `have` on, as u64 each.

    For a reader beside the worker: None where nothing is new, or no valid file is there yet. A
    sample of which only a part is to be seen yet is left for the next time.
    """
    try:
        with (
            path.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
        ):
            capacity, _ = _header(view)
            with _column(view, capacity, 0) as latency, _column(view, capacity, 1) as gap:
                with latency.cast("Q") as words:
                    done = _first_zero(words, have, capacity)
                known = array("Q", bytes(gap[have * _WORD : done * _WORD]))
                whole = _index_of_zero(known, 0 if have else 1)
                values = bytes(latency[have * _WORD : (have + whole) * _WORD])
            # After the slots: a phase that ended meanwhile then counts more than is here, which
            # `attribute` understands, and no sample of the next phase is taken for this one's.
            return (_header(view)[1], values, known[:whole].tobytes()) if whole else None
    except (OSError, ValueError, WireError):
        return None


def close(path: Path, scenario: Scenario, limit_ns: int = _NO_LIMIT) -> tuple[int, int, int]:
    """Cut a samples file to what was recorded, with the right counts; returns those.

    What is kept are the samples up to the first that is missing (a crash, or pages lost with the
    power), for an order with a hole places the rest wrongly. No time may exceed `limit_ns`. The
    file is replaced in one step. Raises WireError when it is no samples file and its log holds
    nothing either, OSError.
    """
    log = read_log(path.with_name(LOG_NAME))
    capacity, header_counts, written = _written(path, log)
    latency = log.latency_ns + written.latency_ns[len(log.latency_ns) :]
    gap = log.gap_ns + written.gap_ns[len(log.gap_ns) :]
    end = _end(latency, gap, len(log.latency_ns), limit_ns)
    counts = attribute(max(header_counts, log.counts, key=sum), end, scenario)
    latency, gap = latency[:end], gap[:end]
    if end:
        gap[0] = 0
    if (capacity, header_counts) != (end, counts) or latency != written.latency_ns:
        replace_file(path, samples_header(end, counts) + latency.tobytes() + gap.tobytes())
    else:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    path.with_name(LOG_NAME).unlink(missing_ok=True)
    return counts


def _written(path: Path, log: Logged) -> tuple[int, tuple[int, int, int], Logged]:
    """Capacity, counts and slots of a samples file; nothing where a power cut left only zeros."""
    data = path.read_bytes() if path.exists() else b""
    try:
        with memoryview(data) as view:
            capacity, counts = _header(view)
            latency, gap = (array("Q", bytes(_column(view, capacity, index))) for index in (0, 1))
    except WireError:
        if data.strip(b"\0") and not log.latency_ns:
            raise
        return -1, (0, 0, 0), Logged()
    return capacity, counts, Logged(counts, latency, gap)


def _end(latency: array[int], gap: array[int], sure: int, limit_ns: int) -> int:
    """How many samples there are before the first that is missing; `sure` are not looked at."""
    end = min(_index_of_zero(latency, sure), _index_of_zero(gap, max(sure, 1)))
    if max(max(latency[sure:end], default=0), max(gap[sure:end], default=0)) <= limit_ns:
        return end
    return next(at for at in range(sure, end) if max(latency[at], gap[at]) > limit_ns)


def _index_of_zero(values: array[int], start: int) -> int:
    """Index of the first zero from `start` on; the length where there is none."""
    try:
        return values.index(0, start)
    except ValueError:
        return len(values)


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
