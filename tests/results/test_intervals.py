from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from results.intervals import Ratio, paired_ratio, t_cdf, t_quantile, unpaired_ratio

ROUNDS = 2_000
TRUE = 0.6
"""Ratio of the simulated medians."""


def simulated(seed: int, blocks: int) -> tuple[dict[int, float], dict[int, float]]:
    """Medians of two variants in blocks: a block's own slowness (10 %), a trial's own (3 %)."""
    random = np.random.default_rng((seed, blocks))
    block = random.normal(0, 0.10, blocks)
    a = 100 * TRUE * np.exp(block + random.normal(0, 0.03, blocks))
    b = 100 * np.exp(block + random.normal(0, 0.03, blocks))
    return dict(enumerate(a.tolist())), dict(enumerate(b.tolist()))


def covers(found: Ratio | None) -> bool:
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    return found.low <= TRUE <= found.high


def bootstrap_covers(a: dict[int, float], b: dict[int, float], seed: int) -> bool:
    """The percentile bootstrap of the mean log ratio, which was not chosen."""
    logs = np.log(np.array(list(a.values())) / np.array(list(b.values())))
    drawn = np.random.default_rng(seed).choice(logs, (400, logs.size)).mean(axis=1)
    low, high = np.exp(np.percentile(drawn, [2.5, 97.5]))
    return bool(low <= TRUE <= high)


@pytest.mark.parametrize("blocks", [2, 3, 5, 10])
def test_the_paired_interval_covers_what_it_says(blocks: int) -> None:
    """Simulated, the 95 % interval holds the true ratio in 93.5 to 96.5 % of the cases."""
    hits = sum(covers(paired_ratio(*simulated(seed, blocks))) for seed in range(ROUNDS))
    assert 0.935 <= hits / ROUNDS <= 0.965


@pytest.mark.parametrize("blocks", [3, 5, 10])
def test_the_unpaired_interval_covers_what_it_says(blocks: int) -> None:
    """Between boards or runs, the 95 % interval covers at least 93.5 %, and is not idle."""
    hits = 0
    for seed in range(ROUNDS):
        a, _ = simulated(seed, blocks)
        _, b = simulated(seed + ROUNDS, blocks)
        hits += covers(unpaired_ratio(list(a.values()), list(b.values())))
    assert 0.935 <= hits / ROUNDS <= 0.985


def test_the_bootstrap_would_have_covered_too_little() -> None:
    """Over five blocks the percentile bootstrap covers under 90 %: why it was not chosen."""
    hits = sum(bootstrap_covers(*simulated(seed, 5), seed) for seed in range(ROUNDS))
    assert hits / ROUNDS < 0.90


def test_pairing_narrows_the_interval() -> None:
    """What slows both sides of a block alike does not widen the paired interval."""
    a, b = simulated(1, 5)
    paired, unpaired = paired_ratio(a, b), unpaired_ratio(list(a.values()), list(b.values()))
    assert paired is not None
    assert unpaired is not None
    assert paired.value == pytest.approx(unpaired.value)
    assert (paired.method, unpaired.method) == ("paired blocks", "unpaired blocks")
    assert paired.high - paired.low < unpaired.high - unpaired.low  # type: ignore[operator]


def test_a_paired_ratio_by_hand() -> None:
    """Ratios 1/2 and 1/8 have the geometric mean 1/4 and a t interval with one degree."""
    found = paired_ratio({0: 1.0, 1: 1.0, 9: 5.0}, {0: 2.0, 1: 8.0, 7: 5.0})
    assert found is not None
    assert (found.value, found.blocks) == (pytest.approx(0.25), 2)
    error = statistics.stdev([math.log(1 / 2), math.log(1 / 8)]) / math.sqrt(2)
    assert found.low == pytest.approx(0.25 * math.exp(-12.706204736 * error))
    assert found.high == pytest.approx(0.25 * math.exp(12.706204736 * error))


def test_one_block_has_a_ratio_and_no_interval() -> None:
    """With a single common block there is a ratio, and None for both ends."""
    for found in (paired_ratio({0: 3.0}, {0: 2.0}), unpaired_ratio([3.0], [2.0, 2.0])):
        assert found is not None
        assert found.value == pytest.approx(1.5)
        assert (found.low, found.high, found.blocks) == (None, None, 1)


def test_nothing_in_common_gives_no_ratio() -> None:
    """Sides without a common block, or without any, have no ratio at all."""
    assert paired_ratio({0: 1.0}, {1: 1.0}) is None
    assert unpaired_ratio([], [1.0]) is None


def test_equal_values_give_a_point() -> None:
    """No spread at all gives an interval of no width instead of a division by zero."""
    found = unpaired_ratio([2.0, 2.0], [1.0, 1.0])
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(2.0), pytest.approx(2.0))


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062047), (2, 4.3026527), (3, 3.1824463), (4, 2.7764451), (9, 2.2621572),
     (30, 2.0422725), (120, 1.9799304)],
)  # fmt: skip
def test_t_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    """The 97.5 % quantiles agree with printed tables to seven digits."""
    assert t_quantile(0.975, freedom) == pytest.approx(quantile, rel=1e-7)
    assert t_cdf(t_quantile(0.975, freedom), freedom) == pytest.approx(0.975)
