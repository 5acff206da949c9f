"""The networks that can be built, and the changes that can be made to their structure.

Tables of names only: importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Task = Literal["detect", "segment"]


@dataclass(frozen=True)
class Family:
    """A kind of network.

    `module` has `build(arch) -> nn.Module` and `sections(arch) -> dict[str, tuple[str, ...]]`,
    the beginnings of module names by section. `options` are those it knows, with their defaults.
    Nobody names a `described` family: its networks come from a description of someone else's.
    Input sizes are multiples of `multiple_px`.
    A module may have `for_inference(module)`, which simplifies a network before its export, and
    `min_opset(arch)`, the lowest version of ONNX that it can be exported to.
    """

    name: str
    module: str
    task: Task
    imgsz_px: int
    options: Mapping[str, Any] = field(default_factory=dict)
    described: bool = False
    multiple_px: int = 32


_DARKNET: Final = {
    "num_classes": 80,
    "width": 1.0,
    "activation": "leaky_relu",
    "anchor_scale": 1.0,
}
"""As Darknet's own files; `anchor_scale` fits the anchors, made for 416 px, to another size."""
_UNET: Final = {"num_classes": 1, "width": 1.0}
_VARIANTS: Final = ("dilated", "lite", "group", "shuffle", "fire", "separable", "deform")
_UNETS: Final = ("unet", *(f"unet-{variant}" for variant in _VARIANTS))

FAMILIES: Final[Mapping[str, Family]] = {
    family.name: family
    for family in (
        Family("tinydet", "models.nets.tinydet", "detect", 160, {"num_classes": 6}),
        Family("yolov3", "models.nets.darknet", "detect", 416, _DARKNET),
        Family("yolov3-tiny", "models.nets.darknet", "detect", 416, _DARKNET),
        *(
            Family(name, "models.nets.unet", "segment", 256, _UNET, multiple_px=8)
            for name in _UNETS
        ),
        Family("ultralytics", "models.nets.ultra", "detect", 640, described=True),
    )
}

EDITS: Final[Mapping[str, str]] = {
    kind: f"models.nets.edits.{kind}"
    for kind in (
        "one_branch",
        "merge_branches",
        "fuse_bn",
        "fake_quant",
        "split_chunks",
        "low_rank",
        "activation",
        "convolutions",
    )
}
"""Kind of edit -> the module that has `apply(module: nn.Module, params: dict) -> None`."""
