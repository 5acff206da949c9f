"""The chain of steps behind a variant, and the key of each link. Imports nothing heavy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

from models.errors import BuildFailed
from models.recipes import Recipe, StepSpec
from models.spec import CalibrationSpec, ModelSpec
from models.steps import ALL_STEPS, Step
from models.steps.base import tool_version

_KEY_SCHEMA = 1
"""Raised when steps change what they make of the same input: old results are not found then."""


@dataclass(frozen=True)
class VariantRequest:
    """One artifact that is wanted: a model by a recipe for an instruction set.

    `isa` is a wire.Fingerprint.isa.
    """

    model: ModelSpec
    recipe: Recipe
    isa: str
    calibration: CalibrationSpec | None = None

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

    def tools(self) -> dict[str, str]:
        """Versions of the packages that do the work."""
        return {package: tool_version(package) for package in self.step.tools}

    def key(self, parent: str) -> str:
        """The sha256 under which the result is remembered; `parent` is a sha256 or an identity."""
        parts = {
            "schema": _KEY_SCHEMA,
            "step": self.step.name,
            "params": self.params,
            "choices": self.choices,
            "parent": parent,
            "tools": self.tools(),
            "calibration": self.calibration,
            "shapes": self.shapes,
        }
        return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def links(request: VariantRequest) -> tuple[Link, ...]:
    """The whole chain: import or export, then the recipe's steps.

    Raises BuildFailed where calibration data is needed and absent.
    """
    if request.recipe.needs_calibration and request.calibration is None:
        raise BuildFailed(
            f"{request.label}: needs calibration data; add --calibration DIR with about a "
            "hundred images like those the model will see (or .npy tensors)"
        )
    source = request.model.source
    if source.kind == "onnx":
        first = StepSpec("import", {})
    else:
        params = ALL_STEPS["export"].params()
        if source.imgsz_px is not None:
            params = msgspec.structs.replace(params, imgsz_px=source.imgsz_px)
        first = StepSpec("export", msgspec.to_builtins(params))
    return tuple(_link(spec, request) for spec in (first, *request.recipe.steps))


def _link(spec: StepSpec, request: VariantRequest) -> Link:
    step = ALL_STEPS[spec.name]
    params = msgspec.convert(spec.params, step.params)
    calibrated = request.calibration if step.needs_calibration else None
    return Link(
        step=step,
        params=spec.params,
        choices=step.choices(params, request.isa),
        calibration=calibrated.digest if calibrated else None,
        shapes=request.model.shapes if step.needs_calibration else {},
    )


def fingerprint(request: VariantRequest) -> tuple[str, ...]:
    """The source and each link as text: equal for equal artifacts, a prefix for parents."""
    return (
        request.model.source.identity,
        *(link.key("") for link in links(request)),
    )
