"""Which images a network learns from, with the digest that stands for them in keys."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import msgspec

from models.data.draw import CLASS_NAMES
from models.data.loading import SHAPES, load
from models.data.shapes import COUNTS, NAME
from models.data.types import DetectionSet
from models.errors import DataError
from models.spec import DataSpec, TrainingSpec

PROCEDURAL_IMAGES: Final = 4000
"""What a procedural set gives where no number is asked for: those the shipped detector saw."""
_SUBSET_SEED: Final = 0


def training_spec(
    source: DataSpec, val: DataSpec | None, images: int | None, cache: Path
) -> TrainingSpec:
    """The images to learn from, and those to show progress on, with their digest.

    Of a folder: ids, file sizes and labels of the images that are used; of a procedural set:
    its name, version and number of images. Raises DataError.
    """
    if images is not None and images < 1:
        raise DataError(f"training: {images} images; give a positive number, or none for all")
    parts = [_identity(source, images, cache)]
    if val is not None:
        parts.append(_identity(val, None, cache))
    digest = hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
    return TrainingSpec(data=source, val=val, images=images, cache=cache, digest=digest)


def is_procedural(spec: DataSpec) -> bool:
    """True for sets that are drawn in memory, as many images as one asks for."""
    return spec.source == SHAPES and spec.layout in ("auto", SHAPES)


def class_names(spec: DataSpec, cache: Path) -> tuple[str, ...]:
    """The classes of a set; raises DataError."""
    return CLASS_NAMES if is_procedural(spec) else load(spec, cache).class_names


def chosen(spec: DataSpec, images: int | None, cache: Path) -> DetectionSet:
    """A folder's images, at most so many, the same ones on every machine; raises DataError."""
    found = load(spec, cache)
    return found if images is None else found.subset(images, _SUBSET_SEED)


def _identity(spec: DataSpec, images: int | None, cache: Path) -> list[object]:
    if is_procedural(spec):
        if spec.split not in COUNTS:
            raise DataError(
                f"the procedural set has the splits {', '.join(COUNTS)}, not {spec.split!r}"
            )
        return [f"{NAME}/{spec.split}", images or PROCEDURAL_IMAGES]
    found = chosen(spec, images, cache)
    rows = [(image.image_id, _size_bytes(image.path), image.boxes) for image in found.images]
    return [found.class_names, rows]


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as exc:
        raise DataError(f"training: {path}: {exc.strerror or exc}") from exc
