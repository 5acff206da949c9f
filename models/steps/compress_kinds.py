"""The kinds of steps that change a network or make INT8 of a trained one: their parameters.

Imports nothing heavy, like `models.steps.kinds`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from models.steps.base import Params, Step
from models.steps.kinds import NET_OPSET, int8_choices
from models.steps.settings import Rate, Settings, Share

Below1 = Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class QatParams(Settings, frozen=True):
    """A short training with rounding in place, from trained weights; so the rate is low.

    `exclude` keeps layers in float: a section of the network (backbone, neck, head) or patterns
    of layer names; `only` is the opposite, both together are refused. The decode is always in
    float. `momentum` is the share of the newest batch in the ranges of activations.
    `self_teach` is the share of the loss that compares with the network before rounding.
    """

    exclude: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    per_channel: bool = True
    momentum: Share = 0.05
    self_teach: Share = 0.0
    epochs: Count = 2
    lr: Rate = 1e-4
    warmup_steps: Annotated[int, msgspec.Meta(ge=0)] = 0
    weight_decay: Share = 0.0
    ema: Below1 = 0.0
    amp: Literal["auto", "on", "off"] = "off"


class ExportInt8Params(Params, frozen=True):
    """`activation` as for int8_ptq; `opset` is ONNX's."""

    activation: Literal["auto", "u8", "s8"] = "auto"
    opset: int = NET_OPSET


Importance = Literal["l1", "l2", "bn_scale", "random"]


class PruneParams(Params, frozen=True):
    """Structured pruning: each layer loses `ratio` of its outputs.

    What is left is rounded down to a multiple of `round_to`; a layer that would have none left
    keeps all. `importance` of a channel is the norm of its weights
    (l1, l2), its batch norm's scale, or chance with `seed`. `exclude` keeps the outputs of
    sections of the network, or of layers by patterns of names. The last layers always keep them.
    """

    ratio: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.3
    importance: Importance = "l2"
    round_to: Count = 8
    exclude: tuple[str, ...] = ()
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0


class CapWidthParams(Params, frozen=True):
    """No layer keeps more than `max_channels` outputs; the rest as for pruning."""

    max_channels: Count = 128
    importance: Importance = "l2"
    round_to: Count = 8
    exclude: tuple[str, ...] = ()
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0


class LowRankParams(Params, frozen=True):
    """The rank of each convolution keeps `energy` of its squared singular values.

    With `ratio` it keeps that share of the weights instead. Ranks are rounded up to multiples of
    `round_to`; a convolution that would not get smaller stays as it is, `exclude` as for pruning.
    """

    energy: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 0.9
    ratio: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] | None = None
    round_to: Count = 8
    exclude: tuple[str, ...] = ()


Activation = Literal["silu", "relu", "leaky_relu", "relu6", "hard_swish"]


class SwapActivationParams(Params, frozen=True):
    """Activations of kinds `old` become `new`; `slope` is that of a LeakyReLU below zero."""

    old: tuple[Activation, ...] = ("silu",)
    new: Activation = "leaky_relu"
    slope: Share = 0.1


class ChangeConvsParams(Params, frozen=True):
    """k x k convolutions become grouped, depthwise separable or dilated ones.

    `value` is the number of groups or the dilation. Layers that it does not fit stay as they
    are; `exclude` as for pruning.
    """

    change: Literal["group", "separable", "dilate"] = "group"
    value: Count = 2
    exclude: tuple[str, ...] = ()


QAT = Step(
    name="qat",
    params=QatParams,
    accepts="net",
    makes="net",
    tools=("torch", "numpy", "safetensors"),
    needs_training=True,
    module="models.steps.qat",
)
EXPORT_INT8 = Step(
    name="export_int8",
    params=ExportInt8Params,
    accepts="net",
    makes="onnx",
    tools=("torch", "onnx", "onnxslim", "onnxruntime"),
    choices=int8_choices,
    module="models.steps.export_int8",
    revision=1,  # keeps equal weights apart
)
PRUNE = Step(
    name="prune",
    params=PruneParams,
    accepts="net",
    makes="net",
    tools=("torch", "torch-pruning", "safetensors"),
    module="models.steps.prune",
)
CAP_WIDTH = Step(
    name="cap_width",
    params=CapWidthParams,
    accepts="net",
    makes="net",
    tools=("torch", "torch-pruning", "safetensors"),
    module="models.steps.prune",
)
LOW_RANK = Step(
    name="low_rank",
    params=LowRankParams,
    accepts="net",
    makes="net",
    tools=("torch", "safetensors"),
    module="models.steps.low_rank",
)
SWAP_ACTIVATION = Step(
    name="swap_activation",
    params=SwapActivationParams,
    accepts="net",
    makes="net",
    tools=("torch", "safetensors"),
    module="models.steps.redesign",
)
CHANGE_CONVS = Step(
    name="change_convs",
    params=ChangeConvsParams,
    accepts="net",
    makes="net",
    tools=("torch", "safetensors"),
    module="models.steps.redesign",
)

NET_STEPS = (PRUNE, CAP_WIDTH, LOW_RANK, SWAP_ACTIVATION, CHANGE_CONVS, QAT, EXPORT_INT8)
"""What a recipe may do to a network."""
