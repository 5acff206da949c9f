"""Pictures of what a network found in images, beside the truth. Pure functions over pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models.data.types import IGNORE

SIDE_PX: Final = 150
"""Longer side of an image in a picture."""
_GAP_PX: Final = 4
_NAMES_PX: Final = 120
_LINE_PX: Final = 14
_PAPER: Final = (255, 255, 255)
_INK: Final = (20, 20, 20)
_GREY: Final = (128, 128, 128)
_ALPHA: Final = 0.55
_COLOURS: Final = (
    *((230, 25, 75), (0, 130, 200), (60, 180, 75), (245, 130, 48), (145, 30, 180)),
    *((70, 240, 240), (240, 50, 230), (210, 245, 60), (0, 128, 128), (255, 225, 25)),
)
"""By class index, over again where there are more classes."""

Bounds = tuple[float, float, float, float]


@dataclass(frozen=True)
class Shape:
    """A box to be drawn, in pixels of the image, with a name or without; ignored ones are grey."""

    bounds: Bounds
    class_index: int
    name: str = ""
    ignored: bool = False


@dataclass(frozen=True)
class Row:
    """A line of a picture: its name, and one small image for each of the set's."""

    name: str
    images: tuple[Image.Image, ...]


def small(pixels: NDArray[np.uint8]) -> Image.Image:
    """An image (H, W, 3) with its longer side at SIDE_PX."""
    height, width = pixels.shape[:2]
    return Image.fromarray(pixels).resize(_fitted(width, height), Image.Resampling.BILINEAR)


def with_boxes(pixels: NDArray[np.uint8], shapes: Sequence[Shape]) -> Image.Image:
    """The small image with boxes in the colours of their classes, the first one on top."""
    made = small(pixels)
    draw, scale = ImageDraw.Draw(made), made.width / pixels.shape[1]
    for shape in reversed(shapes):
        colour = _GREY if shape.ignored else _colour(shape.class_index)
        x1, y1, x2, y2 = (value * scale for value in shape.bounds)
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=2)
        place = (x1 + 3, y1 + 2)
        name = _drawable(shape.name, str(shape.class_index))
        draw.text(place, name, _INK, _font(10), stroke_width=1, stroke_fill=_PAPER)
    return made


def with_mask(pixels: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Image.Image:
    """The small image with the classes of its pixels over it; `labels` (h, w) has its shape.

    0 is no class, 1 + class index a class, IGNORE grey. `labels` may be of another size.
    """
    made = small(pixels)
    sized = np.asarray(Image.fromarray(labels).resize(made.size, Image.Resampling.NEAREST))
    values = np.asarray(made, dtype=np.float64).copy()
    for label in np.unique(sized[sized > 0]):
        colour = _GREY if label == IGNORE else _colour(int(label) - 1)
        where = sized == label
        values[where] = (1 - _ALPHA) * values[where] + _ALPHA * np.array(colour)
    return Image.fromarray(values.round().astype(np.uint8))


def sheet(rows: Sequence[Row]) -> Image.Image:
    """All rows below one another, the names on the left."""
    heights = [max(image.height for image in row.images) + _GAP_PX for row in rows]
    columns = max(len(row.images) for row in rows)
    made = Image.new("RGB", (_NAMES_PX + columns * (SIDE_PX + _GAP_PX), sum(heights)), _PAPER)
    draw, top = ImageDraw.Draw(made), 0
    for number, (row, height) in enumerate(zip(rows, heights, strict=True), start=1):
        words = _drawable(row.name, f"row {number}").replace("/", "/\n").split("\n")
        first = top + (height - _LINE_PX * len(words)) // 2
        for line, word in enumerate(words):
            draw.text((2, first + line * _LINE_PX), word, _INK, _font(11))
        for column, image in enumerate(row.images):
            made.paste(image, (_NAMES_PX + column * (SIDE_PX + _GAP_PX), top))
        top += height
    return made


def _drawable(name: str, instead: str) -> str:
    """A name that Pillow's own font has letters for; the text beside a picture has every name."""
    return name if name.isascii() else instead


def _fitted(width: int, height: int) -> tuple[int, int]:
    scale = SIDE_PX / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _colour(class_index: int) -> tuple[int, int, int]:
    return _COLOURS[class_index % len(_COLOURS)]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
