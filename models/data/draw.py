"""Pixels of the procedural set: shapes, strokes and textures, in numpy alone.

The same seed gives the same pixels on every machine: random numbers come from RandomState,
whose stream numpy keeps frozen, and arrays only see + - * / sqrt and comparisons, which
IEEE 754 rounds the same way everywhere. Sines come from `math` and are rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Points = NDArray[np.float64]
Bounds = tuple[float, float, float, float]

CLASS_NAMES: Final = ("circle", "ring", "square", "triangle", "star", "cross")

_UNIT_POLYGONS: Final[dict[str, tuple[tuple[float, float], ...]]] = {
    "square": ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),
    "triangle": ((0.0, -1.0), (0.866, 0.5), (-0.866, 0.5)),
    "star": (
        *((0.0, -1.0), (0.247, -0.340), (0.951, -0.309), (0.399, 0.130), (0.588, 0.809)),
        *((0.0, 0.42), (-0.588, 0.809), (-0.399, 0.130), (-0.951, -0.309), (-0.247, -0.340)),
    ),
    "cross": (
        *((-0.3, -1.0), (0.3, -1.0), (0.3, -0.3), (1.0, -0.3), (1.0, 0.3), (0.3, 0.3)),
        *((0.3, 1.0), (-0.3, 1.0), (-0.3, 0.3), (-1.0, 0.3), (-1.0, -0.3), (-0.3, -0.3)),
    ),
}
_RING_HOLE: Final = 0.55
"""Inner over outer radius of a ring."""


@dataclass(frozen=True)
class Placed:
    """One shape in an image: half axes `rx`, `ry` in pixels, then turned by `angle` radians."""

    class_index: int
    x: float
    y: float
    rx: float
    ry: float
    angle: float

    @property
    def kind(self) -> str:
        """Name of the class."""
        return CLASS_NAMES[self.class_index]

    def turn(self) -> tuple[float, float]:
        """Cosine and sine of the angle, rounded so that every libm gives the same digits."""
        return round(math.cos(self.angle), 6), round(math.sin(self.angle), 6)

    def vertices(self) -> Points:
        """Corners of a polygon in pixels, shape (n, 2)."""
        unit = np.array(_UNIT_POLYGONS[self.kind], dtype=np.float64)
        c, s = self.turn()
        ux, uy = unit[:, 0] * self.rx, unit[:, 1] * self.ry
        return np.stack([self.x + ux * c - uy * s, self.y + ux * s + uy * c], axis=1)

    def bounds(self) -> Bounds:
        """Tight box x1, y1, x2, y2 in pixels, not clipped to the image."""
        if self.kind in _UNIT_POLYGONS:
            corners = self.vertices()
            x1, y1 = corners.min(axis=0)
            x2, y2 = corners.max(axis=0)
            return float(x1), float(y1), float(x2), float(y2)
        c, s = self.turn()
        half_w = math.sqrt((self.rx * c) ** 2 + (self.ry * s) ** 2)
        half_h = math.sqrt((self.rx * s) ** 2 + (self.ry * c) ** 2)
        return self.x - half_w, self.y - half_h, self.x + half_w, self.y + half_h

    def area(self) -> float:
        """Area of the whole shape in square pixels."""
        if self.kind in _UNIT_POLYGONS:
            p = self.vertices()
            q = np.roll(p, -1, axis=0)
            return abs(float(np.sum(p[:, 0] * q[:, 1] - q[:, 0] * p[:, 1]))) / 2
        hole = _RING_HOLE**2 if self.kind == "ring" else 0.0
        return math.pi * self.rx * self.ry * (1 - hole)

    def coverage(self, xs: Floats, ys: Floats) -> Floats:
        """Share of each pixel that the shape covers, 0..1; xs (1, w) and ys (h, 1) are centres."""
        if self.kind in _UNIT_POLYGONS:
            return _polygon_coverage(self.vertices(), xs, ys)
        c, s = self.turn()
        dx, dy = xs - np.float32(self.x), ys - np.float32(self.y)
        u = (dx * np.float32(c) + dy * np.float32(s)) / np.float32(self.rx)
        v = (dy * np.float32(c) - dx * np.float32(s)) / np.float32(self.ry)
        radius = np.sqrt(u * u + v * v)
        size = np.float32(min(self.rx, self.ry))
        cover = _edge((radius - 1) * size)
        if self.kind == "ring":
            cover = cover * _edge((np.float32(_RING_HOLE) - radius) * size)
        return cover


def _edge(distance: Floats) -> Floats:
    """Coverage from a signed distance in pixels (negative is inside)."""
    cover: Floats = np.clip(np.float32(0.5) - distance, 0, 1)
    return cover


def _polygon_coverage(corners: Points, xs: Floats, ys: Floats) -> Floats:
    """Coverage of a simple polygon: distance to its nearest edge, signed by crossing number."""
    nearest = np.full((ys.shape[0], xs.shape[1]), np.float32(1e9))
    inside = np.zeros(nearest.shape, dtype=bool)
    points = corners.astype(np.float32)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        wx, wy = xs - ax, ys - ay
        t = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        ox, oy = wx - t * ex, wy - t * ey
        nearest = np.minimum(nearest, ox * ox + oy * oy)
        if ey != 0:
            spans = (ys < ay) != (ys < by)
            inside ^= spans & (wx < wy * (ex / ey))
    distance = np.sqrt(nearest)
    return _edge(np.where(inside, -distance, distance))


def stroke_coverage(
    start: tuple[float, float], end: tuple[float, float], half_width: float, xs: Floats, ys: Floats
) -> Floats:
    """Coverage of a thick line with round ends."""
    ax, ay = np.float32(start[0]), np.float32(start[1])
    ex, ey = np.float32(end[0]) - ax, np.float32(end[1]) - ay
    wx, wy = xs - ax, ys - ay
    t = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey + np.float32(1e-6)), 0, 1)
    ox, oy = wx - t * ex, wy - t * ey
    return _edge(np.sqrt(ox * ox + oy * oy) - np.float32(half_width))


def window(bounds: Bounds, canvas: Floats) -> tuple[tuple[slice, slice], Floats, Floats]:
    """The part of a canvas that bounds touch: its slices, and pixel centres x and y."""
    height, width = canvas.shape[:2]
    x1, y1 = max(0, int(bounds[0]) - 1), max(0, int(bounds[1]) - 1)
    x2, y2 = min(width, int(bounds[2]) + 2), min(height, int(bounds[3]) + 2)
    xs = (np.arange(x1, x2) + 0.5).astype(np.float32)[None, :]
    ys = (np.arange(y1, y2) + 0.5).astype(np.float32)[:, None]
    return (slice(y1, y2), slice(x1, x2)), xs, ys


def value_noise(rng: np.random.RandomState, height: int, width: int, cells: int) -> Floats:
    """Smooth random colour (height, width, 3) in -1..1, `cells` patches along each side."""
    grid = (rng.random_sample((cells + 1, cells + 1, 3)) * 2 - 1).astype(np.float32)
    rows, row_part = _cell_positions(height, cells)
    cols, col_part = _cell_positions(width, cells)
    down = row_part[:, None, None]
    lines = grid[rows] * (1 - down) + grid[rows + 1] * down  # (height, cells + 1, 3)
    across = col_part[None, :, None]
    noise = lines[:, cols] * (1 - across) + lines[:, cols + 1] * across
    return noise.astype(np.float32, copy=False)


def _cell_positions(length: int, cells: int) -> tuple[NDArray[np.int64], Floats]:
    """Cell index and place within the cell (0..1) of each pixel along one side."""
    position = (np.arange(length) * cells) / np.float64(length)
    index = position.astype(np.int64)
    return index, (position - index).astype(np.float32)
