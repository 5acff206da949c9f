"""Step `export_int8`: a network trained by `qat` to an INT8 file (QDQ).

ONNX Runtime's own quantizer writes it, from the ranges that were learned in place of calibrated
ones: so it holds the same INT8 kernels as `int8_ptq` makes, and what a board needs (u8 or s8
activations) is decided here, after training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnxruntime import quantization as ortq
from onnxruntime.quantization.calibrate import TensorData, TensorsData, save_tensors_data

from models.errors import BuildFailed
from models.nets.arch import Edit
from models.nets.net import Net, load_net
from models.nets.quant import quant_layers
from models.onnxfile import describe, load
from models.steps.base import StepInput, StepResult
from models.steps.export_net import export_onnx
from models.steps.graph import decode_nodes, name_nodes
from models.steps.int8_ptq import refuse_unquantized
from models.steps.int8_ranges import Ends, spread, take_ranges, unknown_nodes
from models.steps.quiet import quiet


def run(given: StepInput) -> StepResult:
    """Export and quantize; raises BuildFailed, NothingQuantized, ModelUnreadable."""
    if given.source is None:
        raise ValueError("a network is needed")
    net = load_net(given.source)
    per_channel = _per_channel(net)
    plain, target = given.work / "plain.onnx", given.work / "model.onnx"
    with quiet(given.log) as log:
        export_onnx(net, plain, given.params.opset)
        model = load(plain)
        name_nodes(model.graph)
        learned = take_ranges(model.graph)
        onnx.save(model, str(plain))
        known = spread(model.graph, learned)
        keep_float = set(unknown_nodes(model.graph, learned, known)) | decode_nodes(model.graph)
        log(
            f"{len(model.graph.node) - len(keep_float)} of {len(model.graph.node)} nodes in INT8, "
            f"{len(learned.layers)} trained so, activations {given.choices['activation']}"
        )
        _write(plain, target, known, sorted(keep_float), given.choices["activation"], per_channel)
    refuse_unquantized(describe(plain), describe(target), plain, target)
    return StepResult(target)


def _per_channel(net: Net) -> bool:
    """Whether the weights were trained with a scale for each channel; raises BuildFailed."""
    if not quant_layers(net.module):
        raise BuildFailed(
            "this network was never trained with rounding: put `qat` before `export_int8`, or "
            "use int8_ptq, which needs no training"
        )
    edit: Edit = next(e for e in net.arch.edits if e.kind == "fake_quant")
    return bool(edit.params["per_channel"])


def _write(
    source: Path,
    target: Path,
    known: dict[str, Ends],
    keep_float: list[str],
    activation: str,
    per_channel: bool,
) -> None:
    """Quantize with the ranges as if they had been calibrated."""
    ranges = target.with_suffix(".ranges.json")
    method = ortq.CalibrationMethod.MinMax
    data = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in known.items()
    }
    save_tensors_data(TensorsData(method, data), ranges)
    types = {"u8": ortq.QuantType.QUInt8, "s8": ortq.QuantType.QInt8}
    ortq.quantize_static(
        str(source),
        str(target),
        None,
        quant_format=ortq.QuantFormat.QDQ,
        per_channel=per_channel,
        activation_type=types[activation],
        weight_type=ortq.QuantType.QInt8,
        nodes_to_exclude=keep_float,
        calibrate_method=method,
        calibration_cache_path=ranges,
    )
