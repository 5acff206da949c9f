"""What a model is before anything is built from it, and what it is calibrated with."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from agent.wire import Head, ImagePrep
from models.errors import DataError

Layout = Literal["auto", "voc", "coco", "yolo", "masks", "shapes", "blobs"]
"""How a data set lies on the disk; the last two are drawn by this software."""


@dataclass(frozen=True)
class DataSpec:
    """Where a data set is: a path, or `shapes` or `blobs` for the procedural ones."""

    source: str
    layout: Layout = "auto"
    split: str = "val"


@dataclass(frozen=True)
class StepSpec:
    """A step that is asked for; `params` holds every parameter as JSON, the defaults filled in."""

    name: str
    params: dict[str, Any]


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    `reference` is what names it to its reader: a path, or a name such as `yolov8n.pt`.
    `sha256` is the digest of its file (with external data: of all its files), None where the
    file is still to be downloaded, or where a network starts from random weights. `imgsz_px` is
    the square size of an export, if one is made. `options` are those of a network of ours, as
    `models.nets.registry` completes them, or what is changed in an ultralytics yaml.
    """

    kind: Literal["onnx", "ultralytics", "net"]
    path: Path | None
    reference: str
    sha256: str | None
    imgsz_px: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """What stands for the source in the keys of everything built from it."""
        if self.kind == "onnx" and self.sha256 is not None:
            return self.sha256
        options = msgspec.json.encode(self.options, order="deterministic").decode()
        if self.kind == "net":
            return f"net:{self.reference}:{self.imgsz_px}:{options}:{self.sha256 or 'random'}"
        changed = f":{options}" if self.options else ""
        return f"{self.kind}:{self.reference}:{self.sha256 or 'downloaded'}{changed}"


@dataclass(frozen=True)
class ModelSpec:
    """A model and how to feed and read it.

    `task`, `head`, `prep` and `class_names` are empty where they are unknown; accuracy is then
    unavailable. `shapes` fixes dynamic inputs by name. `steps` come before those of any recipe.
    `note` says in words what a reader of the figures should know.
    """

    name: str
    source: ModelSource
    task: Literal["detect", "segment"] | None
    head: Head | None
    prep: ImagePrep | None
    class_names: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    trained: bool = True
    note: str | None = None
    steps: tuple[StepSpec, ...] = ()


@dataclass(frozen=True)
class TrainingSpec:
    """Labelled images that a network learns from, and those that its progress is shown on.

    `images` is how many are used at most, None for all. `cache` is where procedural sets are
    kept. `digest` stands for the images and labels in the keys of what is trained.
    """

    data: DataSpec
    val: DataSpec | None
    images: int | None
    cache: Path
    digest: str


@dataclass(frozen=True)
class CalibrationSpec:
    """Files that show a quantizer what real input looks like.

    `images` are image files, prepared by `prep`, or `.npy`/`.npz` tensors, taken as they are.
    `digest` is the sha256 over their contents, in order, and `prep`.
    """

    images: tuple[Path, ...]
    prep: ImagePrep | None
    digest: str


def file_digest(path: Path) -> str:
    """The sha256 of a file's bytes, in hex; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(path: Path) -> bytes:
    """A file's sha256, read once as long as it stays as it is; raises OSError."""
    status = path.stat()
    return _known_digest(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _known_digest(path: Path, _size_bytes: int, _mtime_ns: int) -> bytes:
    return bytes.fromhex(file_digest(path))


def calibration(images: Sequence[Path], prep: ImagePrep | None) -> CalibrationSpec:
    """A CalibrationSpec over `images` with its digest; raises DataError when one is unreadable."""
    if not images:
        raise DataError("calibration: no files were given; give a folder of images")
    total = hashlib.sha256(repr(prep).encode())
    for path in images:
        try:
            total.update(content_digest(path))
        except OSError as exc:
            raise DataError(f"calibration: {path}: {exc.strerror or exc}") from exc
    return CalibrationSpec(tuple(images), prep, total.hexdigest())
