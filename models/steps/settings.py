"""How a network is trained: the parameters that all steps which train have in common."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from models.steps.base import Params

Positive = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Rate = Annotated[float, msgspec.Meta(gt=0.0)]


class Settings(Params, frozen=True):
    """One training, whatever the network.

    `lr` is the highest learning rate. `schedule`: `cosine` falls to a hundredth of it, `step`
    multiplies it by `gamma` every `step_epochs` epochs (0.8 and 10 in the VOC study). The rate
    rises over the first `warmup_steps` steps, a tenth of all at most. `schedule_epochs` lays
    `cosine` out for another number of epochs than are trained. `ema` averages the weights with
    that memory (0 for none); the averaged ones are what is scored and kept.

    `images` limits the training images and `val_images` those that are scored after each epoch
    (0 scores nothing). `amp` computes in bfloat16 where the device is faster with it. `aux`
    trains a second head on the backbone, which is dropped at the end, with that weight (0 for
    none). The same settings and seed on the same CPU give the same weights.
    """

    epochs: Positive = 10
    batch: Positive = 16
    lr: Rate = 2e-3
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    gamma: Rate = 0.8
    step_epochs: Positive = 10
    schedule_epochs: Positive | None = None
    warmup_steps: Annotated[int, msgspec.Meta(ge=0)] = 300
    weight_decay: Share = 0.02
    ema: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)] = 0.998
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    images: Positive | None = None
    val_images: Annotated[int, msgspec.Meta(ge=0)] = 64
    augment: bool = True
    amp: Literal["auto", "on", "off"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    aux: Share = 0.0


class DistillParams(Settings, frozen=True):
    """`teacher` names another model of the experiment.

    `alpha` is the teacher's share in the loss. `temperature` softens scores: logits are divided
    by it before they are compared (Hinton et al., 2015).
    """

    teacher: str = ""
    alpha: Share = 0.5
    temperature: Rate = 2.0

    def __post_init__(self) -> None:
        """Raises ValueError, which a recipe gives a place."""
        if not self.teacher:
            raise ValueError("teacher: name the model of the experiment to learn from")
