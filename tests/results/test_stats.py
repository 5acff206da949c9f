from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.wire import Reading
from results import example
from results.stats import (
    block_medians,
    median,
    min_samples,
    percentile,
    reading_summary,
    summary,
    throttled_bits,
)


def latencies(count: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.arange(1, count + 1, dtype=np.uint64))


@pytest.mark.parametrize(("percent", "needed"), [(50, 1), (90, 64), (95, 130), (99, 662)])
def test_tail_percentiles_need_mlperfs_number_of_samples(percent: int, needed: int) -> None:
    """A percentile is stated from MLPerf's minimum on, and not with one sample less."""
    assert min_samples(percent) == needed
    assert percentile(latencies(needed), percent) is not None
    assert percentile(latencies(needed - 1), percent) is None


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [(1, 50, 1), (4, 50, 2), (5, 50, 3), (100, 90, 90), (101, 90, 91), (1000, 99, 990)],
)
def test_percentiles_are_nearest_rank(count: int, percent: int, expected: int) -> None:
    """Of the latencies 1..n the percentile is the one of rank ceil(n * percent / 100)."""
    assert percentile(latencies(count), percent) == expected


@settings(deadline=None, max_examples=50)  # a busy machine is no failure
@given(st.lists(st.integers(0, 2**62), min_size=64, max_size=200))
def test_a_percentile_is_a_measured_value_with_its_share_below(values: list[int]) -> None:
    """Whatever the samples, p90 is one of them and at least 90 % are not above it."""
    p90 = percentile(np.array(values, np.uint64), 90)
    assert p90 in values
    assert sum(value <= p90 for value in values) * 100 >= 90 * len(values)
    assert sum(value < p90 for value in values) * 100 < 90 * len(values)


def test_a_summary_is_over_the_sample_phase_only() -> None:
    """Cold and warm-up inferences have figures of their own and do not enter the others."""
    found = summary(example.timed([9_000], [5_000, 4_000], [1_000, 2_000, 3_000, 6_000]))
    assert (found.n, found.warmup_n, found.cold_ns) == (4, 2, 9_000)
    assert (found.min_ns, found.p50_ns, found.max_ns) == (1_000, 2_000, 6_000)
    assert found.mean_ns == 3_000.0
    assert found.stdev_ns == pytest.approx(statistics.stdev([1_000, 2_000, 3_000, 6_000]))
    assert found.cv == pytest.approx(found.stdev_ns / 3_000)
    assert found.fps == pytest.approx(1e9 / 3_000)
    assert (found.p90_ns, found.p99_ns) == (None, None)


def test_nothing_is_clipped() -> None:
    """One sample a thousand times slower is the maximum and moves the mean."""
    found = summary(example.timed([], [], [1_000] * 999 + [1_000_000]))
    assert found.max_ns == 1_000_000
    assert found.mean_ns == pytest.approx(1_999)
    assert found.p99_ns == 1_000


@pytest.mark.parametrize("samples", [None, example.timed([], [], []), example.timed([7], [8], [])])
def test_without_samples_there_are_no_figures(samples: object) -> None:
    """A trial that ended before sampling has n = 0 and None everywhere, never zero."""
    found = summary(samples)  # type: ignore[arg-type]
    assert found.n == 0
    figures = (found.min_ns, found.mean_ns, found.p50_ns, found.p90_ns, found.p99_ns, found.max_ns)
    assert figures == (None,) * 6
    assert (found.stdev_ns, found.fps, found.cv, found.steady_from) == (None,) * 4
    assert found.steady_note


def test_one_sample_has_no_spread() -> None:
    """One sample has a median and a mean, and no standard deviation."""
    found = summary(example.timed([], [], [5]))
    assert (found.p50_ns, found.mean_ns, found.stdev_ns, found.cv) == (5, 5.0, None, None)


def test_samples_of_zero_time_have_no_rate() -> None:
    """A clock too coarse to see the inference gives no rate instead of a division by zero."""
    found = summary(example.timed([], [], [0, 0, 0]))
    assert (found.p50_ns, found.mean_ns, found.fps, found.cv) == (0, 0.0, None, None)


def reading(**known: float | None) -> Reading:
    missing = dict.fromkeys(
        ("temp_c", "clock_hz", "throttled_bits", "memory_available_bytes", "worker_rss_bytes",
         "power_w")
    )  # fmt: skip
    return Reading(t_ns=0, **missing | known)  # type: ignore[arg-type]


def test_missing_sensors_stay_unknown() -> None:
    """A board without any source has None in every telemetry figure, never zero."""
    found = reading_summary([reading(), reading()])
    assert found.readings_n == 2
    assert (found.temp_start_c, found.temp_max_c, found.clock_min_hz) == (None, None, None)
    assert (found.throttled_bits, found.power_mean_w) == (None, None)


def test_readings_are_summed_up_over_those_that_are_known() -> None:
    """A reading without a value is passed over; a true zero counts."""
    found = reading_summary(
        [
            reading(clock_hz=2_400, power_w=0.0),
            reading(temp_c=50.0, clock_hz=1_200),
            reading(temp_c=62.5, power_w=3.0),
            reading(temp_c=0.0),
        ]
    )
    assert (found.temp_start_c, found.temp_max_c) == (50.0, 62.5)
    assert (found.clock_min_hz, found.power_mean_w) == (1_200, 1.5)


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        ([], None),
        ([None, None], None),
        ([0, 0], 0),
        ([0x50000, 0x50000], 0),
        ([0x0, 0x4, 0x40000], 4),
        ([0x0, 0x40000], 4),
        ([0x10000, None, 0x50008], 4 | 8),
        ([0x1], 1),
        ([None, 0x20000, 0x60000], 4),
    ],
)
def test_only_throttling_during_the_trial_counts(words: list[int | None], seen: int | None) -> None:
    """Live bits count, sticky bits only when they appear after the first reading."""
    assert throttled_bits(words) == seen


def test_medians_pass_over_what_is_unknown() -> None:
    """Medians are over known values, by block in the order of blocks."""
    assert median([3.0, None, 1.0, 2.0]) == 2.0
    assert median([None]) is None
    points = [(1, 5.0), (0, 1.0), (1, None), (0, 3.0), (2, None)]
    assert block_medians(points) == {0: 2.0, 1: 5.0}
    assert list(block_medians(points)) == [0, 1]


def test_the_minimum_follows_from_its_definition() -> None:
    """64 and 662 are the least n with two samples in the tail at 99 % confidence."""
    for percent, needed in ((90, 64), (99, 662)):
        p = percent / 100
        for n, enough in ((needed - 1, False), (needed, True)):
            at_most_one = p**n + math.comb(n, 1) * (1 - p) * p ** (n - 1)
            assert (at_most_one <= 0.01) is enough
