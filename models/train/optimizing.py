"""What moves the weights: optimizers, learning rates, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

from models.steps.settings import Settings

_LAST_LR_SHARE: Final = 0.01
_MOMENTUM: Final = 0.9
_RUNNING: Final = ("running_mean", "running_var")


def optimizer_of(modules: list[nn.Module], settings: Settings) -> torch.optim.Optimizer:
    """The optimizer of the settings; only the kernels of layers are decayed."""
    wanted = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in wanted if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in wanted if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=_MOMENTUM, nesterov=True)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=settings.lr, fused=True)


def lr_share(settings: Settings, step: int, steps_per_epoch: int) -> float:
    """The share of `settings.lr` at a step, counted from 0 over all epochs."""
    steps = (settings.schedule_epochs or settings.epochs) * steps_per_epoch
    warmup = min(settings.warmup_steps, steps // 10 + 1)
    if step < warmup:
        return (step + 1) / warmup
    if settings.schedule == "step":
        return settings.gamma ** (step // steps_per_epoch // settings.step_epochs)
    if settings.schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return _LAST_LR_SHARE + (1 - _LAST_LR_SHARE) * (1 + math.cos(math.pi * progress)) / 2


class Average:
    """A moving average of the weights; shorter at first, so that early ones are forgotten.

    Parameters and the statistics of batch norms are averaged, all else is taken as it is.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.state: dict[str, Tensor] = {k: v.clone() for k, v in module.state_dict().items()}
        self._averaged = {name for name, _ in module.named_parameters()}

    def update(self, module: nn.Module) -> None:
        """Take in the weights after a step."""
        self.update_from(module.state_dict())

    def update_from(self, state: dict[str, Tensor]) -> None:
        """Take in weights by name, detached."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in state.items():
            if name in self._averaged or name.endswith(_RUNNING):
                self.state[name].lerp_(value, share)
            elif self.state[name].shape == value.shape:
                self.state[name].copy_(value)
            else:
                self.state[name] = value.clone()

    def restore(self, steps: int, state: dict[str, Tensor]) -> None:
        """Go on from what was kept, wherever that lies."""
        self.steps = steps
        for name, value in state.items():
            self.state[name] = value.to(self.state[name].device)

    @contextmanager
    def used(self, module: nn.Module) -> Iterator[None]:
        """The averaged weights are the module's while inside."""
        own = {k: v.clone() for k, v in module.state_dict().items()}
        module.load_state_dict(self.state)
        try:
            yield
        finally:
            module.load_state_dict(own)
