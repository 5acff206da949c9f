"""Step `export`: an ultralytics model to ONNX, in a child process. Needs the extra `models`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from models.errors import BuildFailed, ExtraMissing, ModelNotFound, ModelUnreadable
from models.onnxfile import load
from models.spec import ModelSource
from models.steps.base import StepInput, StepResult
from models.steps.export_child import SECTIONS_FILE

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_REPORTED_LINES = 15


def run(given: StepInput) -> StepResult:
    """Run ultralytics in a child process: it changes threads, settings and the working folder."""
    target = given.work / "model.onnx"
    given.log(f"exporting with ultralytics at {given.params.imgsz_px} px")
    asked = {
        "target": str(target),
        "imgsz_px": given.params.imgsz_px,
        "opset": given.params.opset,
    }
    in_child(given, "models.steps.export_child", asked)
    sections = (given.work / SECTIONS_FILE).read_text()
    _normalise(target, {"sections": sections} if json.loads(sections) else {})
    return StepResult(target)


def in_child(given: StepInput, program: str, asked: dict[str, Any]) -> None:
    """Run one of our programs on the model's source; raises what the child reports, in our words.

    What the child prints goes to the log.
    """
    given.cache.mkdir(parents=True, exist_ok=True)
    request = asked | {
        "source": str(given.model.source.path or given.model.source.reference),
        "weights": str(given.cache),
        "parent_pid": os.getpid(),
    }
    root = str(Path(__file__).parents[2])
    env = os.environ | {
        # Nothing is ever installed, and a .pt file is data, not a program.
        "YOLO_AUTOINSTALL": "false",
        "ULTRALYTICS_SAFE_LOAD": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
    }
    done = subprocess.run(
        [sys.executable, "-m", program, json.dumps(request)],
        cwd=given.work,
        env=env,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    lines = [_ANSI.sub("", line).strip() for line in (done.stdout + done.stderr).splitlines()]
    for line in filter(None, lines):
        given.log(line)
    result = given.work / "result.json"
    if done.returncode != 0 or not result.is_file():
        raise BuildFailed(
            f"{program.rpartition('.')[2]} ended with code {done.returncode}: "
            + " | ".join([line for line in lines if line][-_REPORTED_LINES:])
        )
    raise_failure(json.loads(result.read_text()), given.model.source, given.cache)


def raise_failure(result: dict[str, Any], source: ModelSource, cache: Path) -> None:
    """Translate what the child reported into our errors; nothing where it succeeded."""
    reason = result.get("error", "")
    match result.get("failed"):
        case None:
            return
        case "import":
            raise ExtraMissing(
                f"{source.reference}: {reason}; install the extra `models`: "
                "python -m pip install 'edge-orchestrator[models]'"
            )
        case "weights":
            raise ModelNotFound(
                f"{source.reference}: the trained weights are not here and could not be "
                f"downloaded ({reason}); put the file into {cache} or beside inventory.yaml, or "
                f"use {Path(source.reference).stem.removesuffix('u')}.yaml for an untrained network"
            )
        case "load":
            raise ModelUnreadable(f"{source.path or source.reference}: {reason}")
        case stage:
            raise BuildFailed(f"{stage}: {reason}")


def _normalise(path: Path, added: dict[str, str]) -> None:
    """Drop the date of the export: the same export twice is then the same artifact.

    `added` goes into the metadata.
    """
    model = load(path)
    kept = [(entry.key, entry.value) for entry in model.metadata_props if entry.key != "date"]
    del model.metadata_props[:]
    for key, value in (*kept, *added.items()):
        model.metadata_props.add(key=key, value=value)
    path.write_bytes(model.SerializeToString(deterministic=True))
