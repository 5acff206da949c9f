"""How far one network's outputs are from another's: what a student learns from its teacher.

Scores are compared as probabilities softened by a temperature, and the loss is scaled by its
square so that its gradients keep their size (Hinton et al., 'Distilling the Knowledge in a
Neural Network', 2015). Boxes count as much as the teacher is sure that an object is there.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from models.train.loss import overlap

_BOX_WEIGHT: Final = 7.5
_CLASS_WEIGHT: Final = 0.5
"""As in the loss against labels, models.train.loss."""
_EPSILON: Final = 1e-6


def soft_scores(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross entropy of each softened probability, in excess of the teacher's own; any shape."""
    wanted = (_logit(teacher) / temperature).sigmoid()
    own = functional.binary_cross_entropy(wanted, wanted, reduction="none")
    each = functional.binary_cross_entropy_with_logits(
        _logit(student) / temperature, wanted, reduction="none"
    )
    return (each - own) * temperature**2


def soft_detection(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The number to minimise for outputs (n, 4 + classes, anchors) of both."""
    sure = teacher[:, 4:].amax(dim=1)  # (n, anchors)
    total = sure.sum().clamp(min=1)
    misfit = 1 - overlap(_corners(student), _corners(teacher), generalized=True)
    scores = soft_scores(student[:, 4:], teacher[:, 4:], temperature).sum()
    return (_BOX_WEIGHT * (misfit * sure).sum() + _CLASS_WEIGHT * scores) / total


def soft_segmentation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The number to minimise for probabilities (n, classes, h, w) of both."""
    return soft_scores(student, teacher, temperature).mean()


def _logit(probabilities: Tensor) -> Tensor:
    return torch.logit(probabilities.float(), eps=_EPSILON)


def _corners(output: Tensor) -> Tensor:
    """cx, cy, w, h as x1, y1, x2, y2: (n, 4 + classes, anchors) -> (n, anchors, 4)."""
    centre, half = output[:, :2], output[:, 2:4] / 2
    return torch.cat([centre - half, centre + half], dim=1).transpose(1, 2)
