"""Step `create`: a network of the zoo, with random weights or with those of a file."""

from __future__ import annotations

import importlib
from typing import Any

import msgspec

from models.errors import BuildFailed
from models.nets.arch import Arch
from models.nets.names import default_names
from models.nets.net import Net, build_net, save_net
from models.nets.registry import FAMILIES
from models.steps.base import StepInput, StepResult


def run(given: StepInput) -> StepResult:
    """Build the network that the model's source describes; raises BuildFailed."""
    source = given.model.source
    family = FAMILIES[source.reference]
    options: dict[str, Any] = {**family.options, **source.options}
    arch = Arch(
        family=family.name,
        options=options,
        imgsz_px=source.imgsz_px or family.imgsz_px,
        class_names=default_names(family.task, int(options.get("num_classes", 1))),
    )
    net = build_net(arch)
    if source.path is not None:
        net = _with_weights(net, family.module, given)
    target = given.work / "model.net"
    save_net(net, target)
    return StepResult(target)


def _with_weights(net: Net, module: str, given: StepInput) -> Net:
    """The network with the weights of the source's file; its family knows the format."""
    loaders = importlib.import_module(module)
    if not hasattr(loaders, "load_weights"):
        raise BuildFailed(f"{net.arch.family}: no format of weights is known for this network")
    loaders.load_weights(net.module, given.model.source.path)
    return Net(net.module, msgspec.structs.replace(net.arch, trained=True))
