"""What an experiment names, found and checked before any board is contacted.

Models, recipes and data sets are resolved here, so that a wrong name or folder is refused
while nothing has been built, pushed or measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models import recipes, zoo
from models.build import steps_missing
from models.chain import VariantRequest, links, needs_training
from models.data import Task
from models.data.training import count_images
from models.recipes import Recipe
from models.spec import CalibrationSpec, ModelSpec, TrainingSpec, calibration
from models.steps.base import NOT_INSTALLED
from models.steps.isa import host_isa
from models.store import ArtifactStore
from orchestrator.errors import ExperimentError
from orchestrator.experiment import Experiment, ModelEntry, recipe_name
from orchestrator.imagesets import (
    ABSENT,
    Log,
    ScoredSet,
    absent_training,
    calibration_images,
    refuse_scored,
    scored_set,
    training_set,
)
from orchestrator.score import require_shared_classes
from orchestrator.workspace import Workspace

TIMED_IMAGES = 8
"""How many images the timed loop cycles through; their tensors stay in the board's memory."""


@dataclass(frozen=True)
class Prepared:
    """Everything that an experiment names, by the names that its trials use.

    `absent` says that the data which the user has to name is not there: good for a plan only.
    """

    experiment: Experiment
    models: Mapping[str, ModelSpec]
    recipes: Mapping[str, Recipe]
    scored: ScoredSet | None
    calibration_images: tuple[Path, ...]
    training: TrainingSpec | None = None
    absent: bool = False

    def calibration_for(self, model: ModelSpec) -> CalibrationSpec | None:
        """The calibration images, prepared as this model wants them."""
        if self.absent:
            return CalibrationSpec((), model.prep, ABSENT)
        if not self.calibration_images:
            return None
        return calibration(self.calibration_images, model.prep)

    def variants(self) -> tuple[tuple[str, str, ModelSpec, Recipe], ...]:
        """Everything that is measured: names of model and recipe, and what they stand for."""
        return tuple(
            (model, recipe, self.models[model], self.recipes[recipe])
            for model, recipe in self.experiment.variants()
        )

    def training_images(self) -> int | None:
        """How many images there are to learn from; None where nobody can know. Raises DataError."""
        if self.training is None:
            return 0
        if not self.absent:
            return count_images(self.training)
        source = self.experiment.training
        return None if source is None else source.images or source.published_images

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
    experiment: Experiment,
    workspace: Workspace,
    log: Log,
    *,
    elsewhere: bool = False,
    absent: bool = False,
) -> Prepared:
    """Find everything; raises UnknownName, ModelsError and its kinds, ExperimentError.

    `elsewhere` says that a builder does the work, so that this machine needs no torch. `absent`
    allows data that the user has to name to be missing, as a dry run does.
    """
    models = {entry.name: _model(entry, experiment.base_dir) for entry in experiment.models}
    own = {recipe.name: recipe for recipe in experiment.own_recipes}
    chosen = {
        recipe_name(reference): own.get(reference) or recipes.get(reference)
        for reference in experiment.recipes
    }
    learning = [
        recipe
        for model, recipe in experiment.variants()
        if needs_training(models[model], chosen[recipe])
    ]
    if experiment.lacks_data:
        _refuse_missing_data(experiment, absent)
        training = absent_training(workspace) if learning else None
        prepared = Prepared(experiment, models, chosen, None, (), training, absent=True)
    else:
        scored = scored_set(experiment, _task(models), workspace, log)
        if scored is not None:
            for model in models.values():
                require_shared_classes(model, scored.subset)
        images = _calibrating(experiment, chosen, workspace, log)
        refuse_scored(images, scored)
        training = training_set(experiment, learning, workspace, log)
        prepared = Prepared(experiment, models, chosen, scored, images, training)
    for _, _, model, recipe in prepared.variants():
        _refuse_bad_chain(prepared.request(model, recipe, host_isa()))
    if not elsewhere:
        _require_extra(prepared, ArtifactStore(workspace.models), log)
    return prepared


def _refuse_missing_data(experiment: Experiment, allowed: bool) -> None:
    if not allowed:
        scale = f" at scale {experiment.scale}" if experiment.scale else ""
        raise ExperimentError(
            f"{experiment.name}{scale} works on data of yours; name the folder with --data DIR"
        )


def _calibrating(
    experiment: Experiment, chosen: Mapping[str, Recipe], workspace: Workspace, log: Log
) -> tuple[Path, ...]:
    """The images for the recipes that need some; raises ExperimentError where there are none."""
    needs = [name for name, recipe in chosen.items() if recipe.needs_calibration]
    images = calibration_images(experiment, workspace, log) if needs else ()
    if needs and not images:
        raise ExperimentError(
            f"recipe '{needs[0]}' takes quantization ranges from real inputs; name a folder of "
            f"images (or .npy tensors) with --calibration or `calibration:`"
        )
    return images


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


def _refuse_bad_chain(request: VariantRequest) -> None:
    """Raise what a link of the chain raises, such as for a teacher that is not there."""
    for link in links(request):
        for other in link.others.values():
            _refuse_bad_chain(other)


def _require_extra(prepared: Prepared, store: ArtifactStore, log: Log) -> None:
    """Refuse early what this machine lacks the packages for, unless it was built before.

    What only some recipes lack is said, before hours of training lead to it.
    """
    lacking: dict[str, str] = {}
    for _, name, model, recipe in prepared.variants():
        request = prepared.request(model, recipe, host_isa())
        chain = links(request)
        if store.lookup(chain[0].key(model.source.identity)) is None:
            zoo.require_extra(model)
        tools = {tool: version for link in chain for tool, version in link.tools().items()}
        absent = ", ".join(tool for tool, version in tools.items() if version == NOT_INSTALLED)
        if absent and steps_missing(request, store):
            lacking[name] = absent
    for name, absent in lacking.items():
        log(f"recipe '{name}' cannot be built here: {absent} not installed")


def _task(models: Mapping[str, ModelSpec]) -> Task | None:
    """What all models do whose task is known; raises ExperimentError where they differ."""
    names: dict[Task, str] = {model.task: name for name, model in models.items() if model.task}
    if len(names) > 1:
        raise ExperimentError(
            f"{names['detect']} detects and {names['segment']} segments; one set of data cannot "
            f"be for both, so make two experiments of it"
        )
    return next(iter(names), None)
