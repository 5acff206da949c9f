"""Step `low_rank`: k x k convolutions are replaced by a k x 1 and a 1 x k convolution.

The kernel as a matrix (inputs and rows by outputs and columns) is cut to its largest singular
values (models/nets/edits/low_rank.py). Fine-tune afterwards.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from models.errors import BuildFailed
from models.nets.arch import Edit
from models.nets.edits.low_rank import replace
from models.nets.layers import learned_layers
from models.nets.net import Net, load_net, save_net
from models.nets.quant import quant_layers
from models.steps.base import StepInput, StepResult
from models.steps.compress_kinds import LowRankParams
from models.steps.edits import merge_branches
from models.steps.prune import count


def run(given: StepInput) -> StepResult:
    """Decompose; raises BuildFailed, ModelUnreadable."""
    if given.source is None:
        raise ValueError("a network is needed")
    net = load_net(given.source)
    before = count(net.module)
    ranks = decompose(net, given.params)
    given.log(f"{len(ranks)} convolutions in two: {before} -> {count(net.module)} parameters")
    target = given.work / "model.net"
    save_net(net, target)
    return StepResult(target)


def decompose(net: Net, params: LowRankParams) -> dict[str, int]:
    """Replace where it saves weights, in place; returns the ranks. Raises BuildFailed."""
    if quant_layers(net.module):
        raise BuildFailed("this network's layers are rounded to 8 bits: low_rank goes before `qat`")
    merge_branches(net)
    ranks: dict[str, int] = {}
    with torch.no_grad():
        for name, conv in learned_layers(net, params.exclude).items():
            if type(conv) is nn.Conv2d and conv.groups == 1 and min(conv.kernel_size) > 1:
                rank = _replace(net.module, name, conv, params)
                ranks |= {name: rank} if rank else {}
    if not ranks:
        raise BuildFailed(
            f"low_rank: no convolution would have fewer weights with energy {params.energy}, "
            f"ratio {params.ratio}; lower them"
        )
    edit = Edit("low_rank", {"ranks": ranks})
    net.arch = msgspec.structs.replace(net.arch, edits=(*net.arch.edits, edit))
    return ranks


def _replace(module: nn.Module, name: str, conv: Any, params: LowRankParams) -> int | None:
    """Put two convolutions in the place of one, unless that would not be smaller."""
    out, channels, kh, kw = conv.weight.shape
    each = channels * kh + out * kw  # weights that one more rank costs
    matrix = conv.weight.permute(1, 2, 0, 3).reshape(channels * kh, out * kw)
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    rank = _rank(s, params, conv.weight.numel() / each)
    if rank * each >= conv.weight.numel():
        return None
    root = s[:rank].sqrt()
    first, second = replace(module, name, rank)
    down = (u[:, :rank] * root).T.reshape(rank, channels, kh)
    up = (root[:, None] * v[:rank]).reshape(rank, out, kw).transpose(0, 1)
    first.weight.copy_(down[..., None])
    second.weight.copy_(up[:, :, None])
    if conv.bias is not None:
        second.bias.copy_(conv.bias)
    return rank


def _rank(singular: Tensor, params: LowRankParams, even: float) -> int:
    """The rank wanted; `even` is the one at which nothing is saved."""
    if params.ratio is not None:
        rank = math.floor(params.ratio * even)
    else:
        energy = (singular**2).cumsum(0) / (singular**2).sum()
        rank = int((energy < params.energy).sum()) + 1
    rank = -(-rank // params.round_to) * params.round_to
    return max(1, min(rank, len(singular)))
