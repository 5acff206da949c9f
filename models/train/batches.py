"""Training images in memory and their augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agent.vision import letterbox
from agent.wire import ImagePrep
from models.data.scenes import draw_scene
from models.train.loss import Truth

_MAX_SHIFT: Final = 8
"""Pixels: one cell of the finest scale, so that objects meet every position within a cell."""


_MIN_SIDE: Final = 2
"""Pixels: what a shift leaves of a box must be larger to be kept."""


@dataclass(frozen=True)
class Example:
    """One letterboxed image (s, s, 3) and its boxes (k, 4) in input pixels, classes (k,)."""

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]


def load_example(split: str, index: int, prep: ImagePrep) -> Example:
    """Draw image `index` of the procedural set and letterbox it."""
    scene = draw_scene(split, index)
    pixels, geometry = letterbox(scene.pixels, prep)
    corners = [(b.x1, b.y1, b.x2, b.y2) for b in scene.boxes]
    boxes = np.array(corners, dtype=np.float32).reshape(-1, 4) * geometry.scale
    boxes += np.array([geometry.pad_x, geometry.pad_y] * 2, dtype=np.float32)
    classes = np.array([b.class_index for b in scene.boxes], dtype=np.int64)
    return Example(pixels, boxes.astype(np.float32), classes)


def augment(example: Example, rng: np.random.Generator, pad_value: int) -> Example:
    """One of eight mirrorings, a small shift, other colours."""
    boxes = example.boxes
    side = example.pixels.shape[0]
    flips = [bool(rng.integers(2)) for _ in range(3)]
    pixels = mirrored(example.pixels, flips)
    if flips[0]:
        boxes = boxes[:, [1, 0, 3, 2]]
    if flips[1]:
        boxes = _mirrored_boxes(boxes, side, 0)
    if flips[2]:
        boxes = _mirrored_boxes(boxes, side, 1)
    dx, dy = shift(rng)
    boxes = np.clip(boxes + np.array([dx, dy, dx, dy], dtype=np.float32), 0, side)
    keep = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=side) >= _MIN_SIDE
    pixels = shifted(recoloured(pixels, rng), dx, dy, pad_value)
    return Example(pixels, boxes[keep], example.classes[keep])


def mirrored(pixels: NDArray[np.uint8], flips: list[bool]) -> NDArray[np.uint8]:
    """A square image (s, s, ...) with x and y exchanged, mirrored along x, along y."""
    if flips[0]:
        pixels = pixels.swapaxes(0, 1)
    if flips[1]:
        pixels = pixels[:, ::-1]
    return pixels[::-1] if flips[2] else pixels


def _mirrored_boxes(boxes: NDArray[np.float32], side: int, axis: int) -> NDArray[np.float32]:
    """Boxes of an image mirrored along x (axis 0) or y (axis 1)."""
    out = boxes.copy()
    out[:, axis], out[:, axis + 2] = side - boxes[:, axis + 2], side - boxes[:, axis]
    return out


def shift(rng: np.random.Generator) -> tuple[int, int]:
    """By how many pixels to move an image, right and down."""
    dx, dy = rng.integers(-_MAX_SHIFT, _MAX_SHIFT + 1, size=2)
    return int(dx), int(dy)


def shifted(pixels: NDArray[np.uint8], dx: int, dy: int, fill: int) -> NDArray[np.uint8]:
    """The image moved by (dx, dy); what comes in is `fill`."""
    out = np.full_like(pixels, fill)
    h, w = pixels.shape[:2]
    out[max(0, dy) : h + min(0, dy), max(0, dx) : w + min(0, dx)] = pixels[
        max(0, -dy) : h - max(0, dy), max(0, -dx) : w - max(0, dx)
    ]
    return out


def recoloured(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Channels in another order, contrast and brightness changed."""
    gain, offset = rng.uniform(0.75, 1.25), rng.uniform(-20, 20)
    table = np.clip(np.arange(256) * gain + offset, 0, 255).astype(np.uint8)
    changed: NDArray[np.uint8] = table[pixels[:, :, rng.permutation(3)]]
    return changed


def collate(examples: list[Example]) -> tuple[Tensor, Truth]:
    """Stack examples to (n, 3, s, s) in 0..1 and padded objects."""
    most = max(1, *(len(e.classes) for e in examples))
    boxes = torch.zeros(len(examples), most, 4)
    classes = torch.zeros(len(examples), most, dtype=torch.int64)
    real = torch.zeros(len(examples), most, dtype=torch.bool)
    for i, e in enumerate(examples):
        k = len(e.classes)
        boxes[i, :k] = torch.from_numpy(e.boxes)
        classes[i, :k] = torch.from_numpy(e.classes)
        real[i, :k] = True
    pixels = torch.from_numpy(np.stack([e.pixels for e in examples]))  # (n, s, s, 3)
    return pixels.permute(0, 3, 1, 2).float() / 255, Truth(boxes, classes, real)
