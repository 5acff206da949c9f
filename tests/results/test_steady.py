from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from results.steady import MIN_SAMPLES, steady_from

Shape = Callable[[NDArray[np.float64]], NDArray[np.float64]]
ROUNDS = 100


def latencies(seed: int, count: int, shape: Shape) -> NDArray[np.uint64]:
    """About 50 ms, 2 % noise, one in a hundred 1.5 to 4 times slower; `shape` of time 0..1."""
    random = np.random.default_rng(seed)
    base = 50e6 * np.exp(random.normal(0, 0.02, count))
    slow = random.random(count) < 0.01
    base = np.where(slow, base * random.uniform(1.5, 4, count), base)
    return (base * shape(np.arange(count) / count)).astype(np.uint64)


def found(count: int, shape: Shape) -> list[int | None]:
    return [steady_from(latencies(seed, count, shape))[0] for seed in range(ROUNDS)]


def flat(t: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.ones_like(t)


def step(at: float, factor: float = 1.17) -> Shape:
    return lambda t: np.where(t >= at, factor, 1.0)


@pytest.mark.parametrize("count", [MIN_SAMPLES, 512, 2048])
def test_steady_latencies_with_stray_slow_ones_are_steady(count: int) -> None:
    """Noise with single outliers is called steady nearly from the start, 9 times in 10."""
    starts = found(count, flat)
    assert starts.count(None) <= ROUNDS / 10
    assert np.median([start for start in starts if start is not None]) <= 0.1 * count


@pytest.mark.parametrize("count", [512, 2048])
def test_a_warm_up_is_cut_off(count: int) -> None:
    """After a slow tenth the steady state begins at the step, give or take a few batches."""
    starts = found(count, step(0.1, 1 / 1.3))
    assert starts.count(None) <= ROUNDS / 10
    cut = np.array([start for start in starts if start is not None])
    assert np.median(np.abs(cut - 0.1 * count)) <= 10


@pytest.mark.parametrize("at", [0.6, 0.8, 0.95])
@pytest.mark.parametrize("count", [512, 2048])
def test_throttling_late_in_a_trial_is_no_steady_state(at: float, count: int) -> None:
    """A board that slows by 17 % late in the trial (1.4 to 1.2 GHz) had no steady state."""
    assert found(count, step(at)).count(None) >= 0.9 * ROUNDS


@pytest.mark.parametrize("count", [MIN_SAMPLES, 2048])
def test_a_drift_is_no_steady_state(count: int) -> None:
    """Latencies that creep up by 20 % over the whole trial never settle."""
    assert found(count, lambda t: 1 + 0.2 * t).count(None) >= 0.9 * ROUNDS


def test_too_few_samples_say_so() -> None:
    """Below the minimum there is no verdict, and the reason names both numbers."""
    index, note = steady_from(latencies(0, MIN_SAMPLES - 1, flat))
    assert index is None
    assert note is not None
    assert str(MIN_SAMPLES) in note
    assert str(MIN_SAMPLES - 1) in note


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (800, "still changing at sample 800 of 1000"),
        (960, "level changes by +49.8% at sample 960 of 1000"),
    ],
)
def test_the_reason_names_the_change(at: int, reason: str) -> None:
    """A late change is described by its place, and by its size where that is known."""
    values = np.where(np.arange(1000) < at, 100, 150) + np.arange(1000) % 2
    assert steady_from(values.astype(np.uint64)) == (None, reason)


def test_constant_latencies_are_steady_from_the_start() -> None:
    """Equal samples, as a fake clock gives them, are steady from sample 0."""
    assert steady_from(np.full(200, 7, np.uint64)) == (0, None)
    assert steady_from(np.zeros(200, np.uint64)) == (0, None)
