"""Steps `export_tflite` and `tflite_int8`: a network to TensorFlow Lite, for LiteRT on a board.

litert-torch converts and ai-edge-quantizer quantizes, both in a child process: they bring jax and
TensorFlow's converter with them, which log, and change threads, for the whole process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from models.errors import BuildFailed, DataError, ExtraMissing, NothingQuantized
from models.figures import Section
from models.nets.arch import metadata_of, read_header
from models.nets.registry import FAMILIES
from models.steps.base import FileInfo, StepInput, StepResult
from models.tensors import TensorInfo

_REPORTED_LINES = 15
_INSTALL = (
    "install the extra `litert-convert` (about 1 GB beside torch): "
    "`pip install 'edge-orchestrator[models,litert-convert]'`"
)


def run(given: StepInput) -> StepResult:
    """Convert the network; raises ExtraMissing, DataError, NothingQuantized, BuildFailed."""
    if given.source is None:
        raise ValueError("a network is needed")
    target = given.work / "model.tflite"
    told = _child(given, target)
    match told.get("failed"):
        case "import":
            raise ExtraMissing(f"the converter cannot be imported ({told['error']}); {_INSTALL}")
        case "data":
            raise DataError(str(told["error"]))
        case "nothing":
            raise NothingQuantized(str(told["error"]))
    header = read_header(given.source)
    info = FileInfo(
        inputs=_tensors(told["inputs"]),
        outputs=_tensors(told["outputs"]),
        metadata=metadata_of(header.arch, FAMILIES[header.arch.family].task),
        parameters=told["parameters"],
        weight_bytes=told["weight_bytes"],
        macs=told["macs"],
        sections=msgspec.convert(told["sections"], tuple[Section, ...]),
    )
    return StepResult(target, node_counts=told["operators"], info=info)


def _child(given: StepInput, target: Path) -> dict[str, Any]:
    """Run the conversion in a process of its own; what it reported."""
    calibration = given.calibration
    request = {
        "source": str(given.source),
        "target": str(target),
        "parent_pid": os.getpid(),
        "quantize": getattr(given.params, "quantize", "int8"),
        "exclude": list(getattr(given.params, "exclude", ())),
        "images": [str(path) for path in calibration.images] if calibration else [],
        "prep": msgspec.to_builtins(calibration.prep) if calibration else None,
    }
    asked = given.work / "request.json"
    asked.write_text(json.dumps(request), encoding="utf-8")
    root = str(Path(__file__).parents[2])
    paths = filter(None, (root, os.environ.get("PYTHONPATH")))
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "models.steps.tflite_child", str(asked)],
        cwd=given.work,
        env=env,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    result = given.work / "result.json"
    if done.returncode != 0 or not result.is_file():
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise BuildFailed(
            f"the conversion ended with code {done.returncode}: "
            + " | ".join(lines[-_REPORTED_LINES:])
        )
    told: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    for line in told.get("log", ()):
        given.log(line)
    return told


def _tensors(told: Mapping[str, Any]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(dtype, tuple(shape)) for name, (dtype, shape) in told.items()}
