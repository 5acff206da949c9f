"""Steps `prune` and `cap_width`: the least important channels go, and all that depended on them.

torch-pruning finds what belongs together (Fang et al., DepGraph, 2023). Fine-tune afterwards:
what is left was trained to work with what is gone.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from models.errors import BuildFailed
from models.nets.layers import example, learned_layers, makers, output_layers
from models.nets.net import Net, load_net, save_net
from models.nets.quant import quant_layers
from models.steps.base import StepInput, StepResult
from models.steps.compress_kinds import CapWidthParams, PruneParams
from models.steps.edits import drop_unused_branch, split_chunks

Params = PruneParams | CapWidthParams

_WHOLE = ("Attention", "PSA", "C2PSA", "PSABlock", "A2C2f", "C2fPSA", "ShuffleUnit", "Deformable")
"""Blocks whose channels have fixed places, by the names of their classes."""
_CUT_INPUT = ("ADown",)
"""Blocks that cut their input in two."""


def run(given: StepInput) -> StepResult:
    """Prune; raises BuildFailed, ModelUnreadable."""
    if given.source is None:
        raise ValueError("a network is needed")
    net = load_net(given.source)
    before = count(net.module)
    narrower, asked = prune(net, given.params)
    given.log(
        f"{narrower} of {asked} layers lose outputs (others are fixed, or would have fewer than "
        f"{given.params.round_to} left): {before} -> {count(net.module)} parameters"
    )
    target = given.work / "model.net"
    save_net(net, target)
    return StepResult(target)


def prune(net: Net, params: Params) -> tuple[int, int]:
    """Take channels out in place; how many layers lost any, of how many. Raises BuildFailed."""
    if quant_layers(net.module):
        raise BuildFailed("this network's layers are rounded to 8 bits: prune before `qat`")
    drop_unused_branch(net)
    split_chunks(net)
    chosen = learned_layers(net, params.exclude)
    ratios = _ratios(chosen, params)
    if not ratios:
        raise BuildFailed(f"no layer is left to prune with {params}")
    before = {layer: _width(layer) for layer in ratios}
    _take_out(net, chosen, ratios, params)
    narrower = sum(_width(layer) < width for layer, width in before.items())
    if not narrower:
        raise BuildFailed(
            f"nothing was taken out with {params}: every layer is fixed, keeps its width when it "
            f"is rounded, or would have fewer than {params.round_to} outputs left; give another "
            "ratio, a smaller round_to or fewer exclusions"
        )
    return narrower, len(ratios)


def _ratios(chosen: dict[str, nn.Module], params: Params) -> dict[nn.Module, float]:
    """The share of its outputs that each layer loses."""
    if isinstance(params, CapWidthParams):
        return {
            layer: 1 - params.max_channels / _width(layer)
            for layer in chosen.values()
            if _width(layer) > params.max_channels
        }
    return dict.fromkeys(chosen.values(), params.ratio)


def _width(layer: Any) -> int:
    """Outputs of a layer."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def _take_out(
    net: Net, chosen: dict[str, nn.Module], ratios: dict[nn.Module, float], params: Params
) -> None:
    """Let torch-pruning do it, and say in our words what it cannot."""
    images = example(net)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layers that it does not know and need not
            pruner = torch_pruning.pruner.BasePruner(
                net.module.eval(),
                images,
                importance=_importance(params),
                pruning_ratio=0.0,
                pruning_ratio_dict=ratios,
                ignored_layers=_kept(net, chosen, images),
                round_to=params.round_to,
                in_channel_groups={},
                out_channel_groups={},
            )
            pruner.step()
            with torch.no_grad():
                net.module(images)
    except Exception as exc:  # it raises whatever its bookkeeping runs into
        raise BuildFailed(
            f"this network cannot be pruned so: {type(exc).__name__}: {exc}; exclude the "
            "part that computes with fixed numbers of channels"
        ) from exc


def _kept(net: Net, chosen: dict[str, nn.Module], images: Tensor) -> list[nn.Module]:
    """What keeps its outputs: the last layers, what the recipe excludes, and fixed places.

    Those are what a block cuts in two, and what goes into groups and comes out of them: the groups
    of a layer would lose different numbers.
    """
    named: dict[str, list[nn.Module]] = defaultdict(list)
    for module in net.module.modules():
        named[type(module).__name__].append(module)
    grouped = {n: m for n, m in learned_layers(net).items() if _in_groups(m, images.shape[1])}
    readers = [*(m for name in _CUT_INPUT for m in named[name]), *grouped.values()]
    fixed = {*output_layers(net.module, images), *grouped}
    if readers:
        fixed |= set(makers(net.module, images, readers))
    layers = learned_layers(net)
    kept = [layer for name, layer in layers.items() if name not in chosen or name in fixed]
    return kept + [m for name in _WHOLE for m in named[name]]


def _in_groups(layer: Any, colours: int) -> bool:
    """True for layers of several groups, but for one group a channel unless of the image's own."""
    groups = getattr(layer, "groups", 1)
    return groups > 1 and (groups < layer.in_channels or groups == colours)


def _importance(params: Params) -> Any:
    """How much a channel matters, over all that goes with it."""
    if params.importance == "bn_scale":
        return torch_pruning.importance.BNScaleImportance()
    if params.importance == "random":
        torch.manual_seed(params.seed)
        return torch_pruning.importance.RandomImportance()
    return torch_pruning.importance.GroupMagnitudeImportance(
        p=1 if params.importance == "l1" else 2
    )


def count(module: nn.Module) -> int:
    """Trained numbers."""
    return sum(p.numel() for p in module.parameters())
