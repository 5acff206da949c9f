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
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from models.data import DataSpec
from models.data.draw import CLASS_NAMES
from models.data.training import training_spec
from models.nets.arch import Arch
from models.nets.net import build_net
from models.nets.tinydet import IMGSZ, TinyDet, count_parameters
from models.steps.settings import Settings
from models.train.card import write_card
from models.train.export import Training, export_onnx
from models.train.fit import fit

NAME: Final = "tinydet"

Log = Callable[[str], None]


def train(settings: Training, log: Log, cache: Path = Path()) -> TinyDet:
    """Train from random weights; returns the moving average of the weights, ready to export."""
    options = {"num_classes": len(CLASS_NAMES)}
    arch = Arch(family=NAME, options=options, imgsz_px=IMGSZ, class_names=CLASS_NAMES)
    net = build_net(arch, settings.seed)
    log(f"{count_parameters(net.module)} parameters")
    drawn = training_spec(DataSpec("shapes", split="train"), None, settings.train_images, cache)
    wanted = Settings(
        epochs=settings.epochs,
        schedule_epochs=settings.schedule_epochs,
        seed=settings.seed,
        amp="on" if settings.bfloat16 else "off",
        device="cpu",
    )
    fit(net, drawn, wanted, log)
    trained: TinyDet = net.module
    return trained


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
