"""What is added to a network of ultralytics while its trainer has it.

By classes of their own instead of attributes, so that copies of the network, such as the average,
stay whole without sharing anything with it.
"""

# mypy: allow-subclassing-any
# mypy does not follow ultralytics (see pyproject.toml), so its classes are Any to it.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.utils.torch_utils import ModelEMA, unwrap_model

from models.nets.net import Net
from models.steps.settings import Settings
from models.train import auxiliary
from models.train.loss import Truth
from models.train.optimizing import Average


class OurEma(ModelEMA):
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

    def current(self) -> nn.Module:
        """The averaged network itself, without what distillation wraps it in."""
        self.ema.load_state_dict(self._average.state)
        kept: Any = unwrap_model(self.ema)
        found: nn.Module = getattr(kept, "student_model", kept)
        return found

    def restore(self, updates: int, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        self.updates = updates
        self._average.restore(updates, state)


def attach_branch(net: Net, settings: Settings, device: torch.device) -> nn.Module:
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


def compute_in_bfloat16(module: Any) -> None:
    """Let a module run in bfloat16 while it trains, its outputs in full; theirs needs CUDA."""
    kind: Any = type(module)

    class Faster(kind):
        def predict(self, x: Tensor, *given: Any, **named: Any) -> Any:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.training):
                found = super().predict(x, *given, **named)
            return _floats(found) if self.training else found

    module.__class__ = Faster


def compare_in_full(distilling: Any) -> None:
    """Let what distillation reads of a student in bfloat16 be compared in full precision."""
    for projector in distilling.projector:
        projector.register_forward_pre_hook(lambda _module, given: _floats(given))


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
