"""Experiments: which models, recipes and data are measured, and for how long."""

from __future__ import annotations

import dataclasses
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

import msgspec

from agent.wire import ScenarioName
from orchestrator import yamlfile
from orchestrator.errors import ExperimentError, unknown_name
from orchestrator.profiles import PROFILES, Profile

Layout = Literal["auto", "voc", "coco", "yolo", "shapes"]

SHAPES: Final = "shapes"
"""The source that names the procedural set rather than a folder."""
DEFAULT_BASELINE: Final = "fp32"
DEFAULT_ACCURACY_CAP_S: Final = 600.0
DEFAULT_CALIBRATION_IMAGES: Final = 100
MAX_SUSTAINED_S: Final = 86_400
"""A day; a reading a second and 16 bytes a sample are kept of it."""
_OWN_BLOCKS: Final = 3
_OWN_IMAGES: Final = 64

_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]
_PositiveSeconds = Annotated[float, msgspec.Meta(gt=0)]


@dataclass(frozen=True)
class ModelEntry:
    """A model of an experiment: `reference` is a zoo name or a path; `name` is unique."""

    name: str
    reference: str
    shapes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    imgsz: int | None = None


class DataSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Labelled images: a folder, or 'shapes' for the procedural set."""

    source: str
    layout: Layout = "auto"
    split: str = "val"


class CalibrationSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Images that quantization ranges are taken from.

    Layout 'images' is a folder of images without labels; 'auto' takes one for what it is.
    """

    source: str
    layout: Layout | Literal["images"] = "auto"
    split: str = "train"
    images: _Positive = DEFAULT_CALIBRATION_IMAGES


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
    timeout_s: _Seconds = 300.0


@dataclass(frozen=True)
class Experiment:
    """What a run measures; every default is filled in.

    Paths are absolute, except that a model's `reference` is looked up from `base_dir`. A
    recipe is a name or the path of a file; `recipe_name` gives the name of either.
    `profile.blocks` and `profile.accuracy_images` are those of this experiment.
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

    def model(self, name: str) -> ModelEntry:
        """The entry called `name`; raises KeyError."""
        return {entry.name: entry for entry in self.models}[name]


class _ModelDoc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str
    name: str | None = None
    shapes: dict[str, tuple[_Positive, ...]] = {}
    imgsz: _Positive | None = None


class _ProfileDoc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A profile with its numbers in the experiment's own file."""

    min_samples: _Positive
    min_duration_s: _Seconds
    max_duration_s: _PositiveSeconds
    warmup_min_samples: _Count
    warmup_min_duration_s: _Seconds
    name: str = "own"

    def __post_init__(self) -> None:
        """Raises ValueError, which yamlfile gives a place."""
        if self.max_duration_s < self.min_duration_s:
            raise ValueError(
                f"max_duration_s: expected at least min_duration_s ({self.min_duration_s:g}), "
                f"found '{self.max_duration_s:g}'"
            )


class _AccuracyDoc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    images: _Count | None = None
    cap_s: _PositiveSeconds = DEFAULT_ACCURACY_CAP_S


class _ExperimentDoc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: tuple[str | _ModelDoc, ...]
    recipes: tuple[str, ...]
    description: str = ""
    data: DataSource | None = None
    calibration: CalibrationSource | None = None
    profile: str | _ProfileDoc = "quick"
    blocks: _Positive | None = None
    baseline: str | None = None
    accuracy: _AccuracyDoc = _AccuracyDoc()
    options: Options = Options()
    scenario: ScenarioChoice = ScenarioChoice()
    cooldown: Cooldown | None = Cooldown()

    def __post_init__(self) -> None:
        """Raises ValueError, which yamlfile gives a place."""
        for field, entries in (("models", self.models), ("recipes", self.recipes)):
            if not entries:
                raise ValueError(f"{field}: expected at least one")
        _refuse_twice("recipes", [recipe_name(reference) for reference in self.recipes])
        _refuse_twice("models", [entry.name for entry in map(_model, self.models)])
        if self.baseline is not None:
            known = [recipe_name(reference) for reference in self.recipes]
            if self.baseline not in known:
                raise ValueError(f"baseline: {unknown_name('recipe', self.baseline, known)}")
        if isinstance(self.profile, str) and self.profile not in PROFILES:
            raise ValueError(f"profile: {unknown_name('profile', self.profile, PROFILES)}")


def names() -> tuple[str, ...]:
    """The experiments that come with this software."""
    folder = importlib.resources.files("orchestrator") / "experiments"
    return tuple(
        sorted(
            entry.name.removesuffix(".yaml")
            for entry in folder.iterdir()
            if entry.name.endswith(".yaml")
        )
    )


