"""Reads ONNX files: what goes in and out, what is inside, and whether the file can be trusted.

Importing this module imports onnx (0.3 s): the modules that every command needs do it late.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from models.errors import ModelUnreadable
from models.spec import file_digest
from models.tensors import TensorInfo

MAX_FILE_BYTES = (1 << 31) - 1
"""A protobuf message cannot be larger; bigger models keep their weights in external files."""

_FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)


@dataclass(frozen=True)
class OnnxInfo:
    """What an ONNX file says of itself.

    `nodes` counts nodes by operator, subgraphs included. `parameters` counts the elements of
    weights: of floating-point initializers and of those that are quantized, without scales, zero
    points and what a decode reckons with. `weight_bytes` is the size of all initializers.
    """

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    metadata: dict[str, str]
    opset: int
    nodes: dict[str, int]
    parameters: int
    weight_bytes: int
    external_files: tuple[Path, ...]


def describe(path: Path) -> OnnxInfo:
    """Inspect an ONNX file without loading its external data.

    Raises ModelUnreadable, with the reason, when the file is missing, corrupt, not ONNX, or
    has external data outside its folder.
    """
    model = _parse(path)
    files = _external_files(model, path)
    _check(model, path)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    return OnnxInfo(
        inputs={i.name: _tensor(i) for i in graph.input if i.name not in weights},
        outputs={o.name: _tensor(o) for o in graph.output},
        metadata={entry.key: entry.value for entry in model.metadata_props},
        opset=opset_of(model),
        nodes=dict(sorted(Counter(node.op_type for node in all_nodes(graph)).items())),
        parameters=_parameters(graph),
        weight_bytes=_weight_bytes(graph),
        external_files=files,
    )


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators in a model; 0 where it has none of them."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def load(path: Path) -> onnx.ModelProto:
    """The whole model, external data included; raises ModelUnreadable as `describe` does."""
    model = _parse(path)
    if _external_files(model, path):
        onnx.load_external_data_for_model(model, str(path.parent))
    return model


def source_digest(path: Path, info: OnnxInfo) -> str:
    """The digest of a model: its file's sha256, or one over all its files in order of name."""
    if not info.external_files:
        return file_digest(path)
    total = hashlib.sha256(bytes.fromhex(file_digest(path)))
    for file in info.external_files:
        total.update(bytes.fromhex(file_digest(file)))
    return total.hexdigest()


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of a graph and, depth first, of the subgraphs in its nodes' attributes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from all_nodes(subgraph)


def _parse(path: Path) -> onnx.ModelProto:
    """The file as a message, its external data not read."""
    try:
        size_bytes = path.stat().st_size
        data = path.read_bytes() if size_bytes <= MAX_FILE_BYTES else b""
    except OSError as exc:
        raise ModelUnreadable(f"{path}: {exc.strerror or exc}") from exc
    if size_bytes > MAX_FILE_BYTES:
        raise ModelUnreadable(f"{path}: {size_bytes} bytes; an ONNX file ends at {MAX_FILE_BYTES}")
    if data[4:8] == b"ORTM":
        raise ModelUnreadable(
            f"{path}: this is ONNX Runtime's own format; give the .onnx file it was made from"
        )
    try:
        model = onnx.load_model_from_string(data)
    except Exception as exc:  # protobuf's error class depends on its backend
        raise ModelUnreadable(
            f"{path}: not an ONNX file, or a damaged one ({size_bytes} bytes): {first_line(exc)}"
        ) from exc
    if not model.graph.node or not model.opset_import:
        raise ModelUnreadable(
            f"{path}: no operators in it ({size_bytes} bytes); is it an ONNX model?"
        )
    return model


def _check(model: onnx.ModelProto, path: Path) -> None:
    """Run onnx's own checker on the graph without the bulk of external weights."""
    try:
        # By path where weights are outside: the checker looks for them relative to the file.
        onnx.checker.check_model(str(path) if _has_external(model) else model)
    except Exception as exc:  # the checker raises several classes of its own
        raise ModelUnreadable(f"{path}: not a valid ONNX model: {first_line(exc)}") from exc


def _has_external(model: onnx.ModelProto) -> bool:
    return any(tensor.data_location == tensor.EXTERNAL for tensor in _tensors(model.graph))


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor stored in a model: initializers and tensor attributes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _tensors(subgraph)


