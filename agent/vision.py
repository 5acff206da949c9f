"""Pixels in, detections or masks out: the same letterbox and decoding on the host and on the board.

Needs numpy and pillow only. Scores of two machines may share a table because both run this
file. Shapes: an image is (H, W, 3) uint8 RGB, a tensor (1, 3, H, W) float32 in 0..1.

    BenchError
    ├── ImageError 28     an image file that cannot be used
    └── OutputError 29    a model's outputs do not fit the head that should decode them
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.wire import (
    BenchError,
    DetectHead,
    Detection,
    ImageMask,
    ImagePrep,
    SegmentHead,
)

MAX_PIXELS: Final = 50_000_000
"""Largest image that is decoded: 150 MB as RGB, what a board of 1 GB can still hold."""

MAX_CANDIDATES: Final = 4096
"""Boxes that enter NMS, best scores first. NMS stops at `max_detections` kept boxes, so the
limit can only drop boxes that rank below 4,096 better ones."""

_PACKING_LEVEL: Final = 6

_FORMATS: Final = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")
_DEEP_MODES: Final = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class ImageError(BenchError):
    """An image is missing, corrupt, of an unsupported kind, or too large to decode."""

    exit_code = 28


class OutputError(BenchError):
    """A model's outputs do not fit its head: wrong shape, type, class, or not one finite box."""

    exit_code = 29


@dataclass(frozen=True)
class Geometry:
    """How an image was put into a tensor: tensor pixel = original pixel * scale + pad."""

    scale: float
    pad_x: float
    pad_y: float
    width: int
    height: int

    @classmethod
    def of(cls, width: int, height: int, prep: ImagePrep) -> Geometry:
        """Where `prepare` puts an image of this size."""
        scale = min(prep.width / width, prep.height / height)
        whole = cls(scale, 0.0, 0.0, width, height)
        inner_width, inner_height = whole.inner(prep)
        left, top = (prep.width - inner_width) // 2, (prep.height - inner_height) // 2
        return cls(scale, float(left), float(top), width, height)

    def inner(self, prep: ImagePrep) -> tuple[int, int]:
        """Width and height in the tensor of the image itself, without the padding."""
        return (
            min(prep.width, max(1, round(self.width * self.scale))),
            min(prep.height, max(1, round(self.height * self.scale))),
        )

    def window(self, prep: ImagePrep) -> tuple[slice, slice]:
        """Rows and columns of the tensor that hold the image."""
        inner_width, inner_height = self.inner(prep)
        left, top = int(self.pad_x), int(self.pad_y)
        return slice(top, top + inner_height), slice(left, left + inner_width)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image file to (H, W, 3) RGB; EXIF orientation is ignored, alpha is dropped.

    Of an animated file the first frame. Raises ImageError for a missing or corrupt file, for
    more than MAX_PIXELS (checked before anything is decoded) and for 16 or 32 bits a channel,
    which would be clipped silently.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(
                    f"{path}: {image.width} x {image.height} pixels are more than {MAX_PIXELS:,}; "
                    "make it smaller"
                )
            if image.mode in _DEEP_MODES:
                raise ImageError(f"{path}: mode {image.mode} is not 8 bits a channel; convert it")
            source = image.convert("RGBA") if image.mode in ("P", "PA") else image
            return np.asarray(source.convert("RGB"), dtype=np.uint8)
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ImageError(f"{path}: more than {MAX_PIXELS:,} pixels; make it smaller") from exc
    except Exception as exc:  # a corrupt file makes Pillow's decoders raise almost anything
        raise ImageError(f"{path}: not a readable image: {type(exc).__name__}: {exc}") from exc


def prepare(image: NDArray[np.uint8], prep: ImagePrep) -> tuple[NDArray[np.float32], Geometry]:
    """Letterbox (H, W, 3) to (1, 3, prep.height, prep.width) in 0..1."""
    canvas, geometry = letterbox(image, prep)
    tensor = np.ascontiguousarray(canvas.transpose(2, 0, 1)[None], dtype=np.float32)  # (1, 3, H, W)
    tensor /= np.float32(255)
    return tensor, geometry


def letterbox(image: NDArray[np.uint8], prep: ImagePrep) -> tuple[NDArray[np.uint8], Geometry]:
    """(H, W, 3) to (prep.height, prep.width, 3).

    Aspect is kept, the image is centred, the rest is `prep.pad_value`. Pillow's bilinear filter
    averages over all source pixels when it shrinks, on every machine alike.
    """
    height, width = image.shape[:2]
    geometry = Geometry.of(width, height, prep)
    size = geometry.inner(prep)
    if size != (width, height):
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    canvas = np.full((prep.height, prep.width, 3), prep.pad_value, dtype=np.uint8)
    canvas[geometry.window(prep)] = image
    return canvas, geometry


