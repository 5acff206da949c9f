"""From a model's inputs, outputs and metadata to how it is fed and read. Pure functions."""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from agent.wire import MAX_CLASSES, DetectHead, Head, ImagePrep, SegmentHead
from models.tensors import Shape, TensorInfo, fits, show_shape

_BOX_VALUES = 4
_ROW_VALUES = 6  # x1, y1, x2, y2, score, class
_IMAGE_RANK = 4
_CHANNELS = 3
_OUTPUT_RANK = 3


@dataclass(frozen=True)
class Description:
    """What a model does; `reason` says why it has no head where it has none."""

    task: Literal["detect", "segment"] | None
    head: Head | None
    prep: ImagePrep | None
    class_names: tuple[str, ...]
    reason: str | None = None


def describe_io(
    inputs: Mapping[str, TensorInfo],
    outputs: Mapping[str, TensorInfo],
    metadata: Mapping[str, str],
) -> Description:
    """How to feed and read a model whose metadata names detection or segmentation.

    Understands the metadata that ultralytics and this project's own exporter write: `task`,
    `names` and `imgsz`. Everything else gets a description without a task, and the reason.
    """
    task = metadata.get("task")
    if task not in ("detect", "segment"):
        return _unknown(
            f"the file's metadata says task={task!r}, not 'detect' or 'segment': "
            "synthetic input, latency only"
        )
    names = class_names(metadata.get("names", ""))
    if not names:
        return _unknown("the file's metadata has no readable class names: latency only")
    prep = _prep(inputs, metadata)
    if prep is None:
        return _unknown(f"the input is not one float32 image {_shapes(inputs)}: latency only")
    segments = task == "segment"
    head = _mask_head(outputs, len(names), prep) if segments else _head(outputs, len(names))
    if head is None:
        return _unknown(
            f"the output {_shapes(outputs)} fits no known decoder of task {task!r} for "
            f"{len(names)} classes: latency only"
        )
    return Description("segment" if segments else "detect", head, prep, names)


def class_names(text: str) -> tuple[str, ...]:
    """Class names in order of index from a Python or JSON dict or list; () if unreadable.

    Nothing is evaluated: ultralytics writes `str(dict)`, and only literals are parsed.
    """
    value = literal(text)
    if isinstance(value, dict):
        try:
            indexed = {int(index): str(name) for index, name in value.items()}
        except (TypeError, ValueError):
            return ()
        if sorted(indexed) != list(range(len(indexed))):
            return ()
        return tuple(indexed[index] for index in range(len(indexed)))
    if isinstance(value, list | tuple):
        return tuple(str(name) for name in value)
    return ()


def image_size(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """(height, width) in pixels from the metadata's `imgsz`, which is a number or a pair."""
    value = literal(metadata.get("imgsz", ""))
    match value:
        case int() if value > 0:
            return value, value
        case [int() as height, int() as width] if height > 0 and width > 0:
            return height, width
    return None


def literal(text: str) -> object:
    """The JSON or Python literal in `text`; None where it is neither.

    JSON first: it has signs beyond 16 bits as two halves, which Python would leave apart.
    """
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def is_image(shape: Shape | None) -> bool:
    """True for (1, 3, height, width), where any of the four may be dynamic."""
    return (
        shape is not None
        and len(shape) == _IMAGE_RANK
        and (shape[0] == 1 or not isinstance(shape[0], int))
        and (shape[1] == _CHANNELS or not isinstance(shape[1], int))
    )


def prep_from_input(inputs: Mapping[str, TensorInfo]) -> ImagePrep | None:
    """The letterbox that fits the only input, None where that is no image of fixed size."""
    if len(inputs) != 1:
        return None
    shape = next(iter(inputs.values())).shape
    if shape is None or not is_image(shape):
        return None
    height, width = shape[2:]
    if not isinstance(height, int) or not isinstance(width, int):
        return None
    return ImagePrep(height=height, width=width)


def _prep(inputs: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> ImagePrep | None:
    fixed = prep_from_input(inputs)
    only = next(iter(inputs.values()), TensorInfo("", None))
    if len(inputs) != 1 or only.dtype != "float32" or not is_image(only.shape):
        return None
    size = image_size(metadata)
    return fixed or (ImagePrep(height=size[0], width=size[1]) if size else None)


def _head(outputs: Mapping[str, TensorInfo], num_classes: int) -> DetectHead | None:
    """The decoder that fits (1, 4 + classes, anchors) or (1, n, 6)."""
    if len(outputs) != 1:
        return None
    dtype, shape = next(iter(outputs.values()))
    if dtype != "float32" or shape is None or len(shape) != _OUTPUT_RANK:
        return None
    if shape[1] == _BOX_VALUES + num_classes:
        return DetectHead(decoder="yolo_v8", num_classes=num_classes)
    if shape[2] == _ROW_VALUES:
        return DetectHead(decoder="end_to_end", num_classes=num_classes)
    return None


def _mask_head(
    outputs: Mapping[str, TensorInfo], num_classes: int, prep: ImagePrep
) -> SegmentHead | None:
    """The decoder of (1, classes, height, width), as large as the input; dimensions may be open."""
    if len(outputs) != 1 or num_classes > MAX_CLASSES:
        return None
    dtype, shape = next(iter(outputs.values()))
    wanted = (1, num_classes, prep.height, prep.width)
    if dtype != "float32" or shape is None or not fits(shape, wanted):
        return None
    return SegmentHead(num_classes=num_classes)


def _unknown(reason: str) -> Description:
    return Description(None, None, None, (), reason)


def _shapes(tensors: Mapping[str, TensorInfo]) -> str:
    return ", ".join(f"{name} {t.dtype} {show_shape(t.shape)}" for name, t in tensors.items())
