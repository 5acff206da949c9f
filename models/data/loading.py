"""One way to a data set, whatever its layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from models.data.coco import load_coco, looks_like_coco
from models.data.files import contents
from models.data.shapes import COUNTS, NAME, ensure_shapes
from models.data.types import DataSpec, DetectionSet
from models.data.voc import load_voc, looks_like_voc
from models.data.yolo import load_yolo, looks_like_yolo
from models.errors import DataError

_Reader = Callable[[Path, str, str], DetectionSet]
_Test = Callable[[Path], bool]

SHAPES: Final = "shapes"
_LAYOUTS: Final[dict[str, tuple[_Test, _Reader]]] = {
    "voc": (looks_like_voc, load_voc),
    "coco": (looks_like_coco, load_coco),
    "yolo": (looks_like_yolo, load_yolo),
}


def load(spec: DataSpec, cache_dir: Path) -> DetectionSet:
    """Read a data set: names, sizes and boxes; pixels are not decoded.

    `shapes` is the procedural set, written into `cache_dir` at its first use. The set's name
    ends in its split. Raises DataError saying what was looked for and what was found.
    """
    if spec.source == SHAPES and spec.layout in ("auto", SHAPES):
        return _load_shapes(spec.split, cache_dir)
    if spec.layout == SHAPES:
        raise DataError(f"layout {SHAPES!r} needs the source {SHAPES!r} too, not {spec.source!r}")
    root = Path(spec.source).expanduser()
    if not root.exists():
        raise DataError(f"{root}: no such file or folder; the procedural set is {SHAPES!r}")
    layout = _recognised(root) if spec.layout == "auto" else spec.layout
    if layout not in _LAYOUTS:
        raise DataError(f"layout {layout!r} is not one of auto, shapes, {', '.join(_LAYOUTS)}")
    stem = root.resolve().stem if root.is_file() else root.resolve().name
    return _LAYOUTS[layout][1](root, spec.split, f"{stem}/{spec.split}")


def _recognised(root: Path) -> str:
    """The layout of a path, by what lies there."""
    for layout, (matches, _) in _LAYOUTS.items():
        if matches(root):
            return layout
    found = contents(root) if root.is_dir() else "a file of another kind"
    raise DataError(
        f"{root}: looked for JPEGImages/ and Annotations/ (VOC), annotations/*.json (COCO), "
        f"data.yaml or images/ and labels/ (YOLO), found {found}"
    )


def _load_shapes(split: str, cache_dir: Path) -> DetectionSet:
    if split not in COUNTS:
        raise DataError(f"the procedural set has the splits {', '.join(COUNTS)}, not {split!r}")
    root = ensure_shapes(cache_dir)
    try:
        return load_voc(root, split, f"{NAME}/{split}")
    except DataError as exc:
        raise DataError(f"{exc}; remove {root}, it will be written again") from exc
