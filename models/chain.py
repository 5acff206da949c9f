"""The chain of steps behind a variant, and the key of each link. Imports nothing heavy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from models.errors import BuildFailed
from models.recipes import RUNS, Recipe, StepSpec
from models.spec import CalibrationSpec, ModelSpec, TrainingSpec
from models.steps import ALL_STEPS, Step
from models.steps.base import NOT_INSTALLED, tool_version

_KEY_SCHEMA = 1
"""Raised when keys are made up of other parts; a step that changes raises its own `revision`."""


Versions = Mapping[str, str] | None
"""Of packages by name, where a builder does the work; None means those that are installed here."""


@dataclass(frozen=True)
class VariantRequest:
    """One artifact that is wanted: a model by a recipe for an instruction set.

    `isa` is a wire.Fingerprint.isa. `others` are the models that steps may ask for by name, as
    a teacher. With `as_net` the chain ends before the network is exported.
    """

    model: ModelSpec
    recipe: Recipe
    isa: str
    calibration: CalibrationSpec | None = None
    training: TrainingSpec | None = None
    others: Mapping[str, ModelSpec] = field(default_factory=dict)
    as_net: bool = False

    @property
    def label(self) -> str:
        """`model/recipe for isa`, for messages."""
        return f"{self.model.name}/{self.recipe.name} for {self.isa}"


@dataclass(frozen=True)
class Link:
    """One step of a chain with everything but its parent that decides its result."""

    step: Step
    params: dict[str, Any]
    choices: dict[str, str]
    calibration: str | None
    shapes: dict[str, tuple[int, ...]]
    training: str | None = None
    others: dict[str, VariantRequest] = field(default_factory=dict)
    """Further networks that the step asks for, by name."""
    library: tuple[str, ...] = ()
    """The package whose code the network is made of, where it is not ours."""

    def tools(self, versions: Versions = None) -> dict[str, str]:
        """Versions of the packages that do the work: those here, or those of a builder."""
        packages = (*self.step.tools, *self.library)
        if versions is None:
            return {package: tool_version(package) for package in packages}
        return {package: versions.get(package, NOT_INSTALLED) for package in packages}

    def key(self, parent: str, versions: Versions = None) -> str:
        """The sha256 under which the result is remembered; `parent` is a sha256 or an identity."""
        parts = {
            "schema": _KEY_SCHEMA,
            "step": self.step.name,
            "params": self.params,
            "choices": self.choices,
            "parent": parent,
            "tools": self.tools(versions),
            "calibration": self.calibration,
            "shapes": self.shapes,
        }
        if self.step.revision:
            parts["revision"] = self.step.revision
        if self.training is not None:
            parts["training"] = self.training
        if self.others:
            parts["others"] = {
                name: fingerprint(other, versions) for name, other in self.others.items()
            }
        return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


_EXPORTS: Final = {"onnxruntime": "export_net", "torch": "export_pt2", "litert": "export_tflite"}
"""What makes of a network a file that the runtime runs."""


def links(request: VariantRequest) -> tuple[Link, ...]:
    """The whole chain: where the model comes from, its own steps, the recipe's, its export.

    Raises BuildFailed where data is needed and absent, or the steps do not fit the model.
    """
    specs = tuple(_steps(request))
    needs = [ALL_STEPS[spec.name] for spec in specs]
    if request.calibration is None and any(step.needs_calibration for step in needs):
        raise BuildFailed(
            f"{request.label}: needs calibration data; add --calibration DIR with about a "
            "hundred images like those the model will see (or .npy tensors)"
        )
    if request.training is None and any(step.needs_training for step in needs):
        raise BuildFailed(
            f"{request.label}: needs labelled images to learn from; name them in the "
            "experiment's `training:`"
        )
    return tuple(_link(spec, request) for spec in specs)


def needs_training(model: ModelSpec, recipe: Recipe) -> bool:
    """True when a step of the model or the recipe learns from labelled images."""
    return any(ALL_STEPS[spec.name].needs_training for spec in (*model.steps, *recipe.steps))


def teacher_request(request: VariantRequest, name: str) -> VariantRequest:
    """The network that a step asks for by `name`, with its own steps and no recipe's."""
    if name not in request.others:
        known = ", ".join(request.others) or "none"
        raise BuildFailed(
            f"{request.label}: no model named {name!r} to learn from; this experiment has {known}"
        )
    return VariantRequest(
        model=request.others[name],
        recipe=Recipe("net", (), "the network as it is"),
        isa=request.isa,
        training=request.training,
        others={other: model for other, model in request.others.items() if other != name},
        as_net=True,
    )


