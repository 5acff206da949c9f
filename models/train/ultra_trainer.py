"""ultralytics' trainer on our network, our images, our score and our checkpoint.

Theirs: the loop, the optimizer, the losses, the augmentation, feature distillation. Ours: the
module, whatever its structure; the learning rate's course; an average of the weights that
leaves other buffers alone; checkpoints in full precision, so that a resumed training ends with
the same weights (theirs keep half precision and only the average).
"""

# mypy: allow-subclassing-any
# mypy does not follow ultralytics (see pyproject.toml), so its classes are Any to it.

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import torch
from torch import Tensor, nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import callbacks
from ultralytics.utils.torch_utils import init_seeds

from models.errors import BuildFailed
from models.nets.net import Net
from models.steps.settings import Settings
from models.store import CurvePoint
from models.train.detecting import DetectionData
from models.train.device import device_of, too_large, uses_bfloat16
from models.train.loop import CHECKPOINT, progress
from models.train.optimizing import lr_share
from models.train.ultra import Request
from models.train.ultra_data import Pictures
from models.train.ultra_module import (
    OurEma,
    attach_branch,
    compare_in_full,
    compute_in_bfloat16,
)

Log = Callable[[str], None]

_MAX_WORKERS: Final = 8
_OPTIMIZERS: Final = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}
_NO_AUGMENTATION: Final = dict.fromkeys(
    ("mosaic", "hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr"), 0.0
)
_TEACHER_WEIGHT: Final = 6.0
"""ultralytics' own weight of its distillation loss (`dis`), ours at alpha 0.5."""
_MAX_ALPHA: Final = 0.99


@dataclass(frozen=True)
class Result:
    """The curves and the weights that are kept."""

    points: tuple[CurvePoint, ...]
    state: dict[str, Tensor]


def train(request: Request, net: Net, teacher: nn.Module | None, log: Log) -> Result:
    """Train the network of a request; raises BuildFailed, or what ultralytics raises."""
    callbacks.add_integration_callbacks = lambda _trainer: None  # no tracker is called
    data = DetectionData(request.training, request.settings, net.arch.imgsz_px)
    trainer = _Trainer(request, net, teacher, data, log)
    trainer.add_callback("on_train_start", lambda _: torch.set_num_threads(request.threads))
    trainer.add_callback("on_train_epoch_start", _reseed)
    try:
        trainer.train()
    except torch.OutOfMemoryError as exc:
        raise BuildFailed(too_large(request.settings)) from exc
    return Result(tuple(trainer.points), trainer.ema.current().state_dict())


