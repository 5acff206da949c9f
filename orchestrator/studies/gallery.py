"""What variants of a run found in a few images: computed here, from the measured files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent import wire
from agent.vision import Geometry, read_image, unpacked
from models import data, evaluate, overlap, zoo
from models.data import AnySet, DetectionSet, LabelledImage, MaskedImage
from models.data.masks import read_labels
from models.errors import DataError
from models.spec import DataSpec
from models.store import Artifact, ArtifactStore
from orchestrator.errors import ExperimentError
from orchestrator.experiment import Experiment
from orchestrator.imagesets import SUBSET_SEED, file_of
from orchestrator.past import request_of
from orchestrator.score import class_map
from orchestrator.studies.drawing import Row, Shape, sheet, small, with_boxes, with_mask
from orchestrator.workspace import Workspace
from results.store import Store

LEAST_SCORE: Final = 0.25
"""Boxes that a detector is less sure of are not drawn; scoring has them all."""
_FORMATS: Final = ("onnx",)
"""What runs on any machine by the runtime that this one has."""


@dataclass(frozen=True)
class Gallery:
    """A picture and what a reader has to know of it."""

    picture: Image.Image
    images: int
    set_name: str
    variants: tuple[str, ...]
    """From top to bottom, below the images and the truth."""
    left_out: tuple[str, ...]
    """Variants of other formats."""
    boxes: bool


@dataclass(frozen=True)
class _Scored:
    """A variant with the specification by which its accuracy was measured."""

    label: str
    spec: wire.TrialSpec
    evaluation: wire.Evaluation


def gallery(store: Store, run_id: str, workspace: Workspace, count: int) -> Gallery:
    """The first `count` images of the seeded set, the truth, and what each variant found.

    Raises ExperimentError where the run scored nothing, DataError where the images are not those
    of the run any more, ArtifactLost where a file is not in the store here.
    """
    _, experiment = request_of(store, run_id)
    scored = [*_scored(store, run_id, experiment)]
    run_here = [one for one in scored if one.spec.artifact.format in _FORMATS]
    if not run_here or experiment.data is None:
        raise ExperimentError(f"run {run_id} scored no image with an ONNX file: nothing to draw")
    whole = _images(experiment, run_here[0].evaluation, workspace, count)
    artifacts = ArtifactStore(workspace.models)
    pixels = {image.image_id: read_image(image.path) for image in whole.images}
    rows = [
        Row("image", tuple(small(pixels[image.image_id]) for image in whole.images)),
        Row("truth", tuple(_truth(whole, pixels))),
    ]
    for one in run_here:
        found = _found(artifacts.get(one.spec.artifact.sha256), one.evaluation, whole, pixels)
        rows.append(Row(one.label, tuple(found)))
    return Gallery(
        picture=sheet(rows),
        images=len(whole.images),
        set_name=whole.name,
        variants=tuple(one.label for one in run_here),
        left_out=tuple(one.label for one in scored if one not in run_here),
        boxes=isinstance(whole, DetectionSet),
    )


_SPECS: Final = """
    SELECT model, recipe, spec_json FROM trials
    WHERE run_id = :run_id AND state = 'finished' ORDER BY board_no, block, plan_order"""


def _scored(store: Store, run_id: str, experiment: Experiment) -> Iterator[_Scored]:
    """Each variant once, as the first board had it, in the experiment's order."""
    found: dict[tuple[str, str], _Scored] = {}
    for row in store.rows(_SPECS, run_id=run_id):
        spec = msgspec.json.decode(row["spec_json"], type=wire.TrialSpec)
        key = (row["model"], row["recipe"])
        if spec.evaluation is not None:
            found.setdefault(key, _Scored("/".join(key), spec, spec.evaluation))
    return (found[key] for key in experiment.variants() if key in found)


def _images(
    experiment: Experiment, evaluation: wire.Evaluation, workspace: Workspace, count: int
) -> AnySet:
    """Some of the images that were scored, checked to be the same ones; raises DataError."""
    source = experiment.data
    if source is None:
        raise ExperimentError(f"{experiment.name} names no data")
    spec = DataSpec(source=source.source, layout=source.layout, split=source.split)
    task: data.Task = "detect" if isinstance(evaluation.head, wire.DetectHead) else "segment"
    known = {image.image_id: image.sha256 for image in evaluation.images}
    chosen = data.load_for(task, spec, workspace.data).only(known).subset(count, SUBSET_SEED)
    for image in chosen.images:
        if file_of(image.path).sha256 != known[image.image_id]:
            raise DataError(f"{image.path}: not the image that the run scored: it has changed")
    if not chosen.images:
        raise DataError(f"{source.source}: has none of the images that the run scored")
    return chosen


Pixels = dict[str, NDArray[np.uint8]]


def _truth(whole: AnySet, pixels: Pixels) -> Iterator[Image.Image]:
    if isinstance(whole, DetectionSet):
        for image in whole.images:
            shapes = [
                Shape(
                    (box.x1, box.y1, box.x2, box.y2),
                    box.class_index,
                    "" if box.ignore else whole.class_names[box.class_index],
                    box.ignore,
                )
                for box in image.boxes
            ]
            yield with_boxes(pixels[image.image_id], shapes)
        return
    for masked in whole.images:
        yield with_mask(pixels[masked.image_id], read_labels(whole, masked))


def _found(
    artifact: Artifact, evaluation: wire.Evaluation, whole: AnySet, pixels: Pixels
) -> Iterator[Image.Image]:
    """The images with what a variant finds in them, in the classes of the set."""
    names = zoo.describe_artifact(artifact).class_names
    classes = class_map(names, whole.class_names)
    head, prep, threads = evaluation.head, evaluation.prep, os.cpu_count() or 1
    if isinstance(head, wire.DetectHead):
        images = cast(Sequence[LabelledImage], whole.images)
        boxes = evaluate.detect_on_host(artifact.path, images, prep, head, threads)
        for image in images:
            sure = [box for box in boxes[image.image_id] if box.score >= LEAST_SCORE]
            shapes = [
                Shape((box.x1, box.y1, box.x2, box.y2), index)
                for box in sure
                if (index := classes.get(box.class_index)) is not None
            ]
            yield with_boxes(pixels[image.image_id], shapes)
        return
    masked = cast(Sequence[MaskedImage], whole.images)
    masks = overlap.segment_on_host(artifact.path, masked, prep, head, threads)
    for one in masked:
        window = Geometry.of(one.width, one.height, prep).window(prep)
        labels = _translated(unpacked(masks[one.image_id])[window], classes)
        yield with_mask(pixels[one.image_id], labels)


def _translated(labels: NDArray[np.uint8], classes: dict[int, int]) -> NDArray[np.uint8]:
    """The model's labels as the set's; classes that the set lacks are no class."""
    made = np.zeros_like(labels)
    for index, wanted in classes.items():
        made[labels == index + 1] = wanted + 1
    return made
