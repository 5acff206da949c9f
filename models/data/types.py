"""What a data set is, whatever layout it was read from."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias, TypeVar

Task = Literal["detect", "segment"]

IGNORE: Final = 255
"""Label of pixels that do not count, on which nobody is right or wrong."""


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
        """At most `count` images drawn by `seed`, ordered by image_id; see `drawn`."""
        return replace(self, images=drawn(self.images, count, seed))

    def only(self, image_ids: Container[str]) -> DetectionSet:
        """The images of these ids, in the set's own order."""
        return replace(self, images=tuple(i for i in self.images if i.image_id in image_ids))


@dataclass(frozen=True)
class MaskedImage:
    """An image file, its size in pixels and the file of its mask; both are read later."""

    image_id: str
    path: Path
    width: int
    height: int
    mask_path: Path


@dataclass(frozen=True)
class SegmentationSet:
    """Images with masks; models.data.masks.read_labels gives a mask's pixels."""

    name: str
    class_names: tuple[str, ...]
    images: tuple[MaskedImage, ...]

    def subset(self, count: int, seed: int) -> SegmentationSet:
        """At most `count` images drawn by `seed`, ordered by image_id; see `drawn`."""
        return replace(self, images=drawn(self.images, count, seed))

    def only(self, image_ids: Container[str]) -> SegmentationSet:
        """The images of these ids, in the set's own order."""
        return replace(self, images=tuple(i for i in self.images if i.image_id in image_ids))


AnySet: TypeAlias = DetectionSet | SegmentationSet


class _Named(Protocol):
    @property
    def image_id(self) -> str: ...


AnyImage = TypeVar("AnyImage", bound=_Named)


def drawn(images: Sequence[AnyImage], count: int, seed: int) -> tuple[AnyImage, ...]:
    """The `count` images with the smallest digests of seed and id, ordered by id.

    The same on every machine and Python, whatever order the set was read in, and a smaller
    draw is part of a larger one.
    """

    def rank(image: AnyImage) -> bytes:
        return hashlib.sha256(f"{seed}/{image.image_id}".encode()).digest()

    return tuple(sorted(sorted(images, key=rank)[:count], key=lambda image: image.image_id))
