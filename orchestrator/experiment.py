"""Experiments: which models, recipes and data are measured, and for how long."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from agent.wire import ScenarioName
from models.recipes import Recipe
from models.spec import Layout, StepSpec
from orchestrator.errors import ExperimentError, unknown_name
from orchestrator.profiles import PROFILES, Profile

PROCEDURAL: Final = ("shapes", "blobs")
"""The sources that name procedural sets rather than folders."""
DEFAULT_BASELINE: Final = "fp32"
DEFAULT_ACCURACY_CAP_S: Final = 600.0
DEFAULT_CALIBRATION_IMAGES: Final = 100
MAX_SUSTAINED_S: Final = 86_400
"""A day; a reading a second and 16 bytes a sample are kept of it."""
GIVEN: Final = "given"
"""The source that `--data` names."""

Positive = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
PositiveSeconds = Annotated[float, msgspec.Meta(gt=0)]


@dataclass(frozen=True)
class ModelEntry:
    """A model of an experiment: `reference` is a zoo name or a path; `name` is unique.

    `options` and `weights` are for networks of ours; `steps` come before those of any recipe.
    `recipes` names those of the experiment that are meant for it; None means all.
    """

    name: str
    reference: str
    shapes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    imgsz: int | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: str | None = None
    steps: tuple[StepSpec, ...] = ()
    recipes: tuple[str, ...] | None = None


class DataSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Labelled images: a folder, or 'shapes' or 'blobs' for a procedural set."""

    source: str
    layout: Layout = "auto"
    split: str = "val"


class CalibrationSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Images that quantization ranges are taken from.

    Layout 'images' is a folder of images without labels; 'auto' takes one for what it is. `seed`
    draws the `images`: another one tells how much the ranges depend on the choice.
    """

    source: str
    layout: Layout | Literal["images"] = "auto"
    split: str = "train"
    images: Positive = DEFAULT_CALIBRATION_IMAGES
    seed: Count = 0


class TrainingSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Labelled images that networks learn from; `val_split` shows their progress.

    `images` limits how many of the split are used, and says how many a procedural set has.
    `published_images` is how many the set of a published study has: a dry run without the data
    reckons with it.
    """

    source: str
    layout: Layout = "auto"
    split: str = "train"
    val_split: str | None = "val"
    images: Positive | None = None
    published_images: Positive | None = None


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the runtime; `threads` None means all cores of each board."""

    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)] | None = None
    graph_optimization_level: Literal["disabled", "basic", "extended", "all"] = "all"
    enable_cpu_mem_arena: bool = True
    enable_mem_pattern: bool = True
    allow_spinning: bool = True


class ScenarioChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How inferences are issued: until the profile is content, or for a fixed time.

    `sustained` is for latency against temperature: the board cools down before a trial, then runs
    without a pause for `duration_s`.
    """

    name: ScenarioName = "single_stream"
    duration_s: Annotated[float, msgspec.Meta(gt=0, le=MAX_SUSTAINED_S)] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError, which yamlfile gives a place."""
        if self.name == "sustained" and self.duration_s is None:
            raise ValueError("duration_s: this field is missing; a sustained trial lasts that long")
        if self.name != "sustained" and self.duration_s is not None:
            raise ValueError(
                f"duration_s: only 'sustained' lasts a given time; the profile says how long "
                f"'{self.name}' does"
            )


class Cooldown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Before each trial the board cools down to `max_temp_c`, for at most `timeout_s`."""

    max_temp_c: float = 60.0
    timeout_s: Seconds = 300.0


@dataclass(frozen=True)
class Experiment:
    """What a run measures; every default is filled in.

    Paths are absolute, except that a model's `reference` is looked up from `base_dir`. A
    recipe is a name or the path of a file; `recipe_name` gives the name of either. A name of
    `own_recipes` is that of the experiment's own recipe. `profile.blocks` and
    `profile.accuracy_images` are those of this experiment. `scale` is None where it has one size.
    """

    name: str
    description: str
    models: tuple[ModelEntry, ...]
    recipes: tuple[str, ...]
    profile: Profile
    data: DataSource | None
    calibration: CalibrationSource | None
    baseline: str
    accuracy_cap_s: float
    options: Options
    cooldown: Cooldown | None
    base_dir: Path
    scenario: ScenarioChoice = dataclasses.field(default_factory=ScenarioChoice)
    own_recipes: tuple[Recipe, ...] = ()
    training: TrainingSource | None = None
    scale: str | None = None

    @property
    def lacks_data(self) -> bool:
        """Whether it asks for data (`source: given`) that has not been named."""
        sources = (self.data, self.calibration, self.training)
        return any(source is not None and source.source == GIVEN for source in sources)

    def variants(self) -> tuple[tuple[str, str], ...]:
        """Names of model and recipe of everything that is measured, in the file's order."""
        names = [recipe_name(reference) for reference in self.recipes]
        return tuple(
            (entry.name, name)
            for entry in self.models
            for name in names
            if entry.recipes is None or name in entry.recipes
        )

    def model(self, name: str) -> ModelEntry:
        """The entry called `name`; raises KeyError."""
        return {entry.name: entry for entry in self.models}[name]