def detections(
    outputs: Sequence[NDArray[Any]], head: DetectHead, geometry: Geometry
) -> tuple[Detection, ...]:
    """Decode raw outputs into boxes in pixels of the original image, best score first.

    Boxes are clipped to the image, and those with nothing left are dropped. Coordinates are
    rounded to 0.001 pixel and scores to 1e-6. An anchor with a value that is not finite is
    dropped; where no anchor is finite the model is broken, and OutputError is raised, as it is
    for outputs that do not fit the head.
    """
    if len(outputs) != 1:
        raise OutputError(f"{head.decoder}: one output expected, the model has {len(outputs)}")
    output = np.asarray(outputs[0])
    if output.dtype.kind != "f":
        raise OutputError(f"{head.decoder}: floats expected, the output is {output.dtype}")
    decode = _decode_yolo_v8 if head.decoder == "yolo_v8" else _decode_end_to_end
    boxes, scores, classes = decode(output, head)
    return _to_original(boxes, scores, classes, geometry)


def _decode_yolo_v8(output: NDArray[Any], head: DetectHead) -> tuple[Floats, Floats, Ints]:
    """(1, 4 + C, N) of cx, cy, w, h and C scores; every class above the threshold counts."""
    rows = 4 + head.num_classes
    if output.ndim != 3 or output.shape[:2] != (1, rows):  # noqa: PLR2004 - batch, rows, anchors
        raise OutputError(f"yolo_v8: (1, {rows}, anchors) expected, the output is {output.shape}")
    columns = _finite_columns(output[0])  # (4 + C, N)
    classes, anchors = np.nonzero(columns[4:] >= head.score_threshold)
    scores = columns[4:][classes, anchors].astype(np.float64)
    best = _best_first(scores, MAX_CANDIDATES)
    scores, classes, anchors = scores[best], classes[best], anchors[best]
    cx, cy, w, h = columns[:4, anchors].astype(np.float64)
    boxes = np.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), axis=1)  # (K, 4)
    proper = (w > 0) & (h > 0)
    boxes, scores, classes = boxes[proper], scores[proper], classes[proper]
    kept = nms(boxes, classes, head.iou_threshold, head.max_detections)
    return boxes[kept], scores[kept], classes[kept]


def _decode_end_to_end(output: NDArray[Any], head: DetectHead) -> tuple[Floats, Floats, Ints]:
    """(1, n, 6) of x1, y1, x2, y2, score, class; the model itself has removed duplicates."""
    if output.ndim != 3 or output.shape[0] != 1 or output.shape[2] != 6:  # noqa: PLR2004
        raise OutputError(f"end_to_end: (1, n, 6) expected, the output is {output.shape}")
    rows = _finite_columns(output[0].T).T.astype(np.float64)  # (n, 6)
    rows = rows[rows[:, 4] >= head.score_threshold]
    rows = rows[_best_first(rows[:, 4], head.max_detections)]
    classes = rows[:, 5]
    if np.any((classes < 0) | (classes > head.num_classes - 1) | (classes != np.rint(classes))):
        raise OutputError(
            f"end_to_end: classes 0..{head.num_classes - 1} expected, "
            f"the output has {classes.min():g}..{classes.max():g}"
        )
    return rows[:, :4], rows[:, 4], classes.astype(np.int64)


def _finite_columns(columns: NDArray[Any]) -> NDArray[Any]:
    """The columns (one anchor each) whose values are all finite; OutputError if none is."""
    finite = np.isfinite(columns).all(axis=0)
    if finite.all():
        return columns
    if not finite.any():
        raise OutputError("no anchor of the output is finite: the model is numerically broken")
    return columns[:, finite]


def _best_first(scores: Floats, limit: int) -> Ints:
    """Indices of the `limit` highest scores, best first; ties by index on every machine."""
    if len(scores) <= limit:
        return np.argsort(-scores, kind="stable")
    bar = np.partition(scores, len(scores) - limit)[len(scores) - limit]  # the lowest that fits
    above = np.flatnonzero(scores > bar)
    level = np.flatnonzero(scores == bar)[: limit - len(above)]
    chosen = np.sort(np.concatenate((above, level)))
    return chosen[np.argsort(-scores[chosen], kind="stable")]


