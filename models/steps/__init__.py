"""The steps that recipes are made of. Importing this is cheap; a step's work is imported late."""

from __future__ import annotations

from models.steps.base import Step, StepInput, StepResult
from models.steps.kinds import EXPORT, IMPORT, INT8_PTQ, ORT_FORMAT

RECIPE_STEPS: dict[str, Step] = {step.name: step for step in (INT8_PTQ, ORT_FORMAT)}
"""What a recipe may name."""

ALL_STEPS: dict[str, Step] = {step.name: step for step in (IMPORT, EXPORT)} | RECIPE_STEPS

__all__ = ["ALL_STEPS", "RECIPE_STEPS", "Step", "StepInput", "StepResult"]
