"""The steps that recipes are made of. Importing this is cheap; a step's work is imported late."""

from __future__ import annotations

from models.steps.base import Step, StepInput, StepResult
from models.steps.compress_kinds import NET_STEPS
from models.steps.kinds import (
    CREATE,
    DYNAMIC,
    EXPORT,
    EXPORT_NET,
    FP16,
    IMPORT,
    INT8_PTQ,
    ORT_FORMAT,
    SPARSIFY,
    TAKE_ULTRALYTICS,
)
from models.steps.runtime_kinds import EXPORT_PT2, EXPORT_TFLITE, TFLITE_INT8
from models.steps.train_kinds import DISTILL, FINETUNE, TRAIN

RECIPE_STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        TRAIN,
        FINETUNE,
        DISTILL,
        *NET_STEPS,
        INT8_PTQ,
        DYNAMIC,
        FP16,
        SPARSIFY,
        ORT_FORMAT,
        EXPORT_PT2,
        EXPORT_TFLITE,
        TFLITE_INT8,
    )
}
"""What a recipe may name."""

ALL_STEPS: dict[str, Step] = {
    step.name: step for step in (IMPORT, EXPORT, CREATE, TAKE_ULTRALYTICS, EXPORT_NET)
} | RECIPE_STEPS
"""Those too that begin a chain or convert between formats by themselves (models/chain.py)."""

__all__ = ["ALL_STEPS", "RECIPE_STEPS", "Step", "StepInput", "StepResult"]
