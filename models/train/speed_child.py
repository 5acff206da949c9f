"""Program: how long one image of training takes. Reads a ModelSpec as JSON, writes one line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec
import torch
from torch import Tensor

from models.build import VariantRequest, build
from models.nets.net import Net, load_net
from models.recipes import Recipe
from models.remote.orders import PlainPaths
from models.spec import ModelSpec
from models.steps.isa import host_isa
from models.steps.settings import Settings
from models.store import ArtifactStore
from models.train.device import device_of, uses_bfloat16

BATCH: Final = 4
REPEATS: Final = 3


def main() -> None:
    """Build the network, learn from a few batches where a training would, tell how fast."""
    model = msgspec.json.decode(sys.stdin.read(), type=ModelSpec, dec_hook=PlainPaths.decode)
    bare = dataclasses.replace(model, steps=())
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        request = VariantRequest(bare, Recipe("net", (), ""), host_isa(), as_net=True)
        net = load_net(build(request, ArtifactStore(Path(folder)), print).path)
        device = device_of(Settings())
        answer = {"seconds": seconds_per_image(net, device), "device": device.type}
    sys.stdout.write(json.dumps(answer) + "\n")


def seconds_per_image(net: Net, device: torch.device) -> float:
    """The fastest of a few batches, forward and back, in the precision that a training takes."""
    module = net.module.train().to(device, memory_format=torch.channels_last)
    images = torch.rand(BATCH, 3, net.arch.imgsz_px, net.arch.imgsz_px).to(device)
    bfloat16 = uses_bfloat16(Settings(), device)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            outputs = module(images)
        _total(outputs).backward()
        if device.type == "cuda":  # which is asked and not waited for
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times) / BATCH


def _total(outputs: object) -> Tensor:
    """A number that depends on every output, whatever their structure is."""
    if isinstance(outputs, Tensor):
        return outputs.float().square().mean()
    parts = outputs.values() if isinstance(outputs, dict) else outputs
    return torch.stack([_total(part) for part in parts]).sum()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
