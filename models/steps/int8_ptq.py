"""Step `int8_ptq`: post-training static quantization to INT8 (QDQ) by ONNX Runtime.

Weights are s8; activations are what the target needs (`models.steps.kinds.int8_choices`).
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime import quantization as ortq
from onnxruntime.quantization.shape_inference import quant_pre_process

from models.errors import NothingQuantized
from models.onnxfile import OnnxInfo, describe, load
from models.spec import CalibrationSpec, ModelSpec
from models.steps.base import Log, StepInput, StepResult
from models.steps.calibrate import Reader
from models.steps.graph import excluded, name_nodes
from models.steps.quiet import quiet
from models.tensors import TensorInfo

_STRIDE = 8
"""Histogram calibrators keep every tensor of so many inputs in memory at once."""


def run(given: StepInput) -> StepResult:
    """Quantize the source; raises NothingQuantized, DataError, or whatever ONNX Runtime raises."""
    if given.source is None or given.calibration is None:
        raise ValueError("a model file and calibration data are needed")
    prepared = given.work / "prepared.onnx"
    quantized = given.work / "model.onnx"
    with quiet(given.log) as log:
        quant_pre_process(str(given.source), str(prepared), skip_symbolic_shape=True)
        model = load(prepared)
        name_nodes(model.graph)
        onnx.save(model, str(prepared))
        keep_float = excluded(model.graph, given.params.exclude)
        log(
            f"quantizing {len(model.graph.node) - len(keep_float)} of {len(model.graph.node)} "
            f"nodes, activations {given.choices['activation']}"
        )
        _quantize(given, given.calibration, prepared, quantized, keep_float, log)
    refuse_unquantized(describe(prepared), describe(quantized), prepared, quantized)
    return StepResult(quantized)


def _quantize(
    given: StepInput,
    calibration: CalibrationSpec,
    source: Path,
    target: Path,
    keep_float: list[str],
    log: Log,
) -> None:
    types = {"u8": ortq.QuantType.QUInt8, "s8": ortq.QuantType.QInt8}
    methods = {
        "minmax": ortq.CalibrationMethod.MinMax,
        "entropy": ortq.CalibrationMethod.Entropy,
        "percentile": ortq.CalibrationMethod.Percentile,
    }
    extra = {}
    if given.params.method != "minmax":
        extra["CalibStridedMinMax"] = stride(len(calibration.images))
    ortq.quantize_static(
        str(source),
        str(target),
        Reader(calibration, _inputs(source, given.model), log),
        quant_format=ortq.QuantFormat.QDQ,
        per_channel=given.params.per_channel,
        reduce_range=given.params.reduce_range,
        activation_type=types[given.choices["activation"]],
        weight_type=ortq.QuantType.QInt8,
        nodes_to_exclude=keep_float,
        calibrate_method=methods[given.params.method],
        extra_options=extra,
    )


def _inputs(source: Path, model: ModelSpec) -> dict[str, TensorInfo]:
    """The inputs with the shapes that the user fixed."""
    return {
        name: TensorInfo(tensor.dtype, model.shapes.get(name, tensor.shape))
        for name, tensor in describe(source).inputs.items()
    }


def stride(count: int) -> int:
    """The largest divisor of `count` up to 8: ONNX Runtime takes chunks of equal size only."""
    return max(n for n in range(1, _STRIDE + 1) if count % n == 0)


def refuse_unquantized(before: OnnxInfo, after: OnnxInfo, source: Path, target: Path) -> None:
    """Raise NothingQuantized unless the file has QuantizeLinear nodes and smaller weights.

    Weights are compared, not files: the nodes that quantization adds outweigh the weights of
    a very small model.
    """
    nodes = after.nodes.get("QuantizeLinear", 0)
    if nodes and after.weight_bytes < before.weight_bytes:
        return
    raise NothingQuantized(
        f"{nodes} QuantizeLinear nodes; weights {before.weight_bytes} -> {after.weight_bytes} "
        f"bytes, file {source.stat().st_size} -> {target.stat().st_size} bytes: the result would "
        "pass for INT8 and is not; see `exclude` in the recipe, and whether the model has "
        "convolutions or matrix products with fixed weights"
    )
