"""The card of a trained network: how it was made and what the exported file reaches."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from agent.wire import DetectHead, ImagePrep
from models.data import DataSpec, load
from models.evaluate import detect_on_host, score

_DIGITS = 4
_SCORING_TOOLS = ("onnxruntime", "hotcoco")


def make_card(file: Path, cache_dir: Path, threads: int) -> dict[str, Any]:
    """Measure an exported detector over the whole val set; how it was made is in its metadata."""
    metadata = {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}
    dataset = load(DataSpec("shapes", split="val"), cache_dir)
    side = int(metadata["imgsz"])
    head = DetectHead(decoder="yolo_v8", num_classes=len(dataset.class_names))
    prep = ImagePrep(height=side, width=side)
    scores = score(dataset, detect_on_host(file, dataset.images, prep, head, threads))
    return {
        "file": file.name,
        "size_bytes": file.stat().st_size,
        "parameters": int(metadata["parameters"]),
        "licence": metadata["licence"],
        "task": metadata["task"],
        "imgsz": side,
        "class_names": list(dataset.class_names),
        "scored_on": dataset.name,
        "images": scores.images,
        "map50": _rounded(scores.map50),
        "map50_95": _rounded(scores.map50_95),
        "map50_95_by_class": {name: _rounded(ap) for name, ap in scores.per_class.items()},
        "training": json.loads(metadata["training"]),
        "tools": {
            **json.loads(metadata["tools"]),
            **{name: version(name) for name in _SCORING_TOOLS},
        },
    }


def write_card(file: Path, cache_dir: Path, threads: int) -> None:
    """Write the card beside an exported file, under the same name."""
    text = json.dumps(make_card(file, cache_dir, threads), indent=2)
    file.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
