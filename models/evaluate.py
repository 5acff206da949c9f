"""Detections of a whole set, and how good they are.

One library scores everything, for the host and for boards: hotcoco, with COCO's rules (ten IoU
thresholds from 0.5 to 0.95, 101 recall points, the 100 best boxes of an image). Two evaluators
would not agree, so no figure of another one may stand beside these.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.vision import Geometry, prepare, read_image
from agent.vision import detections as decode_detections
from agent.wire import DetectHead, Detection, ImagePrep
from models.data.types import DetectionSet, LabelledImage, MaskedImage
from models.errors import DataError, ModelUnreadable
from models.matches import ImageMatches, matches, without_tail

_ANY_AREA: Final = [0.0, 1e10]
_IMAGES_AT_ONCE: Final = 256
"""Matches are taken over from hotcoco in parts: as Python objects they are large."""


@dataclass(frozen=True)
class Scores:
    """Mean average precision over `images` images; None where no object of the set counts.

    `per_class` holds the mAP50-95 of each class that has objects in the set, `matches` which
    detections were right in each image, in the order of the set, as far as that bears on the
    figures (see models.matches).
    """

    map50: float | None
    map50_95: float | None
    images: int
    per_class: dict[str, float]
    matches: dict[str, ImageMatches] = field(default_factory=dict)


def score(dataset: DetectionSet, detections: Mapping[str, Sequence[Detection]]) -> Scores:
    """Score detections by image_id over all images of `dataset`.

    An image without an entry counts as one where nothing was found; detections of images
    outside the set are left out. Raises DataError when detections and set share no image, a
    class is out of range, or a number is not finite.
    """
    import hotcoco  # noqa: PLC0415 - only scoring needs it

    ids = {image.image_id: number for number, image in enumerate(dataset.images, start=1)}
    if detections and not any(image_id in ids for image_id in detections):
        raise DataError(
            f"{dataset.name}: none of the {len(detections)} images with detections is among the "
            f"{len(ids)} images of the set, e.g. {next(iter(detections))!r}; "
            "score them with the set that they were made on"
        )
    if all(box.ignore for image in dataset.images for box in image.boxes):
        return Scores(None, None, len(dataset.images), {})
    truth = hotcoco.COCO(_truth(dataset, ids))
    found = truth.load_res(_found(dataset, ids, detections))
    evaluation = _evaluated(truth, found, list(ids.values()))
    evaluation.accumulate()
    right: dict[str, ImageMatches] = {}
    for start in range(0, len(ids), _IMAGES_AT_ONCE):
        part = dict(list(ids.items())[start : start + _IMAGES_AT_ONCE])
        entries = _evaluated(truth, found, list(part.values())).eval_imgs
        right |= matches((entry for entry in entries if entry is not None), part)
    return _scores(dataset, evaluation.eval["precision"], without_tail(right))


def _evaluated(truth: Any, found: Any, numbers: list[int]) -> Any:
    """Matched detections of these images; of COCO's ranges of areas only the one of all."""
    import hotcoco  # noqa: PLC0415 - only scoring needs it

    evaluation = hotcoco.COCOeval(truth, found, "bbox")
    evaluation.params.img_ids = numbers
    evaluation.params.area_rng = [_ANY_AREA]
    evaluation.params.area_rng_lbl = ["all"]
    evaluation.evaluate()
    return evaluation


def _truth(dataset: DetectionSet, ids: Mapping[str, int]) -> dict[str, Any]:
    """The set as COCO's dictionary; numbers start at 1, ignored boxes become crowds."""
    images = [{"id": ids[i.image_id], "width": i.width, "height": i.height} for i in dataset.images]
    boxes = [(ids[image.image_id], box) for image in dataset.images for box in image.boxes]
    annotations = [
        {
            "id": number,
            "image_id": image_number,
            "category_id": box.class_index + 1,
            "bbox": [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1],
            "area": (box.x2 - box.x1) * (box.y2 - box.y1),
            "iscrowd": int(box.ignore),
        }
        for number, (image_number, box) in enumerate(boxes, start=1)
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(dataset.class_names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _found(
    dataset: DetectionSet, ids: Mapping[str, int], detections: Mapping[str, Sequence[Detection]]
) -> NDArray[np.float64]:
    """Rows of image number, x, y, w, h, score, class number; shape (n, 7)."""
    rows = []
    for image_id, found in detections.items():
        if image_id not in ids:
            continue
        for d in found:
            if not 0 <= d.class_index < len(dataset.class_names):
                raise DataError(
                    f"{dataset.name}: image {image_id!r}: a detection of class {d.class_index}, "
                    f"but the set has {len(dataset.class_names)} classes; "
                    "was the model trained on another set?"
                )
            if not all(math.isfinite(value) for value in (d.x1, d.y1, d.x2, d.y2, d.score)):
                raise DataError(f"{dataset.name}: image {image_id!r}: {d} is not finite")
            row = (ids[image_id], d.x1, d.y1, d.x2 - d.x1, d.y2 - d.y1, d.score, d.class_index + 1)
            rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(-1, 7)


def _scores(
    dataset: DetectionSet, precision: NDArray[np.float64], right: dict[str, ImageMatches]
) -> Scores:
    """Averages of precision (thresholds, recalls, classes, areas, limits); -1 is 'no object'."""
    curves = precision[:, :, :, 0, -1]  # all areas, 100 boxes an image
    present = [k for k in range(len(dataset.class_names)) if (curves[:, :, k] >= 0).all()]
    by_class = {dataset.class_names[k]: float(curves[:, :, k].mean()) for k in present}
    return Scores(
        map50=float(curves[0][:, present].mean()),
        map50_95=float(curves[:, :, present].mean()),
        images=len(dataset.images),
        per_class=by_class,
        matches=right,
    )


def detect_on_host(
    artifact_path: Path,
    images: Sequence[LabelledImage],
    prep: ImagePrep,
    head: DetectHead,
    threads: int,
) -> dict[str, tuple[Detection, ...]]:
    """Run an ONNX or ORT file over images on this machine; detections by image_id.

    Raises ModelUnreadable when the file does not load or run, ImageError for a bad image.
    """
    return {
        image_id: decode_detections(outputs, head, geometry)
        for image_id, outputs, geometry in outputs_on_host(artifact_path, images, prep, threads)
    }


def outputs_on_host(
    artifact_path: Path,
    images: Sequence[LabelledImage | MaskedImage],
    prep: ImagePrep,
    threads: int,
) -> Iterator[tuple[str, list[Any], Geometry]]:
    """Image id, raw outputs and geometry of each image in turn; raises as detect_on_host does."""
    import onnxruntime  # noqa: PLC0415 - takes 0.2 s, and only this function needs it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: warnings would disturb a live screen
    try:
        session = onnxruntime.InferenceSession(
            str(artifact_path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as exc:  # its errors share no base class of their own
        raise ModelUnreadable(f"{artifact_path} does not load: {exc}") from exc
    input_name = session.get_inputs()[0].name
    for image in images:
        tensor, geometry = prepare(read_image(image.path), prep)
        try:
            outputs = session.run(None, {input_name: tensor})
        except Exception as exc:
            raise ModelUnreadable(f"{artifact_path} does not run on {image.path}: {exc}") from exc
        yield image.image_id, outputs, geometry
