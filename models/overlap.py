"""How well masks agree with the truth: Dice and IoU, at the size that the model is fed.

The truth is letterboxed as the image was, by nearest neighbour; the padding and pixels marked
as ignored are left out. A class that is called 'background' is no object: Dice leaves it out.

Dice of an image   2 |A and B| / (|A| + |B|) of a class, averaged over the classes that are in
                   the truth or were found; 1 where neither has any, for nothing was missed
Dice               mean over the images
IoU of a class     |A and B| / |A or B| over the pixels of all images together, as Pascal VOC's
IoU                mean over the classes that are in the truth or were found in any image
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.vision import mask, prepare_labels, unpacked
from agent.wire import ImageMask, ImagePrep, SegmentHead
from models.data.masks import read_labels
from models.data.types import IGNORE, MaskedImage, SegmentationSet
from models.errors import DataError
from models.evaluate import outputs_on_host

EVALUATOR: Final = "overlap"
VERSION: Final = "1"
"""Raised whenever a figure would change."""

BACKGROUND: Final = "background"


@dataclass(frozen=True)
class MaskScores:
    """Dice and IoU over `images` images; None where there is no image.

    `per_class` has the IoU of each class that occurs, `per_image` the Dice of each image.
    """

    dice: float | None
    iou: float | None
    images: int
    per_class: dict[str, float]
    per_image: dict[str, float]


def score_masks(
    dataset: SegmentationSet,
    masks: Mapping[str, ImageMask],
    prep: ImagePrep,
    classes: Mapping[int, int],
) -> MaskScores:
    """Score masks by image id over all images of `dataset`.

    `classes` leads from the model's class indices to the set's; others count as no class. An
    image without a mask counts as one where nothing was found. Raises DataError when masks and
    set share no image, or a mask is of another size than `prep`.
    """
    if masks and not any(image.image_id in masks for image in dataset.images):
        raise DataError(
            f"{dataset.name}: none of the {len(masks)} images with masks is among the "
            f"{len(dataset.images)} images of the set, e.g. {next(iter(masks))!r}; "
            "score them with the set that they were made on"
        )
    names = dataset.class_names
    table = _translation(classes, len(names))
    objects = [k for k, name in enumerate(names) if name.lower() != BACKGROUND]
    per_image: dict[str, float] = {}
    both, either = np.zeros(len(names), dtype=np.int64), np.zeros(len(names), dtype=np.int64)
    for image in dataset.images:
        truth = prepare_labels(read_labels(dataset, image), prep, IGNORE)
        found = _found(dataset, image, masks.get(image.image_id), prep)
        shared, sizes = _counts(truth, table[found], len(names))
        per_image[image.image_id] = _dice(shared[objects], sizes[objects])
        both += shared
        either += sizes - shared
    per_class = {name: float(both[k] / either[k]) for k, name in enumerate(names) if either[k]}
    return MaskScores(
        dice=_mean(list(per_image.values())),
        iou=_mean(list(per_class.values())),
        images=len(dataset.images),
        per_class=per_class,
        per_image=per_image,
    )


def segment_on_host(
    artifact_path: Path,
    images: Sequence[MaskedImage],
    prep: ImagePrep,
    head: SegmentHead,
    threads: int,
) -> dict[str, ImageMask]:
    """Run an ONNX or ORT file over images on this machine; masks by image id.

    Raises ModelUnreadable, ImageError and OutputError, as detect_on_host does.
    """
    return {
        image_id: mask(image_id, outputs, head, prep)
        for image_id, outputs, _ in outputs_on_host(artifact_path, images, prep, threads)
    }


def _translation(classes: Mapping[int, int], count: int) -> NDArray[np.uint8]:
    """From each label of the model to the set's label."""
    table = np.zeros(IGNORE + 1, dtype=np.uint8)
    for index, wanted in classes.items():
        if 0 <= index < IGNORE - 1 and 0 <= wanted < count:
            table[index + 1] = wanted + 1
    return table


def _found(
    dataset: SegmentationSet, image: MaskedImage, found: ImageMask | None, prep: ImagePrep
) -> NDArray[np.uint8]:
    if found is None:
        return np.zeros((prep.height, prep.width), dtype=np.uint8)
    if (found.height, found.width) != (prep.height, prep.width):
        raise DataError(
            f"{dataset.name}: image {image.image_id!r}: a mask of {found.width} x {found.height}, "
            f"but the model is fed {prep.width} x {prep.height}"
        )
    return unpacked(found)


def _counts(
    truth: NDArray[np.uint8], found: NDArray[np.uint8], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels of each class in both, and in the truth plus in what was found."""
    valid = truth != IGNORE
    true, guess = truth[valid], found[valid]
    shared = np.bincount(true[true == guess], minlength=count + 1)[1:]
    sizes = np.bincount(true, minlength=count + 1) + np.bincount(guess, minlength=count + 1)
    return shared, sizes[1:]


def _dice(shared: NDArray[np.int64], sizes: NDArray[np.int64]) -> float:
    there = sizes > 0
    return float((2 * shared[there] / sizes[there]).mean()) if there.any() else 1.0


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
