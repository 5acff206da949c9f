"""Step `dynamic`: INT8 weights; the range of each activation is found anew at every inference.

Weights are u8: with s8 the integer convolution is several times slower, and the last ONNX
Runtime for Python 3.9 does not run it. No calibration data is needed.
"""

from __future__ import annotations

import onnx
from onnxruntime import quantization as ortq

from models.errors import NothingQuantized
from models.onnxfile import describe, load
from models.steps.base import Log, StepInput, StepResult
from models.steps.graph import INTEGER_OPS, LEARNED_OPS
from models.steps.int8_ptq import prepare
from models.steps.quiet import quiet
from models.steps.selection import left_out

_FEW = 0.5
"""A result with a smaller share of its learned layers quantized is called little."""


def run(given: StepInput) -> StepResult:
    """Quantize the source; raises NothingQuantized, RecipeError."""
    if given.source is None:
        raise ValueError("a model file is needed")
    prepared = given.work / "prepared.onnx"
    quantized = given.work / "model.onnx"
    with quiet(given.log) as log:
        order = prepare(given.source, prepared)
        model = load(prepared)
        keep_float = left_out(model, given.params.only, given.params.exclude, order)
        ortq.quantize_dynamic(
            str(prepared),
            str(quantized),
            per_channel=given.params.per_channel,
            weight_type=ortq.QuantType.QUInt8,
            nodes_to_exclude=keep_float,
        )
        _judge(model, describe(quantized).nodes, log)
    return StepResult(quantized)


def _judge(before: onnx.ModelProto, after: dict[str, int], log: Log) -> None:
    """Say how much was quantized; raises NothingQuantized where nothing was."""
    weights = {tensor.name for tensor in before.graph.initializer}
    layers = sum(
        node.op_type in LEARNED_OPS and any(name in weights for name in node.input)
        for node in before.graph.node
    )
    quantized = sum(after.get(op, 0) for op in INTEGER_OPS)
    if not quantized:
        raise NothingQuantized(
            f"none of {layers} learned layers has a dynamic INT8 form, or all are left out by "
            "`only` and `exclude`; the result would pass for INT8 and is not"
        )
    log(f"{quantized} of {layers} learned layers compute in INT8")
    if after.get("ConvInteger"):
        log(
            "dynamic INT8 is slower than FP32 on convolutional networks, where every layer's range "
            "is found anew at each inference; int8_ptq is the faster one"
        )
    if quantized < _FEW * layers:
        log(
            f"WARNING: only {quantized} of {layers} learned layers were quantized: this variant "
            "is mostly float32, so expect neither its size nor its speed to change much"
        )
