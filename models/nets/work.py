"""How much a network computes for one image, counted by torch as it runs."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

_FLOPS_PER_MAC: Final = 2


def count_macs(module: nn.Module, imgsz_px: int) -> int:
    """Multiply-accumulates of one image (3, s, s): what `models.explain` counts in an ONNX file.

    Convolutions, transposed and deformable ones, and matrix products; torch knows what each of its
    operators costs. The module is run once, in eval mode, where its weights are.
    """
    where = next(module.parameters()).device
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_own()) as counter:
        module.eval()(torch.zeros(1, 3, imgsz_px, imgsz_px, device=where))
    return int(counter.get_total_flops()) // _FLOPS_PER_MAC


def _own() -> dict[Any, Any]:
    """What torch does not know: torchvision's deformable convolution, where it is imported."""
    try:
        deform = torch.ops.torchvision.deform_conv2d
    except AttributeError:
        return {}

    def deformed(
        _images: Any, weight: Any, *_rest: Any, out_shape: Any = None, **_named: Any
    ) -> int:
        cells = int(out_shape[0] * out_shape[2] * out_shape[3])
        return _FLOPS_PER_MAC * cells * int(torch.Size(weight).numel())

    return {deform: deformed}
