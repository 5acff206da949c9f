"""The range of every tensor of a graph, from those that training left in it.

A network with rounding layers is exported with a QuantizeLinear and a DequantizeLinear around
each such layer. They are taken out again and their ranges kept; those of the tensors between
(activations, sums, concatenations) follow from arithmetic. ONNX Runtime's quantizer then does
with them what it does with calibrated ranges, so that the file is built like that of
`int8_ptq`, kernel for kernel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from models.steps.kinds import NET_OPSET

Ends = tuple[float, float]
"""Lowest and highest value."""

LEVELS: Final = 255
"""Steps from a range's low to its high."""
_SAME: Final = frozenset(
    {
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "Resize",
        "Reshape",
        "Transpose",
        "Split",
        "Slice",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Gather",
        "Identity",
    }
)
"""Operators whose output lies within the range of their first input."""
_CURVES: Final = frozenset(
    {"Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Softplus", "Clip"}
)
"""Functions of one number."""
_LAYERS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Learned:
    """What was read out of a graph: ranges by tensor, and the nodes that are to be rounded."""

    ranges: dict[str, Ends]
    layers: frozenset[str]


def take_ranges(graph: onnx.GraphProto) -> Learned:
    """Remove all QuantizeLinear and DequantizeLinear nodes and return what they said.

    Where several layers read one tensor, its range holds those of all.
    """
    constants = _constants(graph)
    ranges: dict[str, Ends] = {}
    plain: dict[str, str] = {}  # what a rounded tensor was before
    sources = {n.output[0]: n for n in graph.node if n.op_type == "QuantizeLinear"}
    for node in graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        quantize = sources[node.input[0]]
        tensor = plain.get(quantize.input[0], quantize.input[0])
        plain[node.output[0]] = tensor
        scale, zero = (float(constants[name]) for name in quantize.input[1:3])
        low, high = -zero * scale, (LEVELS - zero) * scale
        old = ranges.get(tensor, (low, high))
        ranges[tensor] = (min(old[0], low), max(old[1], high))
    layers = set()
    kept = []
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if node.op_type in _LAYERS and node.input[0] in plain:
            layers.add(node.name)
        node.input[:] = [plain.get(name, name) for name in node.input]
        kept.append(node)
    _rename_outputs(graph, plain, kept, ranges)
    del graph.node[:]
    graph.node.extend(kept)
    return Learned(ranges, frozenset(layers))


def spread(graph: onnx.GraphProto, learned: Learned) -> dict[str, Ends]:
    """Ranges of all tensors that can be rounded: those learned, and what follows from them."""
    index = _Index.of(graph)
    known = dict(learned.ranges)
    for node in graph.node:
        if node.op_type in _SAME and node.input[0] in known:
            known.update(dict.fromkeys(node.output, known[node.input[0]]))
            continue
        derived = _derive(index, node, known)
        if derived is None:
            continue
        for name in node.output:
            known.setdefault(name, _narrowed(derived, index.readers[name], learned.ranges))
    return known


def unknown_nodes(graph: onnx.GraphProto, learned: Learned, known: dict[str, Ends]) -> list[str]:
    """Names of nodes that stay in float: layers not trained so, and what lacks a range."""
    constants = _Index.of(graph).constants
    return [
        node.name
        for node in graph.node
        if (node.op_type in _LAYERS and node.name not in learned.layers)
        or any(n and n not in known and n not in constants for n in (*node.input, *node.output))
    ]


@dataclass(frozen=True)
class _Index:
    """A graph's constants, and who makes and reads each tensor."""

    constants: dict[str, NDArray[np.generic]]
    makers: dict[str, onnx.NodeProto]
    readers: dict[str, list[onnx.NodeProto]]

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> _Index:
        readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                readers[name].append(node)
        makers = {name: node for node in graph.node for name in node.output}
        return cls(_constants(graph), makers, readers)


