"""The one way in which networks are trained here: from scratch, again, quantized, or by a teacher.

Our networks learn in our own small trainer (models.train.loop), those of ultralytics in its.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from models.data.training import class_names
from models.errors import BuildFailed
from models.nets.net import Net
from models.nets.registry import FAMILIES, Task
from models.spec import TrainingSpec
from models.steps.settings import Settings
from models.store import CurvePoint
from models.train import auxiliary, loop, soft, ultra
from models.train.detecting import DetectionData
from models.train.device import device_of, sole_use
from models.train.objectives import objective_of
from models.train.segmenting import SegmentationData
from models.train.told import objects_in

Log = Callable[[str], None]


@dataclass(frozen=True)
class Teacher:
    """A network whose outputs are learned from.

    `alpha` is its share in the loss; logits are divided by `temperature` before they are compared.
    """

    net: Net
    alpha: float
    temperature: float


def fit(
    net: Net,
    training: TrainingSpec,
    settings: Settings,
    log: Log,
    *,
    teacher: Teacher | None = None,
    resume: Path | None = None,
) -> tuple[CurvePoint, ...]:
    """Train `net.module` in place, whatever its structure, and return the learning curves.

    `net.arch` takes the class names of the data and is trained afterwards; the module is left
    in eval mode on the CPU. `resume` is a folder that survives an interruption: a rerun with it
    goes on after the last finished epoch and ends with the same weights. Raises BuildFailed
    where the network does not fit the data or diverges, DataError and ImageError for bad data.
    """
    task = FAMILIES[net.arch.family].task
    names = class_names(training.data, training.cache, task)
    refuse_other_classes(net, names)
    if teacher is not None:
        _refuse_misfit(net, teacher.net)
    if training.val is not None and settings.val_images:
        _refuse_other_val(training, names, task)
    with sole_use(settings, training.cache, log):
        if net.arch.family == "ultralytics":
            curves = ultra.fit(net, training, settings, log, teacher=teacher, resume=resume)
        else:
            curves = _fit_ours(net, training, settings, log, teacher, resume)
    net.arch = msgspec.structs.replace(net.arch, class_names=names, trained=True)
    return curves


def refuse_other_classes(net: Net, names: tuple[str, ...]) -> None:
    """Raises BuildFailed where the network has another number of classes than the data."""
    own = len(net.arch.class_names)
    if own != len(names):
        raise BuildFailed(
            f"the network {net.arch.family} tells {own} classes apart, the training data has "
            f"{len(names)} ({', '.join(names[:8])}{', ...' if len(names) > 8 else ''}); "  # noqa: PLR2004
            f"give the model `options: {{num_classes: {len(names)}}}`"
        )


def _refuse_other_val(training: TrainingSpec, names: tuple[str, ...], task: Task) -> None:
    """Scores of classes that stand for something else would mean nothing."""
    if training.val is None:
        return
    scored = class_names(training.val, training.cache, task)
    if scored != names:
        raise BuildFailed(
            f"the validation data {training.val.source} has the classes {scored}, "
            f"the training data {names}: they must be the same, in the same order"
        )


def _refuse_misfit(net: Net, teacher: Net) -> None:
    """Raises BuildFailed where the outputs of two networks cannot be compared one by one."""
    if (net.arch.family == "ultralytics") != (teacher.arch.family == "ultralytics"):
        raise BuildFailed(
            f"the teacher is of family {teacher.arch.family}, the student of {net.arch.family}: "
            "ultralytics trains its own networks only; take a teacher of the same kind"
        )
    if net.arch.family == "ultralytics":
        return
    own, others = _output_shape(net), _output_shape(teacher)
    detects = FAMILIES[net.arch.family].task == "detect"
    alike = own[:2] == others[:2] if detects else own == others
    if net.arch.imgsz_px != teacher.arch.imgsz_px or not alike:
        raise BuildFailed(
            f"the teacher ({teacher.arch.family}, {teacher.arch.imgsz_px} px) gives {others}, the "
            f"student ({net.arch.family}, {net.arch.imgsz_px} px) {own}: take a teacher of the "
            "same task, input size and classes"
        )


def _output_shape(net: Net) -> tuple[int, ...]:
    """What it gives for one image of its size, in eval mode."""
    objective = objective_of(net.arch.family)
    side = net.arch.imgsz_px
    with torch.no_grad():
        module = net.module.eval()
        raw = objective.raw(module, torch.zeros(1, 3, side, side))
        return tuple(objective.outputs(module, raw).shape)


def _fit_ours(
    net: Net,
    training: TrainingSpec,
    settings: Settings,
    log: Log,
    teacher: Teacher | None,
    resume: Path | None,
) -> tuple[CurvePoint, ...]:
    data = data_of(net, training, settings)
    learning = _Learning(net, settings, teacher)
    job = loop.Job(
        module=net.module,
        data=data,
        raw=learning.raw,
        loss=learning.loss,
        settings=settings,
        extras=learning.extras,
        resume=resume,
    )
    log(f"{len(data)} images, {settings.epochs} epochs")
    try:
        return loop.train(job, log)
    finally:
        learning.close()


def data_of(net: Net, training: TrainingSpec, settings: Settings) -> loop.Data:
    """The data of a network's task, prepared for its input."""
    kind = DetectionData if FAMILIES[net.arch.family].task == "detect" else SegmentationData
    return kind(training, settings, net.arch.imgsz_px)


