"""YOLO's layout: images/..., labels/... with one text file an image, and usually a data.yaml.

A line is `class cx cy w h` in shares of the image's size, or `class x1 y1 x2 y2 x3 y3 ...`,
an outline of which the bounding box is taken. An image without a label file has no objects.
Without a data.yaml, `images/<split>/` or `images/` is read, and class names come from
`classes.txt` or are numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from models.data.files import (
    clipped,
    contents,
    distinct,
    has_folders,
    image_files,
    image_size,
    read_names,
    read_text,
)
from models.data.types import Box, DetectionSet, LabelledImage
from models.errors import DataError

_YAML_SUFFIXES: Final = (".yaml", ".yml")
_BOX_FIELDS: Final = 5
_OUTLINE_FIELDS: Final = 7
_ROUNDING: Final = 1e-3
"""How far over the edge of the image a share may lie: label tools round."""


@dataclass(frozen=True)
class _Split:
    """Images of a split, and the class names if they are told anywhere."""

    files: tuple[Path, ...]
    class_names: tuple[str, ...] | None
    source: Path


def looks_like_yolo(path: Path) -> bool:
    """Whether a path is a YAML file, or a folder with data.yaml, or with images/ and labels/."""
    if path.is_file():
        return path.suffix in _YAML_SUFFIXES
    if (path / "data.yaml").is_file():
        return True
    return (path / "images").is_dir() and (path / "labels").is_dir()


def load_yolo(path: Path, split: str, name: str) -> DetectionSet:
    """Read one split; raises DataError naming the file and line at fault."""
    if not looks_like_yolo(path):
        found = contents(path) if path.is_dir() else "a file of another kind"
        raise DataError(
            f"{path}: looked for data.yaml, or images/ and labels/ (YOLO), found {found}"
        )
    told = path if path.is_file() else path / "data.yaml"
    chosen = _from_yaml(told, split) if told.is_file() else _from_folder(path, split)
    if not chosen.files:
        raise DataError(f"{chosen.source}: split {split!r} names no image")
    labels = {file: _label_path(file) for file in chosen.files}
    if not any(label.is_file() for label in labels.values()):
        first = next(iter(labels.values()))
        raise DataError(f"{chosen.source}: no image of split {split!r} has labels, e.g. {first}")
    limit = None if chosen.class_names is None else len(chosen.class_names)
    ids = _ids(chosen.files)
    images = tuple(_image(ids[file], file, label, limit) for file, label in labels.items())
    return DetectionSet(name, chosen.class_names or _numbered(images), images)


def _from_yaml(file: Path, split: str) -> _Split:
    """A split as data.yaml describes it: `path`, `train`, `val`, `test`, `names`."""
    try:
        data = yaml.safe_load(read_text(file))
    except yaml.YAMLError as exc:
        raise DataError(f"{file}: malformed YAML: {exc}") from exc
    if not isinstance(data, dict):
        raise DataError(f"{file}: a mapping with 'names' and {split!r} was expected")
    root = file.parent / str(data.get("path") or ".")
    entries = data.get(split)
    if entries is None:
        keys = ", ".join(str(key) for key in data)
        raise DataError(f"{file}: looked for split {split!r}, found {keys}")
    listed = entries if isinstance(entries, list) else [entries]
    files = [image for entry in listed for image in _entry_files(root, str(entry), file)]
    return _Split(
        tuple(dict.fromkeys(file.absolute() for file in files)),
        _yaml_names(data.get("names"), file),
        file,
    )


def _entry_files(root: Path, entry: str, file: Path) -> tuple[Path, ...]:
    """Images of one entry: a folder, or a text file with one image a line."""
    place = root / entry
    if place.suffix == ".txt":
        lines = [line.strip() for line in read_text(place).splitlines()]
        return tuple(place.parent / line for line in lines if line)
    if not place.is_dir():
        raise DataError(f"{file}: {entry!r} means {place}, which is not a folder")
    return image_files(place)


def _yaml_names(names: Any, file: Path) -> tuple[str, ...]:
    """`names` as a list, or as a mapping from 0, 1, ..."""
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError(f"{file}: names: keys 0 to {len(names) - 1} expected, one for each")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list):
        raise DataError(f"{file}: names: a list, or a mapping from class numbers, was expected")
    return distinct([str(name) for name in names], f"{file}: names")


def _from_folder(root: Path, split: str) -> _Split:
    """A split of a folder without data.yaml."""
    images = root / "images"
    place = images / split if has_folders(images) else images
    if not place.is_dir():
        raise DataError(f"{root}: looked for split {split!r} at {place}, found {contents(images)}")
    told = root / "classes.txt"
    return _Split(image_files(place), read_names(told) if told.is_file() else None, root)


def _label_path(image: Path) -> Path:
    """The label file: the last folder called images becomes labels, the suffix .txt."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            return Path(*parts).with_suffix(".txt")
    return image.with_suffix(".txt")


def _ids(files: tuple[Path, ...]) -> dict[Path, str]:
    """Each image's path below the folder that all of them share."""
    shared = files[0].parent
    while not all(file.is_relative_to(shared) for file in files):
        shared = shared.parent
    return {file: file.relative_to(shared).as_posix() for file in files}


def _image(image_id: str, file: Path, label: Path, limit: int | None) -> LabelledImage:
    width, height = image_size(file)
    lines = read_text(label).splitlines() if label.is_file() else []
    boxes = tuple(
        _box(line, width, height, limit, f"{label}: line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    )
    return LabelledImage(image_id, file, width, height, boxes)


def _box(line: str, width: int, height: int, limit: int | None, where: str) -> Box:
    fields = line.split()
    outline = len(fields) >= _OUTLINE_FIELDS and len(fields) % 2 == 1
    if len(fields) != _BOX_FIELDS and not outline:
        raise DataError(
            f"{where}: {len(fields)} fields; 'class cx cy w h' or 'class x1 y1 x2 y2 ...' expected"
        )
    try:
        class_index, *shares = int(fields[0]), *(float(field) for field in fields[1:])
    except ValueError as exc:
        raise DataError(f"{where}: {exc}") from exc
    if class_index < 0 or (limit is not None and class_index >= limit):
        known = "0 or more" if limit is None else f"0 to {limit - 1}"
        raise DataError(f"{where}: class {class_index}, but classes are {known}")
    if not all(-_ROUNDING <= share <= 1 + _ROUNDING for share in shares):
        raise DataError(f"{where}: {line.strip()!r}: shares of the image's size, 0 to 1, expected")
    if outline:
        x1, x2 = min(shares[0::2]), max(shares[0::2])
        y1, y2 = min(shares[1::2]), max(shares[1::2])
    else:
        cx, cy, w, h = shares
        x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    box = Box(x1 * width, y1 * height, x2 * width, y2 * height, class_index)
    return clipped(box, width, height, where)


def _numbered(images: tuple[LabelledImage, ...]) -> tuple[str, ...]:
    """Numbers as class names, up to the highest that occurs."""
    highest = max((box.class_index for image in images for box in image.boxes), default=0)
    return tuple(str(index) for index in range(highest + 1))
