"""COCO's layout: one JSON file of images, annotations and categories, and a folder of images.

Given a folder, the file is `annotations/instances_<split>.json`, else the only one whose name
begins so (COCO's own `instances_val2017.json`). Images are looked for at their `file_name`
below the folder, and below its <split>/, images/ and images/<split>/. Boxes without any area
are left out: COCO's own train2017 has two.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from pathlib import Path

import msgspec

from models.data.files import clipped, contents, distinct, image_size, read_text
from models.data.types import Box, DetectionSet, LabelledImage
from models.errors import DataError


class _Image(msgspec.Struct):
    id: int
    file_name: str
    width: int | None = None
    height: int | None = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0


class _Category(msgspec.Struct):
    id: int
    name: str


class _Instances(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def looks_like_coco(path: Path) -> bool:
    """Whether a path is a JSON file, or a folder with some below annotations/."""
    if path.is_file():
        return path.suffix == ".json"
    return any((path / "annotations").glob("*.json"))


def load_coco(path: Path, split: str, name: str) -> DetectionSet:
    """Read one split; raises DataError naming the file and the entry at fault."""
    file = path if path.is_file() else _instances_file(path, split)
    data = _parse(file)
    categories = sorted(data.categories, key=lambda category: category.id)
    names = distinct([category.name for category in categories], f"{file}: categories")
    class_of = {category.id: index for index, category in enumerate(categories)}
    annotations: dict[int, list[tuple[int, _Annotation]]] = defaultdict(list)
    for number, annotation in enumerate(data.annotations):
        annotations[annotation.image_id].append((number, annotation))
    _check_references(data, class_of, file)
    folders = _image_folders(file, split)
    images = tuple(
        _image(_find(folders, entry.file_name, file), entry, annotations[entry.id], class_of, file)
        for entry in data.images
    )
    return DetectionSet(name, names, images)


def _instances_file(root: Path, split: str) -> Path:
    """The JSON file of a split below a folder."""
    folder = root / "annotations"
    exact = folder / f"instances_{split}.json"
    if exact.is_file():
        return exact
    begun = sorted(folder.glob(f"instances_{split}*.json"))
    if len(begun) != 1:
        found = contents(folder) if folder.is_dir() else f"no such folder; {contents(root)}"
        raise DataError(f"{root}: looked for split {split!r} at {exact} (COCO), found {found}")
    return begun[0]


def _parse(file: Path) -> _Instances:
    """The file, checked field by field.

    Outlines, most of COCO's own 450 MB, are passed over unread. What cannot be read so is read
    again by the slow way, which knows the line.
    """
    try:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, OSError):
            return msgspec.json.decode(file.read_bytes(), type=_Instances)
        return msgspec.convert(json.loads(read_text(file)), _Instances)
    except json.JSONDecodeError as exc:
        raise DataError(f"{file}: line {exc.lineno}: malformed JSON: {exc.msg}") from exc
    except (msgspec.ValidationError, RecursionError) as exc:
        raise DataError(f"{file}: {exc}") from exc


def _check_references(data: _Instances, class_of: dict[int, int], file: Path) -> None:
    """Refuse annotations of unknown images or categories, and images that occur twice."""
    if not data.images:
        raise DataError(f"{file}: 'images' is empty")
    known = {image.id for image in data.images}
    if len(known) < len(data.images) or len(class_of) < len(data.categories):
        raise DataError(f"{file}: an id of 'images' or 'categories' occurs twice")
    if len({image.file_name for image in data.images}) < len(data.images):
        raise DataError(f"{file}: a file_name of 'images' occurs twice")
    for number, annotation in enumerate(data.annotations):
        if annotation.image_id not in known:
            raise DataError(
                f"{file}: annotations[{number}]: image_id {annotation.image_id} is not in 'images'"
            )
        if annotation.category_id not in class_of:
            raise DataError(
                f"{file}: annotations[{number}]: category_id {annotation.category_id} is not "
                f"one of the {len(class_of)} ids in 'categories'"
            )


def _image_folders(file: Path, split: str) -> tuple[Path, ...]:
    """Where images may lie, most usual first; COCO names them after the JSON file's ending."""
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    ending = file.stem.removeprefix("instances_")
    names = (ending, split, f"images/{ending}", f"images/{split}", "images", ".")
    return tuple(dict.fromkeys(root / name for name in names))


def _find(folders: tuple[Path, ...], file_name: str, file: Path) -> Path:
    """The image's path; raises DataError when no folder holds it."""
    for folder in folders:
        if (folder / file_name).is_file():
            return folder / file_name
    looked = ", ".join(str(folder) for folder in folders)
    raise DataError(f"{file}: image {file_name!r} is missing; looked in {looked}")


def _image(
    path: Path,
    entry: _Image,
    annotations: list[tuple[int, _Annotation]],
    class_of: dict[int, int],
    file: Path,
) -> LabelledImage:
    width, height = image_size(path)
    if (entry.width or width, entry.height or height) != (width, height):
        raise DataError(
            f"{file}: image {entry.file_name!r} is said to be {entry.width} x {entry.height}, "
            f"but {path} has {width} x {height} pixels"
        )
    boxes = []
    for number, annotation in annotations:
        x, y, w, h = annotation.bbox
        if w == 0 or h == 0:
            continue
        class_index = class_of[annotation.category_id]
        box = Box(x, y, x + w, y + h, class_index, ignore=annotation.iscrowd != 0)
        boxes.append(clipped(box, width, height, f"{file}: annotations[{number}]"))
    return LabelledImage(entry.file_name, path, width, height, tuple(boxes))
