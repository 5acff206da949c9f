"""Intervals over images: what they cover, and when there is none."""

from __future__ import annotations

import numpy as np
import pytest

from results.bootstrap import (
    MIN_IMAGES,
    Interval,
    dice_figures,
    paired_intervals,
    precision_figures,
)
from results.matches import ImageMatches

SHIFT = 0.03
"""Mean of what B loses on an image, before it is clipped."""


def interval(a: list[float], b: list[float]) -> Interval:
    return paired_intervals(["dice"], dice_figures(a), dice_figures(b), len(a))["dice"]


def coverage(images: int, rounds: int, resamples: int) -> float:
    """How often the interval holds the true difference, over skewed scores of paired images."""
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(rounds):
        base = rng.beta(5, 2, images)
        other = np.clip(base - rng.exponential(SHIFT, images), 0, 1)
        made = paired_intervals(
            ["dice"], dice_figures(base), dice_figures(other), images, resamples
        )["dice"]
        held += made.low <= TRUE_DIFFERENCE <= made.high
    return held / rounds


def _true_difference() -> float:
    rng = np.random.default_rng(1)
    base = rng.beta(5, 2, 2_000_000)
    return float((base - np.clip(base - rng.exponential(SHIFT, 2_000_000), 0, 1)).mean())


TRUE_DIFFERENCE = _true_difference()


@pytest.mark.parametrize(("images", "least"), [(MIN_IMAGES, 0.86), (64, 0.91)])
def test_the_interval_covers_nearly_what_it_says(images: int, least: float) -> None:
    """Over skewed differences 64 images cover at least 91 % of the time and 20 at least 86 %."""
    assert least <= coverage(images, rounds=400, resamples=300) <= 0.98


def test_fewer_images_have_no_interval() -> None:
    """Below the minimum there is none, rather than one that is too narrow."""
    few = [0.5] * (MIN_IMAGES - 1)
    assert paired_intervals(["dice"], dice_figures(few), dice_figures(few), len(few)) == {}


def test_pairing_removes_what_images_have_in_common() -> None:
    """Where A is better by the same amount on every image, however they differ, it is shown."""
    rng = np.random.default_rng(0)
    b = rng.uniform(0.1, 0.8, 64)
    found = interval(list(b + 0.01), list(b))
    assert (found.low, found.high) == pytest.approx((0.01, 0.01))
    assert found.shows_a_difference
    assert not interval(list(b), list(b)).shows_a_difference


def test_sign_and_repetition() -> None:
    """A minus B is the negative of B minus A, and the same call gives the same interval."""
    rng = np.random.default_rng(3)
    a, b = list(rng.uniform(0, 1, 30)), list(rng.uniform(0, 1, 30))
    there, back = interval(a, b), interval(b, a)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert interval(a, b) == there


def test_precision_has_an_interval_of_each_figure() -> None:
    """Detections give intervals of both figures, around the difference of the whole."""
    hit, weak = (0, 0.9, 1023, 0), (0, 0.9, 1, 0)
    a = [ImageMatches({0: 1}, (hit,)) for _ in range(40)]
    b = [ImageMatches({0: 1}, (hit if k % 4 else weak,)) for k in range(40)]
    found = paired_intervals(
        ["map50", "map50_95"], precision_figures(a), precision_figures(b), len(a)
    )
    assert found["map50"] == Interval(0.0, 0.0)
    assert 0 < found["map50_95"].low < found["map50_95"].high < 0.9


def test_images_without_objects_have_no_interval() -> None:
    """Where no choice has an object, there is nothing to say."""
    images = [ImageMatches({}, ())] * 30
    figures = precision_figures(images)
    assert paired_intervals(["map50", "map50_95"], figures, figures, 30) == {}


def test_draws_without_any_object_are_left_out() -> None:
    """One object among many images: draws that miss it are left out of the interval."""
    images = [ImageMatches({0: 1}, ((0, 0.5, 1023, 0),)), *[ImageMatches({}, ())] * 29]
    found = paired_intervals(
        ["map50", "map50_95"], precision_figures(images), precision_figures(images), 30
    )
    assert found == dict.fromkeys(["map50", "map50_95"], Interval(0.0, 0.0))
