"""Our training images behind ultralytics' own augmentation (mosaic, colours, flips)."""

# mypy: allow-subclassing-any
# mypy does not follow ultralytics (see pyproject.toml), so its classes are Any to it.

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from ultralytics.data.dataset import YOLODataset

from models.train.detecting import DetectionData


class Pictures(YOLODataset):
    """Letterboxed images and their labels; no file is scanned, cached or changed."""

    def __init__(self, ours: DetectionData, side: int, count: int, **options: Any) -> None:
        self._ours = ours
        self._side = side
        self._count = count
        super().__init__(img_path="", imgsz=side, task="detect", **options)
        if self.augment:
            self.buffer = list(range(count))  # what a mosaic is drawn from

    def get_img_files(self, _img_path: Any) -> list[str]:
        """Names that stand for our images."""
        return [f"{index:08d}.png" for index in range(self._count)]

    def get_labels(self) -> list[dict[str, Any]]:
        """Boxes as cx, cy, w, h in shares of the image."""
        return [self._label(index) for index in range(self._count)]

    def _label(self, index: int) -> dict[str, Any]:
        boxes, classes = self._ours.labels(index)
        centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        return {
            "im_file": self.im_files[index],
            "shape": (self._side, self._side),
            "cls": classes.astype(np.float32).reshape(-1, 1),
            "bboxes": (np.concatenate([centre, size], axis=1) / self._side).astype(np.float32),
            "segments": [],
            "keypoints": None,
            "normalized": True,
            "bbox_format": "xywh",
        }

    def load_image(
        self, i: int, rect_mode: bool = True, resize_short: bool = False
    ) -> tuple[NDArray[np.uint8], tuple[int, int], tuple[int, int]]:
        """The image in the order blue, green, red, and its size twice."""
        del rect_mode, resize_short  # ours are square already
        pixels = self._ours.pixels(i)
        size = (self._side, self._side)
        return np.ascontiguousarray(pixels[..., ::-1]), size, size
