"""Small networks with settled batch norms, and steps run on them as a build would."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models.nets.arch import Arch
from models.nets.net import Net, build_net, save_net
from models.nets.registry import FAMILIES
from models.nets.ultra_yaml import scaled
from models.spec import CalibrationSpec, ModelSource, ModelSpec, TrainingSpec
from models.steps import ALL_STEPS, StepInput, StepResult
from models.steps.graph import fused, optimized_nodes

SIDE = 64
SMALL: dict[str, dict[str, Any]] = {
    "tinydet": {"num_classes": 6},
    "yolov3": {"num_classes": 6, "width": 0.0625},
    "unet": {"num_classes": 1, "width": 0.25},
}


def network(family: str, side: int = SIDE, **changed: Any) -> Net:
    """A seeded network whose batch norms are not the identity."""
    options = {**FAMILIES[family].options, **SMALL.get(family, {}), **changed}
    names = tuple(f"class{index}" for index in range(options["num_classes"]))
    return settled(
        build_net(Arch(family=family, options=options, imgsz_px=side, class_names=names))
    )


def ultralytics(name: str, side: int = SIDE, **changed: Any) -> Net:
    """A network of a description by ultralytics, with options of a yaml changed."""
    from models.nets.ultra import library  # noqa: PLC0415 - few tests need it

    yaml = library("nn.tasks").yaml_model_load(f"{name}.yaml")
    options = {"yaml": scaled(yaml, changed) if changed else yaml}
    names = tuple(f"class{index}" for index in range(options["yaml"]["nc"]))
    return settled(
        build_net(Arch(family="ultralytics", options=options, imgsz_px=side, class_names=names))
    )


def settled(net: Net) -> Net:
    generator = torch.Generator().manual_seed(5)
    for layer in net.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
    net.module.eval()
    return net


def pictures(count: int, side: int = SIDE, seed: int = 1) -> torch.Tensor:
    """(count, 3, side, side) in 0..1, smooth as pictures are."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    return nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


def output(net: Net, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = net.module.eval()(images)
    return out


def parameters(net: Net) -> int:
    return sum(p.numel() for p in net.module.parameters())


def given(
    step: str,
    source: Net | Path,
    work: Path,
    params: dict[str, Any] | None = None,
    isa: str = "x86_64-vnni",
    calibration: CalibrationSpec | None = None,
    training: TrainingSpec | None = None,
) -> StepInput:
    """What a build would give the step."""
    work.mkdir(exist_ok=True)
    path = source if isinstance(source, Path) else work / "given.net"
    if isinstance(source, Net):
        save_net(source, path)
    kind = ALL_STEPS[step]
    filled = kind.params(**(params or {}))
    model = ModelSpec(
        name="net",
        source=ModelSource("net", None, "net", None),
        task=None,
        head=None,
        prep=None,
        class_names=(),
    )
    return StepInput(
        source=path,
        model=model,
        isa=isa,
        params=filled,
        choices=kind.choices(filled, isa),
        calibration=calibration,
        work=work,
        cache=work,
        log=lambda _text: None,
        training=training,
    )


def run(step: str, source: Net | Path, work: Path, **more: Any) -> StepResult:
    """Run a step as a build would."""
    return ALL_STEPS[step].run(given(step, source, work, **more))


def ptq(net: Net, images: torch.Tensor, work: Path, **params: Any) -> Path:
    """The network by `export_net` and `int8_ptq`, calibrated with the images."""
    plain = run("export_net", net, work).path
    files = []
    for index, image in enumerate(images):
        files.append(work / f"{index}.npy")
        np.save(files[-1], image[None].numpy())
    spec = CalibrationSpec(tuple(files), None, "tensors")
    return run("int8_ptq", plain, work / "ptq", params=params, calibration=spec).path


def kernels(path: Path, work: Path) -> Counter[str]:
    """Fused INT8 kernels by operator."""
    return Counter(fused(optimized_nodes(path, work)))