def load(name_or_path: str, base_dir: Path) -> Experiment:
    """A shipped experiment by name, or a file by path (relative to `base_dir`).

    A text with a '/' or that ends in .yaml or .yml is a path. Raises UnknownName, and
    ExperimentError with file, line, field, found and expected.
    """
    if _is_path(name_or_path):
        return read(base_dir / Path(name_or_path).expanduser())
    if name_or_path not in names():
        raise unknown_name("experiment", name_or_path, names())
    folder = importlib.resources.files("orchestrator") / "experiments"
    with importlib.resources.as_file(folder / f"{name_or_path}.yaml") as path:
        return read(path)


def read(path: Path) -> Experiment:
    """The experiment in a file; paths in it are relative to the file's folder."""
    doc = yamlfile.load(path, _ExperimentDoc, ExperimentError)
    base = path.resolve().parent
    return Experiment(
        name=path.stem,
        description=doc.description,
        models=tuple(_model(entry) for entry in doc.models),
        recipes=tuple(_recipe(reference, base) for reference in doc.recipes),
        profile=_profile(doc.profile, doc.blocks, doc.accuracy.images),
        data=_absolute(doc.data, base),
        calibration=_absolute(doc.calibration, base),
        baseline=doc.baseline or _default_baseline(doc.recipes),
        accuracy_cap_s=doc.accuracy.cap_s,
        options=doc.options,
        cooldown=doc.cooldown,
        base_dir=base,
        scenario=doc.scenario,
    )


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

    `data` is a folder or 'shapes'; `calibration` likewise, or a folder of plain images.
    Raises ExperimentError and UnknownName.
    """
    if not recipes:
        raise ExperimentError("--recipes: expected at least one recipe")
    repeated = {recipe for recipe in recipes if list(recipes).count(recipe) > 1}
    if repeated:
        raise ExperimentError(f"--recipes: '{min(repeated)}' stands twice")
    entry = _model(_ModelDoc(model, shapes=dict(shapes or {}), imgsz=imgsz))
    return Experiment(
        name="adhoc",
        description=f"{model} with {', '.join(recipes)}",
        models=(entry,),
        recipes=tuple(_recipe(reference, base_dir) for reference in recipes),
        profile=named_profile(profile),
        data=_absolute(None if data is None else DataSource(data), base_dir),
        calibration=_absolute(
            None if calibration is None else CalibrationSource(calibration), base_dir
        ),
        baseline=_default_baseline(recipes),
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


def recipe_name(reference: str) -> str:
    """The name of a recipe that is given by name or by path."""
    return Path(reference).stem if _is_path(reference) else reference


def _is_path(reference: str) -> bool:
    return "/" in reference or reference.endswith((".yaml", ".yml"))


def _recipe(reference: str, base_dir: Path) -> str:
    return str(base_dir / Path(reference).expanduser()) if _is_path(reference) else reference


def _default_baseline(recipes: Sequence[str]) -> str:
    known = [recipe_name(reference) for reference in recipes]
    return DEFAULT_BASELINE if DEFAULT_BASELINE in known else known[0]


def _model(entry: str | _ModelDoc) -> ModelEntry:
    doc = _ModelDoc(entry) if isinstance(entry, str) else entry
    is_file = "/" in doc.model or doc.model.endswith(".onnx")
    name = doc.name or (Path(doc.model).stem if is_file else doc.model)
    return ModelEntry(name, doc.model, doc.shapes, doc.imgsz)


def _profile(doc: str | _ProfileDoc, blocks: int | None, images: int | None) -> Profile:
    """The profile with the experiment's own blocks and image count, where it states them."""
    if isinstance(doc, str):
        base = PROFILES[doc]
    else:
        base = Profile(
            **msgspec.structs.asdict(doc), blocks=_OWN_BLOCKS, accuracy_images=_OWN_IMAGES
        )
    return dataclasses.replace(
        base,
        blocks=base.blocks if blocks is None else blocks,
        accuracy_images=base.accuracy_images if images is None else images,
    )


_Source = TypeVar("_Source", DataSource, CalibrationSource)


def _absolute(source: _Source | None, base_dir: Path) -> _Source | None:
    if source is None:
        return None
    if source.source == SHAPES:
        return msgspec.structs.replace(source, layout=SHAPES)
    path = base_dir / Path(source.source).expanduser()
    return msgspec.structs.replace(source, source=str(path))


def _refuse_twice(field: str, entries: Sequence[str]) -> None:
    for index, entry in enumerate(entries):
        if entry in entries[:index]:
            raise ValueError(f"{field}: '{entry}' stands twice")
