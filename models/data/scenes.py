"""The images of the procedural set 'shapes': six classes of shapes on textured backgrounds.

Image i of a split depends on (seed, version, split, i) only, so the first images of a split
are the same however many are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.data.draw import (
    CLASS_NAMES,
    Bounds,
    Floats,
    Placed,
    stroke_coverage,
    value_noise,
    window,
)
from models.data.types import Box

VERSION: Final = 1
"""Raised whenever a pixel or a label changes; part of the set's name."""

_SEED: Final = 20240
_SPLIT_CODES: Final = {"train": 1, "val": 2}
_SIZES: Final = ((240, 180), (180, 240), (240, 160), (224, 192))
"""Width and height in pixels; never square, so that letterboxing is always at work."""
_RADIUS: Final = (11.0, 48.0)
"""Half the size of a shape in pixels."""
_MIN_CONTRAST: Final = 60.0
"""Of 255, between a shape and the mean behind it, in at least one channel."""
_MAX_OVERLAP: Final = 0.25
"""Of the smaller of two boxes; so at least half of nearly every shape stays visible."""


@dataclass(frozen=True)
class Scene:
    """One drawn image (height, width, 3) and its objects."""

    pixels: NDArray[np.uint8]
    boxes: tuple[Box, ...]


def draw_scene(split: str, index: int) -> Scene:
    """Image `index` of a split; the same on every machine."""
    rng = np.random.RandomState([_SEED, VERSION, _SPLIT_CODES[split], index])
    width, height = _SIZES[rng.randint(len(_SIZES))]
    canvas = _background(rng, height, width)
    _strokes(rng, canvas, count=rng.randint(0, 7), widest=4.0)
    placed = _place(rng, width, height)
    for shape in placed:
        _paint_shape(rng, canvas, shape)
    _strokes(rng, canvas, count=rng.randint(0, 4), widest=3.0)
    boxes = tuple(_label(shape, width, height) for shape in placed)
    return Scene(_expose(rng, canvas), boxes)


def _uniform(rng: np.random.RandomState, low: float, high: float) -> float:
    return low + (high - low) * float(rng.random_sample())


def _background(rng: np.random.RandomState, height: int, width: int) -> Floats:
    """Two octaves of colour noise around a base colour, in 0..255 before clipping."""
    base = (rng.random_sample(3) * 170 + 40).astype(np.float32)
    coarse = value_noise(rng, height, width, int(rng.randint(2, 5)))
    fine = value_noise(rng, height, width, int(rng.randint(8, 40)))
    coarse_gain = np.float32(_uniform(rng, 10, 60))
    fine_gain = np.float32(_uniform(rng, 5, 40))
    canvas: Floats = base + coarse * coarse_gain + fine * fine_gain
    return canvas


def _place(rng: np.random.RandomState, width: int, height: int) -> list[Placed]:
    """One to nine shapes that overlap a little at most; those tried in vain are left out."""
    placed: list[tuple[Placed, Bounds]] = []
    for _ in range(rng.randint(1, 10)):
        for _attempt in range(8):
            shape = _random_shape(rng, width, height)
            bounds = shape.bounds()
            if all(_overlap(bounds, other) <= _MAX_OVERLAP for _, other in placed):
                placed.append((shape, bounds))
                break
    return [shape for shape, _ in placed]


def _random_shape(rng: np.random.RandomState, width: int, height: int) -> Placed:
    low, high = _RADIUS
    part = float(rng.random_sample())
    radius = low + (high - low) * part * (0.4 + 0.6 * part)  # small ones are more frequent
    stretch = _uniform(rng, 0.75, 1.0)
    return Placed(
        class_index=int(rng.randint(len(CLASS_NAMES))),
        x=_uniform(rng, radius / 3, width - radius / 3),
        y=_uniform(rng, radius / 3, height - radius / 3),
        rx=radius,
        ry=radius * stretch,
        angle=_uniform(rng, 0, 6.283185),
    )


