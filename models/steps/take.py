"""Step `import`: takes a user's ONNX file as it is."""

from __future__ import annotations

import shutil

import onnx

from models.errors import BuildFailed, ModelUnreadable
from models.onnxfile import describe, load, source_digest
from models.steps.base import StepInput, StepResult


def run(given: StepInput) -> StepResult:
    """Copy the file; external data is taken in, because an artifact is one file."""
    source = given.model.source
    if source.path is None:
        raise ValueError("an ONNX source has a path")
    info = describe(source.path)
    if source_digest(source.path, info) != source.sha256:
        raise ModelUnreadable(f"{source.path}: the file changed while it was read; run again")
    target = given.work / "model.onnx"
    if not info.external_files:
        shutil.copyfile(source.path, target)
        return StepResult(target)
    try:
        onnx.save(load(source.path), str(target))
    except ValueError as exc:
        raise BuildFailed(
            f"{source.path}: its weights do not fit one file of 2 GB, which an artifact is: {exc}"
        ) from exc
    return StepResult(target)
