"""What a teacher finds in a batch, as objects to learn: for a student whose outputs differ.

Where outputs have one shape they are compared one by one (models.train.soft). Where grids and
anchors differ, what both have in common are objects: those that the teacher is sure of are learned
beside the labels, as Chen et al. do for boxes ('Learning Efficient Object Detection Models with
Knowledge Distillation', 2017), with hard scores, so that no temperature applies.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from models.train.loss import Truth

_SURE: Final = 0.25
"""As ultralytics shows detections: what scores less is mostly nothing."""
_SAME_OBJECT: Final = 0.6
_MOST: Final = 100
"""Objects an image may have, as in COCO's metrics."""


def objects_in(outputs: Tensor) -> Truth:
    """Outputs (n, 4 + classes, anchors), boxes as cx, cy, w, h in pixels -> sure objects."""
    found = [_of_one(image) for image in outputs.float()]
    count = max(1, *(len(classes) for _, classes in found))
    device = outputs.device
    boxes = torch.zeros(len(found), count, 4, device=device)
    classes = torch.zeros(len(found), count, dtype=torch.int64, device=device)
    real = torch.zeros(len(found), count, dtype=torch.bool, device=device)
    for at, (corners, kinds) in enumerate(found):
        boxes[at, : len(kinds)], classes[at, : len(kinds)] = corners, kinds
        real[at, : len(kinds)] = True
    return Truth(boxes, classes, real)


def _of_one(output: Tensor) -> tuple[Tensor, Tensor]:
    """(4 + classes, anchors) -> boxes (k, 4) as corners and classes (k,), the surest first."""
    scores, classes = output[4:].max(dim=0)
    sure = scores > _SURE
    scores, classes = scores[sure], classes[sure]
    boxes = box_convert(output[:4, sure].T, "cxcywh", "xyxy")
    kept = batched_nms(boxes, scores, classes, _SAME_OBJECT)[:_MOST]
    return boxes[kept], classes[kept]
