"""Which images an experiment scores, calibrates and learns on, found and checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent import wire
from models import data
from models.data import AnySet, DataSpec, Task
from models.data.files import IMAGE_SUFFIXES
from models.data.training import training_spec
from models.errors import DataError
from models.spec import TrainingSpec
from orchestrator.errors import ExperimentError
from orchestrator.experiment import (
    GIVEN,
    CalibrationSource,
    DataSource,
    Experiment,
    TrainingSource,
)
from orchestrator.transfer import File
from orchestrator.workspace import Workspace

SUBSET_SEED = 0
"""Draws the images that are scored: the same in every run, so that figures can be compared.
`--seed` is for the order of the trials."""

_TENSOR_SUFFIXES = (".npy", ".npz")

ABSENT = "absent"
"""The digest that stands for data which is not there: nothing was ever built from it."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class ScoredSet:
    """The seeded subset of a data set that boards evaluate, ready to be pushed."""

    spec: DataSpec
    subset: AnySet
    total_images: int
    seed: int
    files: Mapping[str, File]
    """By image id."""

    def refs(self, count: int) -> tuple[wire.ImageRef, ...]:
        """The first `count` images as a board knows them."""
        return tuple(
            wire.ImageRef(sha256=self.files[image.image_id].sha256, image_id=image.image_id)
            for image in self.subset.images[:count]
        )


def scored_set(
    experiment: Experiment, task: Task | None, workspace: Workspace, log: Log
) -> ScoredSet | None:
    """What boards evaluate, None where nothing is scored; raises DataError and its kinds."""
    source = experiment.data
    if source is None or experiment.profile.accuracy_images == 0:
        return None
    whole, spec = _load(source, task, workspace, log)
    subset = whole.subset(experiment.profile.accuracy_images, SUBSET_SEED)
    files = {image.image_id: file_of(image.path) for image in subset.images}
    return ScoredSet(spec, subset, len(whole.images), SUBSET_SEED, files)


def _load(
    source: DataSource | CalibrationSource, task: Task | None, workspace: Workspace, log: Log
) -> tuple[AnySet, DataSpec]:
    layout = "auto" if source.layout == "images" else source.layout
    spec = DataSpec(source=source.source, layout=layout, split=source.split)
    log(f"data: reading {source.source} ({source.split})")
    return data.load_for(task, spec, workspace.data), spec


def file_of(path: Path) -> File:
    """A file with its digest; raises DataError when it cannot be read."""
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return File(digest, path.stat().st_size, path)
    except OSError as exc:
        raise DataError(f"{path}: {exc.strerror}") from exc


def calibration_images(experiment: Experiment, workspace: Workspace, log: Log) -> tuple[Path, ...]:
    """The calibration images: a seeded choice, never from the split that is scored."""
    source = experiment.calibration
    if source is None:
        if experiment.data is None:
            return ()
        source = CalibrationSource(experiment.data.source, experiment.data.layout)
        if experiment.data.split == source.split:
            return ()
    elif experiment.data is not None and _is_scored(source, experiment.data):
        raise ExperimentError(
            f"calibration: split '{source.split}' of {source.source} is what accuracy is measured "
            f"on; ranges fitted to it would flatter INT8; name another split or folder"
        )
    if source.layout in ("auto", "images") and _is_plain_folder(Path(source.source)):
        return _choose(_plain_files(Path(source.source)), source.images, source.seed)
    whole, _ = _load(source, None, workspace, log)  # any set has images
    return tuple(image.path for image in whole.subset(source.images, source.seed).images)


def _is_scored(source: CalibrationSource | TrainingSource, scored: DataSource) -> bool:
    same = os.path.realpath(source.source) == os.path.realpath(scored.source)
    return same and source.split == scored.split


def refuse_scored(images: Sequence[Path], scored: ScoredSet | None) -> None:
    """Raises ExperimentError where calibration images are scored ones, by whatever path."""
    held_out = set() if scored is None else {os.path.realpath(i.path) for i in scored.subset.images}
    shared = [path for path in images if os.path.realpath(path) in held_out]
    if shared:
        raise ExperimentError(
            f"calibration: {len(shared)} of {len(images)} images are among those that accuracy is "
            f"measured on, e.g. {shared[0]}; ranges fitted to them would flatter INT8; name "
            f"another split or folder"
        )


def _is_plain_folder(path: Path) -> bool:
    """True for a folder whose own files are images or tensors, as no labelled layout has."""
    suffixes = {*IMAGE_SUFFIXES, *_TENSOR_SUFFIXES}
    return path.is_dir() and any(item.suffix.lower() in suffixes for item in path.iterdir())


def _plain_files(path: Path) -> tuple[Path, ...]:
    """The tensors of a folder where it has any, else its images; raises DataError."""
    tensors = [item for item in path.iterdir() if item.suffix.lower() in _TENSOR_SUFFIXES]
    return tuple(sorted(tensors)) if tensors else data.image_files(path)


def _choose(paths: Sequence[Path], count: int, seed: int) -> tuple[Path, ...]:
    """A seeded choice that no Python version changes: the smallest digests of seed and name."""
    ranked = sorted(paths, key=lambda p: hashlib.sha256(f"{seed}/{p.name}".encode()).digest())
    return tuple(sorted(ranked[:count]))


def training_set(
    experiment: Experiment, learning: Sequence[str], workspace: Workspace, log: Log
) -> TrainingSpec | None:
    """What networks learn from, where recipes let them; raises ExperimentError, DataError."""
    if not learning:
        return None
    source = experiment.training
    if source is None:
        raise ExperimentError(
            f"recipe '{learning[0]}' learns from labelled images; name them in `training:`"
        )
    if experiment.data is not None and _is_scored(source, experiment.data):
        raise ExperimentError(
            f"training: split '{source.split}' of {source.source} is what accuracy is measured "
            f"on; name another split or folder"
        )
    log(f"data: reading {source.source} ({source.split}) to learn from")
    val = None
    if source.val_split is not None:
        val = DataSpec(source=source.source, layout=source.layout, split=source.val_split)
    learned = DataSpec(source=source.source, layout=source.layout, split=source.split)
    return training_spec(learned, val, source.images, workspace.data)


def absent_training(workspace: Workspace) -> TrainingSpec:
    """What stands for images to learn from that nobody has named yet."""
    return TrainingSpec(DataSpec(GIVEN), None, None, workspace.data, ABSENT)
