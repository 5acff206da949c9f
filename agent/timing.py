"""The timed loop: pure, with the clock and the callable injected.

Both the samples and the telemetry readings use `clock_ns`, which is CLOCK_MONOTONIC on Linux,
so a sample can be placed among the readings.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

Clock = Callable[[], int]

clock_ns: Final[Clock] = time.monotonic_ns
"""The one clock of the board side, in nanoseconds."""


@dataclass(frozen=True)
class StopRule:
    """A phase ends when both minimums hold, or at the maximum (LoadGen's rule, with a cap)."""

    min_samples: int
    min_duration_ns: int
    max_duration_ns: int

    def met(self, samples: int, duration_ns: int) -> bool:
        """Whether both minimums hold."""
        return samples >= self.min_samples and duration_ns >= self.min_duration_ns


@dataclass(frozen=True)
class PhaseEnd:
    """Where a phase stopped: the next free index, and the end of its last call."""

    next_index: int
    last_end_ns: int
    short: bool
    """True when the cap or the capacity ended the phase before both minimums held."""


def run_phase(
    call: Callable[[], None],
    latency_ns: memoryview,
    gap_ns: memoryview,
    first_index: int,
    previous_end_ns: int | None,
    rule: StopRule,
    clock: Clock = clock_ns,
) -> PhaseEnd:
    """Time `call` until `rule` says stop or the columns are full.

    `latency_ns` and `gap_ns` are memoryviews of u64 ("Q") and equal length. Call i writes its
    time to `latency_ns[i]` and the time from the end of the previous call to its start to
    `gap_ns[i]`. `previous_end_ns` is the end of the call before this phase; None for the first
    call of all, whose gap is 0. All else is at least 1: 0 marks a place as not recorded.
    """
    began = clock()
    end = began if previous_end_ns is None else previous_end_ns
    if rule.met(0, 0) or first_index >= len(latency_ns):
        return PhaseEnd(first_index, end, short=not rule.met(0, 0))
    enough = first_index + rule.min_samples - 1
    latest = began + rule.max_duration_ns
    earliest = min(began + rule.min_duration_ns, latest)
    for index in range(first_index, len(latency_ns)):
        start = clock()
        call()
        now = clock()
        latency_ns[index] = now - start or 1
        gap_ns[index] = start - end or 1
        end = now
        if end >= earliest and (index >= enough or end >= latest):
            break
    if previous_end_ns is None:
        gap_ns[first_index] = 0
    done = index + 1 - first_index
    return PhaseEnd(index + 1, end, short=not rule.met(done, end - began))
