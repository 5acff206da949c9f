"""Small networks and sets of drawn images that trainings are tested on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from models.data import DataSpec
from models.data.draw import CLASS_NAMES
from models.data.shapes import write_shapes
from models.data.training import training_spec
from models.nets.arch import Arch
from models.nets.net import Net, build_net
from models.spec import TrainingSpec

SIDE: Final = 64
FAMILIES: Final[dict[str, dict[str, Any]]] = {
    "tinydet": {"num_classes": 6},
    "yolov3-tiny": {
        "num_classes": 6, "width": 0.125, "activation": "leaky_relu", "anchor_scale": 0.15
    },
    "unet": {"num_classes": 1, "width": 0.25},
}  # fmt: skip


def drawn_shapes(root: Path) -> TrainingSpec:
    """A folder of a few drawn images with boxes, as VOC lays them out."""
    write_shapes(root, {"train": 12, "val": 4})
    val = DataSpec(str(root), "voc", "val")
    return training_spec(DataSpec(str(root), "voc", "train"), val, None, root.parent)


def network(family: str, seed: int = 0, **changed: Any) -> Net:
    """An untrained network of ours."""
    names = CLASS_NAMES if family != "unet" else ("blob",)
    options = {**FAMILIES[family], **changed}
    arch = Arch(family=family, options=options, imgsz_px=SIDE, class_names=names)
    return build_net(arch, seed)


def quiet(_text: str) -> None:
    """A log that nobody reads."""
