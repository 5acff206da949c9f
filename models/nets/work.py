"""How much a network computes for one image, counted by torch as it runs."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

_FLOPS_PER_MAC: Final = 2
_WITHOUT_MODULE: Final = "Global"
"""What torch's counter calls the sum of everything; modules begin with the network's class."""


def count_macs(module: nn.Module, imgsz_px: int) -> int:
    """Multiply-accumulates of one image (3, s, s): what `models.explain` counts in an ONNX file.

    Convolutions, transposed and deformable ones, and matrix products; torch knows what each of its
    operators costs. The module is run once, in eval mode, where its weights are.
    """
    return sum(macs_by_module(module, imgsz_px).values())


def macs_by_module(module: nn.Module, imgsz_px: int) -> dict[str, int]:
    """The same by the names of modules, each without what the modules within it compute."""
    where = next(module.parameters()).device
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_own()) as counter:
        module.eval()(torch.zeros(1, 3, imgsz_px, imgsz_px, device=where))
    whole = {
        name.partition(".")[2]: sum(flops.values()) // _FLOPS_PER_MAC
        for name, flops in counter.get_flop_counts().items()
        if name != _WITHOUT_MODULE
    }
    own = dict(whole)
    for name in filter(None, whole):
        above = name.rpartition(".")[0]
        while above not in whole:  # a list of modules is never called itself
            above = above.rpartition(".")[0]
        own[above] -= whole[name]
    return own


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
