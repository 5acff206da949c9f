"""Step `int8_ptq`: post-training static quantization to INT8 (QDQ) by ONNX Runtime.

Weights are s8; activations are what the target needs (`models.steps.kinds.int8_choices`).
"""

from __future__ import annotations

import functools
from pathlib import Path

import onnx
from onnx import version_converter
from onnxruntime import quantization as ortq
from onnxruntime.quantization import calibrate as ortc
from onnxruntime.quantization.shape_inference import quant_pre_process

from models.errors import BuildFailed, NothingQuantized
from models.onnxfile import OnnxInfo, describe, first_line, load, opset_of
from models.spec import CalibrationSpec, ModelSpec, file_digest
from models.steps.base import Log, StepInput, StepResult, tool_version
from models.steps.calibrate import Reader
from models.steps.calibration_ranges import METHODS, cached_ranges, ranges
from models.steps.graph import name_nodes
from models.steps.kinds import OPSET
from models.steps.quiet import quiet
from models.steps.selection import left_out
from models.tensors import TensorInfo

_RANGES = "ranges"
_RANGE_SCHEMA = "1"
"""Raised when ranges of the same model and data come out differently: old ones are not used."""
_MIN_OPSET = 13
"""The first one whose QuantizeLinear has scales by channel."""


def run(given: StepInput) -> StepResult:
    """Quantize the source; raises NothingQuantized, DataError, or whatever ONNX Runtime raises."""
    if given.source is None or given.calibration is None:
        raise ValueError("a model file and calibration data are needed")
    prepared = given.work / "prepared.onnx"
    quantized = given.work / "model.onnx"
    with quiet(given.log) as log:
        order = prepare(given.source, prepared, _MIN_OPSET)
        model = load(prepared)
        keep_float = left_out(model, given.params.only, given.params.exclude, order)
        log(
            f"quantizing {len(model.graph.node) - len(keep_float)} of {len(model.graph.node)} "
            f"nodes, activations {given.choices['activation']}"
        )
        del model  # its weights
        found = cached_ranges(
            given.cache / _RANGES,
            _what_ranges_depend_on(given, given.source, given.calibration),
            functools.partial(_ranges, given, given.calibration, prepared, log),
            log,
        )
        _quantize(given, found, prepared, quantized, keep_float)
    refuse_unquantized(describe(prepared), describe(quantized), prepared, quantized)
    return StepResult(quantized)


def prepare(source: Path, target: Path, min_opset: int = 0) -> list[str]:
    """Write the source as quantizers want it; returns the names of its nodes in its own order.

    Nodes without a name of their own get one first, so that they can be chosen by it. ONNX
    Runtime may put the nodes into another order. A model of an older opset than `min_opset` is
    converted; raises BuildFailed where it cannot be.
    """
    model = load(source)
    if 0 < opset_of(model) < min_opset:
        model = _renewed(model)
    name_nodes(model.graph)
    names = [node.name for node in model.graph.node]
    named = target.with_name("named.onnx")
    onnx.save(model, str(named))
    quant_pre_process(str(named), str(target), skip_symbolic_shape=True)
    named.unlink()
    model = load(target)
    name_nodes(model.graph)
    onnx.save(model, str(target))
    return names


def _renewed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in a newer opset."""
    try:
        return version_converter.convert_version(model, OPSET)
    except Exception as exc:  # it raises whatever its C++ code raises
        raise BuildFailed(
            f"the model is of opset {opset_of(model)}, which has no scales by channel, and cannot "
            f"be converted ({first_line(exc)}); export it again with opset {OPSET}"
        ) from exc


def _what_ranges_depend_on(
    given: StepInput, source: Path, calibration: CalibrationSpec
) -> tuple[str, ...]:
    cut = str(given.params.percentile) if given.params.method == "percentile" else ""
    tools = (f"{name} {tool_version(name)}" for name in ("onnx", "onnxruntime", "numpy"))
    return (
        _RANGE_SCHEMA,
        file_digest(source),
        calibration.digest,
        repr(sorted(given.model.shapes.items())),
        given.params.method,
        cut,
        *tools,
    )


def _ranges(
    given: StepInput, calibration: CalibrationSpec, source: Path, log: Log
) -> ortc.TensorsData:
    reader = Reader(calibration, _inputs(source, given.model), log)
    return ranges(source, reader, given.params.method, given.params.percentile, given.work, log)


def _quantize(
    given: StepInput, found: Path, source: Path, target: Path, keep_float: list[str]
) -> None:
    types = {"u8": ortq.QuantType.QUInt8, "s8": ortq.QuantType.QInt8}
    ortq.quantize_static(
        str(source),
        str(target),
        calibration_cache_path=found,
        quant_format=ortq.QuantFormat.QDQ,
        per_channel=given.params.per_channel,
        reduce_range=given.params.reduce_range,
        activation_type=types[given.choices["activation"]],
        weight_type=ortq.QuantType.QInt8,
        nodes_to_exclude=keep_float,
        calibrate_method=METHODS[given.params.method],
    )


def _inputs(source: Path, model: ModelSpec) -> dict[str, TensorInfo]:
    """The inputs with the shapes that the user fixed."""
    return {
        name: TensorInfo(tensor.dtype, model.shapes.get(name, tensor.shape))
        for name, tensor in describe(source).inputs.items()
    }


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
        "pass for INT8 and is not; see `only` and `exclude` in the recipe, and whether the model "
        "has convolutions or matrix products with fixed weights"
    )
