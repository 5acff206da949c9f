"""What a detection data set is, whatever layout it was read from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Layout = Literal["auto", "voc", "coco", "yolo", "shapes"]


@dataclass(frozen=True)
class Box:
    """One labelled object in pixels of the image; `x2`, `y2` exclusive.

    `ignore` marks objects that a detector is neither rewarded nor punished for: VOC's
    'difficult', COCO's 'iscrowd'.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    class_index: int
    ignore: bool = False


@dataclass(frozen=True)
class LabelledImage:
    """An image file, its size in pixels and its objects; the pixels are read later."""

    image_id: str
    path: Path
    width: int
    height: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class DetectionSet:
    """Images with boxes; `class_index` of a box counts into `class_names`."""

    name: str
    class_names: tuple[str, ...]
    images: tuple[LabelledImage, ...]

    def subset(self, count: int, seed: int) -> DetectionSet:
        """At most `count` images drawn by `seed`, ordered by image_id.

        Those with the smallest digests of seed and id: the same on every machine and Python,
        whatever order the set was read in, and a smaller subset is part of a larger one.
        """

        def rank(image: LabelledImage) -> bytes:
            return hashlib.sha256(f"{seed}/{image.image_id}".encode()).digest()

        drawn = sorted(self.images, key=rank)[:count]
        return replace(self, images=tuple(sorted(drawn, key=lambda image: image.image_id)))


@dataclass(frozen=True)
class DataSpec:
    """Where a data set is: a path, or `shapes` for the procedural set."""

    source: str
    layout: Layout = "auto"
    split: str = "val"
