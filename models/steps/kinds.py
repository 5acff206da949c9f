"""The kinds of steps: their parameters, what they choose for a target, where they are done.

Imports nothing heavy: recipes and keys need this module, only building needs the others.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from models.steps.base import Params, Step
from models.steps.isa import family, host_isa, nchwc_block

DECODE = "decode"
"""In `exclude`: the nodes that turn the head's raw outputs into boxes and scores."""

OPSET = 18
"""Read by every onnxruntime from 1.14 on, so by the last one for Python 3.9 too."""


NET_OPSET = 17
"""The last one of the exporter that names nodes by module."""


class ImportParams(Params, frozen=True):
    """No parameters."""


class ExportParams(Params, frozen=True):
    """`imgsz_px` is the height and width of the exported input."""

    imgsz_px: int = 640
    opset: int = OPSET


class TakeUltralyticsParams(Params, frozen=True):
    """`imgsz_px` is the height and width of the network's input."""

    imgsz_px: int = 640


class OrtFormatParams(Params, frozen=True):
    """No parameters: the target decides."""


class Int8Params(Params, frozen=True):
    """`only` says which nodes are quantized (all, where it is empty), `exclude` which are not.

    Entries of both: a section of the network (backbone, neck, head ...), the word `decode`, a
    pattern of node names, or a range `A..B` of nodes. `percentile` is the share of a tensor's
    values, in percent, that the method of that name keeps.
    """

    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = (DECODE,)
    per_channel: bool = True
    reduce_range: bool = False
    activation: Literal["auto", "u8", "s8"] = "auto"
    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    percentile: Annotated[float, msgspec.Meta(ge=50, le=100)] = 99.999


class DynamicParams(Params, frozen=True):
    """`only` and `exclude` as for int8_ptq; weights are u8, activations u8 found while running."""

    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = (DECODE,)
    per_channel: bool = False


class Fp16Params(Params, frozen=True):
    """`only` and `exclude` as for int8_ptq; inputs and outputs stay float32."""

    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = (DECODE,)


class SparsifyParams(Params, frozen=True):
    """`ratio` of the weights become zero: the smallest of each layer, or of the whole network."""

    ratio: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.7
    scope: Literal["layer", "network"] = "layer"
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = (DECODE,)


class CreateParams(Params, frozen=True):
    """No parameters: the model's source says it all."""


class ExportNetParams(Params, frozen=True):
    """`opset` is ONNX's."""

    opset: int = NET_OPSET


def int8_choices(params: Any, isa: str) -> dict[str, str]:
    """`activation`: s8 for Arm, u8 elsewhere, unless the recipe says.

    With s8 on x86-64 ONNX Runtime fuses 6 of yolov8n's 64 convolutions, with u8 63.
    """
    if params.activation != "auto":
        return {"activation": params.activation}
    return {"activation": "s8" if family(isa) == "aarch64" else "u8"}


PLAIN_LAYOUT = "nchw"
"""Of an ORT-format file that computes the same on every CPU."""


def ort_choices(_params: Any, isa: str) -> dict[str, str]:
    """`target` as the converter's --target_platform; `layout` of float convolutions.

    NCHWc is up to a third faster on x86-64, but a file that holds it is only right on CPUs
    with this host's block size, so it is used where the target's instruction set equals this
    host's.
    """
    if family(isa) == "aarch64":
        return {"target": "arm", "layout": PLAIN_LAYOUT}
    if family(isa) == "x86_64" and isa == host_isa():
        return {"target": "amd64", "layout": f"nchw{nchwc_block()}c"}
    return {"target": "amd64", "layout": PLAIN_LAYOUT}


IMPORT = Step(
    name="import",
    params=ImportParams,
    accepts=None,
    makes="onnx",
    tools=(),
    module="models.steps.take",
)
EXPORT = Step(
    name="export",
    params=ExportParams,
    accepts=None,
    makes="onnx",
    tools=("torch", "ultralytics", "onnx", "onnxslim"),
    module="models.steps.export",
    revision=1,  # writes the sections into the file
)
CREATE = Step(
    name="create",
    params=CreateParams,
    accepts=None,
    makes="net",
    tools=("torch", "safetensors"),
    module="models.steps.create",
)
TAKE_ULTRALYTICS = Step(
    name="take_ultralytics",
    params=TakeUltralyticsParams,
    accepts=None,
    makes="net",
    tools=("torch", "ultralytics", "safetensors"),
    module="models.steps.take_ultralytics",
)
EXPORT_NET = Step(
    name="export_net",
    params=ExportNetParams,
    accepts="net",
    makes="onnx",
    tools=("torch", "onnx", "onnxslim"),
    module="models.steps.export_net",
    keeps_parameters=False,
    revision=1,  # keeps equal weights apart
)
INT8_PTQ = Step(
    name="int8_ptq",
    params=Int8Params,
    accepts="onnx",
    makes="onnx",
    tools=("onnx", "onnxruntime", "numpy"),
    needs_calibration=True,
    choices=int8_choices,
    module="models.steps.int8_ptq",
)
ORT_FORMAT = Step(
    name="ort_format",
    params=OrtFormatParams,
    accepts="onnx",
    makes="ort",
    tools=("onnxruntime",),
    choices=ort_choices,
    module="models.steps.ort_format",
)
FP16 = Step(
    name="fp16",
    params=Fp16Params,
    accepts="onnx",
    makes="onnx",
    tools=("onnx", "onnxruntime", "numpy"),
    module="models.steps.fp16",
)
DYNAMIC = Step(
    name="dynamic",
    params=DynamicParams,
    accepts="onnx",
    makes="onnx",
    tools=("onnx", "onnxruntime", "numpy"),
    module="models.steps.dynamic",
)
SPARSIFY = Step(
    name="sparsify",
    params=SparsifyParams,
    accepts="onnx",
    makes="onnx",
    tools=("onnx", "numpy"),
    module="models.steps.sparsify",
)