def _overrides(settings: Settings, imgsz_px: int, work: Path) -> dict[str, Any]:
    """Our settings in ultralytics' words; it writes below `work`."""
    device = device_of(settings)
    forks = multiprocessing.get_start_method() == "fork"  # our readers cannot be pickled
    plain = {} if settings.augment else _NO_AUGMENTATION
    return {
        "task": "detect",
        "mode": "train",
        "model": "ours.yaml",
        "data": "ours.yaml",
        "imgsz": imgsz_px,
        "epochs": settings.epochs,
        "patience": 0,
        "batch": settings.batch,
        "nbs": settings.batch,  # an update for every batch
        "optimizer": _OPTIMIZERS[settings.optimizer],
        "lr0": settings.lr,
        "momentum": 0.9,
        "weight_decay": settings.weight_decay,
        "warmup_bias_lr": 0.0,
        "seed": settings.seed,
        "device": "cpu" if device.type == "cpu" else "0",
        "workers": min(_MAX_WORKERS, os.cpu_count() or 1) if forks else 0,
        "amp": False,  # see compute_in_bfloat16
        "close_mosaic": max(1, settings.epochs // 3),
        "project": str(work),
        "name": "run",
        "plots": False,
        "verbose": False,
        "pretrained": False,
        **plain,
    }


class _Trainer(DetectionTrainer):
    def __init__(
        self,
        request: Request,
        net: Net,
        teacher: nn.Module | None,
        ours: DetectionData,
        log: Log,
    ) -> None:
        self.points: list[CurvePoint] = []
        self._settings = request.settings
        self._resume = request.resume
        self._net = net
        self._ours = ours
        self._log = log
        self._times: list[float] = []
        self._branch: nn.Module | None = None
        work = request.net.parent
        super().__init__(overrides=_overrides(request.settings, net.arch.imgsz_px, work))
        self.model = net.module
        if teacher is not None:
            head: Any = teacher
            head.model[-1].export = False  # distillation reads its features
            self.args.distill_model = teacher
            alpha = min(request.alpha, _MAX_ALPHA)
            self.args.dis = _TEACHER_WEIGHT * alpha / (1 - alpha)
        if uses_bfloat16(request.settings, self.device):
            compute_in_bfloat16(net.module)
        if request.settings.aux:
            self._branch = attach_branch(net, request.settings, self.device)

    def get_dataset(self) -> dict[str, Any]:
        names = dict(enumerate(self._net.arch.class_names))
        return {"train": "", "val": "", "nc": len(names), "names": names, "channels": 3}

    def build_dataset(self, _img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """Theirs for training; for validation, which is ours, a stand-in."""
        side = self._net.arch.imgsz_px
        training = mode == "train"
        return Pictures(
            self._ours,
            side,
            len(self._ours) if training else 1,
            augment=training,
            hyp=self.args,
            batch_size=batch or 1,
            stride=int(self.stride),
            data=self.data,
        )

    def build_optimizer(self, model: nn.Module, *given: Any, **named: Any) -> Any:
        optimizer = super().build_optimizer(model, *given, **named)
        if self._branch is not None:
            group = {"params": list(self._branch.parameters()), "weight_decay": 0.0}
            optimizer.add_param_group(group)
        return optimizer

    def _build_train_pipeline(self) -> None:
        """Theirs, but once: where memory is short they come again with half of the batch."""
        if hasattr(self, "train_loader"):
            raise BuildFailed(too_large(self._settings))
        if self.args.distill_model is not None:
            compare_in_full(self.model)
        super()._build_train_pipeline()

    def _setup_scheduler(self) -> None:
        per_epoch = len(self.train_loader)
        course = Settings(
            **{name: getattr(self._settings, name) for name in Settings.__struct_fields__}
            | {"warmup_steps": 0}
        )
        self.lf = lambda epoch: lr_share(course, epoch * per_epoch, per_epoch)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lr_lambda=self.lf)

    def _get_warmup_iterations(self, num_batches: int) -> int:
        steps: int = num_batches * self.epochs
        return min(self._settings.warmup_steps, steps // 10)

    def get_validator(self) -> Any:
        return SimpleNamespace(metrics=SimpleNamespace(keys=[]))

    def resume_training(self, _ckpt: Any) -> None:
        """Called when all is set up: take our average, and our checkpoint if there is one."""
        self.ema = OurEma(self.model, self._settings.ema)
        path = None if self._resume is None else self._resume / CHECKPOINT
        if path is None or not path.is_file():
            return
        try:
            kept = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as exc:  # noqa: BLE001 - a damaged file makes it raise almost anything
            self._log(f"the checkpoint {path} cannot be read ({exc}); starting over")
            return
        self.model.load_state_dict(kept["model"])
        self.ema.restore(kept["updates"], kept["average"])
        self.optimizer.load_state_dict(kept["optimizer"])
        if self._branch is not None:
            self._branch.load_state_dict(kept["branch"])
        self.points = [CurvePoint(*point) for point in kept["curves"]]
        self.start_epoch = kept["epoch"]
        self.stop = self.start_epoch >= self.epochs
        self._log(f"going on after epoch {self.start_epoch} of an interrupted training")

    def validate(self) -> tuple[dict[str, float], float]:
        """Our score of the averaged weights."""
        module = self.ema.current().eval()
        scores = self._ours.score(module, self.device) if self._ours.scored else {}
        loss = float(sum(self.tloss.values()))
        epoch = self.epoch + 1
        self.points.append(CurvePoint(epoch, "train", "loss", loss))
        self.points += [CurvePoint(epoch, "val", name, value) for name, value in scores.items()]
        self._times.append(time.monotonic())
        values = {"loss": loss, **scores}
        each_s = (self._times[-1] - self._begun) / len(self._times)
        self._log(progress(epoch, self.epochs, values, each_s))
        return dict(scores), 0.0

    def _model_train(self) -> None:
        if not self._times and not hasattr(self, "_begun"):
            self._begun = time.monotonic()
        super()._model_train()
        if self._branch is not None:
            self._branch.train()

    def _handle_nan_recovery(self, epoch: int) -> bool:
        if self.loss is not None and not bool(self.loss.isfinite()):
            raise BuildFailed(
                f"epoch {epoch + 1}: the loss is {float(self.loss)}: training diverged; lower lr "
                f"({self._settings.lr:g})"
            )
        return False

    def save_model(self) -> bool:
        """Ours; the file appears whole or not at all."""
        if self._resume is None:
            return False
        self._resume.mkdir(parents=True, exist_ok=True)
        whole = self._resume / f"{CHECKPOINT}.tmp"
        torch.save(
            {
                "epoch": self.epoch + 1,
                "model": self.model.state_dict(),
                "updates": self.ema.updates,
                "average": self.ema.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "branch": None if self._branch is None else self._branch.state_dict(),
                "curves": [[p.epoch, p.split, p.metric, p.value] for p in self.points],
            },
            whole,
        )
        whole.replace(self._resume / CHECKPOINT)
        return True

    def final_eval(self) -> None:
        """Nothing: the last epoch was scored like the others."""


def _reseed(trainer: Any) -> None:
    """What an epoch draws follows from its number, so that a resumed one draws the same."""
    seed = trainer.args.seed * 100_003 + trainer.epoch
    init_seeds(seed, deterministic=trainer.args.deterministic)
    trainer.train_loader.generator.manual_seed(seed)
    trainer.train_loader.reset()
