"""Average precision of chosen images, against answers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from results.errors import ResultsError
from results.matches import ImageMatches, decoded, encoded
from results.precision import Precision, mean_average_precision

ALL = 0b1111111111
"""Right at every threshold."""


def image(objects: dict[int, int], *found: tuple[int, float, int, int]) -> ImageMatches:
    return ImageMatches(objects, found)


def test_by_hand() -> None:
    """A hit, a false alarm, a hit at the three lowest thresholds: as models.evaluate's own case."""
    images = [image({0: 1, 1: 1}, (0, 0.9, ALL, 0), (0, 0.8, 0, 0)), image({0: 1}, (0, 0.7, 7, 0))]
    loose, strict = (51 + 50 * 2 / 3) / 101, 51 / 101
    cat, dog = (3 * loose + 7 * strict) / 10, 0.0
    found = mean_average_precision(images)
    assert found == pytest.approx(((loose + 0) / 2, (cat + dog) / 2))


def test_weights_are_copies() -> None:
    """An image with weight 2 counts as two images, one with weight 0 as none."""
    a = image({0: 2}, (0, 0.9, ALL, 0), (0, 0.4, 0, 0), (0, 0.3, ALL, 0))
    b = image({0: 1}, (0, 0.95, 0, 0), (0, 0.2, ALL, 0))
    c = image({0: 1, 2: 1}, (2, 0.5, 31, 0))
    weights = np.array([[2, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 3]], dtype=np.float32)
    found = Precision([a, b, c]).of(weights)
    for row, choice in zip(found, ([a, a, c], [b], [a, b, c], [c, c, c]), strict=True):
        assert tuple(row) == pytest.approx(mean_average_precision(choice))


def test_ignored_detections_count_neither_way() -> None:
    """A detection that is ignored at some thresholds is a false alarm at the others only."""
    clean = [image({0: 1}, (0, 0.5, ALL, 0))]
    ignored = [image({0: 1}, (0, 0.9, 0, ALL), (0, 0.5, ALL, 0))]
    half = [image({0: 1}, (0, 0.9, 0, 0b11111), (0, 0.5, ALL, 0))]
    assert mean_average_precision(ignored) == mean_average_precision(clean) == (1.0, 1.0)
    assert mean_average_precision(half) == pytest.approx((1.0, (5 * 1 + 5 * 0.5) / 10))


def test_nothing_to_find_and_nothing_found() -> None:
    """Without an object there is no figure; with objects that nobody found it is 0."""
    empty = image({}, (0, 0.9, 0, 0))
    assert mean_average_precision([empty]) is None
    assert mean_average_precision([]) is None
    assert mean_average_precision([image({3: 1})]) == (0.0, 0.0)
    found = Precision([empty, image({0: 1}, (0, 0.5, ALL, 0))]).of(
        np.array([[2, 0], [1, 1]], dtype=np.float32)
    )
    assert np.isnan(found[0]).all()
    assert tuple(found[1]) == (0.5, 0.5)  # the empty image's false alarm comes first


def test_many_choices_are_worked_off_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many choices are computed at once bounds memory and changes no figure."""
    images = [image({0: 1}, (0, 0.1 * k, ALL if k % 2 else 0, 0)) for k in range(9)]
    weights = np.random.default_rng(1).integers(0, 3, (50, 9)).astype(np.float32)
    whole = Precision(images).of(weights)
    monkeypatch.setattr("results.precision._BATCH_CELLS", 20)
    assert np.array_equal(Precision(images).of(weights), whole)


def test_what_is_stored_of_an_image() -> None:
    """The stored text is JSON, the same for equal matches, and reads back."""
    matches = image({7: 2, 0: 1}, (0, 0.25, 3, 0), (7, 0.125, 0, 1023))
    text = '{"objects":{"0":1,"7":2},"found":[[0,0.25,3,0],[7,0.125,0,1023]]}'
    assert encoded(matches) == text
    assert decoded(text) == matches


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"objects":{},"found":[[1]]}', "[" * 100_000])
def test_a_damaged_text_is_named(text: str) -> None:
    """What is no such text says where it was found."""
    with pytest.raises(ResultsError, match=r"image_scores\.matches_json"):
        decoded(text)
