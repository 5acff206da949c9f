"""Mean average precision over any choice of images, from what was right in each of them. Pure.

The definition is COCO's: detections of a class are ranked by score over all images (equal scores
by the images' order), precision is made falling, and averaged over 101 levels of recall; then
over IoU thresholds, then over the classes that have an object. Since detections are matched
within one image, choosing images again needs no new match, only new sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from results.matches import ImageMatches

THRESHOLDS: Final = 10
"""IoU 0.5, 0.55 ... 0.95; bit k of a flag is the k-th of them."""

_RECALLS: Final = np.linspace(0.0, 1.0, 101)
_BATCH_CELLS: Final = 8_000_000
"""Numbers held at once; 32 MB of them."""

Floats = NDArray[np.float64]
_Row = tuple[float, int, int, int]
"""Of a detection its score, its image, and the two numbers of bits."""


@dataclass(frozen=True)
class _Ranked:
    """One class: detections by falling score, no further than the last that is ever right."""

    objects: Floats
    """Of each image, (N,)."""
    image: NDArray[np.int64]
    hits: NDArray[np.int64]
    ignored: NDArray[np.int64]


class Precision:
    """Computes mAP50 and mAP50-95 for weighted choices of the images it was made from."""

    def __init__(self, images: Sequence[ImageMatches]) -> None:
        self.images = len(images)
        rows: dict[int, list[_Row]] = {index: [] for image in images for index in image.objects}
        for number, image in enumerate(images):
            for index, score, hits, ignored in image.found:
                if index in rows:
                    rows[index].append((score, number, hits, ignored))
        self._classes = [_ranked(images, index, found) for index, found in sorted(rows.items())]

    def of(self, weights: NDArray[np.float32]) -> Floats:
        """mAP50 and mAP50-95 (B, 2) for weights (B, N): how often each image is there.

        NaN where no chosen image has an object.
        """
        sums = np.zeros((len(weights), 2))
        present = np.zeros(len(weights))
        for ranked in self._classes:
            objects = weights @ ranked.objects  # (B,)
            rows = max(1, _BATCH_CELLS // max(1, len(ranked.image)))
            for start in range(0, len(weights), rows):
                part = slice(start, start + rows)
                sums[part] += _averages(ranked, weights[part], objects[part])
            present += objects > 0
        with np.errstate(invalid="ignore"):
            found: Floats = sums / present[:, None]
        return found


def _ranked(images: Sequence[ImageMatches], index: int, rows: Sequence[_Row]) -> _Ranked:
    order = np.argsort([-row[0] for row in rows], kind="stable")
    hits = np.array([rows[at][2] for at in order], dtype=np.int64)
    end = int(np.flatnonzero(hits)[-1]) + 1 if hits.any() else 0
    return _Ranked(
        np.array([image.objects.get(index, 0) for image in images], dtype=np.float64),
        np.array([rows[at][1] for at in order[:end]], dtype=np.int64),
        hits[:end],
        np.array([rows[at][3] for at in order[:end]], dtype=np.int64),
    )


def _averages(ranked: _Ranked, weights: NDArray[np.float32], objects: Floats) -> Floats:
    """Average precision of one class at IoU 0.5 and over all thresholds, (B, 2)."""
    each = weights[:, ranked.image]  # (B, D)
    seen = np.cumsum(each, axis=1)
    found = np.zeros((len(weights), THRESHOLDS))
    for bit in range(THRESHOLDS):
        right = np.flatnonzero(ranked.hits >> bit & 1)
        if not len(right):
            continue
        out = np.flatnonzero(ranked.ignored >> bit & 1)
        true = np.cumsum(each[:, right], axis=1, dtype=np.float64)  # (B, P)
        counted = seen[:, right] - _before(each, out, right)
        found[:, bit] = _average(true, counted, objects)
    return np.stack((found[:, 0], found.mean(axis=1)), axis=1)


def _before(
    each: NDArray[np.float32], out: NDArray[np.int64], right: NDArray[np.int64]
) -> NDArray[np.float32]:
    """How many of the detections `out` stand before each of `right`, (B, P)."""
    total = np.zeros((len(each), len(out) + 1), dtype=np.float32)
    np.cumsum(each[:, out], axis=1, out=total[:, 1:])
    return total[:, np.searchsorted(out, right)]


def _average(true: Floats, counted: NDArray[np.float32], objects: Floats) -> Floats:
    """Area under the falling curve: `true` of `counted` detections are right, (B, P) each."""
    precision = true / np.maximum(counted, 1)
    falling = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = true / np.maximum(objects, 1)[:, None]
    levels = np.searchsorted(_RECALLS, recall, side="right")  # how many are reached
    steps = np.diff(levels, axis=1, prepend=0)
    average: Floats = (falling * steps).sum(axis=1) / len(_RECALLS)
    return average


def mean_average_precision(images: Sequence[ImageMatches]) -> tuple[float, float] | None:
    """mAP50 and mAP50-95 over all images once; None where none has an object."""
    precision = Precision(images)
    found = precision.of(np.ones((1, len(images)), dtype=np.float32))[0]
    return None if np.isnan(found).any() else (float(found[0]), float(found[1]))
