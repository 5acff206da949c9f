"""Artifacts on disk: immutable files named by their sha256, each with a manifest beside it.

    ROOT/artifacts/ab/abcd....onnx   the file (or .ort, .net ...); read-only, verified when read
    ROOT/artifacts/ab/abcd....json   its Manifest; written before the file appears
    ROOT/index/ef/efgh....           a step's key -> the sha256 of what the step made
    ROOT/locks/efgh....lock          one builder at a time for one step's key
    ROOT/tmp/                        work in progress; nothing in it is ever read back
    ROOT/quarantine/                 files whose bytes no longer matched their names
    ROOT/weights/                    weights that ultralytics downloaded; ranges/: of calibration
    ROOT/resume/efgh..../            what an interrupted training goes on from; removed at its end

Every file appears by rename after fsync, so a killed builder leaves nothing half-made.
This module imports neither onnx nor onnxruntime.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from models.errors import ArtifactLost
from models.figures import Figures
from models.locking import locked
from models.spec import file_digest
from models.tensors import TensorInfo

Format = Literal["onnx", "ort", "net", "pt2", "tflite"]
"""`net`: a network before its export (models/nets/net.py); `pt2`: torch.export's archive."""
_FORMATS: tuple[Format, ...] = get_args(Format)
_ABANDONED_S = 30 * 86_400
_YOUNG_S = 60
_SHA256 = re.compile(r"[0-9a-f]{64}")


class StepRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step of an artifact's making: its parameters and what followed from the target."""

    name: str
    params: dict[str, Any]
    choices: dict[str, str]


class CurvePoint(msgspec.Struct, frozen=True):
    """One value of a learning curve: `metric` after `epoch` (from 1) on `split`."""

    epoch: int
    split: Literal["train", "val"]
    metric: str
    value: float


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Where an artifact came from and what is in it.

    `model`, `recipe` and `isa` say what it was first built for: another recipe or board may
    share it. `steps` is the whole way from the source to here. `fused_kernels` counts, by
    operator, the quantized kernels that ONNX Runtime makes of it and `unfused_qdq` the
    QuantizeLinear and DequantizeLinear nodes that stay; both are None where they could not be
    counted, and `fused_note` says why. `curves` are of all trainings on the way here, and
    `training_digest` and `calibration_digest` are of the data of the last. `figures` are None in
    the manifests of older versions, and for a network that is not exported. Fields that a newer
    version adds are ignored.
    """

    schema: int = 1
    sha256: str
    size_bytes: int
    format: Format
    parent_sha256: str | None
    model: str
    recipe: str
    isa: str
    steps: tuple[StepRecord, ...]
    tool_versions: dict[str, str]
    calibration_digest: str | None
    calibration_items: int | None
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    metadata: dict[str, str]
    opset: int
    parameters: int
    weight_bytes: int
    node_counts: dict[str, int]
    fused_kernels: dict[str, int] | None
    unfused_qdq: int | None
    fused_note: str | None
    created_utc: str
    training_digest: str | None = None
    curves: tuple[CurvePoint, ...] = ()
    figures: Figures | None = None


@dataclass(frozen=True)
class Artifact:
    """A verified file of the store."""

    sha256: str
    size_bytes: int
    format: Format
    path: Path
    manifest: Manifest


class ArtifactStore:
    """The store under `root`, made on first use. Safe for several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, sha256: str) -> Artifact | None:
        """The artifact, its bytes verified; None when it is absent or was damaged.

        A damaged file is moved to quarantine, so that it is built again.
        """
        for kind in _FORMATS:
            path = self._path(sha256, kind)
            if path.is_file():
                return self._verified(sha256, kind, path)
        return None

    def holds(self, sha256: str) -> bool:
        """Whether a file lies under this name; its bytes are not verified."""
        return any(self._path(sha256, kind).is_file() for kind in _FORMATS)

    def get(self, sha256: str) -> Artifact:
        """The artifact, its bytes verified; raises ArtifactLost when absent or damaged."""
        artifact = self.find(sha256)
        if artifact is None:
            raise ArtifactLost(
                f"artifact {sha256[:12]}: absent or damaged in {self.root} (damaged files are in "
                f"{self.root / 'quarantine'}); build it again with `orchestrator build`"
            )
        return artifact

    def add(self, file: Path, manifest: Manifest) -> Artifact:
        """Take `file`, which is moved, under `manifest.sha256`, which the caller computed.

        An artifact that is already there keeps its manifest. Raises OSError (a full disk).
        """
        path = self._path(manifest.sha256, manifest.format)
        known = self.find(manifest.sha256)
        if known is not None:
            file.unlink()
            return known
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(path.with_suffix(".json"), msgspec.json.format(msgspec.json.encode(manifest)))
        _sync(file)
        file.chmod(0o444)
        file.replace(path)
        _sync(path.parent)
        return Artifact(manifest.sha256, manifest.size_bytes, manifest.format, path, manifest)

    def lookup(self, key: str) -> str | None:
        """The sha256 of what the step with this key made, None where it never ran here."""
        try:
            text = (self.root / "index" / key[:2] / key).read_text(errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return text if _SHA256.fullmatch(text) else None

    def remember(self, key: str, sha256: str) -> None:
        """Record what the step with this key made."""
        path = self.root / "index" / key[:2] / key
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(path, f"{sha256}\n".encode())
        _sync(path.parent)

    @contextlib.contextmanager
    def lock(self, key: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the key's lock; the kernel frees it when its holder dies.

        `waiting` is called once where another process holds it.
        """
        path = self.root / "locks" / f"{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, waiting):
            yield

    @contextlib.contextmanager
    def workdir(self) -> Iterator[Path]:
        """A scratch folder on the store's own file system, removed afterwards."""
        parent = self.root / "tmp"
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as folder:
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_SH)  # says that its owner is alive, see _sweep
                yield Path(folder)
            finally:
                os.close(handle)

    def resume_folder(self, key: str) -> Path:
        """Where the step with this key keeps what it goes on from; the step makes the folder.

        Folders of steps that nobody has gone on with for a month are removed.
        """
        parent = self.root / "resume"
        if parent.is_dir():
            for entry in parent.iterdir():
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat().st_mtime > _ABANDONED_S:
                        shutil.rmtree(entry)
        return parent / key

    def _path(self, sha256: str, kind: Format) -> Path:
        return self.root / "artifacts" / sha256[:2] / f"{sha256}.{kind}"

    def _verified(self, sha256: str, kind: Format, path: Path) -> Artifact | None:
        try:
            manifest = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=Manifest)
            size_bytes = path.stat().st_size
            if size_bytes == manifest.size_bytes and file_digest(path) == sha256:
                return Artifact(sha256, size_bytes, kind, path, manifest)
        except (FileNotFoundError, msgspec.MsgspecError):
            pass
        self._quarantine(path)
        return None

    def _quarantine(self, path: Path) -> None:
        folder = self.root / "quarantine"
        folder.mkdir(parents=True, exist_ok=True)
        stamp = time.time_ns()
        for file in (path, path.with_suffix(".json")):
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                file.replace(folder / f"{stamp}-{file.name}")

    def _write(self, path: Path, data: bytes) -> None:
        """Write by temporary file, fsync and rename."""
        parent = self.root / "tmp"
        parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(folder: Path) -> None:
    """Remove what killed builders left: entries that nobody locks any more."""
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - entry.stat().st_mtime < _YOUNG_S:
                continue  # its owner may not have locked it yet
            handle = os.open(entry, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            finally:
                os.close(handle)
