"""Detectors by ultralytics as networks of ours: built from their yaml, with their module names.

Needs ultralytics (AGPL-3.0), which is imported when a network is built and not before.
"""

from __future__ import annotations

import copy
import importlib
import os
from typing import Any, Final

from torch import nn

from models.nets.arch import Arch
from models.nets.ultra_yaml import section_layers

_SETTINGS: Final = {
    # Nothing is ever installed, and a description or a .pt file is data, not a program.
    "YOLO_AUTOINSTALL": "false",
    "ULTRALYTICS_SAFE_LOAD": "1",
}


def library(module: str) -> Any:
    """A module of ultralytics, imported under our settings; raises ImportError."""
    os.environ.update(_SETTINGS)
    return importlib.import_module(f"ultralytics.{module}")


def build(arch: Arch) -> nn.Module:
    """The network of a description; raises ValueError, or what ultralytics raises.

    Eval mode gives (n, 4 + classes, anchors) alone, as its exporter sets it up: heads that
    also have a one-to-one branch (v10, 26) give their one-to-many branch. Training mode gives
    the raw maps that its losses take.
    """
    tasks = library("nn.tasks")
    if not tasks.SAFE_LOAD:
        raise ValueError("ultralytics was imported without ULTRALYTICS_SAFE_LOAD=1; set it")
    module: Any = tasks.DetectionModel(copy.deepcopy(arch.options["yaml"]), verbose=False)
    largest = int(module.stride.max())
    if arch.imgsz_px % largest:
        raise ValueError(f"imgsz is {arch.imgsz_px}; it must be a multiple of {largest}")
    if len(arch.class_names) == module.model[-1].nc:
        module.names = dict(enumerate(arch.class_names))
    module.end2end = False
    module.model[-1].export = True
    built: nn.Module = module
    return built


def sections(arch: Arch) -> dict[str, tuple[str, ...]]:
    """Beginnings of module names by section: the yaml's backbone, its head's layers, the last."""
    return {
        section: tuple(f"model.{index}" for index in layers)
        for section, layers in section_layers(arch.options["yaml"]).items()
    }


def for_inference(module: nn.Module) -> nn.Module:
    """The network as it is exported, changed in place: parallel branches merged into one.

    Reparameterized convolutions (v9, v10) become one each, batch norms are folded, the branch
    of the head that gives nothing goes.
    """
    fused: nn.Module = module.eval().fuse(verbose=False)
    split = library("nn.modules").C2f
    for layer in fused.modules():
        if isinstance(layer, split) and layer.cv1.conv.out_channels == 2 * layer.c:
            layer.forward = layer.forward_split  # one node of the exported graph instead of two
    return fused
