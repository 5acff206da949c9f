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
from ultralytics.utils.torch_utils import ModelEMA, init_seeds, unwrap_model

from models.errors import BuildFailed
from models.nets.net import Net
from models.steps.settings import Settings
from models.store import CurvePoint
from models.train import auxiliary
from models.train.detecting import DetectionData
from models.train.loop import CHECKPOINT, progress
from models.train.loss import Truth
from models.train.optimizing import Average, device_of, lr_share, uses_bfloat16
from models.train.ultra import Request
from models.train.ultra_data import Pictures

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
    trainer.train()
    kept = unwrap_model(trainer.ema.ema)
    return Result(tuple(trainer.points), getattr(kept, "student_model", kept).state_dict())


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
        "amp": False,  # see _compute_in_bfloat16
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
            _compute_in_bfloat16(net.module)
        if request.settings.aux:
            self._branch = _attach(net, request.settings, self.device)

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
        self.ema = _Ema(self.model, self._settings.ema)
        path = None if self._resume is None else self._resume / CHECKPOINT
        if path is None or not path.is_file():
            return
        try:
            kept = torch.load(path, map_location=self.device, weights_only=True)
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
        kept = unwrap_model(self.ema.ema)
        module = getattr(kept, "student_model", kept).eval()
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


class _Ema(ModelEMA):
    """Their average by our rule; with a decay of 0 it is the model itself."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self._average = Average(self.ema, decay)

    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        whole = unwrap_model(model)
        names = self._average.state.keys()
        self._average.update_from({k: v for k, v in whole.state_dict().items() if k in names})
        self.updates = self._average.steps
        self.ema.load_state_dict(self._average.state)

    def restore(self, updates: int, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        self.updates = self._average.steps = updates
        self._average.state = state
        self.ema.load_state_dict(state)


def _attach(net: Net, settings: Settings, device: torch.device) -> nn.Module:
    """Add an auxiliary branch's loss to the module's own; returns the branch.

    By a class of its own, which copies of the module (the average) share without the branch.
    """
    torch.manual_seed(settings.seed)
    listener, branch = auxiliary.attach(net)
    branch.to(device)
    side, weight = net.arch.imgsz_px, settings.aux
    kind: Any = type(net.module)

    class Helped(kind):
        def loss(self, batch: dict[str, Tensor], preds: Any = None) -> Any:
            total, items = super().loss(batch, preds)
            maps = {stride: each.float() for stride, each in listener.maps.items()}
            extra = branch.loss(branch(maps), truth_of(batch, side))
            part = weight * extra * batch["img"].shape[0]
            return torch.cat([total, part[None]]), {**items, "aux_loss": extra.detach()}

    net.module.__class__ = Helped
    return branch


def _compute_in_bfloat16(module: Any) -> None:
    """Let a module run in bfloat16 while it trains, its outputs in full; theirs needs CUDA."""
    kind: Any = type(module)

    class Faster(kind):
        def predict(self, x: Tensor, *given: Any, **named: Any) -> Any:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.training):
                found = super().predict(x, *given, **named)
            return _floats(found) if self.training else found

    module.__class__ = Faster


def _floats(found: Any) -> Any:
    """The same lists and dicts with tensors in full precision."""
    if isinstance(found, Tensor):
        return found.float()
    if isinstance(found, dict):
        return {key: _floats(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return type(found)(_floats(value) for value in found)
    return found


def truth_of(batch: dict[str, Tensor], side: int) -> Truth:
    """A batch of ultralytics in our form: boxes in pixels, padded to the same number."""
    images = batch["img"].shape[0]
    owner = batch["batch_idx"].long()
    most = max(1, int(torch.bincount(owner, minlength=images).max()) if len(owner) else 1)
    boxes = torch.zeros(images, most, 4)
    classes = torch.zeros(images, most, dtype=torch.int64)
    real = torch.zeros(images, most, dtype=torch.bool)
    for image in range(images):
        mine = owner == image
        count = int(mine.sum())
        centre, half = batch["bboxes"][mine].cpu().split(2, dim=1)
        boxes[image, :count] = torch.cat([centre - half / 2, centre + half / 2], dim=1) * side
        classes[image, :count] = batch["cls"][mine].cpu().flatten().long()
        real[image, :count] = True
    return Truth(boxes, classes, real).to(batch["img"].device)
