"""A convolution that learns where to look (deformable convolution v2, arXiv 1811.11168)."""

# mypy: allow-subclassing-any
# mypy does not follow torch (see pyproject.toml), so nn.Module is Any to it.

from __future__ import annotations

import functools
from typing import Any, Final

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

TAPS: Final = 9
"""Of a 3x3 kernel; each has an offset (y, x) and a weight in 0..1 at every place."""
OPSET: Final = 19
"""The first of ONNX with the operator DeformConv."""


class Deformable(nn.Module):
    """3x3 with bias; begins as an ordinary convolution at half strength: offsets are zero."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c_out, c_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(c_out))
        self.offset = nn.Conv2d(c_in, 3 * TAPS, 3, padding=1)
        self.initialise()

    def initialise(self) -> None:
        """Random weights; offsets of zero, as the paper begins."""
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_in, h, w) -> (n, c_out, h, w)."""
        _export_as_onnx()
        offsets, mask = self.offset(x).split((2 * TAPS, TAPS), dim=1)
        out: Tensor = deform_conv2d(
            x, offsets, self.weight, self.bias, padding=1, mask=mask.sigmoid()
        )
        return out


@functools.cache
def _export_as_onnx() -> None:
    """Tell torch's exporter that the operation is ONNX's DeformConv; its own tables lack it."""
    torch.onnx.register_custom_op_symbolic("torchvision::deform_conv2d", _symbolic, OPSET)


def _symbolic(
    graph: Any, x: Any, weight: Any, offset: Any, mask: Any, bias: Any, *_rest: Any
) -> Any:
    """The operator's node, as `Deformable` uses it: stride 1, padding 1, one group."""
    return graph.op("DeformConv", x, weight, offset, bias, mask, pads_i=[1, 1, 1, 1])
