"""Program: exports an ultralytics model to ONNX. Run in a process of its own by step `export`.

Reads one JSON argument; writes `result.json` into its working folder, `{}` on success or
`{"failed": STAGE, "error": TEXT}`. Its output is what ultralytics prints.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.locking import locked
from models.onnxfile import first_line
from models.orphan import end_with_parent
from models.sections import ultralytics_patterns

SECTIONS_FILE = "sections.json"
_SEED = 0


class Stage(Exception):
    """A stage failed: its name, and the reason."""


def main(argument: str) -> None:
    """Export as the JSON request says."""
    answer(argument, _export)


def answer(argument: str, work: Callable[[dict[str, Any]], None]) -> None:
    """Do the work that the JSON argument asks for, and write how it went into `result.json`."""
    request = json.loads(argument)
    end_with_parent(request["parent_pid"])
    result: dict[str, str] = {}
    try:
        work(request)
    except Stage as exc:
        stage, reason = exc.args
        result = {"failed": stage, "error": reason}
    Path("result.json").write_text(json.dumps(result))


def open_model(request: dict[str, Any]) -> Any:
    """The `ultralytics.YOLO` of the request's `source`; raises Stage."""
    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ["ULTRALYTICS_SAFE_LOAD"] = "1"
    try:
        import torch  # noqa: PLC0415 - its absence is reported, not raised
        from ultralytics import YOLO  # noqa: PLC0415 - as above, and after the settings
    except ImportError as exc:
        raise Stage("import", str(exc)) from exc
    source = request["source"]
    if source.endswith(".pt"):
        source = _private(_weights(source, Path(request["weights"])))
    elif Path(source).is_absolute():
        source = _private(Path(source))
    torch.manual_seed(_SEED)  # an untrained network is the same one each time
    try:
        return YOLO(source)
    except Exception as exc:
        raise Stage("load", f"{type(exc).__name__}: {first_line(exc)}") from exc


def _export(request: dict[str, Any]) -> None:
    model = open_model(request)
    try:
        exported = model.export(
            format="onnx", imgsz=request["imgsz_px"], opset=request["opset"], simplify=True
        )
    except Exception as exc:
        raise Stage("export", f"{type(exc).__name__}: {first_line(exc)}") from exc
    shutil.move(exported, request["target"])
    Path(SECTIONS_FILE).write_text(json.dumps(_sections(model.model)))


def _sections(network: Any) -> dict[str, list[str]]:
    """Patterns of node names by section: ultralytics' YAMLs list a backbone and what follows it.

    The last module is the head. Empty where the network was not built from such a YAML.
    """
    backbone = len((getattr(network, "yaml", None) or {}).get("backbone", ()))
    if not backbone:
        return {}
    found = ultralytics_patterns(backbone, len(network.model) - 1)
    return {section: patterns for section, patterns in found.items() if patterns}


def _weights(source: str, folder: Path) -> Path:
    """The weights: where they are, or where ultralytics keeps its own, or downloaded."""
    from ultralytics.utils import SETTINGS  # noqa: PLC0415 - after the settings
    from ultralytics.utils.downloads import attempt_download_asset  # noqa: PLC0415 - as above

    if Path(source).is_absolute():
        return Path(source)
    kept = Path(SETTINGS["weights_dir"]) / source
    try:
        found = kept if kept.is_file() else downloaded(source, folder, attempt_download_asset)
    except Exception as exc:
        raise Stage("weights", f"{type(exc).__name__}: {first_line(exc)}") from exc
    if not found.is_file():
        raise Stage("weights", "the download gave no file")
    return found


def downloaded(source: str, folder: Path, download: Callable[[Path], str]) -> Path:
    """The file of that name in `folder`, got first where it is not there.

    It appears whole or not at all, and of several builds one gets it while the others wait:
    ultralytics takes whatever part of it lies there for the whole.
    """
    final = folder / source
    with locked(folder / f".{source}.lock"):
        if not final.is_file():
            with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as new:
                made = Path(download(Path(new) / source))
                if made.is_file():
                    made.replace(final)
    return final


def _private(path: Path) -> str:
    """A copy in the working folder: an export is written beside its source."""
    copy = Path.cwd() / path.name
    shutil.copyfile(path, copy)
    return str(copy)


if __name__ == "__main__":
    main(sys.argv[1])