def nms(boxes: Floats, classes: Ints, iou_threshold: float, limit: int) -> Ints:
    """Greedy class-aware NMS over boxes (K, 4) sorted best first; indices of at most `limit`.

    A box goes when it overlaps a better one of its own class by more than `iou_threshold`.
    One vectorised pass a kept box, over the later boxes of its class only, so the cost is
    bounded by `limit` passes however many boxes come in.
    """
    order = np.argsort(classes, kind="stable")  # by class, best first within each
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    ends = np.searchsorted(classes[order], classes, side="right").tolist()
    x1, y1, x2, y2 = np.ascontiguousarray(boxes[order].T)
    areas = (x2 - x1) * (y2 - y1)
    alive = np.ones(len(order), dtype=bool)
    kept: list[int] = []
    for index, at in enumerate(place.tolist()):
        if len(kept) >= limit:
            break
        if not alive[at]:
            continue
        kept.append(index)
        rest = slice(at + 1, ends[index])
        width = np.minimum(x2[rest], x2[at]) - np.maximum(x1[rest], x1[at])
        height = np.minimum(y2[rest], y2[at]) - np.maximum(y1[rest], y1[at])
        overlap = np.maximum(width, 0.0) * np.maximum(height, 0.0)
        alive[rest] &= overlap <= iou_threshold * (areas[rest] + areas[at] - overlap)
    return np.asarray(kept, dtype=np.int64)


def _to_original(
    boxes: Floats, scores: Floats, classes: Ints, geometry: Geometry
) -> tuple[Detection, ...]:
    """Undo the letterbox, clip to the image and drop boxes of which nothing is left."""
    pad = np.array([geometry.pad_x, geometry.pad_y] * 2)
    high = np.array([geometry.width, geometry.height] * 2, dtype=np.float64)
    original = np.clip((boxes - pad) / geometry.scale, 0.0, high).round(3)
    inside = (original[:, 2] > original[:, 0]) & (original[:, 3] > original[:, 1])
    columns = (*original[inside].T.tolist(), scores[inside].round(6).tolist())
    rows = zip(*columns, classes[inside].tolist(), strict=True)
    return tuple(Detection(*row) for row in rows)


def labels(
    outputs: Sequence[NDArray[Any]], head: SegmentHead, prep: ImagePrep
) -> NDArray[np.uint8]:
    """Decode raw outputs into a class for each pixel of the prepared image, (height, width).

    0 is no class, else 1 + class index. A pixel without a finite value has no class; where none
    is finite the model is broken, and OutputError is raised, as it is for outputs that do not
    fit the head.
    """
    if len(outputs) != 1:
        raise OutputError(f"segment: one output expected, the model has {len(outputs)}")
    output = np.asarray(outputs[0])
    wanted = (1, head.num_classes, prep.height, prep.width)
    if output.dtype.kind != "f" or output.shape != wanted:
        raise OutputError(
            f"segment: floats of {wanted} expected, the output is {output.dtype} {output.shape}"
        )
    finite = np.isfinite(output[0])  # (C, H, W)
    if not finite.any():
        raise OutputError("no pixel of the output is finite: the model is numerically broken")
    if head.num_classes == 1:
        found: NDArray[np.uint8] = (finite[0] & (output[0, 0] >= head.threshold)).astype(np.uint8)
        return found
    best = np.where(finite, output[0], -np.inf).argmax(axis=0) + 1
    return np.where(finite.any(axis=0), best, 0).astype(np.uint8)


def mask(
    image_id: str, outputs: Sequence[NDArray[Any]], head: SegmentHead, prep: ImagePrep
) -> ImageMask:
    """`labels` as they cross the wire; raises OutputError."""
    found = labels(outputs, head, prep)
    packed = zlib.compress(found.tobytes(), _PACKING_LEVEL)
    return ImageMask(image_id=image_id, height=prep.height, width=prep.width, packed=packed)


def unpacked(mask: ImageMask) -> NDArray[np.uint8]:
    """The labels of a mask, (height, width)."""
    return np.frombuffer(mask.labels(), dtype=np.uint8).reshape(mask.height, mask.width)


def prepare_labels(labels: NDArray[np.uint8], prep: ImagePrep, outside: int) -> NDArray[np.uint8]:
    """Letterbox labels (H, W) as `prepare` does the image: nearest neighbour, `outside` around."""
    height, width = labels.shape
    geometry = Geometry.of(width, height, prep)
    size = geometry.inner(prep)
    if size != (width, height):
        labels = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    canvas = np.full((prep.height, prep.width), outside, dtype=np.uint8)
    canvas[geometry.window(prep)] = labels
    return canvas
