"""Small detectors with a decode, and requests to build variants of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models import recipes, zoo
from models.build import VariantRequest, calibration
from models.spec import CalibrationSpec

SIDE = 32
NAMES = ("square", "circle")
ANCHORS = (SIDE // 4) ** 2
DETECT = {"task": "detect", "names": repr(dict(enumerate(NAMES))), "imgsz": f"[{SIDE}, {SIDE}]"}


def detector(
    path: Path,
    *,
    metadata: Mapping[str, str] = DETECT,
    decode: str = "/decode/",
    dims: Sequence[int | str] = (1, 3, SIDE, SIDE),
    seed: int = 0,
) -> Path:
    """Two convolutions, a 1x1 head and a decode to (1, 4 + 2, 64), saved at `path`.

    `decode` is the beginning of the names of the decode's nodes.
    """
    rng = np.random.default_rng(seed)
    rows = 4 + len(NAMES)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)

    def node(op: str, inputs: list[str], outputs: list[str], name: str, **attributes: Any) -> Any:
        return helper.make_node(op, inputs, outputs, name=name, **attributes)

    nodes = [
        node("Conv", ["images", "w1"], ["c1"], "/stem/Conv", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"], "/stem/Relu"),
        node("Conv", ["r1", "w2"], ["c2"], "/body/Conv", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Sigmoid", ["c2"], ["s2"], "/body/Sigmoid"),
        node("Mul", ["c2", "s2"], ["m2"], "/body/Mul"),
        node("Conv", ["m2", "w3"], ["c3"], "/head/Conv"),
        node("Reshape", ["c3", "flat"], ["f"], f"{decode}Reshape"),
        node("Split", ["f", "parts"], ["boxes", "logits"], f"{decode}Split", axis=1),
        node("Mul", ["boxes", "side"], ["pixels"], f"{decode}Mul"),
        node("Sigmoid", ["logits"], ["scores"], f"{decode}Sigmoid"),
        node("Concat", ["pixels", "scores"], ["output"], f"{decode}Concat", axis=1),
    ]
    initializers = [
        weight("w1", 16, 3, 3, 3),
        weight("w2", 32, 16, 3, 3),
        weight("w3", rows, 32, 1, 1),
        numpy_helper.from_array(np.array([1, rows, -1], dtype=np.int64), "flat"),
        numpy_helper.from_array(np.array([4, len(NAMES)], dtype=np.int64), "parts"),
        numpy_helper.from_array(np.array([SIDE], dtype=np.float32), "side"),
    ]
    save(
        path,
        nodes,
        initializers,
        inputs={"images": dims},
        outputs={"output": (1, rows, ANCHORS)},
        metadata=metadata,
    )
    return path


def save(
    path: Path,
    nodes: Sequence[Any],
    initializers: Sequence[Any],
    *,
    inputs: Mapping[str, Sequence[int | str | None]],
    outputs: Mapping[str, Sequence[int | str | None]],
    metadata: Mapping[str, str] | None = None,
    opset: int = 17,
) -> Path:
    """A model of float32 tensors."""
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in outputs.items()],
        list(initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


def relu_only(path: Path) -> Path:
    """A model without any weight."""
    return save(
        path,
        [helper.make_node("Relu", ["x"], ["y"], name="relu")],
        [],
        inputs={"x": (1, 3, 8, 8)},
        outputs={"y": (1, 3, 8, 8)},
    )


def tensors(folder: Path, shape: Sequence[int] = (1, 3, SIDE, SIDE), count: int = 4) -> list[Path]:
    """Files of random float32 tensors in 0..1."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{index}.npy" for index in range(count)]
    for index, path in enumerate(paths):
        np.save(path, np.random.default_rng(index).random(shape, dtype=np.float32))
    return paths


def request(
    folder: Path, recipe: str = "int8_ptq", isa: str = "x86_64-vnni", name: str = "net"
) -> VariantRequest:
    """A request for a variant of `detector`, calibrated with random tensors."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        detector(path)
    model = zoo.resolve(str(path))
    chosen = recipes.get(recipe)
    spec: CalibrationSpec | None = None
    if chosen.needs_calibration:
        spec = calibration(tensors(folder / "calibration"), model.prep)
    return VariantRequest(model, chosen, isa, spec)