def _derive(index: _Index, node: onnx.NodeProto, known: dict[str, Ends]) -> Ends | None:
    """The range of a node's output from its inputs'; None where it does not follow."""
    given = [known.get(name) or _ends_of(index.constants.get(name)) for name in node.input if name]
    if not given or given[0] is None:
        return None
    ends = [each for each in given if each is not None]
    if node.op_type in _CURVES:
        return _through([node], node.input[0], index, ends[0])
    if node.op_type == "Softmax":
        return 0.0, 1.0
    return _combined(index, node, ends, known) if len(ends) == len(given) else None


def _combined(
    index: _Index, node: onnx.NodeProto, ends: list[Ends], known: dict[str, Ends]
) -> Ends | None:
    """The range of what is made of several tensors."""
    if node.op_type == "Concat":
        return min(low for low, _ in ends), max(high for _, high in ends)
    gate = _gate(index, node)
    if gate is not None:
        return _through([gate, node], gate.input[0], index, known[gate.input[0]])
    if node.op_type not in _PAIRS:
        return None
    combine = _PAIRS[node.op_type]
    corners = [combine(a, b) for a in ends[0] for b in ends[1]]
    return min(corners), max(corners)


def _gate(index: _Index, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The sigmoid of x * sigmoid(x), as in SiLU; None where the product is another."""
    for one, other in (node.input, reversed(node.input)) if node.op_type == "Mul" else ():
        gate = index.makers.get(other)
        if gate and gate.op_type in ("Sigmoid", "HardSigmoid") and gate.input[0] == one:
            return gate
    return None


def _through(nodes: list[onnx.NodeProto], start: str, index: _Index, ends: Ends) -> Ends:
    """Extremes of a function of one number over a range, by the levels that INT8 can have."""
    levels = np.linspace(*ends, LEVELS + 1, dtype=np.float32)
    reads = {name for node in nodes for name in node.input}
    graph = onnx.helper.make_graph(
        nodes,
        "curve",
        [onnx.helper.make_tensor_value_info(start, onnx.TensorProto.FLOAT, [LEVELS + 1])],
        [onnx.helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(index.constants[n], n) for n in reads & index.constants.keys()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", NET_OPSET)])
    (values,) = ReferenceEvaluator(model).run(None, {start: levels})
    return float(values.min()), float(values.max())


def _narrowed(ends: Ends, readers: list[onnx.NodeProto], learned: dict[str, Ends]) -> Ends:
    """What arithmetic allows, within what was seen where the tensor is only joined to others."""
    if not readers or any(n.op_type != "Concat" or n.output[0] not in learned for n in readers):
        return ends
    seen = [learned[node.output[0]] for node in readers]
    low = max(ends[0], min(low for low, _ in seen))
    return low, max(low, min(ends[1], max(high for _, high in seen)))


def _ends_of(array: NDArray[np.generic] | None) -> Ends | None:
    """The extremes of a constant."""
    if array is None or not array.size or array.dtype.kind != "f":
        return None
    return float(array.min()), float(array.max())


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[np.generic]]:
    """Initializers and the outputs of Constant nodes."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _rename_outputs(
    graph: onnx.GraphProto,
    plain: dict[str, str],
    nodes: list[onnx.NodeProto],
    ranges: dict[str, Ends],
) -> None:
    """A rounded tensor that is an output of the graph keeps its name without the rounding."""
    for output in graph.output:
        before = plain.get(output.name)
        if before is None:
            continue
        ranges[output.name] = ranges.pop(before)
        for node in nodes:
            node.input[:] = [output.name if name == before else name for name in node.input]
            node.output[:] = [output.name if name == before else name for name in node.output]


_PAIRS: Final[dict[str, Callable[[float, float], float]]] = {
    "Add": lambda x, y: x + y,
    "Sub": lambda x, y: x - y,
    "Mul": lambda x, y: x * y,
}
"""Functions of two numbers whose extremes lie at the ends of their ranges."""
