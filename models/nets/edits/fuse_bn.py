"""Edit `fuse_bn`: batch norms folded into the convolutions before them.

Parameters: `pairs`, a list of [convolution, batch norm] by name. In eval mode the network
computes the same as before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def apply(module: nn.Module, params: dict[str, Any]) -> None:
    """Fold each pair; the batch norm becomes an identity."""
    for conv_name, norm_name in params["pairs"]:
        conv, norm = module.get_submodule(conv_name), module.get_submodule(norm_name)
        bias = torch.zeros_like(norm.running_mean) if conv.bias is None else conv.bias
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight,
            bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
            transpose=isinstance(conv, nn.ConvTranspose2d),
        )
        _without(module, norm_name)


def _without(module: nn.Module, name: str) -> None:
    """Leave out a batch norm. A unit by ultralytics has a way of its own to go without."""
    parent: Any = module.get_submodule(name.rpartition(".")[0])
    if hasattr(parent, "forward_fuse") and name.endswith(".bn"):
        del parent.bn
        parent.forward = parent.forward_fuse
    else:
        module.set_submodule(name, nn.Identity())
