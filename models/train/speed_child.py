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
from models.nets.net import load_net
from models.recipes import Recipe
from models.remote.orders import PlainPaths
from models.spec import ModelSpec
from models.steps.isa import host_isa
from models.store import ArtifactStore

BATCH: Final = 4
REPEATS: Final = 3


def main() -> None:
    """Build the network, take a few batches forward and back, tell the fastest."""
    model = msgspec.json.decode(sys.stdin.read(), type=ModelSpec, dec_hook=PlainPaths.decode)
    bare = dataclasses.replace(model, steps=())
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        request = VariantRequest(bare, Recipe("net", (), ""), host_isa(), as_net=True)
        net = load_net(build(request, ArtifactStore(Path(folder)), print).path)
        module, size = net.module.train(), net.arch.imgsz_px
        images = torch.rand(BATCH, 3, size, size)
        times = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            _total(module(images)).backward()
            times.append(time.perf_counter() - start)
    sys.stdout.write(json.dumps({"seconds_per_image": min(times) / BATCH}) + "\n")


def _total(outputs: object) -> Tensor:
    """A number that depends on every output, whatever their structure is."""
    if isinstance(outputs, Tensor):
        return outputs.float().square().mean()
    parts = outputs.values() if isinstance(outputs, dict) else outputs
    return torch.stack([_total(part) for part in parts]).sum()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
