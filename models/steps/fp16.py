"""Step `fp16`: weights and arithmetic in 16-bit floating point, inputs and outputs in 32.

ONNX Runtime's own converter does the work. It names some nodes twice, puts its casts at the end
of the graph, and rounds to 16 bits between two nodes that both stay in 32: that is put right
here, or the decode would be in 32 bits by name only.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto
from onnxruntime.transformers import float16

from models.errors import BuildFailed
from models.onnxfile import load
from models.steps.base import StepInput, StepResult
from models.steps.graph import name_nodes, put_in_order
from models.steps.quiet import quiet
from models.steps.selection import left_out


def run(given: StepInput) -> StepResult:
    """Convert the source; raises RecipeError, BuildFailed where there is nothing to convert."""
    if given.source is None:
        raise ValueError("a model file is needed")
    model = load(given.source)
    if any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer):
        raise BuildFailed("the model has float16 weights already; name `fp16` once, or use fp32")
    name_nodes(model.graph)
    with quiet(given.log) as log:
        keep = left_out(model, given.params.only, given.params.exclude)
        log(f"{len(model.graph.node) - len(keep)} of {len(model.graph.node)} nodes in 16 bits")
        model = convert(model, keep)
    if not any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer):
        raise BuildFailed("no weight became float16: the model has none, or all are excluded")
    target = given.work / "model.onnx"
    target.write_bytes(model.SerializeToString(deterministic=True))
    return StepResult(target)


def convert(model: onnx.ModelProto, keep: list[str]) -> onnx.ModelProto:
    """The model in float16, but for its inputs and outputs and the nodes in `keep`."""
    converted = float16.convert_float_to_float16(model, keep_io_types=True, node_block_list=keep)
    skip_round_trips(converted.graph)
    put_in_order(converted.graph)
    name_nodes(converted.graph)
    return converted


def skip_round_trips(graph: onnx.GraphProto) -> None:
    """Remove casts from float32 to float16 and straight back, which would only lose digits."""
    narrowed = {
        node.output[0]: node.input[0] for node in graph.node if _casts_to(node, TensorProto.FLOAT16)
    }
    direct = {
        node.output[0]: narrowed[node.input[0]]
        for node in graph.node
        if _casts_to(node, TensorProto.FLOAT) and node.input[0] in narrowed
    }
    outputs = {output.name for output in graph.output}
    for node in graph.node:
        if node.output[0] in direct and node.output[0] in outputs:
            node.op_type, node.input[0] = "Identity", direct[node.output[0]]
            del node.attribute[:]
        node.input[:] = [direct.get(name, name) for name in node.input]
    used = outputs.union(*(node.input for node in graph.node))
    kept = [node for node in graph.node if node.op_type != "Cast" or node.output[0] in used]
    used = outputs.union(*(node.input for node in kept))
    kept = [node for node in kept if node.op_type != "Cast" or node.output[0] in used]
    del graph.node[:]
    graph.node.extend(kept)


def _casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == kind for a in node.attribute)