def _overlap(a: Bounds, b: Bounds) -> float:
    """Intersection of the two boxes over the smaller one."""
    ax1, ay1, ax2, ay2 = a
    bx1, by1, bx2, by2 = b
    w = min(ax2, bx2) - max(ax1, bx1)
    h = min(ay2, by2) - max(ay1, by1)
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / min((ax2 - ax1) * (ay2 - ay1), (bx2 - bx1) * (by2 - by1))


def _paint_shape(rng: np.random.RandomState, canvas: Floats, shape: Placed) -> None:
    """Blend a shape with a colour gradient over the canvas."""
    area, xs, ys = window(shape.bounds(), canvas)
    behind = canvas[area]
    colour = _contrasting(rng, behind)
    slope = (rng.random_sample((2, 3)) * 50 - 25).astype(np.float32)
    opacity = np.float32(_uniform(rng, 0.8, 1.0))
    cover = shape.coverage(xs, ys)
    u = (xs - np.float32(shape.x)) / np.float32(shape.rx)
    v = (ys - np.float32(shape.y)) / np.float32(shape.rx)
    fill = colour + u[:, :, None] * slope[0] + v[:, :, None] * slope[1]
    alpha = (cover * opacity)[:, :, None]
    canvas[area] = behind + (fill - behind) * alpha


def _contrasting(rng: np.random.RandomState, behind: Floats) -> Floats:
    """A colour that differs enough from the mean behind it, if six draws hold one."""
    mean = np.array([float(behind[:, :, c].mean(dtype=np.float64)) for c in range(3)])
    candidates = rng.random_sample((6, 3)) * 255
    gap = np.abs(candidates - mean).max(axis=1)
    enough = np.flatnonzero(gap >= _MIN_CONTRAST)
    chosen: NDArray[np.float64] = candidates[enough[0] if len(enough) else int(gap.argmax())]
    return chosen.astype(np.float32)


def _strokes(rng: np.random.RandomState, canvas: Floats, *, count: int, widest: float) -> None:
    """Thick lines as clutter, behind objects or across them."""
    height, width = canvas.shape[:2]
    for _ in range(count):
        ax, bx = _uniform(rng, 0, width), _uniform(rng, 0, width)
        ay, by = _uniform(rng, 0, height), _uniform(rng, 0, height)
        half_width = _uniform(rng, 0.7, widest)
        colour = (rng.random_sample(3) * 255).astype(np.float32)
        reach = half_width + 1
        left, top, right, bottom = min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)
        bounds = (left - reach, top - reach, right + reach, bottom + reach)
        area, xs, ys = window(bounds, canvas)
        cover = stroke_coverage((ax, ay), (bx, by), half_width, xs, ys)
        canvas[area] += (colour - canvas[area]) * cover[:, :, None]


def _label(shape: Placed, width: int, height: int) -> Box:
    """The box of the whole shape, hidden parts too, clipped to the image on whole pixels."""
    x1, y1, x2, y2 = shape.bounds()
    left, top = max(0, round(x1)), max(0, round(y1))
    right, bottom = min(width, round(x2)), min(height, round(y2))
    return Box(left, top, right, bottom, shape.class_index)


def _expose(rng: np.random.RandomState, canvas: Floats) -> NDArray[np.uint8]:
    """Contrast, brightness and sensor noise of one image, then bytes."""
    gain = np.float32(_uniform(rng, 0.6, 1.1))
    offset = np.float32(_uniform(rng, -15, 45))
    noise_gain = np.float32(_uniform(rng, 2, 20))
    noise = rng.random_sample(canvas.shape[:2]).astype(np.float32) - np.float32(0.5)
    exposed = canvas * gain + offset + (noise * (2 * noise_gain))[:, :, None]
    return (np.clip(exposed, 0, 255) + np.float32(0.5)).astype(np.uint8)
