"""Train TinyDet on the procedural set and write its ONNX file and card.

    python -m models.train.tinydet --out models/weights

prints the losses of every epoch. `--measure-only` scores an existing file again and rewrites
the figures on its card: they are those of the exported file, run by ONNX Runtime and scored by
the same code that scores boards.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from agent.wire import ImagePrep
from models.data.draw import CLASS_NAMES
from models.nets.tinydet import IMGSZ, TinyDet, count_parameters
from models.train.batches import batches, load_example
from models.train.card import write_card
from models.train.export import Training, export_onnx
from models.train.loss import Losses, Truth, detection_loss

NAME: Final = "tinydet"
_BATCH: Final = 16
_TOP_LR: Final = 2e-3
_LAST_LR_SHARE: Final = 0.01
_WARMUP_STEPS: Final = 300
_WEIGHT_DECAY: Final = 0.02
_AVERAGE_DECAY: Final = 0.998
_AVERAGE_RAMP_STEPS: Final = 500
_MAX_GRADIENT: Final = 10.0

Log = Callable[[str], None]


class Average:
    """Moving average of a network's weights: steadier than the weights of the last step."""

    def __init__(self, net: TinyDet) -> None:
        self.net = copy.deepcopy(net).eval()
        self._updates = 0

    @property
    def decay(self) -> float:
        """Share of the old average that stays; small at first, to forget the random start."""
        return _AVERAGE_DECAY * (1 - math.exp(-self._updates / _AVERAGE_RAMP_STEPS))

    def update(self, net: TinyDet) -> None:
        """Draw the average towards `net`."""
        self._updates += 1
        share = 1 - self.decay
        with torch.no_grad():
            for mine, new in zip(self.net.parameters(), net.parameters(), strict=True):
                mine.lerp_(new, share)
            for mine, new in zip(self.net.buffers(), net.buffers(), strict=True):
                mine.copy_(new)


def train(settings: Training, log: Log) -> TinyDet:
    """Train from random weights; returns the network of averaged weights, ready to export."""
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    prep = ImagePrep(height=IMGSZ, width=IMGSZ)
    log(f"drawing {settings.train_images} training images")
    examples = [load_example("train", i, prep) for i in range(settings.train_images)]

    net = TinyDet(len(CLASS_NAMES)).to(memory_format=torch.channels_last)
    average = Average(net)
    optimizer = torch.optim.AdamW(_groups(net), lr=_TOP_LR, fused=True)
    steps = settings.epochs * (len(examples) // _BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_share(step, steps))
    log(f"{count_parameters(net)} parameters, {settings.epochs} epochs, {steps} steps")
    for epoch in range(settings.epochs):
        started = time.monotonic()
        parts = []
        for images, truth in batches(examples, _BATCH, rng, prep.pad_value):
            losses = _step(net, optimizer, images, truth, bfloat16=settings.bfloat16)
            schedule.step()
            average.update(net)
            parts.append((losses.box.item(), losses.sides.item(), losses.cls.item()))
        box, sides, cls = np.mean(parts, axis=0)
        log(
            f"epoch {epoch + 1}/{settings.epochs}  box {box:.4f}  sides {sides:.4f}"
            f"  class {cls:.4f}  {time.monotonic() - started:.0f} s"
        )
    trained: TinyDet = average.net
    return trained


def _step(
    net: TinyDet, optimizer: torch.optim.Optimizer, images: Tensor, truth: Truth, *, bfloat16: bool
) -> Losses:
    """Forward, backward and one update of the weights."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        levels = net.levels(images.to(memory_format=torch.channels_last))
    distances, logits = net.decode.join([(box.float(), cls.float()) for box, cls in levels])
    losses = detection_loss(net.decode, distances, logits, truth)
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    nn.utils.clip_grad_norm_(net.parameters(), _MAX_GRADIENT)
    optimizer.step()
    return losses


def _groups(net: nn.Module) -> list[dict[str, object]]:
    """Parameter groups: only the kernels of convolutions are decayed."""
    kernels = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    return [
        {"params": kernels, "weight_decay": _WEIGHT_DECAY},
        {"params": others, "weight_decay": 0.0},
    ]


def _lr_share(step: int, steps: int) -> float:
    """Share of the top learning rate: linear warm-up, then half a cosine."""
    warmup = min(_WARMUP_STEPS, steps // 10 + 1)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return _LAST_LR_SHARE + (1 - _LAST_LR_SHARE) * (1 + math.cos(math.pi * progress)) / 2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.train.tinydet")
    parser.add_argument("--out", type=Path, required=True, help="folder of tinydet.onnx and .json")
    parser.add_argument(
        "--cache", type=Path, default=Path(".orchestrator/data"), help="folder of the val set"
    )
    parser.add_argument("--images", type=int, default=4000, help="training images")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--bfloat16", action="store_true", help="twice as fast where the CPU has bfloat16"
    )
    parser.add_argument("--measure-only", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Train, export, measure, write the card."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    settings = Training(
        train_images=arguments.images,
        epochs=arguments.epochs,
        seed=arguments.seed,
        bfloat16=arguments.bfloat16,
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / f"{NAME}.onnx"
    say: Log = lambda text: print(text, flush=True)  # noqa: E731,T201 - a script's output
    if not arguments.measure_only:
        export_onnx(train(settings, say), file, CLASS_NAMES, settings)
    write_card(file, arguments.cache, arguments.threads)


if __name__ == "__main__":
    main()
