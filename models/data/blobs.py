"""The procedural set 'blobs': bright cells of uneven shape under uneven light, with their masks.

Image i of a split depends on (seed, version, split, i) only, as in the set 'shapes', and is the
same on every machine (see models.data.draw). Drawn at a size of one's own it shows the same scene
in a square, with the same share of the image in each cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.data import cache
from models.data.draw import Floats, Placed, stroke_coverage, value_noise, window

VERSION: Final = 1
"""Raised whenever a pixel or a label changes; part of the set's name."""

NAME: Final = f"blobs-v{VERSION}"
BLOB_CLASSES: Final = ("blob",)
COUNTS: Final = {"train": 128, "val": 256}
"""Images that a measuring host writes: all of val, and of train enough to calibrate on."""

_SEED: Final = 20241
_SPLIT_CODES: Final = {"train": 1, "val": 2}
_SIZES: Final = ((160, 128), (128, 160), (176, 120), (144, 128))
"""Width and height in pixels; never square, so that letterboxing is always at work."""
_RADIUS: Final = (0.045, 0.12)
"""Half the length of a cell, as a share of the image's shorter side."""
_COVERED: Final = 0.5
"""A pixel belongs to a cell that covers at least so much of it."""
_PNG_LEVEL: Final = 1


@dataclass(frozen=True)
class BlobImage:
    """Pixels (height, width, 3) and labels (height, width): 1 in a cell, 0 elsewhere."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def draw_blobs(split: str, index: int, size_px: int | None = None) -> BlobImage:
    """Image `index` of a split, in its own size or in a square of `size_px`."""
    rng = np.random.RandomState([_SEED, VERSION, _SPLIT_CODES[split], index])
    width, height = _SIZES[rng.randint(len(_SIZES))]
    if size_px is not None:
        width = height = size_px
    canvas = _tissue(rng, height, width)
    _fibres(rng, canvas)
    labels = np.zeros((height, width), dtype=np.uint8)
    tint = (rng.random_sample(3) * 0.5 + 0.5).astype(np.float32)
    for _ in range(rng.randint(6, 19)):
        _cell(rng, canvas, labels, tint)
    return BlobImage(_expose(rng, canvas), labels)


def _uniform(rng: np.random.RandomState, low: float, high: float) -> float:
    return low + (high - low) * float(rng.random_sample())


def _tissue(rng: np.random.RandomState, height: int, width: int) -> Floats:
    """The dark ground: two octaves of noise, in 0..255 before clipping."""
    base = (rng.random_sample(3) * 50 + 25).astype(np.float32)
    coarse = value_noise(rng, height, width, int(rng.randint(2, 4)))
    fine = value_noise(rng, height, width, int(rng.randint(6, 14)))
    canvas: Floats = base + coarse * np.float32(15) + fine * np.float32(10)
    return canvas


def _fibres(rng: np.random.RandomState, canvas: Floats) -> None:
    """Thin bright lines that are no cells."""
    height, width = canvas.shape[:2]
    for _ in range(rng.randint(0, 4)):
        ax, bx = _uniform(rng, 0, width), _uniform(rng, 0, width)
        ay, by = _uniform(rng, 0, height), _uniform(rng, 0, height)
        half = _uniform(rng, 0.004, 0.010) * min(height, width)
        gain = np.float32(_uniform(rng, 30, 80))
        reach = half + 1
        bounds = (min(ax, bx) - reach, min(ay, by) - reach)
        area, xs, ys = window((*bounds, max(ax, bx) + reach, max(ay, by) + reach), canvas)
        cover = stroke_coverage((ax, ay), (bx, by), half, xs, ys)
        canvas[area] += gain * cover[:, :, None]


def _cell(
    rng: np.random.RandomState, canvas: Floats, labels: NDArray[np.uint8], tint: Floats
) -> None:
    """One cell of two or three ellipses, brighter than the ground by its own amount."""
    height, width = canvas.shape[:2]
    side = min(height, width)
    radius = _uniform(rng, *_RADIUS) * side
    x, y = _uniform(rng, 0, width), _uniform(rng, 0, height)
    gain = np.float32(_uniform(rng, 45, 130))
    slope = (rng.random_sample(2) * 0.6 - 0.3).astype(np.float32)
    lobes = [_lobe(rng, x, y, radius) for _ in range(rng.randint(2, 4))]
    reach = 2 * radius
    area, xs, ys = window((x - reach, y - reach, x + reach, y + reach), canvas)
    cover = lobes[0].coverage(xs, ys)
    for lobe in lobes[1:]:
        cover = np.maximum(cover, lobe.coverage(xs, ys))
    u, v = (xs - np.float32(x)) / np.float32(radius), (ys - np.float32(y)) / np.float32(radius)
    light = cover * gain * (1 + u * slope[0] + v * slope[1])
    canvas[area] = np.maximum(
        canvas[area], canvas[area] * np.float32(0.4) + light[:, :, None] * tint
    )
    labels[area] |= (cover >= _COVERED).astype(np.uint8)


def _lobe(rng: np.random.RandomState, x: float, y: float, radius: float) -> Placed:
    return Placed(
        class_index=0,  # an ellipse
        x=x + _uniform(rng, -0.25, 0.25) * radius,
        y=y + _uniform(rng, -0.25, 0.25) * radius,
        rx=radius * _uniform(rng, 0.7, 1.0),
        ry=radius * _uniform(rng, 0.5, 0.9),
        angle=_uniform(rng, 0, 6.283185),
    )


def _expose(rng: np.random.RandomState, canvas: Floats) -> NDArray[np.uint8]:
    """Light that falls off across the image, brightness and sensor noise, then bytes."""
    height, width = canvas.shape[:2]
    light = value_noise(rng, height, width, 2)[:, :, :1] * np.float32(_uniform(rng, 0.1, 0.4)) + 1
    gain = np.float32(_uniform(rng, 0.7, 1.2))
    noise_gain = np.float32(_uniform(rng, 5, 30))
    noise = rng.random_sample((height, width)).astype(np.float32) - np.float32(0.5)
    exposed = canvas * light * gain + (noise * (2 * noise_gain))[:, :, None]
    return (np.clip(exposed, 0, 255) + np.float32(0.5)).astype(np.uint8)


def ensure_blobs(cache_dir: Path, counts: Mapping[str, int] = COUNTS) -> Path:
    """The set's folder in `cache_dir`, written first if it is not there; raises DataError."""
    return cache.ensure(cache_dir, NAME, lambda root: write_blobs(root, counts))


def write_blobs(root: Path, counts: Mapping[str, int]) -> None:
    """Write the first `counts[split]` images of each split: images/, masks/ and classes.txt."""
    for split in counts:
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in BLOB_CLASSES))
    places = [(split, index) for split, count in counts.items() for index in range(count)]
    with ThreadPoolExecutor(2) as pool:  # numpy and zlib let go of the interpreter's lock
        list(pool.map(lambda place: _write_image(root, *place), places))


def _write_image(root: Path, split: str, index: int) -> None:
    drawn = draw_blobs(split, index)
    name = f"{split}_{index:05d}.png"
    Image.fromarray(drawn.pixels).save(root / "images" / split / name, compress_level=_PNG_LEVEL)
    Image.fromarray(drawn.labels * np.uint8(255)).save(root / "masks" / split / name)
