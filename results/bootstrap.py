"""How much two accuracies on the same images differ, with an interval over images. Pure.

The images are drawn anew, with replacement, as often as there are; both sides are scored on the
same draw, and the difference is kept. The interval holds the middle 95 % of the differences: the
percentile bootstrap of a paired difference. It says what other images of the same kind might
have shown, and nothing of other seeds of a training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from results.matches import ImageMatches
from results.precision import Precision

RESAMPLES: Final = 1000
MIN_IMAGES: Final = 20
"""Below this the percentile bootstrap is too narrow to be shown (tests/results repeats why)."""

_SEED: Final = 0
_CONFIDENCE: Final = 0.95
_CELLS: Final = 2_000_000
"""Weights drawn at once, 8 MB of them."""

Weights = NDArray[np.float32]
Floats = NDArray[np.float64]
Figures = Callable[[Weights], Floats]
"""From weights (B, N), how often each image is there, to figures (B, K); NaN where none is."""


@dataclass(frozen=True)
class Interval:
    """Where the middle 95 % of the resampled differences lie."""

    low: float
    high: float

    @property
    def shows_a_difference(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0


def dice_figures(dice: Sequence[float]) -> Figures:
    """The mean Dice of weighted images."""
    values = np.asarray(dice, dtype=np.float64)
    return lambda weights: (weights @ values / weights.sum(axis=1))[:, None]


def precision_figures(images: Sequence[ImageMatches]) -> Figures:
    """mAP50 and mAP50-95 of weighted images."""
    return Precision(images).of


def paired_intervals(
    names: Sequence[str], a: Figures, b: Figures, images: int, resamples: int = RESAMPLES
) -> Mapping[str, Interval]:
    """The interval of A minus B of each figure, both over the same `images` images.

    The draws are the same each time. Empty below MIN_IMAGES, and without a figure that every
    second draw has none of.
    """
    if images < MIN_IMAGES:
        return {}
    rng = np.random.default_rng(_SEED)
    share = np.full(images, 1 / images)
    rows = max(1, _CELLS // images)
    differences = []
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        weights = rng.multinomial(images, share, size=count).astype(np.float32)
        differences.append(a(weights) - b(weights))
    drawn = np.concatenate(differences)
    return {
        name: _middle(column[~np.isnan(column)])
        for name, column in zip(names, drawn.T, strict=True)
        if np.isnan(column).mean() < 1 / 2
    }


def _middle(values: Floats) -> Interval:
    outside = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(values, [outside, 1 - outside])
    return Interval(float(low), float(high))
