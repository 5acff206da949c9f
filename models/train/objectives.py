"""Each family's objective: what its network gives before decoding, and how wrong that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.errors import BuildFailed
from models.nets.registry import FAMILIES
from models.train.loss import Truth, detection_loss
from models.train.yolov3_loss import yolov3_loss

IGNORED: Final = 255
"""A label that is neither rewarded nor punished: padding, or marked so by whoever labelled."""
_SMOOTH: Final = 1.0


class Objective(Protocol):
    """How networks of a family learn. The module is of the family, whatever was done to it."""

    def raw(self, module: nn.Module, images: Tensor) -> Any:
        """(n, 3, s, s) in 0..1 -> what is there before it is decoded."""

    def loss(self, module: nn.Module, raw: Any, truth: Any) -> Tensor:
        """The number to minimise."""

    def outputs(self, module: nn.Module, raw: Any) -> Tensor:
        """What the network gives in eval mode."""


class _TinyDet:
    def raw(self, module: Any, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(box.float(), cls.float()) for box, cls in module.levels(images)]

    def loss(self, module: Any, raw: list[tuple[Tensor, Tensor]], truth: Truth) -> Tensor:
        decode = module.decode
        distances, logits = decode.join(raw)
        return detection_loss(distances, logits, decode.centres, decode.strides, truth).total

    def outputs(self, module: Any, raw: list[tuple[Tensor, Tensor]]) -> Tensor:
        out: Tensor = module.decode(raw)
        return out


class _Yolo3:
    def raw(self, module: Any, images: Tensor) -> list[Tensor]:
        return [each.float() for each in module.maps(images)]

    def loss(self, module: Any, raw: list[Tensor], truth: Truth) -> Tensor:
        return yolov3_loss(module.decode, raw, truth)

    def outputs(self, module: Any, raw: list[Tensor]) -> Tensor:
        out: Tensor = module.decode(raw)
        return out


class _Segmenter:
    """Networks with `logits`, (n, classes, s, s)."""

    def raw(self, module: Any, images: Tensor) -> Tensor:
        logits: Tensor = module.logits(images).float()
        return logits

    def loss(self, _module: nn.Module, raw: Tensor, truth: Tensor) -> Tensor:
        return segmentation_loss(raw, truth)

    def outputs(self, _module: nn.Module, raw: Tensor) -> Tensor:
        return raw.sigmoid()


_DETECTORS: Final[Mapping[str, Objective]] = {
    "tinydet": _TinyDet(),
    "yolov3": _Yolo3(),
    "yolov3-tiny": _Yolo3(),
}


def objective_of(family: str) -> Objective:
    """How networks of a family of ours learn; raises BuildFailed for others."""
    if FAMILIES[family].task == "segment":
        return _Segmenter()
    if family not in _DETECTORS:
        raise BuildFailed(f"{family}: no training is known for this network")
    return _DETECTORS[family]


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross entropy plus one minus the soft Dice coefficient of each image and class.

    logits (n, classes, h, w), labels (n, h, w): 0 for none, 1 + class, or IGNORED. Both parts
    are needed: cross entropy is smooth, Dice keeps few pixels of a class from being given up.
    """
    wanted = truth_maps(labels, logits.shape[1])
    counted = (labels != IGNORED)[:, None].to(logits.dtype)  # (n, 1, h, w)
    each = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    cross_entropy = (each * counted).sum() / (counted.sum() * logits.shape[1]).clamp(min=1)
    found = logits.sigmoid() * counted
    shared = (found * wanted).sum(dim=(2, 3))
    dice = (2 * shared + _SMOOTH) / (found.sum((2, 3)) + wanted.sum((2, 3)) + _SMOOTH)
    return cross_entropy + 1 - dice.mean()


def truth_maps(labels: Tensor, classes: int) -> Tensor:
    """(n, h, w) -> (n, classes, h, w) of 0 and 1."""
    numbers = torch.arange(1, classes + 1, device=labels.device)[None, :, None, None]
    return (labels[:, None] == numbers).float()
