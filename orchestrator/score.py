"""Classes matched by name, and what a board found put into the data set's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from agent import wire
from models.data import AnySet, SegmentationSet, Task
from models.data.masks import FOREGROUND
from models.spec import ModelSpec
from orchestrator.errors import ExperimentError


def class_map(model_names: Sequence[str], set_names: Sequence[str]) -> dict[int, int]:
    """From a model's class index to the data set's, by name (case and blanks ignored).

    Classes that only one of them has are left out. Where both have a single class and one of
    them is called only 'foreground', they are the same. Raises ExperimentError when none is
    shared.
    """
    if len(model_names) == len(set_names) == 1 and FOREGROUND in (model_names[0], set_names[0]):
        return {0: 0}
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


def require_shared_classes(model: ModelSpec, dataset: AnySet) -> None:
    """Raises ExperimentError when `model` would be scored on a set of another task or classes."""
    has: Task = "segment" if isinstance(dataset, SegmentationSet) else "detect"
    if model.task not in (None, has):
        needs, there = ("boxes", "masks") if has == "segment" else ("masks", "boxes")
        raise ExperimentError(
            f"{model.name} is for task '{model.task}', which is scored on {needs}; "
            f"{dataset.name} has {there}; name other data"
        )
    if model.trained and model.head is not None:
        class_map(model.class_names, dataset.class_names)


def _plain(name: str) -> str:
    return "".join(name.lower().split()).replace("-", "").replace("_", "")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown}, … ({len(names)} classes)" if len(names) > 4 else shown  # noqa: PLR2004 - as many as are shown


def evaluated(
    subset: AnySet, reported: Sequence[wire.ImageDetections] | Sequence[wire.ImageMask]
) -> AnySet:
    """The images that the board really evaluated, which a time cap may have cut short."""
    return subset.only({image.image_id for image in reported})


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