class _Learning:
    """What one step runs and minimises: the network, an auxiliary branch, a teacher."""

    def __init__(self, net: Net, settings: Settings, teacher: Teacher | None) -> None:
        self._module = net.module
        self._objective = objective_of(net.arch.family)
        self._detects = FAMILIES[net.arch.family].task == "detect"
        self._aux_weight = settings.aux
        self._listener: auxiliary.Listener | None = None
        self._branch: Any = None
        if settings.aux:
            torch.manual_seed(settings.seed)
            self._listener, self._branch = auxiliary.attach(net)
        self._teacher = teacher
        if teacher is not None:
            teacher.net.module.to(device_of(settings)).eval()
            self._teaching = objective_of(teacher.net.arch.family)

    @property
    def extras(self) -> tuple[Any, ...]:
        return () if self._branch is None else (self._branch,)

    def raw(self, images: Tensor) -> _Raw:
        own = self._objective.raw(self._module, images)
        branch = None
        if self._listener is not None:
            branch = self._branch(self._listener.maps)
        taught = None
        if self._teacher is not None:
            module = self._teacher.net.module
            with torch.no_grad():
                taught = self._teaching.outputs(module, self._teaching.raw(module, images))
        return _Raw(own, branch, taught)

    def loss(self, raw: _Raw, truth: Any) -> Tensor:
        total = self._objective.loss(self._module, raw.own, truth)
        if raw.branch is not None:
            total = total + self._aux_weight * self._branch.loss(raw.branch, truth)
        if self._teacher is not None and raw.taught is not None:
            distance = self._taught(raw.own, raw.taught, self._teacher.temperature)
            total = (1 - self._teacher.alpha) * total + self._teacher.alpha * distance
        return total

    def _taught(self, own: Any, taught: Tensor, temperature: float) -> Tensor:
        """How far the student is from its teacher, output by output where both have the same."""
        outputs = self._objective.outputs(self._module, own)
        if outputs.shape != taught.shape:
            return self._objective.loss(self._module, own, objects_in(taught))
        compare = soft.soft_detection if self._detects else soft.soft_segmentation
        return compare(outputs, taught, temperature)

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        if self._teacher is not None:
            self._teacher.net.module.to("cpu")


@dataclass(frozen=True)
class _Raw:
    """What the network, its branch and its teacher gave for a batch."""

    own: Any
    branch: Any
    taught: Tensor | None