def _steps(request: VariantRequest) -> Iterator[StepSpec]:
    """Every step by name, with those that convert between formats."""
    asked = (*request.model.steps, *request.recipe.steps)
    first = _first(request, asked)
    yield first
    made = ALL_STEPS[first.name].makes
    for spec in asked:
        step = ALL_STEPS[spec.name]
        if (made, step.accepts) == ("net", "onnx"):
            yield _default("export_net")
            made = "onnx"
        if step.accepts != made:
            raise BuildFailed(
                f"{request.label}: step {spec.name} takes {step.accepts} and gets {made}: "
                + _MISFIT.get(step.accepts or "", "change the order of the steps")
            )
        yield spec
        made = step.makes
    if made == "net" and not request.as_net:
        export = _EXPORTS[request.recipe.runtime]
        yield _default(export)
        made = ALL_STEPS[export].makes
    if made not in RUNS[request.recipe.runtime] and not (request.as_net and made == "net"):
        raise BuildFailed(
            f"{request.label}: {request.recipe.runtime} runs a network's own export, and this "
            f"model is {made}; take a network of the zoo or an ultralytics model"
        )


_MISFIT: Final = {
    "net": "it changes a network, which an ONNX file no longer is; take a network of the zoo or "
    "an ultralytics .pt or .yaml file, and put such steps before those on files",
}


def _first(request: VariantRequest, asked: tuple[StepSpec, ...]) -> StepSpec:
    """Where the chain begins. ultralytics models become networks only where a step wants one."""
    source = request.model.source
    if source.kind == "onnx":
        return _default("import")
    if source.kind == "net":
        return _default("create")
    wants_net = request.as_net or request.recipe.runtime != "onnxruntime" or bool(source.options)
    wants_net |= any(ALL_STEPS[spec.name].accepts == "net" for spec in asked)
    params = ALL_STEPS["take_ultralytics" if wants_net else "export"].params()
    if source.imgsz_px is not None:
        params = msgspec.structs.replace(params, imgsz_px=source.imgsz_px)
    name = "take_ultralytics" if wants_net else "export"
    return StepSpec(name, msgspec.to_builtins(params))


def _default(name: str) -> StepSpec:
    return StepSpec(name, msgspec.to_builtins(ALL_STEPS[name].params()))


def _link(spec: StepSpec, request: VariantRequest) -> Link:
    step = ALL_STEPS[spec.name]
    params = msgspec.convert(spec.params, step.params)
    calibrated = request.calibration if step.needs_calibration else None
    trained = request.training if step.needs_training else None
    theirs = request.model.source.kind == "ultralytics" and step.accepts == "net"
    return Link(
        step=step,
        params=spec.params,
        choices=step.choices(params, request.isa),
        calibration=calibrated.digest if calibrated else None,
        shapes=request.model.shapes if step.needs_calibration else {},
        training=trained.digest if trained else None,
        others={name: teacher_request(request, name) for name in step.others(params)},
        library=("ultralytics",) if theirs else (),
    )


def fingerprint(request: VariantRequest, versions: Versions = None) -> tuple[str, ...]:
    """The source and each link as text: equal for equal artifacts, a prefix for parents."""
    return (
        request.model.source.identity,
        *(link.key("", versions) for link in links(request)),
    )
