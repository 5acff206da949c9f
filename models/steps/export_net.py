"""Step `export_net`: a network to ONNX, one image of a fixed size."""

from __future__ import annotations

import importlib
import json
import warnings
from pathlib import Path

import onnx
import onnxslim
import torch
from torch import nn

from models.nets.arch import metadata_of
from models.nets.net import Net, load_net
from models.nets.registry import FAMILIES
from models.steps.base import StepInput, StepResult
from models.steps.quiet import quiet


def run(given: StepInput) -> StepResult:
    """Export in eval mode, batch norms folded; raises ModelUnreadable."""
    if given.source is None:
        raise ValueError("a network is needed")
    net = load_net(given.source)
    target = given.work / "model.onnx"
    with quiet(given.log):
        export_onnx(net, target, given.params.opset)
    return StepResult(target)


def export_onnx(net: Net, path: Path, opset: int) -> None:
    """Write the network: `images` (1, 3, s, s) in 0..1 -> `output`, metadata as ours."""
    family = FAMILIES[net.arch.family]
    code = importlib.import_module(family.module)
    size = net.arch.imgsz_px
    module = getattr(code, "for_inference", nn.Module.eval)(net.module)
    if hasattr(code, "min_opset"):
        opset = max(opset, code.min_opset(net.arch))
    with warnings.catch_warnings():
        # The older exporter is deprecated, but only it names nodes by module: /decode/...
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)
        torch.onnx.export(
            module,
            (torch.zeros(1, 3, size, size),),
            str(path),
            input_names=["images"],
            output_names=["output"],
            opset_version=opset,
            dynamo=False,
        )
    # Equal weights, such as all first biases, stay apart: the file has as many as the network.
    model = onnxslim.slim(onnx.load(str(path)), skip_optimizations=["weight_tying"])
    sections = code.sections(net.arch)
    entries = metadata_of(net.arch, family.task) | {"sections": json.dumps(node_patterns(sections))}
    onnx.helper.set_model_props(model, entries)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def node_patterns(sections: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """Beginnings of module names as patterns of ONNX node names, by section.

    The exporter names a member of a list by the list's name, a dot and its index: the nodes of
    `heads` are `/heads.0/...`.
    """
    return {
        section: [f"/{prefix}{end}" for prefix in prefixes for end in ("/*", ".*")]
        for section, prefixes in sections.items()
    }
