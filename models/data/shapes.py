"""The procedural set 'shapes' as files: VOC's layout, PNG images, written once into a cache.

PNG, so that what is decoded is exactly what was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from PIL import Image

from models.data import cache
from models.data.draw import CLASS_NAMES
from models.data.scenes import VERSION, Scene, draw_scene
from models.data.types import Box

NAME: Final = f"shapes-v{VERSION}"
COUNTS: Final = {"train": 128, "val": 256}
"""Images that a measuring host writes: all of val, and of train enough to calibrate on."""

_PNG_LEVEL: Final = 1
"""Noise hardly compresses: higher levels take three times as long for 5 %."""


def ensure_shapes(cache_dir: Path, counts: Mapping[str, int] = COUNTS) -> Path:
    """The set's folder in `cache_dir`, written first if it is not there; raises DataError."""
    return cache.ensure(cache_dir, NAME, lambda root: write_shapes(root, counts))


def write_shapes(root: Path, counts: Mapping[str, int]) -> None:
    """Write the first `counts[split]` images of each split below `root`, in VOC's layout."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASS_NAMES))
    with ThreadPoolExecutor(2) as pool:  # numpy and zlib let go of the interpreter's lock
        for split, count in counts.items():
            names = list(pool.map(lambda i, s=split: _write_image(root, s, i), range(count)))
            listing = root / "ImageSets" / "Main" / f"{split}.txt"
            listing.write_text("".join(f"{name}\n" for name in names))


def _write_image(root: Path, split: str, index: int) -> str:
    """Draw one image and write its two files; returns its name."""
    name = f"{split}_{index:05d}"
    scene = draw_scene(split, index)
    file = root / "JPEGImages" / f"{name}.png"
    Image.fromarray(scene.pixels).save(file, compress_level=_PNG_LEVEL)
    tree = _annotation(file.name, scene)
    tree.write(root / "Annotations" / f"{name}.xml", encoding="unicode")
    return name


def _annotation(filename: str, scene: Scene) -> ET.ElementTree[ET.Element]:
    """VOC's annotation of an image; its pixels count from 1 and the last one is included."""
    height, width = scene.pixels.shape[:2]
    top = ET.Element("annotation")
    ET.SubElement(top, "filename").text = filename
    _numbers(ET.SubElement(top, "size"), {"width": width, "height": height, "depth": 3})
    for box in scene.boxes:
        _add_object(top, box)
    ET.indent(top)
    return ET.ElementTree(top)


def _add_object(top: ET.Element, box: Box) -> None:
    element = ET.SubElement(top, "object")
    ET.SubElement(element, "name").text = CLASS_NAMES[box.class_index]
    ET.SubElement(element, "difficult").text = str(int(box.ignore))
    corners = {"xmin": box.x1 + 1, "ymin": box.y1 + 1, "xmax": box.x2, "ymax": box.y2}
    _numbers(ET.SubElement(element, "bndbox"), corners)


def _numbers(parent: ET.Element, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        ET.SubElement(parent, name).text = f"{value:g}"
