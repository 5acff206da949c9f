"""TinyDet as an ONNX file with what a reader must know in its metadata."""

from __future__ import annotations

import json
import platform
import warnings
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import onnx
import torch

from models.nets.tinydet import TinyDet, count_parameters

OPSET: Final = 17
LICENCE: Final = "Apache-2.0"
_TOOLS: Final = ("torch", "onnx", "numpy", "pillow")


@dataclass(frozen=True)
class Training:
    """All that decides what training gives."""

    train_images: int
    epochs: int
    schedule_epochs: int
    """For how many epochs the learning rate's descent is laid out; `epochs` may be fewer."""
    seed: int
    bfloat16: bool


def export_onnx(net: TinyDet, path: Path, class_names: tuple[str, ...], training: Training) -> None:
    """Write a network in eval mode (batch norms are folded) for one image of a fixed size.

    Input `images` (1, 3, imgsz, imgsz) in 0..1, output `output` (1, 4 + classes, anchors).
    The file appears whole or not at all.
    """
    whole = path.with_suffix(".onnx.tmp")
    with warnings.catch_warnings():
        # The older exporter is deprecated, but only it names nodes by module: /decode/...
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            net.eval(),
            (torch.zeros(1, 3, net.imgsz, net.imgsz),),
            str(whole),
            input_names=["images"],
            output_names=["output"],
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(whole))
    entries = {
        "task": "detect",
        "names": json.dumps(class_names),
        "imgsz": str(net.imgsz),
        "dataset": "shapes",
        "licence": LICENCE,
        "parameters": str(count_parameters(net)),
        "training": json.dumps(asdict(training)),
        "tools": json.dumps(_versions()),
    }
    onnx.helper.set_model_props(model, entries)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(whole))
    whole.replace(path)


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _TOOLS}}
