"""Experiments in YAML: the documents' fields, and what they become."""

from __future__ import annotations

import dataclasses
import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from models.recipes import Runtime, make_recipe, parse_steps
from orchestrator import yamlfile
from orchestrator.errors import ExperimentError, UnknownName, unknown_name
from orchestrator.experiment import (
    DEFAULT_ACCURACY_CAP_S,
    CalibrationSource,
    Cooldown,
    Count,
    DataSource,
    Experiment,
    ModelEntry,
    Options,
    Positive,
    PositiveSeconds,
    ScenarioChoice,
    Seconds,
    TrainingSource,
    absolute,
    default_baseline,
    is_path,
    model_name,
    recipe_name,
    recipe_reference,
)
from orchestrator.profiles import PROFILES, Profile
from orchestrator.yamlnodes import child, keys, merged, without

_OWN_BLOCKS: Final = 3
_OWN_IMAGES: Final = 64


class _ModelDoc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str
    name: str | None = None
    shapes: dict[str, tuple[Positive, ...]] = {}
    imgsz: Positive | None = None
    options: dict[str, Any] = {}
    weights: str | None = None
    steps: tuple[Any, ...] = ()
    recipes: tuple[str, ...] | None = None


class _RecipeDoc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A recipe in the experiment's own file, as in a file of its own."""

    name: str
    steps: tuple[Any, ...] = ()
    description: str = ""
    runtime: Runtime = "onnxruntime"


class _ProfileDoc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A profile with its numbers in the experiment's own file."""

    min_samples: Positive
    min_duration_s: Seconds
    max_duration_s: PositiveSeconds
    warmup_min_samples: Count
    warmup_min_duration_s: Seconds
    name: str = "own"

    def __post_init__(self) -> None:
        """Raises ValueError, which yamlfile gives a place."""
        if self.max_duration_s < self.min_duration_s:
            raise ValueError(
                f"max_duration_s: expected at least min_duration_s ({self.min_duration_s:g}), "
                f"found '{self.max_duration_s:g}'"
            )


class _AccuracyDoc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    images: Count | None = None
    cap_s: PositiveSeconds = DEFAULT_ACCURACY_CAP_S


class _ExperimentDoc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: tuple[str | _ModelDoc, ...]
    recipes: tuple[str | _RecipeDoc, ...]
    description: str = ""
    data: DataSource | None = None
    calibration: CalibrationSource | None = None
    training: TrainingSource | None = None
    profile: str | _ProfileDoc = "quick"
    blocks: Positive | None = None
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
        known = [_recipe_name(entry) for entry in self.recipes]
        _refuse_twice("recipes", known)
        _refuse_twice("models", [_model_name(entry) for entry in self.models])
        for index, entry in enumerate(self.models):
            for name in (isinstance(entry, _ModelDoc) and entry.recipes) or ():
                if name not in known:
                    raise ValueError(f"models: {index}: {unknown_name('recipe', name, known)}")
        if self.baseline is not None and self.baseline not in known:
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


def load(name_or_path: str, base_dir: Path, scale: str | None = None) -> Experiment:
    """A shipped experiment by name, or a file by path (relative to `base_dir`).

    A text with a '/' or that ends in .yaml or .yml is a path. Without `scale` an experiment of
    several sizes has its first. Raises UnknownName, RecipeError, and ExperimentError with file,
    line, field, found and expected.
    """
    if is_path(name_or_path):
        return read(base_dir / Path(name_or_path).expanduser(), scale)
    if name_or_path not in names():
        raise unknown_name("experiment", name_or_path, names())
    folder = importlib.resources.files("orchestrator") / "experiments"
    with importlib.resources.as_file(folder / f"{name_or_path}.yaml") as path:
        return read(path, scale)


def read(path: Path, scale: str | None = None) -> Experiment:
    """The experiment in a file; paths in it are relative to the file's folder."""
    chosen: list[str | None] = []

    def scaled(root: yaml.Node) -> yaml.Node:
        scales = child(root, "scales")
        known = keys(scales)
        if scale is not None and scales is None:
            raise UnknownName(f"{path.stem} has one size and no scale '{scale}'; leave it out")
        if scale is not None and scale not in known:
            raise unknown_name("scale", scale, known)
        chosen.append(scale or next(iter(known), None))
        over = None if scales is None or chosen[0] is None else child(scales, chosen[0])
        base = without(root, "scales")
        return base if over is None else merged(base, over)

    doc = yamlfile.load(path, _ExperimentDoc, ExperimentError, scaled)
    base = path.resolve().parent
    return Experiment(
        name=path.stem,
        description=doc.description,
        models=tuple(_model(entry, path) for entry in doc.models),
        recipes=tuple(
            recipe_reference(entry, base) if isinstance(entry, str) else entry.name
            for entry in doc.recipes
        ),
        profile=_profile(doc.profile, doc.blocks, doc.accuracy.images),
        data=absolute(doc.data, base),
        calibration=absolute(doc.calibration, base),
        baseline=doc.baseline or default_baseline([_recipe_name(entry) for entry in doc.recipes]),
        accuracy_cap_s=doc.accuracy.cap_s,
        options=doc.options,
        cooldown=doc.cooldown,
        base_dir=base,
        scenario=doc.scenario,
        own_recipes=tuple(
            make_recipe(entry.name, entry.steps, entry.description, entry.runtime, str(path))
            for entry in doc.recipes
            if isinstance(entry, _RecipeDoc)
        ),
        training=absolute(doc.training, base),
        scale=chosen[0],
    )


def _recipe_name(entry: str | _RecipeDoc) -> str:
    return recipe_name(entry) if isinstance(entry, str) else entry.name


def _model_name(entry: str | _ModelDoc) -> str:
    if isinstance(entry, str):
        return model_name(entry)
    return entry.name or model_name(entry.model)


def _model(entry: str | _ModelDoc, path: Path) -> ModelEntry:
    doc = _ModelDoc(entry) if isinstance(entry, str) else entry
    name = _model_name(entry)
    return ModelEntry(
        name=name,
        reference=doc.model,
        shapes=doc.shapes,
        imgsz=doc.imgsz,
        options=doc.options,
        weights=doc.weights,
        steps=parse_steps(doc.steps, f"{path}: model {name}"),
        recipes=doc.recipes,
    )


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


def _refuse_twice(field: str, entries: Sequence[str]) -> None:
    for index, entry in enumerate(entries):
        if entry in entries[:index]:
            raise ValueError(f"{field}: '{entry}' stands twice")
