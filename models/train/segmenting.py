"""Segmentation sets for training: batches to learn from, and the score of a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agent.vision import letterbox, prepare_labels
from agent.vision import read_image as read_pixels
from agent.wire import ImagePrep
from models.data import IGNORE, MaskedImage, SegmentationSet, load_segmentation, read_labels
from models.data.blobs import draw_blobs
from models.data.training import PROCEDURAL_IMAGES, chosen, is_procedural
from models.errors import DataError
from models.spec import TrainingSpec
from models.steps.settings import Settings
from models.train.batches import mirrored, recoloured, shift, shifted
from models.train.examples import Examples, batches, limit_of

_SCORED_AT_ONCE: Final = 32
_VAL_SEED: Final = 0
_THRESHOLD: Final = 0.5


@dataclass(frozen=True)
class MaskExample:
    """One letterboxed image (s, s, 3) and its labels (s, s): 0, 1 + class, or IGNORE."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]


class SegmentationData:
    """Images and masks, letterboxed to the network's input size."""

    def __init__(self, training: TrainingSpec, settings: Settings, imgsz_px: int) -> None:
        self._prep = ImagePrep(height=imgsz_px, width=imgsz_px)
        self._settings = settings
        self._examples = _examples(training, settings, self._prep)
        self._val = _scored(training, settings, self._prep)

    def __len__(self) -> int:
        return len(self._examples)

    @property
    def scored(self) -> bool:
        """Whether there are validation images."""
        return bool(self._val)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (n, 3, s, s) in 0..1 and labels (n, s, s)."""

        def change(example: MaskExample, rng: np.random.Generator) -> MaskExample:
            return augment(example, rng, self._prep.pad_value)

        settings = self._settings
        seed = (settings.seed, epoch)
        keep = change if settings.augment else lambda example, _rng: example
        return batches(self._examples, settings.batch, seed, keep, collate)

    def score(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """Dice and IoU of a module in eval mode over all pixels; empty without images."""
        if not self._val:
            return {}
        counts = np.zeros(3)
        for at in range(0, len(self._val), _SCORED_AT_ONCE):
            images, labels = collate(self._val[at : at + _SCORED_AT_ONCE])
            with torch.inference_mode():
                found = module(images.to(device)).float().cpu() >= _THRESHOLD
            counts += overlaps(found.numpy(), labels.numpy())
        shared, marked, real = counts
        if real == 0:
            return {}
        return {
            "dice": float(2 * shared / (marked + real)),
            "iou": float(shared / (marked + real - shared)),
        }


def overlaps(found: NDArray[np.bool_], labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Pixels that are right, that were marked, and that should be, over all classes.

    found (n, classes, h, w), labels (n, h, w); IGNORE counts nowhere.
    """
    numbers = np.arange(1, found.shape[1] + 1)[None, :, None, None]
    real = labels[:, None] == numbers
    marked = found & (labels != IGNORE)[:, None]
    return np.array([(marked & real).sum(), marked.sum(), real.sum()], dtype=np.float64)


def augment(example: MaskExample, rng: np.random.Generator, pad_value: int) -> MaskExample:
    """One of eight mirrorings, a small shift, other colours."""
    flips = [bool(rng.integers(2)) for _ in range(3)]
    pixels, labels = mirrored(example.pixels, flips), mirrored(example.labels, flips)
    dx, dy = shift(rng)
    return MaskExample(
        shifted(recoloured(pixels, rng), dx, dy, pad_value), shifted(labels, dx, dy, IGNORE)
    )


def collate(examples: list[MaskExample]) -> tuple[Tensor, Tensor]:
    """Stack examples to images (n, 3, s, s) in 0..1 and labels (n, s, s)."""
    pixels = torch.from_numpy(np.stack([e.pixels for e in examples]))
    labels = torch.from_numpy(np.stack([e.labels for e in examples]))
    return pixels.permute(0, 3, 1, 2).float() / 255, labels


def _examples(training: TrainingSpec, settings: Settings, prep: ImagePrep) -> Examples[MaskExample]:
    size_bytes = 4 * prep.height * prep.width
    images = limit_of(training, settings)
    if is_procedural(training.data):
        split = training.data.split
        count = images or PROCEDURAL_IMAGES
        return Examples(lambda i: _drawn(split, i, prep), count, size_bytes)
    found = chosen(training.data, images, training.cache, "segment")
    if not isinstance(found, SegmentationSet):
        raise DataError(f"{found.name}: has boxes and no masks; a U-Net needs masks")
    return Examples(lambda i: _read(found, found.images[i], prep), len(found.images), size_bytes)


def _drawn(split: str, index: int, prep: ImagePrep) -> MaskExample:
    image = draw_blobs(split, index)
    return _example(image.pixels, image.labels, prep)


def _read(dataset: SegmentationSet, image: MaskedImage, prep: ImagePrep) -> MaskExample:
    return _example(read_pixels(image.path), read_labels(dataset, image), prep)


def _example(pixels: NDArray[np.uint8], labels: NDArray[np.uint8], prep: ImagePrep) -> MaskExample:
    return MaskExample(letterbox(pixels, prep)[0], prepare_labels(labels, prep, IGNORE))


def _scored(training: TrainingSpec, settings: Settings, prep: ImagePrep) -> list[MaskExample]:
    """The validation images, read once; none where none are wanted."""
    if training.val is None or settings.val_images == 0:
        return []
    dataset = load_segmentation(training.val, training.cache)
    dataset = dataset.subset(settings.val_images, _VAL_SEED)
    return [_read(dataset, image, prep) for image in dataset.images]
