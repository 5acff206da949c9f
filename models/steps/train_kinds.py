"""The kinds of steps that train a network. Imports nothing heavy, like `models.steps.kinds`."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from models.steps.base import Step
from models.steps.settings import DistillParams, Positive, Rate, Settings

_TOOLS = ("torch", "ultralytics", "numpy")


class FinetuneParams(Settings, frozen=True):
    """A short training from weights that were good before a step changed the network."""

    epochs: Positive = 3
    lr: Rate = 5e-4
    warmup_steps: Annotated[int, msgspec.Meta(ge=0)] = 50
    ema: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)] = 0.99


def teacher_names(params: Any) -> tuple[str, ...]:
    """The network that a student learns from."""
    return (params.teacher,)


TRAIN = Step(
    name="train",
    params=Settings,
    accepts="net",
    makes="net",
    tools=_TOOLS,
    module="models.steps.train",
    needs_training=True,
)
FINETUNE = Step(
    name="finetune",
    params=FinetuneParams,
    accepts="net",
    makes="net",
    tools=_TOOLS,
    module="models.steps.train",
    needs_training=True,
)
DISTILL = Step(
    name="distill",
    params=DistillParams,
    accepts="net",
    makes="net",
    tools=_TOOLS,
    module="models.steps.distill",
    needs_training=True,
    others=teacher_names,
)
