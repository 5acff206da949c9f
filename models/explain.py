"""Counts what is in an ONNX file: multiply-accumulates, sections, zeros, size when compressed.

Nothing is run: shapes come from ONNX's own shape inference.
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper

from models.figures import OTHER, Figures, Section
from models.onnxfile import all_nodes, first_line, load, repeated_biases, weight_names
from models.sections import node_sections
from models.steps.graph import name_nodes

Shape = tuple[int | None, ...]
Shapes = Mapping[str, Shape]

_WEIGHT_AT: Final = {
    "Conv": 1,
    "ConvTranspose": 1,
    "DeformConv": 1,
    "Gemm": 1,
    "MatMul": 1,
    "ConvInteger": 1,
    "MatMulInteger": 1,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
}
"""Operators that are counted, and which of their inputs is the weight."""
_ZERO_AT: Final = {"ConvInteger": 3, "MatMulInteger": 3, "QLinearConv": 5, "QLinearMatMul": 5}
"""Where quantized operators read the value that stands for zero."""
_UNCOUNTED: Final = frozenset(
    {
        *("Attention", "Einsum", "GRU", "LSTM", "RNN"),
        # ONNX Runtime's own, in files that it has optimized or quantized
        *("DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "FusedConv", "FusedGemm", "FusedMatMul"),
        *("GroupQueryAttention", "MatMulIntegerToFloat", "MatMulNBits", "MultiHeadAttention"),
        *("QAttention", "QGemm"),
    }
)
_PASSES: Final = frozenset(
    {"Cast", "DequantizeLinear", "Identity", "QuantizeLinear", "Reshape", "Transpose", "Unsqueeze"}
)
"""Operators between a weight and the layer that it belongs to."""
_BULK_ELEMENTS: Final = 4096
"""Larger tensors are no shapes, so shape inference does without their values."""
_BLOCK_BYTES: Final = 1 << 20
_MOST_BLOCKS: Final = 32


def explain(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Figures:
    """The figures of a file; `shapes` fixes dynamic inputs by name. Raises ModelUnreadable."""
    model = load(path)
    name_nodes(model.graph)
    macs, note = count_macs(model, shapes)
    return Figures(
        macs=sum(macs.values()) if note is None else None,
        compressed_bytes=compressed_bytes(path),
        sparsity=sparsity(model.graph),
        sections=_sections(model, macs if note is None else None),
        note=note,
        shapes=dict(shapes),
    )


def compressed_bytes(path: Path) -> int:
    """The size of a file after deflate at level 1, which is quick and finds zeros as well.

    Of files above 32 MiB, blocks of 1 MiB at equal distances stand for the whole.
    """
    blocks = math.ceil(path.stat().st_size / _BLOCK_BYTES)
    stride = max(1, math.ceil(blocks / _MOST_BLOCKS))
    packer = zlib.compressobj(level=1)
    read = packed = 0
    with path.open("rb") as file:
        for block in range(0, blocks, stride):
            file.seek(block * _BLOCK_BYTES)
            chunk = file.read(_BLOCK_BYTES)
            read += len(chunk)
            packed += len(packer.compress(chunk))
    packed += len(packer.flush())
    return packed if stride == 1 else round(packed * path.stat().st_size / read)


def count_macs(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, int], str | None]:
    """Multiply-accumulates by node, and why the sum would be wrong, if it would be."""
    functions = {function.name for function in model.functions}
    uncounted = sorted(
        {node.op_type for node in model.graph.node if _hides_work(node)}
        | {node.op_type for node in model.graph.node} & (_UNCOUNTED | functions)
    )
    if uncounted:
        return {}, f"multiply-accumulates not counted: no rule for {', '.join(uncounted)}"
    try:
        known = infer_shapes(model, shapes)
        return {
            node.name: node_macs(node, known)
            for node in model.graph.node
            if node.op_type in _WEIGHT_AT
        }, None
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as exc:
        return {}, f"multiply-accumulates not counted: {first_line(exc)}"


def _hides_work(node: onnx.NodeProto) -> bool:
    """True for If, Loop and their kind with a layer inside: how often it runs is not known."""
    inner = (graph for item in node.attribute for graph in (item.g, *item.graphs))
    return any(
        each.op_type in _UNCOUNTED | _WEIGHT_AT.keys()
        for graph in inner
        for each in all_nodes(graph)
    )


def node_macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Multiply-accumulates of one node; raises ValueError where a shape is not known.

    A convolution needs, for each number that it gives, as many as its filter has weights; a
    transposed one, for each number that it reads, as many as that number is spread with. What a
    deformable one needs to look between pixels is not counted, as resizing is not.
    """
    weight = _fixed(node, node.input[_WEIGHT_AT[node.op_type]], shapes)
    if node.op_type == "ConvTranspose":
        return math.prod(_fixed(node, node.input[0], shapes)) * math.prod(weight[1:])
    given = math.prod(_fixed(node, node.output[0], shapes))
    if "Conv" in node.op_type:
        return given * math.prod(weight[1:])
    transposed = any(item.name == "transB" and item.i for item in node.attribute)
    summed = weight[-1] if transposed or len(weight) == 1 else weight[-2]
    return given * summed


