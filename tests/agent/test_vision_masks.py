"""Probabilities become masks, and labels are letterboxed as images are."""

import numpy as np
import pytest

from agent.vision import Geometry, OutputError, labels, mask, prepare, prepare_labels, unpacked
from agent.wire import ImagePrep, SegmentHead

PREP = ImagePrep(height=2, width=3)
NAN = float("nan")


def output(*channels):
    return [np.array([channels], dtype=np.float32)]


def test_one_class_counts_from_the_threshold_on():
    """A probability of exactly the threshold belongs to the class, and less does not."""
    found = labels(output([[0.5, 0.49, 1.0], [0.0, 0.51, NAN]]), SegmentHead(1), PREP)
    assert found.tolist() == [[1, 0, 1], [0, 1, 0]]
    strict = labels(output([[0.5, 0.49, 1.0], [0.0, 0.51, 0.2]]), SegmentHead(1, 0.9), PREP)
    assert strict.tolist() == [[0, 0, 1], [0, 0, 0]]


def test_of_several_classes_the_most_probable_counts():
    """Labels are 1 + the index of the best class, the first of equal ones."""
    a, b = [[0.9, 0.2, 0.5], [0.0, NAN, NAN]], [[0.1, 0.8, 0.5], [0.0, 0.1, NAN]]
    found = labels(output(a, b), SegmentHead(2), PREP)
    assert found.tolist() == [[1, 2, 1], [1, 2, 0]]
    assert found.dtype == np.uint8


def test_many_classes_fit_a_byte():
    """The last of 254 classes is label 254; nothing wraps around."""
    probabilities = np.zeros((1, 254, 2, 3), dtype=np.float16)
    probabilities[:, 253] = 1
    assert labels([probabilities], SegmentHead(254), PREP).tolist() == [[254] * 3] * 2


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        output([[0.5] * 3] * 2) * 2,
        output([[0.5] * 3]),
        output([[0.5] * 3] * 2, [[0.5] * 3] * 2),
        [np.zeros((1, 2, 3), dtype=np.float32)],
        [np.zeros((1, 1, 2, 3), dtype=np.uint8)],
        output([[NAN] * 3] * 2),
        output([[float("inf")] * 3] * 2),
    ],
)
def test_outputs_that_do_not_fit_are_refused(outputs):
    """Another number of outputs, shape or type, and one without a finite pixel, are refused."""
    with pytest.raises(OutputError):
        labels(outputs, SegmentHead(1), PREP)


def test_a_mask_comes_back_as_it_was():
    """What crosses the wire unpacks to the labels, and is small where the mask is plain."""
    probabilities = np.zeros((1, 1, 400, 300), dtype=np.float32)
    probabilities[0, 0, 50:150, 20:280] = 0.8
    prep = ImagePrep(height=400, width=300)
    packed = mask("i", [probabilities], SegmentHead(1), prep)
    assert np.array_equal(unpacked(packed), labels([probabilities], SegmentHead(1), prep))
    assert (packed.image_id, packed.height, packed.width) == ("i", 400, 300)
    assert len(packed.packed) < 1000


@pytest.mark.parametrize("size", [(6, 4), (4, 6), (5, 5), (1, 9), (40, 30), (333, 77)])
def test_labels_lie_where_the_image_lies(size):
    """The frame around labels is exactly the frame around the image, whatever its size."""
    height, width = size
    prep = ImagePrep(height=24, width=36, pad_value=255)
    image = np.zeros((height, width, 3), dtype=np.uint8)
    tensor, geometry = prepare(image, prep)
    inside = prepare_labels(np.full(size, 7, dtype=np.uint8), prep, outside=255)
    assert np.array_equal(inside == 7, tensor[0, 0] == 0)
    assert geometry == Geometry.of(width, height, prep)
    rows, columns = geometry.window(prep)
    assert (inside[rows, columns] == 7).all()


def test_labels_are_never_mixed():
    """Shrinking picks the nearest label: no label appears that was not there."""
    values = np.array([[1, 200], [200, 1]], dtype=np.uint8).repeat(9, axis=0).repeat(9, axis=1)
    found = prepare_labels(values, ImagePrep(height=5, width=5), outside=0)
    assert set(np.unique(found)) == {1, 200}


def test_labels_of_the_models_own_size_stay():
    """Where nothing has to be scaled or padded, labels come back as they were."""
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(prepare_labels(values, ImagePrep(height=3, width=4), 255), values)
