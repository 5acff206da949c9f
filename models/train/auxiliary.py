"""A second head on the backbone, there during training only.

It asks for boxes and classes, or for a mask, early in the network, so that gradients reach the
backbone without the way through neck and head (Lee et al., 'Deeply-Supervised Nets', 2015).
The network itself does not change: it is listened to by hooks, which are removed at the end.
"""

# mypy: allow-subclassing-any
# mypy does not follow torch (see pyproject.toml), so nn.Module is Any to it.

from __future__ import annotations

import importlib
from collections import Counter
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.errors import BuildFailed
from models.nets.net import Net
from models.nets.registry import FAMILIES
from models.nets.tinydet import STRIDES, Decode, Head
from models.train.loss import detection_loss
from models.train.objectives import segmentation_loss

_SECTIONS: Final = ("backbone", "encoder")
"""What families call the part that makes feature maps."""
_MASK_STRIDE: Final = 4
"""A U-Net's encoder has no coarser map."""


class Listener:
    """Keeps what some modules gave in the last forward pass."""

    def __init__(self, modules: dict[int, nn.Module]) -> None:
        self.maps: dict[int, Tensor] = {}
        self._hooks = [
            module.register_forward_hook(lambda _m, _i, out, at=stride: self._keep(at, out))
            for stride, module in modules.items()
        ]

    def _keep(self, stride: int, out: Tensor) -> None:
        self.maps[stride] = out

    def close(self) -> None:
        """Leave the modules as they were."""
        for hook in self._hooks:
            hook.remove()
        self.maps.clear()


class DetectBranch(nn.Module):
    """One simple head a scale, learning as TinyDet's do."""

    def __init__(self, channels: dict[int, int], num_classes: int, imgsz_px: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(channels[stride], num_classes) for stride in STRIDES)
        self.decode = Decode(num_classes, imgsz_px)

    def forward(self, maps: dict[int, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Feature maps by stride -> box and class logits, finest scale first."""
        pairs = zip(self.heads, STRIDES, strict=True)
        return [tuple(each.float() for each in head(maps[stride])) for head, stride in pairs]

    def loss(self, raw: list[tuple[Tensor, Tensor]], truth: Any) -> Tensor:
        """The number to minimise."""
        decode = self.decode
        distances, logits = decode.join(raw)
        return detection_loss(distances, logits, decode.centres, decode.strides, truth).total


class SegmentBranch(nn.Module):
    """A 1x1 convolution, enlarged to the input's size."""

    def __init__(self, channels: int, num_classes: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.output = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: dict[int, Tensor]) -> Tensor:
        """Feature maps by stride -> logits (n, classes, s, s)."""
        logits = self.output(maps[self.stride]).float()
        return functional.interpolate(logits, scale_factor=float(self.stride), mode="bilinear")

    def loss(self, raw: Tensor, truth: Tensor) -> Tensor:
        """The number to minimise."""
        return segmentation_loss(raw, truth)


def attach(net: Net) -> tuple[Listener, nn.Module]:
    """A listener on the backbone's last map of each scale, and a branch that fits.

    Raises BuildFailed where the network has no such maps.
    """
    task = FAMILIES[net.arch.family].task
    strides = STRIDES if task == "detect" else (_MASK_STRIDE,)
    found = feature_maps(net, strides)
    missing = [stride for stride in strides if stride not in found]
    if missing:
        raise BuildFailed(
            f"aux: {net.arch.family} has no backbone map at strides {missing}: "
            "train it without the auxiliary branch (aux: 0)"
        )
    listener = Listener({stride: module for stride, (module, _) in found.items()})
    channels = {stride: width for stride, (_, width) in found.items()}
    classes = len(net.arch.class_names)
    if task == "detect":
        return listener, DetectBranch(channels, classes, net.arch.imgsz_px)
    return listener, SegmentBranch(channels[_MASK_STRIDE], classes, _MASK_STRIDE)


def feature_maps(net: Net, strides: tuple[int, ...]) -> dict[int, tuple[nn.Module, int]]:
    """Of each stride the module of the backbone that gives its last map, and the map's channels.

    Found by one pass of a blank image. Of nested modules the outermost ends last. Modules that
    are run twice, such as an activation that many layers share, tell nothing of a place.
    """
    sections = importlib.import_module(FAMILIES[net.arch.family].module).sections(net.arch)
    prefixes = next((sections[name] for name in _SECTIONS if name in sections), ())
    side = net.arch.imgsz_px
    seen: list[tuple[int, nn.Module, int]] = []

    def note(module: nn.Module, _given: Any, out: Any) -> None:
        if isinstance(out, Tensor) and out.ndim == 4 and side % out.shape[2] == 0:  # noqa: PLR2004
            seen.append((side // out.shape[2], module, out.shape[1]))

    inside = [
        module
        for name, module in net.module.named_modules()
        if name and any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)
    ]
    hooks = [module.register_forward_hook(note) for module in inside]
    training = net.module.training
    try:
        with torch.no_grad():
            net.module.eval()(torch.zeros(1, 3, side, side))
    finally:
        for hook in hooks:
            hook.remove()
        net.module.train(training)
    runs = Counter(id(module) for _, module, _ in seen)
    return {
        stride: (module, channels)
        for stride, module, channels in seen
        if stride in strides and runs[id(module)] == 1
    }
