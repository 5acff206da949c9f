"""A network with its weights, in memory and as a file of format `net` (safetensors).

The file holds numbers and JSON, never code: a file from elsewhere can be opened.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
import torch
from torch import Tensor, nn

from models.errors import ModelUnreadable
from models.nets.arch import DESCRIPTION, Arch, read_header
from models.nets.registry import EDITS, FAMILIES


@dataclass
class Net:
    """A network and what it is; `module` and `arch` are changed together."""

    module: nn.Module
    arch: Arch


def build_net(arch: Arch, seed: int = 0) -> Net:
    """A network with random weights, the same ones for the same seed; edits are applied."""
    torch.manual_seed(seed)
    module: nn.Module = importlib.import_module(FAMILIES[arch.family].module).build(arch)
    for edit in arch.edits:
        importlib.import_module(EDITS[edit.kind]).apply(module, edit.params)
    return Net(module, arch)


def save_net(net: Net, path: Path) -> None:
    """Write weights and description: equal networks are equal files. Raises OSError."""
    state = {name: value.detach().contiguous().clone() for name, value in _state(net).items()}
    described = {
        "arch": net.arch,
        "parameters": sum(p.numel() for p in net.module.parameters()),
    }
    # Under one key: safetensors writes several in a different order each time.
    metadata = {DESCRIPTION: msgspec.json.encode(described, order="deterministic").decode()}
    safetensors.torch.save_file(state, str(path), metadata)


def load_net(path: Path) -> Net:
    """The network of a file, in eval mode; raises ModelUnreadable."""
    arch = read_header(path).arch
    if arch.family not in FAMILIES or any(edit.kind not in EDITS for edit in arch.edits):
        raise ModelUnreadable(
            f"{path}: this version knows no network {arch.family!r} with "
            f"{[edit.kind for edit in arch.edits]}; update the software"
        )
    try:
        state = safetensors.torch.load_file(str(path))
    except Exception as exc:  # its error class is made in Rust and has no stable name
        raise ModelUnreadable(f"{path}: {exc}") from exc
    net = build_net(arch)
    fit_shapes(net.module, state)
    try:
        net.module.load_state_dict(state, strict=True)
    except RuntimeError as exc:
        raise ModelUnreadable(f"{path}: {exc}") from exc
    net.module.eval()
    return net


def _state(net: Net) -> dict[str, Tensor]:
    state: dict[str, Tensor] = net.module.state_dict()
    return state


def fit_shapes(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Give convolutions, products and batch norms the widths that `state` has, in place.

    Pruning leaves smaller weights and nothing else, so that the shapes say it all. Depthwise
    convolutions keep one group a channel, others their number of groups.
    """
    for name, layer in module.named_modules():
        weight = state.get(f"{name}.weight")
        own = getattr(layer, "weight", None)
        if weight is None or own is None or weight.shape == own.shape:
            continue
        _resize(layer, weight)


def _resize(layer: Any, weight: Tensor) -> None:
    first, *rest = weight.shape
    if isinstance(layer, nn.ConvTranspose2d):
        layer.in_channels, layer.out_channels = first, rest[0] * layer.groups
        outputs = layer.out_channels
    elif isinstance(layer, nn.Conv2d):
        if layer.groups == layer.in_channels and rest[0] == 1:
            layer.groups = first
        layer.in_channels, layer.out_channels = rest[0] * layer.groups, first
        outputs = first
    elif isinstance(layer, nn.BatchNorm2d):
        layer.num_features = outputs = first
        layer.running_mean = torch.zeros(first)
        layer.running_var = torch.ones(first)
    elif isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = rest[0], first
        outputs = first
    else:
        return
    layer.weight = nn.Parameter(torch.empty_like(weight))
    if layer.bias is not None:
        layer.bias = nn.Parameter(torch.empty(outputs))