def infer_shapes(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    """The shape of every tensor, as far as ONNX can tell; None for an unknown dimension."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for tensor in light.graph.initializer:
        if math.prod(tensor.dims) > _BULK_ELEMENTS:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    for value in light.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ())):  # noqa: B905 - an input without a given shape keeps its own
            dim.dim_value = size
    graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    known: dict[str, Shape] = {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else None
            for dim in value.type.tensor_type.shape.dim
        )
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    return known | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def sparsity(graph: onnx.GraphProto) -> float | None:
    """The share of zeros among the weights of learned layers; None where there are none."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    zeros = total = 0
    for node in graph.node:
        if node.op_type not in _WEIGHT_AT:
            continue
        name, at = node.input[_WEIGHT_AT[node.op_type]], _ZERO_AT.get(node.op_type)
        zero_name = node.input[at] if at is not None and len(node.input) > at else ""
        axis = -1 if "MatMul" in node.op_type else 0
        source = made.get(name)
        if source is not None and source.op_type == "DequantizeLinear":
            name, *_, zero_name = (*source.input, "")[:3]
            axis = next((item.i for item in source.attribute if item.name == "axis"), 1)
        if name not in tensors:
            continue
        values = numpy_helper.to_array(tensors[name])
        zero = numpy_helper.to_array(tensors[zero_name]) if zero_name in tensors else np.zeros(1)
        zero = zero if zero.ndim <= 1 else zero.ravel()[:1]  # of blocks the first stands for all
        by_channel = np.moveaxis(values, axis, -1) if zero.size > 1 else values
        zeros += int(np.count_nonzero(by_channel == zero))
        total += values.size
    return zeros / total if total else None


def _fixed(node: onnx.NodeProto, tensor: str, shapes: Shapes) -> tuple[int, ...]:
    shape = shapes.get(tensor, (None,))
    known = tuple(dim for dim in shape if dim)
    if len(known) != len(shape):
        raise ValueError(f"the shape of {tensor!r} at {node.name!r} is not known")
    return known


def _sections(model: onnx.ModelProto, macs: Mapping[str, int] | None) -> tuple[Section, ...]:
    """Parameters, bytes and multiply-accumulates by section; empty where none are known."""
    found = node_sections(model)
    if not found:
        return ()
    parameters: dict[str, int] = defaultdict(int)
    sizes: dict[str, int] = defaultdict(int)
    owners = _owners(model.graph, found)
    weights = weight_names(model.graph)
    for tensor in model.graph.initializer:
        section = owners.get(tensor.name, OTHER)
        item_bytes = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        sizes[section] += math.prod(tensor.dims) * item_bytes
        if tensor.name in weights:
            parameters[section] += math.prod(tensor.dims)
    dims = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node, bias in repeated_biases(model.graph):
        if bias in weights:
            parameters[found.get(node.name, OTHER)] += math.prod(dims[bias])
    work: dict[str, int] = defaultdict(int)
    for name, count in (macs or {}).items():
        work[found.get(name, OTHER)] += count
    order = [*dict.fromkeys(found.values()), OTHER]
    return tuple(
        Section(name, parameters[name], sizes[name], None if macs is None else work[name])
        for name in order
        if sizes[name] or work[name]
    )


def _owners(graph: onnx.GraphProto, sections: Mapping[str, str]) -> dict[str, str]:
    """The section of each initializer: of the first layer that reads it, through conversions."""
    owners: dict[str, str] = {}
    for node in reversed(graph.node):
        passes = node.op_type in _PASSES
        section = owners.get(node.output[0]) if passes else sections.get(node.name)
        if section is not None:
            owners.update(dict.fromkeys(node.input, section))
    return owners