def _external_files(model: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    """The external data files of a model, sorted; refuses what leaves the model's folder."""
    folder = path.parent.resolve()
    files: dict[str, Path] = {}
    for tensor in _tensors(model.graph):
        if tensor.data_location != tensor.EXTERNAL:
            continue
        entry = {item.key: item.value for item in tensor.external_data}
        location = entry.get("location", "")
        file = folder / location
        if not location or Path(location).is_absolute() or folder not in file.resolve().parents:
            raise ModelUnreadable(
                f"{path}: weight {tensor.name!r} points outside the model's folder: {location!r}"
            )
        if not file.is_file():
            raise ModelUnreadable(f"{path}: its external data file {location!r} is missing")
        _check_range(entry, file, tensor.name, path)
        files[location] = file
    return tuple(files[location] for location in sorted(files))


def _check_range(entry: dict[str, str], file: Path, tensor: str, path: Path) -> None:
    """Refuse a weight whose bytes lie beyond the end of its external file."""
    try:
        offset, length = int(entry.get("offset", "0")), int(entry.get("length", "0"))
    except ValueError as exc:
        raise ModelUnreadable(f"{path}: weight {tensor!r} has a bad offset or length") from exc
    size_bytes = file.stat().st_size
    if offset < 0 or length < 0 or offset + length > size_bytes:
        raise ModelUnreadable(
            f"{path}: weight {tensor!r} needs bytes {offset}..{offset + length} of {file.name}, "
            f"which has {size_bytes}; is the download complete?"
        )


def _tensor(value: onnx.ValueInfoProto) -> TensorInfo:
    if not value.type.HasField("tensor_type"):
        return TensorInfo(value.type.WhichOneof("value") or "unknown", None)
    kind = value.type.tensor_type
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    except (KeyError, ValueError, TypeError):
        dtype = f"onnx type {kind.elem_type}"
    if not kind.HasField("shape"):
        return TensorInfo(dtype, None)
    return TensorInfo(dtype, tuple(_dim(dim) for dim in kind.shape.dim))


def _dim(dim: Any) -> int | str | None:
    if dim.HasField("dim_value"):
        # Exporters write 0 or -1 where they mean 'unknown'.
        return int(dim.dim_value) if dim.dim_value > 0 else None
    return dim.dim_param or None


_LAYERS = frozenset(
    {
        *("Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "GRU", "LSTM", "RNN"),
        *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
    }
)
_ARITHMETIC = frozenset({"Add", "Concat", "Div", "Mul", "Pow", "Sub"})


def weight_names(graph: onnx.GraphProto) -> set[str]:
    """Initializers that hold parameters: no scales, zero points, shapes, indices or grids."""
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type in _FLOATS}
    quantization: set[str] = set()
    quantized: set[str] = set()
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            quantization.update(node.input[1:])
        if node.op_type == "DequantizeLinear":
            quantized.add(node.input[0])
        if node.op_type in ("ConvInteger", "MatMulInteger"):
            quantized.add(node.input[1])
        if node.op_type in ("QLinearConv", "QLinearMatMul"):
            quantized.update((node.input[3], *node.input[8:]))
        if node.op_type.startswith("QLinear"):
            quantization.update(floats.intersection(node.input))
    return floats.union(quantized) - quantization - _grids(graph)


def _grids(graph: onnx.GraphProto) -> set[str]:
    """Numbers that a decode reckons with, such as places of anchors: they follow from the size.

    They are read behind the last layer, by arithmetic alone, and not as that layer's bias. What
    is enlarged by is no parameter either.
    """
    made = {name: node.op_type for node in graph.node for name in node.output}
    leading: set[str] = set()  # tensors behind which a layer follows
    kept: set[str] = set()
    read: set[str] = set()
    for node in reversed(graph.node):
        leads = node.op_type in _LAYERS or not leading.isdisjoint(node.output)
        if leads:
            leading.update(node.input)
        bias = any(made.get(name) in _LAYERS for name in node.input)
        free = node.op_type in _ARITHMETIC and not leads and not bias
        (read if free or node.op_type in ("Resize", "Upsample") else kept).update(node.input)
    return read - kept if leading else set()


def _parameters(graph: onnx.GraphProto) -> int:
    weights = weight_names(graph)
    sizes: dict[str, int] = {
        t.name: math.prod(t.dims) for t in graph.initializer if t.name in weights
    }
    return sum(sizes.values()) + sum(sizes.get(bias, 0) for _, bias in repeated_biases(graph))


_BIASED = ("Conv", "ConvTranspose", "Gemm")
_BIAS_AT = 2


def repeated_biases(graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, str]]:
    """Layers whose bias an earlier layer with another weight has too, and the bias.

    Exporters write equal tensors once, such as the biases of an untrained network. As parameters
    they count once for each weight that they go with; bytes are those of the file.
    """
    weights: dict[str, set[str]] = {}
    found = []
    for node in graph.node:
        if node.op_type not in _BIASED or len(node.input) <= _BIAS_AT or not node.input[_BIAS_AT]:
            continue
        known = weights.setdefault(node.input[_BIAS_AT], set())
        if known and node.input[1] not in known:
            found.append((node, node.input[_BIAS_AT]))
        known.add(node.input[1])
    return found


def _weight_bytes(graph: onnx.GraphProto) -> int:
    return sum(
        math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in graph.initializer
    )


def first_line(exc: BaseException) -> str:
    """The first line of an error's text, or its class where it has none."""
    return next((line for line in str(exc).splitlines() if line.strip()), type(exc).__name__)
