"""Accuracy of what a board detected, scored here with one evaluator for every board."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import msgspec

from agent import wire
from models.data import DetectionSet
from models.spec import ModelSpec
from orchestrator.errors import ExperimentError


def class_map(model_names: Sequence[str], set_names: Sequence[str]) -> dict[int, int]:
    """From a model's class index to the data set's, by name (case and blanks ignored).

    Classes that only one of them has are left out. Raises ExperimentError when none is shared.
    """
    wanted = {_plain(name): index for index, name in enumerate(set_names)}
    found = {
        index: wanted[_plain(name)]
        for index, name in enumerate(model_names)
        if _plain(name) in wanted
    }
    if not found:
        raise ExperimentError(
            f"the model knows {_some(model_names)} and the data set {_some(set_names)}: "
            f"no class is shared, so there is no accuracy to measure; give data of the same classes"
        )
    return found


def require_shared_classes(model: ModelSpec, dataset: DetectionSet) -> None:
    """Raises ExperimentError when `model` would be scored on a set of other classes."""
    if model.trained and model.head is not None:
        class_map(model.class_names, dataset.class_names)


def _plain(name: str) -> str:
    return "".join(name.lower().split()).replace("-", "").replace("_", "")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown}, … ({len(names)} classes)" if len(names) > 4 else shown  # noqa: PLR2004 - as many as are shown


def evaluated(subset: DetectionSet, reported: Sequence[wire.ImageDetections]) -> DetectionSet:
    """The images that the board really evaluated, which a time cap may have cut short."""
    seen = {image.image_id for image in reported}
    return dataclasses.replace(
        subset, images=tuple(image for image in subset.images if image.image_id in seen)
    )


def detections_by_image(
    reported: Sequence[wire.ImageDetections], classes: Mapping[int, int]
) -> dict[str, tuple[wire.Detection, ...]]:
    """Detections with the data set's class indices; those of other classes are dropped."""
    return {
        image.image_id: tuple(
            msgspec.structs.replace(found, class_index=classes[found.class_index])
            for found in image.detections
            if found.class_index in classes
        )
        for image in reported
    }
