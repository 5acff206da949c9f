"""Intervals of a ratio of latencies, pure.

The interval is Student's t on log ratios. It was chosen by simulation, not belief: over few
blocks the percentile bootstrap covers far less than it says (84 % instead of 95 % over five),
the t interval covers what it says; tests/results/test_intervals.py repeats both.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

CONFIDENCE: Final = 0.95
MIN_BLOCKS: Final = 2
"""One block has no spread, so it gives a ratio but no interval."""

Method = Literal["paired blocks", "unpaired blocks"]


@dataclass(frozen=True)
class Ratio:
    """A geometric-mean ratio; `low` and `high` are None when `blocks` is below MIN_BLOCKS."""

    value: float
    low: float | None
    high: float | None
    blocks: int
    method: Method


def paired_ratio(
    a: Mapping[int, float], b: Mapping[int, float], confidence: float = CONFIDENCE
) -> Ratio | None:
    """Ratio a/b over the blocks that both have; None when they share none.

    Blocks are run with their variants interleaved, so what slows a block slows both sides
    and cancels. Values are positive.
    """
    logs = [math.log(a[block] / b[block]) for block in sorted(a.keys() & b.keys())]
    if not logs:
        return None
    half = None
    if len(logs) >= MIN_BLOCKS:
        error = statistics.stdev(logs) / math.sqrt(len(logs))
        half = t_quantile(0.5 + confidence / 2, len(logs) - 1) * error
    return _ratio(statistics.fmean(logs), half, len(logs), "paired blocks")


def unpaired_ratio(
    a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE
) -> Ratio | None:
    """Ratio a/b of two sides that share no blocks (other boards, other runs): Welch's t.

    `blocks` is the smaller side's count. The degrees of freedom are rounded down.
    """
    if not a or not b:
        return None
    logs_a, logs_b = [math.log(x) for x in a], [math.log(x) for x in b]
    blocks, half = min(len(a), len(b)), None
    if blocks >= MIN_BLOCKS:
        var_a = statistics.variance(logs_a) / len(a)
        var_b = statistics.variance(logs_b) / len(b)
        total = var_a + var_b
        spread = var_a**2 / (len(a) - 1) + var_b**2 / (len(b) - 1)
        freedom = max(1, math.floor(total**2 / spread)) if spread else len(a) + len(b) - 2
        half = t_quantile(0.5 + confidence / 2, freedom) * math.sqrt(total)
    mean = statistics.fmean(logs_a) - statistics.fmean(logs_b)
    return _ratio(mean, half, blocks, "unpaired blocks")


def _ratio(mean_log: float, half: float | None, blocks: int, method: Method) -> Ratio:
    if half is None:
        return Ratio(math.exp(mean_log), None, None, blocks, method)
    low, high = math.exp(mean_log - half), math.exp(mean_log + half)
    return Ratio(math.exp(mean_log), low, high, blocks, method)


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile (above 0.5) of Student's t with integer degrees of freedom, by bisection."""
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < probability:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def t_cdf(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0: Abramowitz and Stegun 26.7.3 (odd) and 26.7.4 (even), exact."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = total = 0.0
    if freedom > 1:
        term = total = cosine if odd else 1.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + inside / 2
