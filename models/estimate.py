"""What trainings a build would have to do, and how long they would take on this machine.

Counting is cheap and imports no torch; a network's speed is measured in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from models.build import links_done
from models.chain import VariantRequest, links
from models.remote.orders import PlainPaths
from models.spec import ModelSpec
from models.store import ArtifactStore

PATIENCE_S: Final = 300.0


@dataclass(frozen=True)
class Training:
    """A step that has to learn; `epochs` times `images` are seen by the network of `model`.

    `images` is None where it cannot be known.
    """

    label: str
    step: str
    model: ModelSpec
    epochs: int
    images: int | None

    @property
    def seen(self) -> int | None:
        """Images that the network sees in all; None where that cannot be known."""
        return None if self.images is None else self.epochs * self.images


def trainings(
    requests: Mapping[str, VariantRequest], store: ArtifactStore, images: int | None
) -> tuple[Training, ...]:
    """The trainings that are not in the store yet, each once, those of teachers included.

    Requests come by the label of the first variant that needs them. `images` is how many there
    are to learn from, where that is known.
    """
    found: dict[tuple[str, ...], Training] = {}
    for label, request in requests.items():
        _collect(label, request, store, images, found)
    return tuple(found.values())


def _collect(
    label: str,
    request: VariantRequest,
    store: ArtifactStore,
    images: int | None,
    found: dict[tuple[str, ...], Training],
) -> None:
    prefix: tuple[str, ...] = (request.model.source.identity,)
    done = links_done(request, store)
    for number, link in enumerate(links(request), start=1):
        prefix = (*prefix, link.key(""))
        if number <= done:
            continue
        for other in link.others.values():
            _collect(label, other, store, images, found)
        if not link.step.needs_training or prefix in found:
            continue
        if request.training is not None:
            known = [n for n in (images, link.params.get("images")) if n is not None]
            found[prefix] = Training(
                label=label,
                step=link.step.name,
                model=request.model,
                epochs=int(link.params["epochs"]),
                images=min(known, default=None),
            )


@dataclass(frozen=True)
class Speed:
    """How long this machine takes to learn from one image, and on what: `cpu` or `cuda`."""

    seconds: float
    device: str


def speed_of(model: ModelSpec) -> Speed | None:
    """How fast a network learns on this machine; None where that cannot be measured.

    The network is built with random weights in a child process and takes a batch forward and
    back, on the GPU where there is one. Data loading and scoring are not in it.
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
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=Speed)
    except (subprocess.TimeoutExpired, IndexError, msgspec.MsgspecError):
        return None
