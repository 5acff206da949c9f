"""Pascal VOC's layout: JPEGImages/, Annotations/*.xml, ImageSets/Main/<split>.txt.

Class names come from `classes.txt` beside them (one a line, ours), else they are VOC's twenty
if those are enough, else all names of all annotations, sorted: then every split agrees.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from models.data.files import (
    IMAGE_SUFFIXES,
    clipped,
    contents,
    distinct,
    image_size,
    read_names,
    read_text,
)
from models.data.types import Box, DetectionSet, LabelledImage
from models.errors import DataError

VOC_CLASSES: Final = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)


def looks_like_voc(root: Path) -> bool:
    """Whether a folder has VOC's subfolders."""
    return (root / "JPEGImages").is_dir() and (root / "Annotations").is_dir()


def load_voc(root: Path, split: str, name: str) -> DetectionSet:
    """Read one split; raises DataError naming the file at fault."""
    if not looks_like_voc(root):
        raise DataError(
            f"{root}: looked for JPEGImages/ and Annotations/ (VOC), found {contents(root)}"
        )
    ids = _split_ids(root, split)
    trees = {image_id: _parse(root / "Annotations" / f"{image_id}.xml") for image_id in ids}
    class_names = _class_names(root, trees)
    images = tuple(_image(root, i, tree, class_names) for i, tree in trees.items())
    return DetectionSet(name, class_names, images)


def _split_ids(root: Path, split: str) -> list[str]:
    """Image ids of a split, in the order of its list."""
    listing = root / "ImageSets" / "Main" / f"{split}.txt"
    if not listing.is_file():
        there = sorted(path.stem for path in listing.parent.glob("*.txt"))
        found = ", ".join(there) if there else f"no list in {listing.parent}"
        raise DataError(f"{root}: looked for split {split!r} at {listing}, found {found}")
    ids = [line.split()[0] for line in read_text(listing).splitlines() if line.strip()]
    if not ids:
        raise DataError(f"{listing}: the split has no images")
    twice = len(ids) - len(set(ids))
    if twice:
        raise DataError(f"{listing}: {twice} images are named more than once")
    return ids


def _parse(path: Path) -> ET.Element:
    """Root element of one annotation."""
    try:
        return ET.fromstring(read_text(path))  # noqa: S314 - the user's own files; expat caps entities
    except ET.ParseError as exc:
        raise DataError(f"{path}: malformed XML: {exc}") from exc


def _class_names(root: Path, trees: dict[str, ET.Element]) -> tuple[str, ...]:
    if (root / "classes.txt").is_file():
        return read_names(root / "classes.txt")
    used = {name for tree in trees.values() for name in _object_names(tree)}
    if used <= set(VOC_CLASSES):
        return VOC_CLASSES
    for path in (root / "Annotations").glob("*.xml"):
        used |= _object_names(trees[path.stem] if path.stem in trees else _parse(path))
    return distinct(sorted(used), str(root / "Annotations"))


def _object_names(tree: ET.Element) -> set[str]:
    return {(found.findtext("name") or "").strip() for found in tree.iter("object")}


def _image(
    root: Path, image_id: str, tree: ET.Element, class_names: tuple[str, ...]
) -> LabelledImage:
    annotation = root / "Annotations" / f"{image_id}.xml"
    path = _image_path(root / "JPEGImages", image_id, tree.findtext("filename"))
    width, height = image_size(path)
    said = (tree.findtext("size/width"), tree.findtext("size/height"))
    if None not in said and said not in ((str(width), str(height)), ("0", "0")):
        raise DataError(
            f"{annotation}: size {said[0]} x {said[1]}, but {path} has {width} x {height} pixels"
        )
    boxes = tuple(
        _box(element, class_names, width, height, f"{annotation}: object {number}")
        for number, element in enumerate(tree.findall("object"), start=1)
    )
    return LabelledImage(image_id, path, width, height, boxes)


def _image_path(folder: Path, image_id: str, filename: str | None) -> Path:
    """The image by its id, whatever its suffix, or by the name in its annotation."""
    if filename and Path(filename).stem == image_id:
        named = folder / Path(filename).name
        if named.is_file():
            return named
    for suffix in IMAGE_SUFFIXES:
        if (folder / f"{image_id}{suffix}").is_file():
            return folder / f"{image_id}{suffix}"
    raise DataError(f"{folder}: the image of {image_id!r} is missing")


def _box(
    element: ET.Element, class_names: tuple[str, ...], width: int, height: int, where: str
) -> Box:
    """One object; VOC's pixels count from 1 and the last one is included."""
    name = (element.findtext("name") or "").strip()
    if name not in class_names:
        raise DataError(f"{where}: class {name!r} is not one of {', '.join(class_names)}")
    x1, y1, x2, y2 = (
        _number(element, f"bndbox/{side}", where) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    ignore = (element.findtext("difficult") or "0").strip() == "1"
    box = Box(x1 - 1, y1 - 1, x2, y2, class_names.index(name), ignore)
    return clipped(box, width, height, where)


def _number(element: ET.Element, tag: str, where: str) -> float:
    text = element.findtext(tag)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {tag} is {text!r}, a number was expected")
    return value
