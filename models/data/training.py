"""Which images a network learns from, with the digest that stands for them in keys."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Final

import msgspec

from models.data import blobs, shapes
from models.data.draw import CLASS_NAMES
from models.data.loading import BLOBS, SHAPES, load_for, task_of
from models.data.types import AnySet, MaskedImage, Task
from models.errors import DataError
from models.spec import DataSpec, TrainingSpec, content_digest

PROCEDURAL_IMAGES: Final = 4000
"""What a procedural set gives where no number is asked for: those the shipped detector saw."""
_SUBSET_SEED: Final = 0
_PROCEDURAL: Final = {
    SHAPES: (shapes.NAME, shapes.COUNTS, CLASS_NAMES),
    BLOBS: (blobs.NAME, blobs.COUNTS, blobs.BLOB_CLASSES),
}
"""Source -> the set's name, its splits, its classes."""


def training_spec(
    source: DataSpec, val: DataSpec | None, images: int | None, cache: Path
) -> TrainingSpec:
    """The images to learn from, and those to show progress on, with their digest.

    Of a folder: ids, file sizes and labels of the images that are used, masks whole; of a
    procedural set: its name, version and number of images. Raises DataError.
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
    return spec.source in _PROCEDURAL and spec.layout in ("auto", spec.source)


def class_names(spec: DataSpec, cache: Path, task: Task | None = None) -> tuple[str, ...]:
    """The classes of a set, for a task where it has labels for both; raises DataError."""
    if is_procedural(spec) and task in (None, task_of(spec)):
        return _PROCEDURAL[spec.source][2]
    return load_for(task, spec, cache).class_names


def chosen(spec: DataSpec, images: int | None, cache: Path, task: Task | None = None) -> AnySet:
    """A folder's images, at most so many, the same ones on every machine; raises DataError."""
    found = load_for(task, spec, cache)
    return found if images is None else found.subset(images, _SUBSET_SEED)


def count_images(training: TrainingSpec) -> int:
    """How many images there are to learn from; raises DataError."""
    if is_procedural(training.data):
        return training.images or PROCEDURAL_IMAGES
    return len(chosen(training.data, training.images, training.cache).images)


def _identity(spec: DataSpec, images: int | None, cache: Path) -> list[object]:
    if is_procedural(spec):
        name, splits, _ = _PROCEDURAL[spec.source]
        if spec.split not in splits:
            raise DataError(f"{name} has the splits {', '.join(splits)}, not {spec.split!r}")
        return [f"{name}/{spec.split}", images or PROCEDURAL_IMAGES]
    parts = _rows(chosen(spec, images, cache))
    if task_of(spec) == "detect":
        with contextlib.suppress(DataError):  # a split without masks, which nobody can learn
            parts += _rows(chosen(spec, images, cache, "segment"))
    return parts


def _rows(found: AnySet) -> list[object]:
    rows = [
        [
            image.image_id,
            _size_bytes(image.path),
            _content(image.mask_path) if isinstance(image, MaskedImage) else image.boxes,
        ]
        for image in found.images
    ]
    return [found.class_names, rows]


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as exc:
        raise DataError(f"training: {path}: {exc.strerror or exc}") from exc


def _content(path: Path) -> str:
    try:
        return content_digest(path).hex()
    except OSError as exc:
        raise DataError(f"training: {path}: {exc.strerror or exc}") from exc
