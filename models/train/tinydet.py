"""Train TinyDet on the procedural set and write its ONNX file and card.

    python -m models.train.tinydet --out models/weights --bfloat16

trains the shipped weights again: 12 epochs of a learning-rate schedule laid out for 27, 4,000
images an epoch, about 10 ms an image on two quiet cores with AMX. The numbers of another run or
CPU differ in their last digits, so the new file is as good, not the same bytes.

`--measure-only` scores an existing file again and rewrites its card. The card's figures are
those of the exported file, run by ONNX Runtime and scored by the code that scores boards.
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
    steps = settings.schedule_epochs * (len(examples) // _BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_share(step, steps))
    of = f"{settings.epochs} of {settings.schedule_epochs}"
    log(f"{count_parameters(net)} parameters, {of} epochs")
    for epoch in range(settings.epochs):
        started = time.monotonic()
        parts = []
        for images, truth in batches(examples, _BATCH, rng, prep.pad_value):
            losses = _step(net, optimizer, images, truth, bfloat16=settings.bfloat16)
            schedule.step()
            average.update_parameters(net)
            parts.append((losses.box.item(), losses.cls.item()))
        box, cls = np.mean(parts, axis=0)
        log(
            f"epoch {epoch + 1}/{settings.epochs}  box {box:.4f}  class {cls:.4f}"
            f"  {time.monotonic() - started:.0f} s"
        )
    trained: TinyDet = average.module.eval()
    return trained


def _step(
    net: TinyDet, optimizer: torch.optim.Optimizer, images: Tensor, truth: Truth, *, bfloat16: bool
) -> Losses:
    """Forward, backward and one update of the weights."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        levels = net.levels(images.to(memory_format=torch.channels_last))
    distances, logits = net.decode.join([(box.float(), cls.float()) for box, cls in levels])
    losses = detection_loss(distances, logits, net.decode.centres, net.decode.strides, truth)
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
    parser.add_argument("--epochs", type=int, default=12, help="epochs to train")
    parser.add_argument(
        "--schedule-epochs", type=int, default=27, help="epochs until the learning rate is lowest"
    )
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
        schedule_epochs=arguments.schedule_epochs,
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
