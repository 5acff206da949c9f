"""Step `export_pt2`: a network to torch.export's archive, for PyTorch's eager mode on a board.

The archive holds tensors and a graph of ATen operators, nothing that has to be unpickled or
evaluated (agent/runtimes/torch_archive.py says exactly what a board accepts).
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.errors import BuildFailed
from models.nets import parts
from models.nets.arch import metadata_of
from models.nets.net import Net, load_net
from models.nets.registry import FAMILIES
from models.nets.work import macs_by_module
from models.steps.base import FileInfo, StepInput, StepResult
from models.steps.quiet import quiet
from models.tensors import TensorInfo

_WITHIN = "net."
"""Begins the names of the network's tensors where it is wrapped in OneImage."""
_CONVOLUTION = "conv2d"
_NORM = "batch_norm"


class OneImage(nn.Module):  # type: ignore[misc] # torch ships no types
    """A network whose input is called `images`, as in every other format."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.eval()

    def forward(self, images: torch.Tensor) -> Any:
        """(1, 3, s, s) in 0..1 to the network's output."""
        return self.net(images)


def for_inference(net: Net) -> nn.Module:
    """The network as it is exported to any format: simplified where its family knows how.

    Its module may be changed in place. It is run once, because heads by ultralytics make their
    grid of anchors at the first image of a size and keep it, as they do in use.
    """
    code = importlib.import_module(FAMILIES[net.arch.family].module)
    module = OneImage(getattr(code, "for_inference", nn.Module.eval)(net.module))
    with torch.no_grad():
        module(torch.zeros(1, 3, net.arch.imgsz_px, net.arch.imgsz_px))
    return module


def run(given: StepInput) -> StepResult:
    """Export in eval mode; raises ModelUnreadable, BuildFailed."""
    if given.source is None:
        raise ValueError("a network is needed")
    net = load_net(given.source)
    target = given.work / "model.pt2"
    with quiet(given.log) as log:
        program = export_program(net, fold=given.params.fold_batch_norm)
        log(f"{len(operators(program))} kinds of operators")
        save(program, target)
    parameters = {name: value.numel() for name, value in net.module.named_parameters()}
    weights = {
        name.removeprefix(_WITHIN): tensor.numel() * tensor.element_size()
        for name, tensor in program.state_dict.items()
    }
    macs, sections = macs_by_module(net.module, net.arch.imgsz_px), parts.prefixes(net.arch)
    info = FileInfo(
        inputs={name: _info(value) for name, value in _inputs(program)},
        outputs={name: _info(value) for name, value in _outputs(program)},
        metadata=metadata_of(net.arch, FAMILIES[net.arch.family].task),
        parameters=sum(parameters.values()),
        weight_bytes=sum(weights.values()),
        macs=sum(macs.values()),
        sections=parts.shares(
            sections,
            *(parts.by_section(counts, sections) for counts in (parameters, weights, macs)),
        ),
    )
    return StepResult(target, node_counts=operators(program), info=info)


def export_program(net: Net, *, fold: bool) -> Any:
    """The network as a program of ATen operators for one image of its size."""
    size = net.arch.imgsz_px
    module = for_inference(net)
    example = (torch.zeros(1, 3, size, size),)
    with torch.no_grad():
        program = torch.export.export(module, example)
        if fold and fold_batch_norms(module, program):
            program = torch.export.export(module, example)
    return program


def save(program: Any, path: Path) -> None:
    """Write the archive without what torch would unpickle or evaluate when it is loaded.

    That is the example input, and each node's origin in our source with this machine's paths.
    """
    for node in program.graph.nodes:
        for key in [key for key in node.meta if key not in ("val", "tensor_meta")]:
            del node.meta[key]
    program.example_inputs = None
    torch.export.save(program, str(path))


def fold_batch_norms(module: nn.Module, program: Any) -> int:
    """Fold each batch norm into the convolution before it, in place; how many were folded.

    Whoever deploys an eager model does so (ultralytics' own prediction, too): a baseline that
    did not would flatter the runtimes that fold by themselves. Only a convolution whose one
    reader is the norm, both used once, is changed.
    """
    fqn = program.graph_signature.inputs_to_parameters
    pairs = [(_module_of(conv, fqn), _module_of(norm, fqn)) for conv, norm in _pairs(program)]
    used = Counter(name for pair in pairs for name in pair)
    folded = 0
    for conv_name, norm_name in pairs:
        if not conv_name or not norm_name or used[conv_name] > 1 or used[norm_name] > 1:
            continue
        conv, norm = module.get_submodule(conv_name), module.get_submodule(norm_name)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            module.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
            module.set_submodule(norm_name, nn.Identity())
            folded += 1
    return folded


def _pairs(program: Any) -> Iterator[tuple[Any, Any]]:
    """Convolution and batch norm nodes that follow directly on each other."""
    readers = Counter(
        argument
        for node in program.graph.nodes
        if _operator(node) == _CONVOLUTION
        for argument in node.args[1:2]
    )
    for node in program.graph.nodes:
        if _operator(node) != _NORM:
            continue
        before = node.args[0]
        alone = _operator(before) == _CONVOLUTION and len(before.users) == 1
        if alone and readers[before.args[1]] == 1:
            yield before, node


def _module_of(node: Any, fqn: dict[str, str]) -> str:
    """The name of the module whose weight a node uses; '' where it has none of its own."""
    weight = fqn.get(getattr(node.args[1], "name", ""), "")
    return weight.removesuffix(".weight") if weight.endswith(".weight") else ""


def _operator(node: Any) -> str:
    """`conv2d` of `aten.conv2d.default`; '' for what is no operator."""
    return str(node.target).split(".")[1] if str(node.target).startswith("aten.") else ""


def operators(program: Any) -> dict[str, int]:
    """How many nodes of each ATen operator, sorted by name."""
    names = [_operator(node) for node in program.graph.nodes if node.op == "call_function"]
    return dict(sorted(Counter(filter(None, names)).items()))


def _inputs(program: Any) -> Iterator[tuple[str, Any]]:
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    for name in program.graph_signature.user_inputs:
        yield name, values[name]


def _outputs(program: Any) -> Iterator[tuple[str, Any]]:
    """The outputs as `output`, `output1` ...; raises BuildFailed where there is none."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    names = [name for name in program.graph_signature.user_outputs if name in values]
    if not names:
        raise BuildFailed("the network gives no tensor")
    for index, name in enumerate(names):
        yield f"output{index or ''}", values[name]


def _info(value: Any) -> TensorInfo:
    return TensorInfo(str(value.dtype).removeprefix("torch."), tuple(value.shape))
