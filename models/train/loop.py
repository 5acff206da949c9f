"""Our own small trainer: epochs of steps, a score after each, a checkpoint to go on from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from models.errors import BuildFailed
from models.steps.settings import Settings
from models.store import CurvePoint
from models.train.device import device_of, uses_bfloat16
from models.train.optimizing import Average, lr_share, optimizer_of

Log = Callable[[str], None]

CHECKPOINT: Final = "checkpoint.pt"
_MAX_GRADIENT: Final = 10.0


class Data(Protocol):
    """What is learned from, and what is scored."""

    @property
    def scored(self) -> bool:
        """Whether there is anything to score on."""

    def __len__(self) -> int:
        """Training images."""

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Any]]:
        """Images (n, 3, s, s) in 0..1 and the truth, which has `to(device)`."""

    def score(self, module: nn.Module, device: torch.device) -> Mapping[str, float]:
        """Metrics by name of a module in eval mode."""


@dataclass(frozen=True)
class Job:
    """A training. `module` changes in place; `extras` are trained too and not kept.

    `raw(images)` runs whatever networks there are, in bfloat16 where that is faster, and
    `loss(raw, truth)` is the number to minimise. `resume` is a folder for the checkpoint, None
    to keep none.
    """

    module: nn.Module
    data: Data
    raw: Callable[[Tensor], Any]
    loss: Callable[[Any, Any], Tensor]
    settings: Settings
    extras: tuple[nn.Module, ...] = ()
    resume: Path | None = None


@dataclass
class _State:
    """What a training goes on from."""

    optimizer: torch.optim.Optimizer
    average: Average | None
    epoch: int = 0
    """Epochs that are finished."""
    curves: list[CurvePoint] = field(default_factory=list)


def train(job: Job, log: Log) -> tuple[CurvePoint, ...]:
    """Train to the last epoch, from the checkpoint if there is one; returns the curves.

    The module is left in eval mode, on the CPU, with the averaged weights where the settings
    ask for an average. Raises BuildFailed where the loss is no longer finite.
    """
    device = device_of(job.settings)
    for module in (job.module, *job.extras):
        module.to(device, memory_format=torch.channels_last)
    state = _State(
        optimizer_of([job.module, *job.extras], job.settings),
        Average(job.module, job.settings.ema) if job.settings.ema else None,
    )
    _restore(job, state, log)
    begun, before = time.monotonic(), state.epoch
    while state.epoch < job.settings.epochs:
        values = _epoch(job, state, device)
        values |= _score(job, state, device)
        state.epoch += 1
        state.curves += [
            CurvePoint(state.epoch, "train" if name == "loss" else "val", name, value)
            for name, value in values.items()
        ]
        _save(job, state)
        each_s = (time.monotonic() - begun) / (state.epoch - before)
        log(progress(state.epoch, job.settings.epochs, values, each_s))
    if state.average is not None:
        job.module.load_state_dict(state.average.state)
    job.module.to("cpu", memory_format=torch.contiguous_format).eval()
    return tuple(state.curves)


def progress(epoch: int, epochs: int, values: Mapping[str, float], each_s: float) -> str:
    """One line on an epoch, with the time that is left."""
    told = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
    left_s = round(each_s * (epochs - epoch))
    left = f"{left_s // 60} min {left_s % 60} s" if left_s >= 60 else f"{left_s} s"  # noqa: PLR2004
    return f"epoch {epoch}/{epochs}  {told}  {each_s:.1f} s an epoch, {left} left"


def _epoch(job: Job, state: _State, device: torch.device) -> dict[str, float]:
    """One pass over the data; returns the mean loss."""
    settings = job.settings
    torch.manual_seed(settings.seed * 100_003 + state.epoch)  # what a network draws by itself
    for module in (job.module, *job.extras):
        module.train()
    steps_per_epoch = max(1, len(job.data) // settings.batch)
    step = state.epoch * steps_per_epoch
    bfloat16 = uses_bfloat16(settings, device)
    weights = [p for group in state.optimizer.param_groups for p in group["params"]]
    losses = []
    for images, truth in job.data.batches(state.epoch):
        rate = settings.lr * lr_share(settings, step, steps_per_epoch)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
            raw = job.raw(images.to(device, memory_format=torch.channels_last))
        loss = job.loss(raw, truth.to(device))
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, _MAX_GRADIENT)
        state.optimizer.step()
        if state.average is not None:
            state.average.update(job.module)
        losses.append(loss.detach())
        step += 1
    mean = torch.stack(losses).mean().item()
    if not math.isfinite(mean):
        raise BuildFailed(
            f"epoch {state.epoch + 1}: the loss is {mean}: training diverged; lower lr "
            f"({settings.lr:g})"
        )
    return {"loss": mean}


def _score(job: Job, state: _State, device: torch.device) -> dict[str, float]:
    """Metrics of the weights that would be kept."""
    if not job.data.scored:
        return {}
    job.module.eval()
    if state.average is None:
        return dict(job.data.score(job.module, device))
    with state.average.used(job.module):
        return dict(job.data.score(job.module, device))


def _save(job: Job, state: _State) -> None:
    """Write all that a rerun goes on from; the file appears whole or not at all."""
    if job.resume is None:
        return
    job.resume.mkdir(parents=True, exist_ok=True)
    average = state.average
    whole = job.resume / f"{CHECKPOINT}.tmp"
    torch.save(
        {
            "epoch": state.epoch,
            "module": job.module.state_dict(),
            "extras": [module.state_dict() for module in job.extras],
            "optimizer": state.optimizer.state_dict(),
            "average": None if average is None else [average.steps, average.state],
            "curves": [[p.epoch, p.split, p.metric, p.value] for p in state.curves],
        },
        whole,
    )
    whole.replace(job.resume / CHECKPOINT)


def _restore(job: Job, state: _State, log: Log) -> None:
    """Go on from a checkpoint; one that cannot be used is left aside, and said so."""
    path = None if job.resume is None else job.resume / CHECKPOINT
    if path is None or not path.is_file():
        return
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # noqa: BLE001 - a damaged file makes it raise almost anything
        log(f"the checkpoint {path} cannot be read ({exc}); starting over")
        return
    job.module.load_state_dict(kept["module"])
    for module, weights in zip(job.extras, kept["extras"], strict=True):
        module.load_state_dict(weights)
    state.optimizer.load_state_dict(kept["optimizer"])
    if state.average is not None:
        state.average.restore(*kept["average"])
    state.epoch = kept["epoch"]
    state.curves = [CurvePoint(*point) for point in kept["curves"]]
    log(f"going on after epoch {state.epoch} of an interrupted training")
