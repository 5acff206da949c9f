"""Pure questions about ONNX graphs: what is the decode, and what did ONNX Runtime fuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import onnxruntime

from models.onnxfile import all_nodes

LEARNED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
INTEGER_OPS = ("ConvInteger", "MatMulInteger", "DynamicQuantizeLSTM")
"""What dynamic quantization puts in the place of learned layers."""
_QDQ_OPS = ("QuantizeLinear", "DequantizeLinear")
_FUSED_PREFIXES = (
    "QLinear",
    "QGemm",
    "QAttention",
    "MatMulInteger",
    "ConvInteger",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
)


def decode_nodes(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that turn the head's raw outputs into boxes and scores.

    Boxes (0..640) and scores (0..1) meet in one concatenation; quantized with one scale the
    scores vanish (onnxruntime issues 14233 and 10787). The decode is: nodes named `/decode/...`
    or with `/dfl/` in their names, and every node behind which no learned layer follows. The
    head's own convolutions are learned layers, so they are still quantized.
    """
    weights = {tensor.name for tensor in graph.initializer}
    named = {n.name for n in graph.node if n.name.startswith("/decode/") or "/dfl/" in n.name}
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for tensor in _reads(node):
            readers.setdefault(tensor, []).append(node.name)
    leads_to_learned: dict[str, bool] = {}
    for node in reversed(graph.node):  # ONNX graphs are sorted topologically
        learned = (
            node.op_type in LEARNED_OPS
            and node.name not in named
            and any(name in weights for name in node.input)
        )
        leads_to_learned[node.name] = learned or any(
            leads_to_learned[reader] for tensor in node.output for reader in readers.get(tensor, ())
        )
    return named | {name for name, leads in leads_to_learned.items() if not leads}


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a name of its own: nodes are excluded by name."""
    seen: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.name or node.op_type}#{index}"
        seen.add(node.name)


def put_in_order(graph: onnx.GraphProto) -> None:
    """Sort the nodes so that each comes after those it reads from, as ONNX wants them.

    Nodes that are already in order stay in it. Raises ValueError for a cycle.
    """
    made = {name for node in graph.node for name in node.output}
    waiting = [(node, {name for name in _reads(node) if name in made}) for node in graph.node]
    ordered: list[onnx.NodeProto] = []
    done: set[str] = set()
    while waiting:
        later = []
        for node, needs in waiting:
            if needs <= done:
                ordered.append(node)
                done.update(node.output)
            else:
                later.append((node, needs))
        if len(later) == len(waiting):
            raise ValueError(f"the graph has a cycle through {later[0][0].name!r}")
        waiting = later
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(copies)


def fused(node_counts: Mapping[str, int]) -> dict[str, int]:
    """The quantized kernels among the operators of an optimized graph."""
    return {op: count for op, count in node_counts.items() if op.startswith(_FUSED_PREFIXES)}


def unfused_qdq(node_counts: Mapping[str, int]) -> int:
    """The QuantizeLinear and DequantizeLinear nodes that stayed."""
    return sum(node_counts.get(op, 0) for op in _QDQ_OPS)


def optimized_nodes(path: Path, work: Path) -> dict[str, int]:
    """Operators of the graph that ONNX Runtime really runs on this host, by count.

    A session is made and its optimized graph saved under `work` and counted.
    """
    target = work / "optimized.onnx"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return count_ops(onnx.load(str(target)).graph)


def count_ops(graph: onnx.GraphProto) -> dict[str, int]:
    """How many nodes of each operator, subgraphs included, sorted by operator."""
    return dict(sorted(Counter(node.op_type for node in all_nodes(graph)).items()))


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads: its inputs, and what its subgraphs capture."""
    yield from node.input
    for attribute in node.attribute:
        for subgraph in (attribute.g, *attribute.graphs):
            for inner in subgraph.node:
                yield from _reads(inner)