def adhoc(
    model: str,
    recipes: Sequence[str],
    *,
    base_dir: Path,
    data: str | None = None,
    calibration: str | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    imgsz: int | None = None,
    profile: str = "quick",
) -> Experiment:
    """An experiment of one model, as `run --model` asks for; paths are relative to `base_dir`.

    `data` is a folder, 'shapes' or 'blobs'; `calibration` likewise, or a folder of plain images.
    Raises ExperimentError and UnknownName.
    """
    if not recipes:
        raise ExperimentError("--recipes: expected at least one recipe")
    repeated = {recipe for recipe in recipes if list(recipes).count(recipe) > 1}
    if repeated:
        raise ExperimentError(f"--recipes: '{min(repeated)}' stands twice")
    entry = ModelEntry(model_name(model), model, dict(shapes or {}), imgsz)
    return Experiment(
        name="adhoc",
        description=f"{model} with {', '.join(recipes)}",
        models=(entry,),
        recipes=tuple(recipe_reference(reference, base_dir) for reference in recipes),
        profile=named_profile(profile),
        data=absolute(None if data is None else DataSource(data), base_dir),
        calibration=absolute(
            None if calibration is None else CalibrationSource(calibration), base_dir
        ),
        baseline=default_baseline(recipes),
        accuracy_cap_s=DEFAULT_ACCURACY_CAP_S,
        options=Options(),
        cooldown=Cooldown(),
        base_dir=base_dir,
    )


def named_profile(name: str) -> Profile:
    """A profile by name; raises UnknownName."""
    if name not in PROFILES:
        raise unknown_name("profile", name, PROFILES)
    return PROFILES[name]


def with_profile(experiment: Experiment, name: str) -> Experiment:
    """The experiment with a named profile's times, blocks and image count instead of its own."""
    return dataclasses.replace(experiment, profile=named_profile(name))


_Source = TypeVar("_Source", DataSource, CalibrationSource, TrainingSource)


def with_data(experiment: Experiment, folder: str, base_dir: Path) -> Experiment:
    """The experiment with `folder` (relative to `base_dir`) where it asks for given data.

    'shapes' and 'blobs' are the procedural sets here as well. Raises ExperimentError where it
    asks for none.
    """
    if not experiment.lacks_data:
        raise ExperimentError(
            f"{experiment.name} names its own data (no `source: given`), so --data has no meaning"
            + (f" at scale {experiment.scale}" if experiment.scale else "")
        )

    def filled(source: _Source | None) -> _Source | None:
        if source is None or source.source != GIVEN:
            return source
        return absolute(msgspec.structs.replace(source, source=folder), base_dir)

    return dataclasses.replace(
        experiment,
        data=filled(experiment.data),
        calibration=filled(experiment.calibration),
        training=filled(experiment.training),
    )


def with_recipes(experiment: Experiment, names: Sequence[str]) -> Experiment:
    """The experiment with some of its recipes only; raises UnknownName.

    Where the baseline is not among them, it is `fp32` or the first.
    """
    known = {recipe_name(reference): reference for reference in experiment.recipes}
    for name in names:
        if name not in known:
            raise unknown_name("recipe of this experiment", name, known)
    kept = tuple(reference for name, reference in known.items() if name in names)
    baseline = experiment.baseline if experiment.baseline in names else default_baseline(kept)
    models = tuple(
        entry
        for entry in experiment.models
        if entry.recipes is None or any(name in names for name in entry.recipes)
    )
    return dataclasses.replace(experiment, recipes=kept, baseline=baseline, models=models)


def recipe_name(reference: str) -> str:
    """The name of a recipe that is given by name or by path."""
    return Path(reference).stem if is_path(reference) else reference


def model_name(reference: str) -> str:
    """What a model is called that has no name of its own: a file's stem, or the reference."""
    is_file = "/" in reference or reference.endswith(".onnx")
    return Path(reference).stem if is_file else reference


def is_path(reference: str) -> bool:
    """True for a text that names a file."""
    return "/" in reference or reference.endswith((".yaml", ".yml"))


def recipe_reference(reference: str, base_dir: Path) -> str:
    """A path as an absolute one; a name as it is."""
    return str(base_dir / Path(reference).expanduser()) if is_path(reference) else reference


def default_baseline(recipes: Sequence[str]) -> str:
    """`fp32` where it is among the recipes, else the first."""
    known = [recipe_name(reference) for reference in recipes]
    return DEFAULT_BASELINE if DEFAULT_BASELINE in known else known[0]


def absolute(source: _Source | None, base_dir: Path) -> _Source | None:
    """A source with its folder as an absolute path; procedural sets and `given` as they are."""
    if source is None or source.source == GIVEN:
        return source
    if source.source in PROCEDURAL:
        return msgspec.structs.replace(source, layout=source.source)
    path = base_dir / Path(source.source).expanduser()
    return msgspec.structs.replace(source, source=str(path))
