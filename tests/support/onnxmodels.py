"""Very small ONNX models."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from orchestrator.transfer import File


def tiny_model(path: Path, size: int = 8) -> Path:
    """One 3x3 convolution and a Relu over (1, 3, size, size)."""
    weight = np.full((4, 3, 3, 3), 0.1, dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["y"], name="relu"),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, size, size])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def as_file(path: Path) -> File:
    data = path.read_bytes()
    return File(hashlib.sha256(data).hexdigest(), len(data), path)


def segmenter(path: Path, size: int = 16, names: tuple[str, ...] = ("blob",)) -> Path:
    """Of (1, 3, size, size): with one class, each pixel's mean colour is its probability.

    With several, the colours themselves are the probabilities of the first three classes.
    """
    if len(names) == 1:
        node = helper.make_node(
            "ReduceMean", ["images"], ["masks"], name="/decode/mean", axes=[1], keepdims=1
        )
    else:
        node = helper.make_node("Identity", ["images"], ["masks"], name="/decode/all")
    graph = helper.make_graph(
        [node],
        "segmenter",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("masks", TensorProto.FLOAT, [1, len(names), size, size])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    told = {"task": "segment", "names": str(dict(enumerate(names))), "imgsz": f"[{size}, {size}]"}
    helper.set_model_props(model, told)
    onnx.save(model, path)
    return path
