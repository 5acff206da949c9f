"""What an experiment names, found and checked before any board is contacted.

Models, recipes and data sets are resolved here, so that a wrong name or folder is refused
while nothing has been built, pushed or measured.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent import wire
from models import data, recipes, zoo
from models.chain import VariantRequest, links, needs_training
from models.data import AnySet, DataSpec, Task
from models.data.files import IMAGE_SUFFIXES
from models.data.training import training_spec
from models.errors import DataError
from models.recipes import Recipe
from models.spec import CalibrationSpec, ModelSpec, TrainingSpec, calibration
from models.steps.isa import host_isa
from models.store import ArtifactStore
from orchestrator.errors import ExperimentError
from orchestrator.experiment import (
    GIVEN,
    CalibrationSource,
    DataSource,
    Experiment,
    ModelEntry,
    TrainingSource,
    recipe_name,
)
from orchestrator.score import require_shared_classes
from orchestrator.transfer import File
from orchestrator.workspace import Workspace

TIMED_IMAGES = 8
"""How many images the timed loop cycles through; their tensors stay in the board's memory."""

SUBSET_SEED = 0
"""Draws the images that are scored and calibrated on: the same in every run, so that figures can
be compared and builds are found again. `--seed` is for the order of the trials."""

_TENSOR_SUFFIXES = (".npy", ".npz")

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


@dataclass(frozen=True)
class Prepared:
    """Everything that an experiment names, by the names that its trials use."""

    experiment: Experiment
    models: Mapping[str, ModelSpec]
    recipes: Mapping[str, Recipe]
    scored: ScoredSet | None
    calibration_images: tuple[Path, ...]
    training: TrainingSpec | None = None

    def calibration_for(self, model: ModelSpec) -> CalibrationSpec | None:
        """The calibration images, prepared as this model wants them."""
        if not self.calibration_images:
            return None
        return calibration(self.calibration_images, model.prep)

    def variants(self) -> tuple[tuple[str, str, ModelSpec, Recipe], ...]:
        """Everything that is measured: names of model and recipe, and what they stand for."""
        return tuple(
            (model, recipe, self.models[model], self.recipes[recipe])
            for model, recipe in self.experiment.variants()
        )

    def request(self, model: ModelSpec, recipe: Recipe, isa: str) -> VariantRequest:
        """What has to be built of a model by a recipe for an instruction set."""
        return VariantRequest(
            model=model,
            recipe=recipe,
            isa=isa,
            calibration=self.calibration_for(model) if recipe.needs_calibration else None,
            training=self.training,
            others=self.models,
        )


def resolve(
    experiment: Experiment, workspace: Workspace, log: Log, *, elsewhere: bool = False
) -> Prepared:
    """Find everything; raises UnknownName, ModelsError and its kinds, ExperimentError.

    `elsewhere` says that a builder does the work, so that this machine needs no torch.
    """
    models = {entry.name: _model(entry, experiment.base_dir) for entry in experiment.models}
    _refuse_missing_data(experiment)
    own = {recipe.name: recipe for recipe in experiment.own_recipes}
    chosen = {
        recipe_name(reference): own.get(reference) or recipes.get(reference)
        for reference in experiment.recipes
    }
    scored = _scored(experiment, _task(models), workspace, log)
    if scored is not None:
        for model in models.values():
            require_shared_classes(model, scored.subset)
    needs = [name for name, recipe in chosen.items() if recipe.needs_calibration]
    images = _calibration_images(experiment, workspace, log) if needs else ()
    if needs and not images:
        raise ExperimentError(
            f"recipe '{needs[0]}' takes quantization ranges from real inputs; name a folder of "
            f"images (or .npy tensors) with --calibration or `calibration:`"
        )
    learning = [
        recipe
        for model, recipe in experiment.variants()
        if needs_training(models[model], chosen[recipe])
    ]
    training = _training(experiment, learning, workspace, log)
    prepared = Prepared(experiment, models, chosen, scored, images, training)
    if not elsewhere:
        _require_extra(prepared, ArtifactStore(workspace.models))
    return prepared


def _model(entry: ModelEntry, base_dir: Path) -> ModelSpec:
    """A model under the experiment's name for it: two may start from one reference."""
    found = zoo.resolve(
        entry.reference,
        shapes=entry.shapes,
        imgsz=entry.imgsz,
        base_dir=base_dir,
        options=entry.options,
        weights=entry.weights,
        steps=entry.steps,
        need_extra=False,
    )
    return dataclasses.replace(found, name=entry.name)


def _require_extra(prepared: Prepared, store: ArtifactStore) -> None:
    """Refuse early what this machine lacks the packages for, unless it was built before."""
    for _, _, model, recipe in prepared.variants():
        first = links(prepared.request(model, recipe, host_isa()))[0]
        if store.lookup(first.key(model.source.identity)) is None:
            zoo.require_extra(model)


def _refuse_missing_data(experiment: Experiment) -> None:
    sources = (experiment.data, experiment.calibration, experiment.training)
    if any(source is not None and source.source == GIVEN for source in sources):
        scale = f" at scale {experiment.scale}" if experiment.scale else ""
        raise ExperimentError(
            f"{experiment.name}{scale} works on data of yours; name the folder with --data DIR"
        )


def _training(
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


def _task(models: Mapping[str, ModelSpec]) -> Task | None:
    """What all models do whose task is known; raises ExperimentError where they differ."""
    names: dict[Task, str] = {model.task: name for name, model in models.items() if model.task}
    if len(names) > 1:
        raise ExperimentError(
            f"{names['detect']} detects and {names['segment']} segments; one set of data cannot "
            f"be for both, so make two experiments of it"
        )
    return next(iter(names), None)


def _scored(
    experiment: Experiment, task: Task | None, workspace: Workspace, log: Log
) -> ScoredSet | None:
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


def _calibration_images(experiment: Experiment, workspace: Workspace, log: Log) -> tuple[Path, ...]:
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
        return _choose(_plain_files(Path(source.source)), source.images, SUBSET_SEED)
    whole, _ = _load(source, None, workspace, log)  # any set has images
    return tuple(image.path for image in whole.subset(source.images, SUBSET_SEED).images)


def _is_scored(source: CalibrationSource | TrainingSource, scored: DataSource) -> bool:
    return (source.source, source.split) == (scored.source, scored.split)


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
