"""Statistics of one trial, pure: samples and readings in, figures out; nothing is clipped.

Percentiles are nearest-rank, as MLPerf LoadGen takes them: the figure is a latency that was
really measured, the smallest one with at least `percent` % of all samples not above it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.wire import Reading, Samples
from results.steady import steady_from

_CONFIDENCE: Final = 0.99
"""MLPerf's confidence of a tail percentile (inference rules, early stopping)."""

LIVE_BITS: Final = 0b1111
"""Firmware throttle word: bits 0-3 hold now; bits 16-19 the same 'since boot', sticky."""
STICKY_SHIFT: Final = 16

Latencies = NDArray[np.uint64]


@lru_cache
def min_samples(percent: int) -> int:
    """Fewest samples for which a percentile may be stated: 64 for p90, 662 for p99.

    From a tail percentile on, at least two samples must lie beyond it with 99 % confidence:
    the smallest n with P(Binomial(n, 1 - percent/100) <= 1) <= 0.01, which gives MLPerf's
    own figures. The median and below need one sample; their n is printed beside them.
    """
    if percent <= 50:  # noqa: PLR2004 - the median
        return 1
    below, n = percent / 100, 1
    while below**n + n * (1 - below) * below ** (n - 1) > 1 - _CONFIDENCE:
        n += 1
    return n


def percentile(values: Latencies, percent: int) -> int | None:
    """Nearest-rank percentile (1..99) of unsorted values; None when there are too few."""
    if values.size < min_samples(percent):
        return None
    rank = -(-percent * values.size // 100) - 1
    return int(np.partition(values, rank)[rank])


@dataclass(frozen=True)
class SampleSummary:
    """Figures over phase 'sample'; None where there are too few samples for one."""

    n: int
    warmup_n: int
    cold_ns: int | None
    min_ns: int | None
    mean_ns: float | None
    p50_ns: int | None
    p90_ns: int | None
    p99_ns: int | None
    max_ns: int | None
    stdev_ns: float | None
    fps: float | None
    cv: float | None
    steady_from: int | None
    steady_note: str | None


def summary(samples: Samples | None) -> SampleSummary:
    """Summarise a trial; `fps` is 1e9 / mean, the rate of back-to-back inferences."""
    counts = samples.counts if samples else (0, 0, 0)
    cold_n, warmup_n, _ = counts
    columns = np.frombuffer(samples.latency_ns, np.uint64) if samples else np.empty(0, np.uint64)
    values = columns[cold_n + warmup_n : sum(counts)]
    index, note = steady_from(values)
    mean = int(values.sum()) / values.size if values.size else None
    stdev = float(values.std(ddof=1)) if values.size > 1 else None
    return SampleSummary(
        n=values.size,
        warmup_n=warmup_n,
        cold_ns=int(columns[0]) if cold_n else None,
        min_ns=int(values.min()) if values.size else None,
        mean_ns=mean,
        p50_ns=percentile(values, 50),
        p90_ns=percentile(values, 90),
        p99_ns=percentile(values, 99),
        max_ns=int(values.max()) if values.size else None,
        stdev_ns=stdev,
        fps=1e9 / mean if mean else None,
        cv=stdev / mean if mean and stdev is not None else None,
        steady_from=index,
        steady_note=note,
    )


@dataclass(frozen=True)
class ReadingSummary:
    """Figures over the telemetry of a trial; None where no reading has the source."""

    readings_n: int
    temp_start_c: float | None
    temp_max_c: float | None
    clock_min_hz: int | None
    throttled_bits: int | None
    power_mean_w: float | None


def reading_summary(readings: Sequence[Reading]) -> ReadingSummary:
    """Summarise the telemetry of a trial, in the order in which it was read."""
    temps = [r.temp_c for r in readings if r.temp_c is not None]
    clocks = [r.clock_hz for r in readings if r.clock_hz is not None]
    powers = [r.power_w for r in readings if r.power_w is not None]
    return ReadingSummary(
        readings_n=len(readings),
        temp_start_c=temps[0] if temps else None,
        temp_max_c=max(temps, default=None),
        clock_min_hz=min(clocks, default=None),
        throttled_bits=throttled_bits(r.throttled_bits for r in readings),
        power_mean_w=statistics.fmean(powers) if powers else None,
    )


def throttled_bits(words: Iterable[int | None]) -> int | None:
    """Which of the live bits 0-3 were or became set while the words were read.

    A sticky bit that was set before the first reading says nothing of this trial; one that
    appears later was set between two readings. None when no word was read.
    """
    known = [word for word in words if word is not None]
    if not known:
        return None
    seen, before = 0, known[0]
    for word in known:
        seen |= word & LIVE_BITS
        seen |= ((word & ~before) >> STICKY_SHIFT) & LIVE_BITS
    return seen


def median(values: Iterable[float | None]) -> float | None:
    """Median of the values that are known; the mean of the middle two when even."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def block_medians(points: Iterable[tuple[int, float | None]]) -> dict[int, float]:
    """Median of each block's trials, by block, blocks in order; unknown values do not count."""
    blocks: dict[int, list[float]] = {}
    for block, value in points:
        if value is not None:
            blocks.setdefault(block, []).append(value)
    return {block: statistics.median(values) for block, values in sorted(blocks.items())}
