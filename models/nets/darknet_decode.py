"""From YOLOv3's raw maps to boxes in pixels and scores: everything after the last convolution."""

# mypy: allow-subclassing-any
# mypy does not follow torch (see pyproject.toml), so nn.Module is Any to it.

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

BOX_NUMBERS: Final = 5
"""x, y, w, h and objectness, before the classes."""


class Decode(nn.Module):
    """Maps of all scales -> one tensor (n, 4 + classes, anchors)."""

    anchors: Tensor  # (scales, per cell, 2) widths and heights in input pixels
    corners: Tensor  # (1, 2, all anchors) x and y of each cell's corner, in cells
    cells: Tensor  # (1, 1, all anchors) the width of a cell in input pixels
    sizes: Tensor  # (1, 2, all anchors) width and height of each anchor in input pixels

    def __init__(
        self, num_classes: int, anchors: Tensor, strides: tuple[int, ...], imgsz: int
    ) -> None:
        super().__init__()
        if imgsz % strides[-1]:
            raise ValueError(f"imgsz is {imgsz}; it must be a multiple of {strides[-1]}")
        self.num_classes = num_classes
        self.sides = tuple(imgsz // stride for stride in strides)
        self.register_buffer("anchors", anchors, persistent=False)
        corners, cells, sizes = _grids(anchors, strides, self.sides)
        self.register_buffer("corners", corners, persistent=False)
        self.register_buffer("cells", cells, persistent=False)
        self.register_buffer("sizes", sizes, persistent=False)

    def join(self, maps: list[Tensor]) -> Tensor:
        """(n, 3 * (5 + classes), h, w) a scale -> (n, 5 + classes, all anchors).

        The sizes are plain numbers, so that the exported file computes no shapes.
        """
        per_cell, numbers = self.anchors.shape[1], BOX_NUMBERS + self.num_classes
        levels = [
            each.reshape(-1, per_cell, numbers, side * side)
            .transpose(1, 2)
            .reshape(-1, numbers, per_cell * side * side)
            for each, side in zip(maps, self.sides, strict=True)
        ]
        return torch.cat(levels, dim=2)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Rows 0..3 are cx, cy, w, h in input pixels, the others objectness times class, 0..1."""
        xy, wh, objectness, classes = self.join(maps).split((2, 2, 1, self.num_classes), dim=1)
        centres = (xy.sigmoid() + self.corners) * self.cells
        scores = objectness.sigmoid() * classes.sigmoid()
        return torch.cat([centres, wh.exp() * self.sizes, scores], dim=1)


def _grids(
    anchors: Tensor, strides: tuple[int, ...], sides: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Corners, cell widths and anchor sizes: scale by scale, anchor by anchor, row by row."""
    per_cell = anchors.shape[1]
    corners, cells, sizes = [], [], []
    for scale, (stride, side) in enumerate(zip(strides, sides, strict=True)):
        at = torch.arange(side, dtype=torch.float32)
        y, x = torch.meshgrid(at, at, indexing="ij")
        corners.append(torch.stack([x.flatten(), y.flatten()]).repeat(1, per_cell))
        cells.append(torch.full((1, per_cell * side * side), float(stride)))
        sizes.append(anchors[scale].T.repeat_interleave(side * side, dim=1))
    return torch.cat(corners, 1)[None], torch.cat(cells, 1)[None], torch.cat(sizes, 1)[None]
