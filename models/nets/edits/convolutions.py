"""Edit `convolutions`: convolutions become grouped, depthwise separable or dilated ones.

Parameters: `change` (group, separable or dilate), `layers` by name and `value`, the number of
groups or the dilation. New weights are made of the old ones; training has to follow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from models.nets.edits.place import put_two


def apply(module: nn.Module, params: dict[str, Any]) -> None:
    """Change each layer."""
    for name in params["layers"]:
        CHANGES[params["change"]](module, name, params["value"])


def _group(module: nn.Module, name: str, groups: int) -> None:
    """Each group of outputs keeps its weights for its own group of inputs.

    They are enlarged as a sum over fewer inputs would otherwise be smaller.
    """
    conv: Any = module.get_submodule(name)
    weight = conv.weight.detach()  # (out, in, kh, kw)
    blocks = [
        rows.chunk(groups, dim=1)[index] for index, rows in enumerate(weight.chunk(groups, dim=0))
    ]
    conv.weight = nn.Parameter(torch.cat(blocks) * groups**0.5)
    conv.groups = groups


def _separable(module: nn.Module, name: str, _value: int) -> None:
    """A filter for each input, then a 1x1 mix: for each input the best such pair by its SVD."""
    conv: Any = module.get_submodule(name)
    spatial, mix = _rank_one(conv.weight.detach())
    first = nn.Conv2d(
        conv.in_channels,
        conv.in_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        groups=conv.in_channels,
        bias=False,
    )
    second = nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=conv.bias is not None)
    first.weight, second.weight = nn.Parameter(spatial), nn.Parameter(mix)
    if conv.bias is not None:
        second.bias = conv.bias
    put_two(module, name, first, second)


def _rank_one(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, in, kh, kw) -> (in, 1, kh, kw) and (out, in, 1, 1) whose products are nearest."""
    out, channels, kh, kw = weight.shape
    by_input = weight.permute(1, 0, 2, 3).reshape(channels, out, kh * kw)
    u, s, v = torch.linalg.svd(by_input, full_matrices=False)
    root = s[:, :1].sqrt()
    spatial = (v[:, 0] * root).reshape(channels, 1, kh, kw)
    mix = (u[:, :, 0] * root).T.reshape(out, channels, 1, 1)
    return spatial.contiguous(), mix.contiguous()


def _dilate(module: nn.Module, name: str, dilation: int) -> None:
    """The same weights further apart, the output as large as before."""
    conv: Any = module.get_submodule(name)
    conv.padding = tuple(
        pad + (kernel - 1) * (dilation - old) // 2
        for pad, kernel, old in zip(conv.padding, conv.kernel_size, conv.dilation, strict=True)
    )
    conv.dilation = (dilation, dilation)


CHANGES: Final[dict[str, Callable[[nn.Module, str, int], None]]] = {
    "group": _group,
    "separable": _separable,
    "dilate": _dilate,
}
