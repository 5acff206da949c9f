"""Runs with everything real but the boards: models, data sets, builds and the database."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from support.runs import CLOCK

from models.data import DetectionSet
from orchestrator import experiment as experiments
from orchestrator.boards.base import Board
from orchestrator.dashboard import Display
from orchestrator.experiment import Experiment
from orchestrator.inventory import BoardEntry
from orchestrator.plan import RunRequest
from orchestrator.prepare import Prepared, resolve
from orchestrator.profiles import Profile
from orchestrator.progress import RunProgress
from orchestrator.runner import Job, Report, Run
from orchestrator.workspace import Workspace
from results.store import Store

SIDE = 32
BOX = (4, 4, 20, 20)
"""Where each image has its one object, in pixels: x1, y1, x2, y2."""
PROFILE = Profile("test", 8, 0.0, 5.0, 2, 0.0, blocks=2, accuracy_images=4)


def voc(folder: Path, names: Sequence[str], splits: Mapping[str, int]) -> Path:
    """A data set in VOC's layout; the nth image of a split shows the nth class."""
    for sub in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / sub).mkdir(parents=True)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    for split, count in splits.items():
        ids = [f"{split}{number}" for number in range(count)]
        (folder / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(ids))
        for number, image_id in enumerate(ids):
            picture(folder / "JPEGImages" / f"{image_id}.png", number + len(split))
            (folder / "Annotations" / f"{image_id}.xml").write_text(
                _annotation(names[number % len(names)])
            )
    return folder


def picture(path: Path, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def _annotation(name: str) -> str:
    x1, y1, x2, y2 = BOX
    return (
        f"<annotation><size><width>{SIDE}</width><height>{SIDE}</height></size>"
        f"<object><name>{name}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object></annotation>"
    )


def adhoc(folder: Path, model: str, recipes: Sequence[str] = ("fp32",), **more: Any) -> Experiment:
    made = experiments.adhoc(model, recipes, base_dir=folder, **more)
    return dataclasses.replace(made, profile=PROFILE, cooldown=None)


def workspace(folder: Path) -> Workspace:
    return Workspace(folder / "inventory.yaml")


def prepare(folder: Path, experiment: Experiment) -> Prepared:
    return resolve(experiment, workspace(folder), lambda line: None)


def job(folder: Path, experiment: Experiment, boards: Sequence[Board], run_id: str = "r1") -> Job:
    names = ",".join(board.name for board in boards)
    return Job(
        request=RunRequest(run_id, 7, names),
        experiment=experiment,
        prepared=prepare(folder, experiment),
        entries=[BoardEntry(board.name, "ssh", "10.0.0.1") for board in boards],
        boards=boards,
        artifacts=workspace(folder).models,
    )


def run(store: Store, todo: Job, note: Callable[[str], None] = lambda line: None) -> Report:
    """Carry a job out; what a plain screen would show goes to `note`, line by line."""
    display = Display(
        RunProgress.of([e.name for e in todo.entries]), Console(quiet=True), live=False
    )
    plain = display._print
    display._print = lambda line: (note(line), plain(line))[1]  # type: ignore[method-assign,func-returns-value]
    return Run(todo, store, display, CLOCK).go()


def truth(dataset: DetectionSet) -> dict[str, tuple[int, tuple[float, ...]]]:
    """Class and box of the one object of each image."""
    return {
        image.image_id: (box.class_index, (box.x1, box.y1, box.x2, box.y2))
        for image in dataset.images
        for box in image.boxes
    }


MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
