"""What a model finds in images, written down for the host, which scores it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from agent import feeds
from agent.errors import Refused
from agent.runtimes import LoadedModel
from agent.timing import Clock, clock_ns
from agent.vision import Geometry, OutputError, detections, mask
from agent.wire import (
    MAX_CLASSES,
    MAX_MASK_PIXELS,
    DetectHead,
    Evaluation,
    FailureKind,
    ImageDetections,
    ImageMask,
    ImageRef,
    PartName,
    SegmentHead,
    encode,
)
from agent.worker_events import Emit, Evaluated


def can_be_reported(wanted: Evaluation) -> bool:
    """False where a segmentation has more classes or pixels than a mask can have."""
    head, pixels = wanted.head, wanted.prep.height * wanted.prep.width
    if isinstance(head, DetectHead):
        return True
    return 1 <= head.num_classes <= MAX_CLASSES and pixels <= MAX_MASK_PIXELS


def evaluate(
    model: LoadedModel,
    wanted: Evaluation,
    artifacts: Path,
    path: Path,
    emit: Emit,
    clock: Clock = clock_ns,
) -> None:
    """Write what is found in each image to `path`, one line each, until the time is up.

    Raises Refused (bad_image, missing_artifact, model_run, out_of_memory) and OSError.
    """
    spec = feeds.image_input(model.inputs, wanted.prep)
    until = clock() + wanted.max_duration_ns
    total = len(wanted.images)
    done = 0
    with path.open("wb", buffering=0) as stream:
        for image in wanted.images:
            if clock() >= until:
                break
            feed, geometry = feeds.image_feed(spec, image, wanted.prep, artifacts)
            try:
                found = _decoded(image, model.infer(feed), wanted, geometry)
            except OutputError as exc:
                raise Refused(FailureKind.MODEL_RUN, f"image {image.image_id}: {exc}") from exc
            write_all(stream, encode(found).encode() + b"\n")
            done += 1
            emit(Evaluated(done, total, capped=False))
    if done < total or not total:
        emit(Evaluated(done, total, capped=done < total))


def part_of(wanted: Evaluation) -> PartName:
    """The part of the journal that holds what was found."""
    return "masks" if isinstance(wanted.head, SegmentHead) else "detections"


def _decoded(
    image: ImageRef, outputs: Sequence[NDArray[Any]], wanted: Evaluation, geometry: Geometry
) -> ImageDetections | ImageMask:
    if isinstance(wanted.head, SegmentHead):
        return mask(image.image_id, outputs, wanted.head, wanted.prep)
    return ImageDetections(image.image_id, detections(outputs, wanted.head, geometry))


def write_all(stream: BinaryIO, data: bytes) -> None:
    """Write every byte, as one line must be whole; raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]
