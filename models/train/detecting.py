"""Detection sets for training: batches to learn from, and the score of a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agent.vision import Geometry, detections, letterbox, read_image
from agent.wire import DetectHead, ImagePrep
from models.data import DetectionSet, LabelledImage, load
from models.data.training import PROCEDURAL_IMAGES, chosen, is_procedural
from models.errors import DataError
from models.evaluate import score
from models.spec import TrainingSpec
from models.steps.settings import Settings
from models.train.batches import Example, augment, collate, load_example
from models.train.examples import Examples, batches, limit_of
from models.train.loss import Truth

_SCORED_AT_ONCE: Final = 32
_VAL_SEED: Final = 0


@dataclass(frozen=True)
class _Scored:
    """The validation images as tensors would hold them."""

    dataset: DetectionSet
    pixels: NDArray[np.uint8]  # (n, 3, s, s)
    geometries: tuple[Geometry, ...]


class DetectionData:
    """Images and boxes, letterboxed to the network's input size."""

    def __init__(self, training: TrainingSpec, settings: Settings, imgsz_px: int) -> None:
        self._prep = ImagePrep(height=imgsz_px, width=imgsz_px)
        self._settings = settings
        self._listed = _listed(training, settings)
        self._examples = _examples(training, settings, self._listed, self._prep)
        self._val = _scored(training, settings, self._prep)

    def __len__(self) -> int:
        return len(self._examples)

    @property
    def scored(self) -> bool:
        """Whether there are validation images."""
        return self._val is not None

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Image (s, s, 3) of a number; raises ImageError."""
        return self._examples[index].pixels

    def labels(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Boxes (k, 4) in input pixels and classes (k,) of an image."""
        if self._listed is not None:  # without decoding its pixels
            return boxes_of(self._listed[index], self._prep)
        example = self._examples[index]
        return example.boxes, example.classes

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Truth]]:
        """Images (n, 3, s, s) in 0..1 and their objects."""

        def change(example: Example, rng: np.random.Generator) -> Example:
            return augment(example, rng, self._prep.pad_value)

        settings = self._settings
        seed = (settings.seed, epoch)
        keep = change if settings.augment else lambda example, _rng: example
        return batches(self._examples, settings.batch, seed, keep, collate)

    def score(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """mAP50 and mAP50-95 of a module in eval mode; empty without validation images."""
        scored = self._val
        if scored is None:
            return {}
        head = DetectHead("yolo_v8", len(scored.dataset.class_names))
        found = {}
        for at in range(0, len(scored.pixels), _SCORED_AT_ONCE):
            part = torch.from_numpy(scored.pixels[at : at + _SCORED_AT_ONCE]).to(device)
            with torch.inference_mode():
                outputs = module(part.float() / 255).float().cpu().numpy()
            for offset, output in enumerate(outputs):
                image = scored.dataset.images[at + offset]
                geometry = scored.geometries[at + offset]
                found[image.image_id] = detections([output[None]], head, geometry)
        scores = score(scored.dataset, found)
        named = {"map50": scores.map50, "map50_95": scores.map50_95}
        return {name: value for name, value in named.items() if value is not None}


def _listed(training: TrainingSpec, settings: Settings) -> tuple[LabelledImage, ...] | None:
    """A folder's images; None for those that are drawn."""
    if is_procedural(training.data):
        return None
    found = chosen(training.data, limit_of(training, settings), training.cache, "detect")
    if not isinstance(found, DetectionSet):
        raise DataError(f"{found.name}: has masks and no boxes; a detector needs boxes")
    return found.images


def _examples(
    training: TrainingSpec,
    settings: Settings,
    listed: tuple[LabelledImage, ...] | None,
    prep: ImagePrep,
) -> Examples[Example]:
    size_bytes = 3 * prep.height * prep.width
    if listed is not None:
        return Examples(lambda i: read_example(listed[i], prep), len(listed), size_bytes)
    split = training.data.split
    count = limit_of(training, settings) or PROCEDURAL_IMAGES
    return Examples(lambda i: load_example(split, i, prep), count, size_bytes)


def read_example(image: LabelledImage, prep: ImagePrep) -> Example:
    """One labelled image, letterboxed, with its boxes. Raises ImageError."""
    pixels, _ = letterbox(read_image(image.path), prep)
    return Example(pixels, *boxes_of(image, prep))


def boxes_of(
    image: LabelledImage, prep: ImagePrep
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes (k, 4) in input pixels and classes (k,); objects to be ignored are left out."""
    geometry = Geometry.of(image.width, image.height, prep)
    kept = [box for box in image.boxes if not box.ignore]
    corners = [(box.x1, box.y1, box.x2, box.y2) for box in kept]
    boxes = np.array(corners, dtype=np.float32).reshape(-1, 4) * np.float32(geometry.scale)
    boxes += np.array([geometry.pad_x, geometry.pad_y] * 2, dtype=np.float32)
    return boxes, np.array([box.class_index for box in kept], dtype=np.int64)


def _scored(training: TrainingSpec, settings: Settings, prep: ImagePrep) -> _Scored | None:
    """The validation images, read once; None where none are wanted."""
    if training.val is None or settings.val_images == 0:
        return None
    dataset = load(training.val, training.cache).subset(settings.val_images, _VAL_SEED)
    pixels, geometries = [], []
    for image in dataset.images:
        canvas, geometry = letterbox(read_image(image.path), prep)
        pixels.append(canvas.transpose(2, 0, 1))
        geometries.append(geometry)
    return _Scored(dataset, np.stack(pixels), tuple(geometries))
