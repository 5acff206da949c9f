"""Questions about a network's layers that hold for any network of torch modules."""

from __future__ import annotations

import contextlib
import fnmatch
import importlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from models.errors import BuildFailed
from models.nets.net import Net
from models.nets.registry import FAMILIES

DECODE: Final = "decode"
"""Begins the names of what follows the last learned layer."""
LEARNED: Final = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def example(net: Net) -> Tensor:
    """(1, 3, s, s) in 0..1, the same every time."""
    size = net.arch.imgsz_px
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def learned_layers(net: Net, exclude: Sequence[str] = ()) -> dict[str, nn.Module]:
    """Convolutions and products by name, those of the decode and of `exclude` left out.

    An entry of `exclude` is a section of the network, such as `head`, or a shell-style pattern
    of module names. Raises BuildFailed naming an entry that matches none.
    """
    layers = {
        name: layer
        for name, layer in net.module.named_modules()
        if isinstance(layer, LEARNED) and not is_decode(name)
    }
    sections = importlib.import_module(FAMILIES[net.arch.family].module).sections(net.arch)
    for entry in exclude:
        if entry in sections:
            out = {n for n in layers if any(_within(n, prefix) for prefix in sections[entry])}
        else:
            out = {n for n in layers if fnmatch.fnmatchcase(n, entry)}
        if not out:
            raise BuildFailed(
                f"exclude: {entry!r} matches none of the network's layers; give a section "
                f"({', '.join(sections)}) or a pattern of layer names such as {next(iter(layers))}"
            )
        layers = {name: layer for name, layer in layers.items() if name not in out}
    return layers


def is_decode(name: str) -> bool:
    """True for a module of the decode; ultralytics' DFL is a convolution with fixed weights."""
    return _within(name, DECODE) or "dfl" in name.split(".")


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def followed(
    module: nn.Module, images: Tensor, first: tuple[type, ...], then: tuple[type, ...]
) -> list[tuple[str, str]]:
    """Names of layers of kind `first` whose output goes straight into a layer of kind `then`.

    Found by running the network once in eval mode. A layer that runs more than once, or whose
    output several such layers read, is left out.
    """
    makers: dict[int, tuple[str, Tensor]] = {}  # the tensors are kept, so that ids stay theirs
    pairs: list[tuple[str, str]] = []

    def made(name: str, output: Tensor) -> None:
        makers[id(output)] = (name, output)

    def read(name: str, given: Tensor) -> None:
        if id(given) in makers:
            pairs.append((makers[id(given)][0], name))

    with _hooks() as hooks, torch.no_grad():
        for name, layer in module.named_modules():
            any_layer: Any = layer
            if isinstance(layer, then):
                hooks.append(
                    any_layer.register_forward_pre_hook(lambda _, g, n=name: read(n, g[0]))
                )
            if isinstance(layer, first):
                hooks.append(any_layer.register_forward_hook(lambda _, __, o, n=name: made(n, o)))
        module.eval()(images)
    firsts, thens = [a for a, _ in pairs], [b for _, b in pairs]
    return [(a, b) for a, b in pairs if firsts.count(a) == 1 and thens.count(b) == 1]


def output_layers(module: nn.Module, images: Tensor) -> list[str]:
    """Names of the last learned layers before the decode: their channels mean something.

    Without a submodule `decode` those before the network's output, its DFL passed over.
    """
    decode = getattr(module, DECODE, None)
    return makers(module, images, [decode] if isinstance(decode, nn.Module) else [])


def makers(module: nn.Module, images: Tensor, readers: Sequence[nn.Module]) -> list[str]:
    """Names of the nearest learned layers behind what `readers` are given, or the output.

    Found by walking back from these tensors through autograd's graph, so that sums,
    concatenations and activations between are passed over.
    """
    ends: list[Tensor] = []
    with _hooks() as hooks, torch.enable_grad():
        for reader in readers:
            hook = reader.register_forward_pre_hook(lambda _, given: ends.extend(_tensors(given)))
            hooks.append(hook)
        output = module.eval()(images)
    weights = {
        id(layer.weight): name
        for name, layer in module.named_modules()
        if isinstance(layer, LEARNED) and not is_decode(name)
    }
    given = ends if readers else _tensors(output)
    found = _walk([tensor.grad_fn for tensor in given], weights)
    return [name for name in weights.values() if name in found]


def _walk(nodes: list[Any], weights: dict[int, str]) -> set[str]:
    """The nearest layers behind autograd's nodes; `weights` names layers by their weights' ids."""
    found: set[str] = set()
    seen: set[Any] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        before = [parent for parent, _ in node.next_functions]
        ids = {id(getattr(parent, "variable", None)) for parent in before} & weights.keys()
        here = {weights[each] for each in ids}
        found |= here
        if not here:
            nodes.extend(before)
    return found


def _tensors(value: object) -> list[Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


@contextlib.contextmanager
def _hooks() -> Iterator[list[Any]]:
    """Handles that are removed at the end."""
    handles: list[Any] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()
