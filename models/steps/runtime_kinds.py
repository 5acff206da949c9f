"""Steps that make files for other runtimes than ONNX Runtime; as models/steps/kinds.py."""

from __future__ import annotations

from typing import Literal

from models.steps.base import Params, Step
from models.steps.kinds import DECODE

_CONVERTER = ("torch", "litert-torch", "ai-edge-litert", "ai-edge-quantizer")


class ExportPt2Params(Params, frozen=True):
    """`fold_batch_norm` puts each batch norm into its convolution, as a deployment would."""

    fold_batch_norm: bool = True


class ExportTfliteParams(Params, frozen=True):
    """`quantize: dynamic` has INT8 weights and quantizes activations while it runs."""

    quantize: Literal["none", "dynamic"] = "none"


class TfliteInt8Params(Params, frozen=True):
    """`exclude` keeps operators in float: patterns of their outputs' names, or `decode`."""

    exclude: tuple[str, ...] = (DECODE,)


EXPORT_PT2 = Step(
    name="export_pt2",
    params=ExportPt2Params,
    accepts="net",
    makes="pt2",
    tools=("torch",),
    module="models.steps.export_pt2",
)
EXPORT_TFLITE = Step(
    name="export_tflite",
    params=ExportTfliteParams,
    accepts="net",
    makes="tflite",
    tools=_CONVERTER,
    module="models.steps.export_tflite",
)
TFLITE_INT8 = Step(
    name="tflite_int8",
    params=TfliteInt8Params,
    accepts="net",
    makes="tflite",
    tools=_CONVERTER,
    needs_calibration=True,
    module="models.steps.export_tflite",
)
