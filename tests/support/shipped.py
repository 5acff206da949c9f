"""The shipped detector as a network that can be changed and trained."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import msgspec
import onnx
import torch
from onnx import numpy_helper
from support.compress import network

from models import zoo
from models.data.draw import CLASS_NAMES
from models.nets.net import Net
from models.steps.edits import fuse


def shipped() -> Net:
    """The shipped detector as a network, its batch norms folded as they are in its file."""
    net = network("tinydet", side=160)
    net.arch = msgspec.structs.replace(net.arch, class_names=CLASS_NAMES, trained=True)
    fuse(net)
    graph = onnx.load(str(zoo.SHIPPED["tinydet"])).graph
    tensors = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in graph.initializer}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        parts = PurePosixPath(node.name).parts[1:-1]  # a/a.0 is the member 0 of a
        inner = [
            a for a, b in zip(parts, (*parts[1:], ""), strict=True) if not b.startswith(f"{a}.")
        ]
        layer: Any = net.module.get_submodule(".".join(inner))
        with torch.no_grad():
            layer.weight.copy_(tensors[node.input[1]])
            layer.bias.copy_(tensors[node.input[2]])
    return net
