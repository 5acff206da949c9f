"""One way to a data set, whatever its layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from models.data import blobs
from models.data.coco import load_coco, looks_like_coco
from models.data.files import contents
from models.data.masks import load_masks, load_voc_masks, looks_like_masks, looks_like_voc_masks
from models.data.shapes import COUNTS, NAME, ensure_shapes
from models.data.types import AnySet, DetectionSet, SegmentationSet, Task
from models.data.voc import load_voc, looks_like_voc
from models.data.yolo import load_yolo, looks_like_yolo
from models.errors import DataError
from models.spec import DataSpec

_Reader = Callable[[Path, str, str], DetectionSet]
_Test = Callable[[Path], bool]

SHAPES: Final = "shapes"
BLOBS: Final = "blobs"
_LAYOUTS: Final[dict[str, tuple[_Test, _Reader]]] = {
    "voc": (looks_like_voc, load_voc),
    "coco": (looks_like_coco, load_coco),
    "yolo": (looks_like_yolo, load_yolo),
}


def task_of(spec: DataSpec) -> Task:
    """What a set is for: masks for segmentation; boxes for detection, also where it has both."""
    if BLOBS in (spec.source, spec.layout) or spec.layout == "masks":
        return "segment"
    root = Path(spec.source).expanduser()
    if spec.layout != "auto" or spec.source == SHAPES or not root.is_dir():
        return "detect"
    if any(matches(root) for matches, _ in _LAYOUTS.values()):
        return "detect"
    return "segment" if looks_like_masks(root) or looks_like_voc_masks(root) else "detect"


def load_for(task: Task | None, spec: DataSpec, cache_dir: Path) -> AnySet:
    """Read a set as what a task needs of it; without a task, as what it is; raises DataError."""
    if (task or task_of(spec)) == "segment":
        return load_segmentation(spec, cache_dir)
    return load(spec, cache_dir)


def load_segmentation(spec: DataSpec, cache_dir: Path) -> SegmentationSet:
    """Read a segmentation set: names, sizes and where masks are; pixels are not decoded.

    `blobs` is the procedural set, written into `cache_dir` at its first use. The set's name
    ends in its split. Raises DataError saying what was looked for and what was found.
    """
    if spec.source == BLOBS and spec.layout in ("auto", BLOBS):
        return _load_blobs(spec.split, cache_dir)
    if spec.layout == BLOBS:
        raise DataError(f"layout {BLOBS!r} needs the source {BLOBS!r} too, not {spec.source!r}")
    if spec.layout not in ("auto", "masks", "voc"):
        raise DataError(
            f"{spec.source}: layout {spec.layout!r} has boxes and no masks; a set for segmentation "
            f"has the layout masks, voc or {BLOBS}"
        )
    root = Path(spec.source).expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; the procedural set with masks is {BLOBS!r}")
    name = f"{root.resolve().name}/{spec.split}"
    if spec.layout == "voc" or (spec.layout == "auto" and looks_like_voc_masks(root)):
        return load_voc_masks(root, spec.split, name)
    if spec.layout == "auto" and not looks_like_masks(root):
        raise DataError(
            f"{root}: looked for images/ and masks/, or JPEGImages/ and SegmentationClass/ (VOC), "
            f"found {contents(root)}"
        )
    return load_masks(root, spec.split, name)


def _load_blobs(split: str, cache_dir: Path) -> SegmentationSet:
    if split not in blobs.COUNTS:
        splits = ", ".join(blobs.COUNTS)
        raise DataError(f"the procedural set has the splits {splits}, not {split!r}")
    root = blobs.ensure_blobs(cache_dir)
    try:
        return load_masks(root, split, f"{blobs.NAME}/{split}")
    except DataError as exc:
        raise DataError(f"{exc}; remove {root}, it will be written again") from exc


def load(spec: DataSpec, cache_dir: Path) -> DetectionSet:
    """Read a detection set: names, sizes and boxes; pixels are not decoded.

    `shapes` is the procedural set, written into `cache_dir` at its first use. The set's name
    ends in its split. Raises DataError saying what was looked for and what was found.
    """
    if spec.source == SHAPES and spec.layout in ("auto", SHAPES):
        return _load_shapes(spec.split, cache_dir)
    if spec.layout == SHAPES:
        raise DataError(f"layout {SHAPES!r} needs the source {SHAPES!r} too, not {spec.source!r}")
    if BLOBS in (spec.source, spec.layout) or spec.layout == "masks":
        raise DataError(f"{spec.source}: has masks and no boxes; a detector needs a set with boxes")
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
