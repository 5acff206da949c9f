"""Edit `low_rank`: a k x k convolution becomes a k x 1 and a 1 x k convolution.

Jaderberg et al., Speeding up Convolutional Neural Networks with Low Rank Expansions, 2014.
Parameters: `ranks`, the channels between the two by the convolution's name. This makes the
structure; `models.steps.low_rank` computes the weights once.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from models.nets.edits.place import put_two


def apply(module: nn.Module, params: dict[str, Any]) -> None:
    """Replace each convolution; the new weights are random."""
    for name, rank in params["ranks"].items():
        replace(module, name, rank)


def replace(module: nn.Module, name: str, rank: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Replace one, and return the two that stand there now."""
    conv: Any = module.get_submodule(name)
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = (
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
    )
    first = nn.Conv2d(
        conv.in_channels, rank, (kh, 1), (sh, 1), (ph, 0), dilation=(dh, 1), bias=False
    )
    second = nn.Conv2d(
        rank,
        conv.out_channels,
        (1, kw),
        (1, sw),
        (0, pw),
        dilation=(1, dw),
        bias=conv.bias is not None,
    )
    put_two(module, name, first, second)
    return first, second
