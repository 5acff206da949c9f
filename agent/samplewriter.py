"""The samples file as the worker writes it: preallocated, mapped, never grown in the loop."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Final

from agent.wire import SAMPLES_HEADER, Scenario, samples_header

MAX_SAMPLES: Final = 2_000_000
"""Largest capacity: 32 MB on the disk."""

_FASTEST_CALL_NS: Final = 5_000
"""A call of a runtime from Python takes longer, even for an empty graph; an idle server's core came
below 10,000."""

_WORD: Final = 8


def capacity_for(scenario: Scenario) -> int:
    """Places for a trial of the fastest model there can be.

    The first call says nothing of the later ones: it may be a thousand times slower.

    The file costs disk, not memory: pages are touched as they fill, and the supervisor cuts it
    to what was recorded.
    """
    warmup = max(
        scenario.warmup_min_samples, scenario.warmup_min_duration_ns // _FASTEST_CALL_NS + 1
    )
    sample = max(scenario.min_samples, scenario.min_duration_ns // _FASTEST_CALL_NS + 1)
    return min(1 + warmup + sample, MAX_SAMPLES)


class SampleWriter:
    """A mapped samples file with its two columns as memoryviews of u64.

    What is written is in the kernel's hands at once: it outlives the process, however that ends.
    (agent.keeper copies it to where it outlives a power cut, too.)
    """

    def __init__(self, path: Path, capacity: int) -> None:
        """Take the room on the disk and map it; raises OSError when there is not enough."""
        size = SAMPLES_HEADER.size + 2 * _WORD * capacity
        with path.open("w+b") as stream:
            # Without this a full disk would be a SIGBUS in the middle of the timed loop.
            os.posix_fallocate(stream.fileno(), 0, size)
            stream.write(samples_header(capacity, (0, 0, 0)))
            stream.flush()
            self._view = memoryview(mmap.mmap(stream.fileno(), size))
        self.capacity = capacity
        columns = self._view[SAMPLES_HEADER.size :].cast("Q")
        self.latency_ns, self.gap_ns = columns[:capacity], columns[capacity:]

    def set_counts(self, cold: int, warmup: int, sample: int) -> None:
        """Say how many samples each phase has; called between phases, never in the loop."""
        header = samples_header(self.capacity, (cold, warmup, sample))
        self._view[: len(header)] = header
