"""What trainings a build would have to do, and how long they would take on this machine.

Counting is cheap and imports no torch; a network's speed is measured in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from models.chain import VariantRequest, links
from models.data.training import count_images
from models.remote.orders import PlainPaths
from models.spec import ModelSpec, TrainingSpec
from models.store import ArtifactStore

PATIENCE_S: Final = 300.0


@dataclass(frozen=True)
class Training:
    """A step that has to learn; `epochs` times `images` are seen by the network of `model`."""

    label: str
    step: str
    model: ModelSpec
    epochs: int
    images: int

    @property
    def seen(self) -> int:
        """Images that the network sees in all."""
        return self.epochs * self.images


def trainings(requests: Mapping[str, VariantRequest], store: ArtifactStore) -> tuple[Training, ...]:
    """The trainings that are not in the store yet, each once, those of teachers included.

    Requests come by the label of the first variant that needs them.
    """
    found: dict[tuple[str, ...], Training] = {}
    for label, request in requests.items():
        _collect(label, request, store, found)
    return tuple(found.values())


def _collect(
    label: str,
    request: VariantRequest,
    store: ArtifactStore,
    found: dict[tuple[str, ...], Training],
) -> None:
    prefix: tuple[str, ...] = (request.model.source.identity,)
    parent: str | None = request.model.source.identity
    for link in links(request):
        prefix = (*prefix, link.key(""))
        parent = store.lookup(link.key(parent)) if parent is not None else None
        for other in link.others.values():
            _collect(label, other, store, found)
        if parent is not None or not link.step.needs_training or prefix in found:
            continue
        if request.training is not None:
            found[prefix] = Training(
                label=label,
                step=link.step.name,
                model=request.model,
                epochs=int(link.params["epochs"]),
                images=_images(request.training, link.params.get("images")),
            )


def _images(training: TrainingSpec, limit: int | None) -> int:
    count = count_images(training)
    return count if limit is None else min(count, limit)


def seconds_per_image(model: ModelSpec) -> float | None:
    """How long this machine takes to learn from one image; None where that cannot be measured.

    The network is built with random weights in a child process and takes a batch forward and
    back. Data loading and scoring are not in it.
    """
    request = msgspec.json.encode(model, enc_hook=PlainPaths.encode).decode()
    root = str(Path(__file__).parents[1])
    env = os.environ | {"PYTHONPATH": root, "YOLO_AUTOINSTALL": "false"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "models.train.speed_child"],
            input=request,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env=env,
            check=False,
        )
        return float(json.loads(done.stdout.splitlines()[-1])["seconds_per_image"])
    except (subprocess.TimeoutExpired, IndexError, ValueError, KeyError, TypeError):
        return None
