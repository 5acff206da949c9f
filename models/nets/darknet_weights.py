"""Darknet's `.weights` files: a header, then each convolution's numbers as float32.

Layout: `load_weights_upto` in https://github.com/pjreddie/darknet/blob/master/src/parser.c
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from models.errors import ModelUnreadable

_VERSION: Final = struct.Struct("<iii")  # major, minor, revision
_LONG_COUNTER_SINCE: Final = (0, 2)
_SANE_VERSION: Final = 1000


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill a network that has `darknet_order`, in place; raises ModelUnreadable.

    The file must have exactly the numbers that the network has: a file of another network,
    another number of classes or a cut one is refused before anything is changed.
    """
    numbers = _read(path)
    targets = [target for part in module.darknet_order() for target in _targets(part)]
    needed = sum(target.numel() for target in targets)
    if numbers.size != needed:
        raise ModelUnreadable(
            f"{path}: holds {numbers.size} numbers and this network has {needed}; check the "
            "model, `num_classes` and `width` against the .cfg that the file was trained with"
        )
    if not np.isfinite(numbers).all():
        raise ModelUnreadable(f"{path}: holds numbers that are not finite; the file is corrupt")
    at = 0
    for target in targets:
        count = target.numel()
        with torch.no_grad():
            target.copy_(torch.from_numpy(numbers[at : at + count]).view(target.shape))
        at += count


def _read(path: Path) -> np.ndarray:
    """Every number after the header; raises ModelUnreadable."""
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ModelUnreadable(f"{path}: {exc.strerror or exc}") from exc
    if len(data) < _VERSION.size:
        raise ModelUnreadable(f"{path}: {len(data)} bytes are no Darknet weights file")
    major, minor, _revision = _VERSION.unpack_from(data)
    if not 0 <= major < _SANE_VERSION or not 0 <= minor < _SANE_VERSION:
        raise ModelUnreadable(f"{path}: not a Darknet weights file: version {major}.{minor}")
    # The count of images seen, 8 bytes since version 0.2 and 4 before.
    start = _VERSION.size + (8 if (major, minor) >= _LONG_COUNTER_SINCE else 4)
    if len(data) < start or (len(data) - start) % 4:
        raise ModelUnreadable(f"{path}: {len(data)} bytes are no whole number of weights; cut off?")
    return np.frombuffer(data, dtype="<f4", offset=start).astype(np.float32)


def _targets(part: nn.Module) -> Iterator[Tensor]:
    """The tensors of a part's convolutions in the file's order.

    With batch norm: its bias, weight, mean and variance, then the convolution's weight.
    Without: the convolution's bias and weight.
    """
    layers = [m for m in part.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.BatchNorm2d):
            continue
        if isinstance(following, nn.BatchNorm2d):
            yield from (following.bias, following.weight)
            yield from (following.running_mean, following.running_var)
        else:
            yield layer.bias
        yield layer.weight
