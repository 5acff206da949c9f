"""Train TinyDet on the procedural set and write its ONNX file and card.

    python -m models.train.tinydet --out models/weights

prints the losses of every epoch. `--measure-only` scores an existing file again and rewrites
the figures on its card: they are those of the exported file, run by ONNX Runtime and scored by
the same code that scores boards.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from agent.wire import ImagePrep
from models.data.draw import CLASS_NAMES
from models.nets.tinydet import IMGSZ, TinyDet, count_parameters
from models.train.batches import batches, load_example
from models.train.card import write_card
from models.train.export import Training, export_onnx
from models.train.loss import detection_loss

NAME: Final = "tinydet"
_BATCH: Final = 16
_TOP_LR: Final = 2e-3
_LAST_LR_SHARE: Final = 0.01
_WARMUP_STEPS: Final = 300
_WEIGHT_DECAY: Final = 0.02
_AVERAGE_DECAY: Final = 0.998
_MAX_GRADIENT: Final = 10.0

Log = Callable[[str], None]


def train(settings: Training, log: Log) -> TinyDet:
    """Train from random weights; returns the moving average of the weights, ready to export."""
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    prep = ImagePrep(height=IMGSZ, width=IMGSZ)
    log(f"drawing {settings.train_images} training images")
    examples = [load_example("train", i, prep) for i in range(settings.train_images)]

    net = TinyDet(len(CLASS_NAMES)).to(memory_format=torch.channels_last)
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(_AVERAGE_DECAY)
    )
    optimizer = torch.optim.AdamW(_groups(net), lr=_TOP_LR, fused=True)
    steps = settings.epochs * (len(examples) // _BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_share(step, steps))
    log(f"{count_parameters(net)} parameters, {settings.epochs} epochs, {steps} steps")
    for epoch in range(settings.epochs):
        started, box, cls, seen = time.monotonic(), 0.0, 0.0, 0
        for images, truth in batches(examples, _BATCH, rng, prep.pad_value):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.bfloat16):
                levels = net.levels(images.to(memory_format=torch.channels_last))
            distances, logits = net.decode.join([(b.float(), c.float()) for b, c in levels])
            losses = detection_loss(
                distances, logits, net.decode.centres, net.decode.strides, truth
            )
            optimizer.zero_grad(set_to_none=True)
            losses.total.backward()
            nn.utils.clip_grad_norm_(net.parameters(), _MAX_GRADIENT)
            optimizer.step()
            schedule.step()
            average.update_parameters(net)
            box, cls, seen = box + losses.box.item(), cls + losses.cls.item(), seen + 1
        took_s = time.monotonic() - started
        log(
            f"epoch {epoch + 1}/{settings.epochs}  box {box / seen:.4f}  class {cls / seen:.4f}"
            f"  {took_s:.0f} s"
        )
    trained: TinyDet = average.module.eval()
    return trained


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
    if step < _WARMUP_STEPS:
        return (step + 1) / _WARMUP_STEPS
    progress = (step - _WARMUP_STEPS) / max(1, steps - _WARMUP_STEPS)
    return _LAST_LR_SHARE + (1 - _LAST_LR_SHARE) * (1 + math.cos(math.pi * progress)) / 2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.train.tinydet")
    parser.add_argument("--out", type=Path, required=True, help="folder of tinydet.onnx and .json")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the procedural set")
    parser.add_argument("--images", type=int, default=4000, help="training images")
    parser.add_argument("--epochs", type=int, default=27)
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
