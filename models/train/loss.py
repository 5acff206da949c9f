"""What TinyDet is trained against: task-aligned assignment, then GIoU and cross entropy.

The assignment follows TOOD (Feng et al., 2021): an object gets the cells that already score
and fit best for it, and the wanted score of such a cell is how well its box fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

_CANDIDATES: Final = 10
"""Cells an object may get."""
_SCORE_POWER: Final = 0.5
_FIT_POWER: Final = 6.0
_MIN_HALF_SIDE: Final = 6.0
"""Pixels: an object smaller than a cell still has a cell centre within this reach."""
_BOX_WEIGHT: Final = 7.5
_CLASS_WEIGHT: Final = 0.5


@dataclass(frozen=True)
class Truth:
    """Objects of a batch, padded to the same number m."""

    boxes: Tensor  # (n, m, 4) x1, y1, x2, y2 in input pixels
    classes: Tensor  # (n, m) int64
    real: Tensor  # (n, m) bool, False where padded

    def to(self, device: torch.device) -> Truth:
        """The same on a device."""
        return Truth(self.boxes.to(device), self.classes.to(device), self.real.to(device))


@dataclass(frozen=True)
class Losses:
    """Both parts, and their weighted sum to minimise."""

    box: Tensor
    cls: Tensor

    @property
    def total(self) -> Tensor:
        """The number that is minimised."""
        return _BOX_WEIGHT * self.box + _CLASS_WEIGHT * self.cls


def to_corners(distances: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Distance logits (n, 4, anchors) -> boxes (n, anchors, 4) as x1, y1, x2, y2 in pixels."""
    sides = functional.softplus(distances) * strides
    corners = torch.cat([centres - sides[:, :2], centres + sides[:, 2:]], dim=1)
    return corners.transpose(1, 2)


def overlap(a: Tensor, b: Tensor, *, generalized: bool = False) -> Tensor:
    """IoU (or GIoU) of boxes (..., 4) against (..., 4), broadcast."""
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    inner = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    shared = inner.clamp(min=0).prod(dim=-1)
    union = area_a + area_b - shared + 1e-6
    iou = shared / union
    if not generalized:
        return iou
    outer = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    hull = outer.prod(dim=-1) + 1e-6
    return iou - (hull - union) / hull


def assign(scores: Tensor, boxes: Tensor, centres: Tensor, truth: Truth) -> tuple[Tensor, Tensor]:
    """Give cells to objects.

    scores (n, anchors, classes) and boxes (n, anchors, 4) are predictions, centres (anchors, 2).
    Returns the object's number for each cell (n, anchors), and the wanted score of each cell
    (n, anchors), 0 where the cell has no object.
    """
    n, m = truth.classes.shape
    fit = overlap(truth.boxes[:, :, None], boxes[:, None])  # (n, m, anchors)
    by_class = truth.classes[:, :, None].expand(n, m, scores.shape[1])
    own_score = scores.transpose(1, 2).gather(1, by_class)  # (n, m, anchors)
    allowed = _near(centres, truth.boxes) & truth.real[:, :, None]
    metric = own_score.pow(_SCORE_POWER) * fit.pow(_FIT_POWER) + 1e-9
    metric = metric * allowed

    top = metric.topk(_CANDIDATES, dim=2).indices
    chosen = torch.zeros_like(allowed).scatter_(2, top, torch.ones_like(top, dtype=torch.bool))
    chosen &= allowed
    fit_if_chosen = fit.masked_fill(~chosen, -1.0)
    best_fit, owner = fit_if_chosen.max(dim=1)  # a cell wanted twice goes to the better fit
    taken = best_fit >= 0

    mine = functional.one_hot(owner, m).transpose(1, 2).bool() & taken[:, None]  # (n, m, anchors)
    metric = metric * mine
    scale = (fit * mine).amax(dim=2, keepdim=True) / metric.amax(dim=2, keepdim=True).clamp(1e-9)
    return owner, (metric * scale).amax(dim=1)


def _near(centres: Tensor, boxes: Tensor) -> Tensor:
    """Which cell centres lie in each box (n, m, anchors), small boxes being widened."""
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = ((boxes[..., 2:] - boxes[..., :2]) / 2).clamp(min=_MIN_HALF_SIDE)
    away = (centres[None, None] - middle[:, :, None]).abs()  # (n, m, anchors, 2)
    return (away < half[:, :, None]).all(dim=-1)


def detection_loss(
    distances: Tensor, logits: Tensor, centres: Tensor, strides: Tensor, truth: Truth
) -> Losses:
    """Loss of one batch.

    distances (n, 4, anchors), logits (n, classes, anchors), centres (1, 2, anchors),
    strides (1, 1, anchors).
    """
    boxes = to_corners(distances, centres, strides)
    logits = logits.transpose(1, 2)  # (n, anchors, classes)
    with torch.no_grad():
        owner, wanted = assign(logits.sigmoid(), boxes, centres[0].T, truth)
    taken = wanted > 0
    total = wanted.sum().clamp(min=1)

    target = torch.zeros_like(logits)
    owner_class = truth.classes.gather(1, owner)
    target.scatter_(2, owner_class[..., None], wanted[..., None])
    class_loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")

    goal = truth.boxes.gather(1, owner[..., None].expand(-1, -1, 4))
    misfit = 1 - overlap(boxes[taken], goal[taken], generalized=True)
    return Losses(box=(misfit * wanted[taken]).sum() / total, cls=class_loss / total)
