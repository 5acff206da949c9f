"""Made-up sets with made-up detections, for figures over many images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from agent.wire import Detection
from models.data import Box, DetectionSet, LabelledImage

SIDE = 220


def detected(
    images: int, classes: int, seed: int, *, levels: int | None = None, boxes: int = 40
) -> tuple[DetectionSet, dict[str, tuple[Detection, ...]]]:
    """Images of a few objects, some to be ignored, and detections that are right now and then.

    With `levels`, scores take so many values only, as those of an INT8 model do.
    """
    rng = np.random.default_rng(seed)
    names = tuple(f"c{index}" for index in range(classes))
    truth, found = [], {}
    for number in range(images):
        objects = tuple(_object(rng, classes) for _ in range(rng.integers(0, 7)))
        truth.append(LabelledImage(f"{number:04d}", Path("none"), SIDE, SIDE, objects))
        near = [_near(rng, box, classes) for box in objects for _ in range(rng.integers(0, 3))]
        other = [(_object(rng, classes), rng.uniform(0, 0.4)) for _ in range(boxes)]
        rows = [(box, score if levels is None else round(score * levels) / levels)
                for box, score in near + other]  # fmt: skip
        found[f"{number:04d}"] = tuple(
            Detection(box.x1, box.y1, box.x2, box.y2, round(score, 6), box.class_index)
            for box, score in sorted(rows, key=lambda row: -row[1])
        )
    return DetectionSet("made-up/val", names, tuple(truth)), found


def _object(rng: np.random.Generator, classes: int) -> Box:
    x, y = rng.uniform(0, 150, 2).tolist()
    w, h = rng.uniform(10, 60, 2).tolist()
    return Box(x, y, x + w, y + h, int(rng.integers(classes)), ignore=bool(rng.random() < 0.1))


def _near(rng: np.random.Generator, box: Box, classes: int) -> tuple[Box, float]:
    a, b, c, d = rng.normal(0, 4, 4).tolist()
    index = box.class_index if rng.random() < 0.9 else int(rng.integers(classes))
    x1, y1 = box.x1 + a, box.y1 + b
    moved = Box(x1, y1, max(x1 + 1, box.x2 + c), max(y1 + 1, box.y2 + d), index)
    return moved, float(rng.uniform(0.1, 1))
