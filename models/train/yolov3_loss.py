"""What the original YOLOv3 is trained against, on its raw maps.

After Redmon and Farhadi, 'YOLOv3: An Incremental Improvement' (arXiv 1804.02767): an object
belongs to anchors whose shape fits it, in the cell that holds its centre; anchors that overlap
an object by more than half without being its own are not punished for their objectness; classes
are independent. Two later changes make it converge in far fewer epochs: an object gets every
anchor that fits well, not the best alone (YOLOv4, arXiv 2004.10934, section 3.4), and boxes are
learned by GIoU (arXiv 1902.09630) instead of squared differences.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from models.nets.darknet_decode import BOX_NUMBERS, Decode
from models.train.loss import Truth, overlap

_IGNORED_OVERLAP: Final = 0.5
_SHARED_FIT: Final = 0.35
"""IoU of shapes from which an anchor that is not the best belongs to an object too."""
_BOX_WEIGHT: Final = 5.0
_MAX_LOG_SIZE: Final = 8.0
"""exp() of a larger number, times an anchor, is beyond any image."""


def yolov3_loss(decode: Decode, maps: list[Tensor], truth: Truth) -> Tensor:
    """The number to minimise for the maps of a batch, (n, 3 * (5 + classes), h, w) a scale."""
    joined = decode.join([each.float() for each in maps])  # (n, 5 + classes, anchors)
    boxes = _boxes(decode, joined)  # (n, anchors, 4)
    objectness = joined[:, BOX_NUMBERS - 1]  # (n, anchors)
    image, anchor, number = owners(decode, truth)
    goals = truth.boxes[image, number]  # (k, 4)
    count = max(1, len(image))

    with torch.no_grad():
        fit = overlap(truth.boxes[:, :, None], boxes[:, None])  # (n, m, anchors)
        best = fit.masked_fill(~truth.real[:, :, None], 0.0).amax(dim=1)
        counted = best <= _IGNORED_OVERLAP
        wanted = torch.zeros_like(objectness)
        counted[image, anchor], wanted[image, anchor] = True, 1.0
    object_loss = functional.binary_cross_entropy_with_logits(
        objectness[counted], wanted[counted], reduction="sum"
    )
    misfit = 1 - overlap(boxes[image, anchor], goals, generalized=True)
    logits = joined[image, BOX_NUMBERS:, anchor]  # (k, classes)
    classes = functional.one_hot(truth.classes[image, number], logits.shape[1])
    class_loss = functional.binary_cross_entropy_with_logits(
        logits, classes.to(logits.dtype), reduction="sum"
    )
    return (_BOX_WEIGHT * misfit.sum() + object_loss + class_loss) / count


def owners(decode: Decode, truth: Truth) -> tuple[Tensor, Tensor, Tensor]:
    """Which anchors each object belongs to: image, anchor and object numbers, (k,) each.

    Of two objects with the same anchor and cell the one whose shape fits better keeps it.
    """
    image, number = truth.real.nonzero(as_tuple=True)
    boxes = truth.boxes[image, number]
    fit = shape_fit(boxes[:, 2:] - boxes[:, :2], decode.anchors.reshape(-1, 2))
    wanted = (fit >= _SHARED_FIT) | (fit == fit.amax(dim=1, keepdim=True))
    which, shape = wanted.nonzero(as_tuple=True)
    best_last = fit[which, shape].argsort(stable=True)
    which, shape = which[best_last], shape[best_last]

    per_cell = decode.anchors.shape[1]
    scale, within = shape // per_cell, shape % per_cell
    sides = torch.tensor(decode.sides, device=boxes.device)
    cells = per_cell * sides.square()
    starts = cells.cumsum(0) - cells
    stride, side = decode.cells[0, 0, starts][scale], sides[scale]
    centre = (boxes[:, :2] + boxes[:, 2:])[which] / 2 / stride[:, None]
    x, y = centre.long().clamp(min=0).minimum((side - 1)[:, None]).unbind(dim=1)
    anchor = starts[scale] + within * side.square() + y * side + x
    places = (image[which] * int(cells.sum()) + anchor).tolist()
    last = {place: at for at, place in enumerate(places)}
    kept = torch.tensor(list(last.values()), dtype=torch.int64, device=boxes.device)
    return image[which][kept], anchor[kept], number[which][kept]


def shape_fit(sizes: Tensor, shapes: Tensor) -> Tensor:
    """IoU of widths and heights (k, 2) with (m, 2) as if their centres were one: (k, m)."""
    shared = torch.minimum(sizes[:, None], shapes[None]).prod(dim=2)
    return shared / (sizes.prod(dim=1)[:, None] + shapes.prod(dim=1)[None] - shared)


def _boxes(decode: Decode, joined: Tensor) -> Tensor:
    """x1, y1, x2, y2 in input pixels of every anchor, (n, anchors, 4)."""
    xy, wh = joined[:, :2], joined[:, 2:4]
    centres = (xy.sigmoid() + decode.corners) * decode.cells
    halves = wh.clamp(max=_MAX_LOG_SIZE).exp() * decode.sizes / 2
    return torch.cat([centres - halves, centres + halves], dim=1).transpose(1, 2)
