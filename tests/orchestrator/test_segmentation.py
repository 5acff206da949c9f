"""Models that segment, through everything between an experiment and the stored figure."""

from __future__ import annotations

import dataclasses
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from support.jobs import adhoc, job, prepare, run, voc
from support.onnxmodels import segmenter
from support.runs import fake_board

from agent import wire
from models.data import SegmentationSet
from models.errors import DataError
from orchestrator import final
from orchestrator.accuracy import Accuracy
from orchestrator.boards.fake import FakeAgent
from orchestrator.building import lost_accuracy
from orchestrator.errors import ExperimentError
from orchestrator.experiment import CalibrationSource, DataSource, Experiment
from orchestrator.score import class_map
from results.queries import leaderboard
from results.store import Store

SIZE = 16


def cells(folder: Path, count: int = 6, names: str | None = None) -> Path:
    """A set whose image k is white in its first k rows, and so is its mask."""
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            values = np.zeros((SIZE, SIZE), dtype=np.uint8)
            values[: index + 1] = 255
            name = f"{index}.png"
            Image.fromarray(np.stack([values] * 3, axis=2)).save(folder / "images" / split / name)
            Image.fromarray(values).save(folder / "masks" / split / name)
    if names is not None:
        (folder / "classes.txt").write_text(names)
    return folder


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    segmenter(tmp_path / "seg.onnx", SIZE)
    return adhoc(tmp_path, "seg.onnx", data=str(cells(tmp_path / "cells")))


# ---------------------------------------------------------------- what is named


def test_masks_are_found_and_scored(tmp_path: Path, experiment: Experiment) -> None:
    """A model that segments gets its data as masks, a seeded subset of them."""
    ready = prepare(tmp_path, experiment)
    assert ready.models["seg"].head == wire.SegmentHead(num_classes=1)
    assert ready.scored is not None
    assert isinstance(ready.scored.subset, SegmentationSet)
    assert (len(ready.scored.refs(99)), ready.scored.total_images) == (4, 6)


def test_calibration_images_come_from_the_other_split(
    tmp_path: Path, experiment: Experiment
) -> None:
    """INT8's ranges are taken from train where val is scored, from the same folder of masks."""
    quantized = dataclasses.replace(experiment, recipes=("int8_ptq",))
    images = prepare(tmp_path, quantized).calibration_images
    assert {path.parent.name for path in images} == {"train"}
    from_boxes = voc(tmp_path / "voc", ("a",), {"train": 3})
    other = dataclasses.replace(quantized, calibration=CalibrationSource(str(from_boxes)))
    assert len(prepare(tmp_path, other).calibration_images) == 3


def test_boxes_for_a_segmenter_are_refused(tmp_path: Path, experiment: Experiment) -> None:
    """Data of the other task is refused before anything is built, whichever way round."""
    boxes = DataSource(str(voc(tmp_path / "voc", ("circle",), {"val": 2})))
    with pytest.raises(DataError, match="looked for images/ and masks/"):
        prepare(tmp_path, dataclasses.replace(experiment, data=boxes))
    with pytest.raises(DataError, match=r"looked for .*found .*images/, masks/"):
        prepare(tmp_path, adhoc(tmp_path, "tinydet", data=str(tmp_path / "cells")))


def test_two_tasks_in_one_experiment_are_refused(tmp_path: Path, experiment: Experiment) -> None:
    """One set of data cannot be for detectors and segmenters; both are named."""
    detector = adhoc(tmp_path, "tinydet").models
    both = dataclasses.replace(experiment, models=(*experiment.models, *detector))
    with pytest.raises(ExperimentError, match="tinydet detects and seg segments"):
        prepare(tmp_path, both)


def test_other_classes_are_refused(tmp_path: Path) -> None:
    """Two sets of named classes must share one."""
    segmenter(tmp_path / "seg.onnx", SIZE, names=("sky", "road", "wood"))
    data = cells(tmp_path / "cells", names="cat\ndog\n")
    with pytest.raises(ExperimentError, match="no class is shared"):
        prepare(tmp_path, adhoc(tmp_path, "seg.onnx", data=str(data)))


@pytest.mark.parametrize(
    ("model", "data", "expected"),
    [
        (["nucleus"], ["foreground"], {0: 0}),
        (["foreground"], ["nucleus"], {0: 0}),
        (["foreground"], ["nucleus", "foreground"], {0: 1}),
    ],
)
def test_an_unnamed_class_is_any_class(
    model: list[str], data: list[str], expected: dict[int, int]
) -> None:
    """Where one side names its only class just 'foreground', it is the other's only class."""
    assert class_map(model, data) == expected


# ---------------------------------------------------------------- what a board reports


class Segmenting(FakeAgent):
    """A board that reports these masks."""

    masks: Sequence[wire.ImageMask] = ()

    def _found(self, wanted: wire.Evaluation) -> tuple[str, Sequence[wire.Wire]]:
        return "masks", self.masks


def white(image_id: str, rows: int, size: int = SIZE, label: int = 1) -> wire.ImageMask:
    values = np.zeros((size, size), dtype=np.uint8)
    values[:rows] = label
    return wire.ImageMask(image_id, size, size, zlib.compress(values.tobytes()))


def stored(
    folder: Path, experiment: Experiment, masks: Sequence[wire.ImageMask]
) -> tuple[list[dict[str, object]], list[str], str]:
    """Evaluations, errors and the printed table of a run on such a board."""
    board = fake_board("pi")
    agent = Segmenting(board.agent.clock)
    agent.masks = masks
    board.agent = agent
    with Store.open(folder / "results.sqlite", create=True) as store:
        report = run(store, job(folder, experiment, [board]))
        screen = io.StringIO()
        console = Console(file=screen, width=200, highlight=False, markup=False, emoji=False)
        final.show(console, leaderboard(store, report.run_id), "fp32")
        rows = [dict(row) for row in store.rows("SELECT * FROM evaluations")]
        trials = store.rows("SELECT state FROM trials")
    assert [row["state"] for row in trials] == ["finished", "finished"]
    return rows, [str(error) for error in report.errors], screen.getvalue()


def asked(folder: Path, experiment: Experiment) -> list[str]:
    scored = prepare(folder, experiment).scored
    assert scored is not None
    return [image.image_id for image in scored.subset.images]


def test_masks_are_scored_and_shown(tmp_path: Path, experiment: Experiment) -> None:
    """A board that finds every pixel has a Dice of 1, in the database and in the table."""
    ids = asked(tmp_path, experiment)
    masks = [white(name, int(name.removesuffix(".png")) + 1) for name in ids]
    (row,), errors, shown = stored(tmp_path, experiment, masks)
    assert (row["dice"], row["iou"], row["images"], row["evaluator"]) == (1.0, 1.0, 4, "overlap")
    assert errors == []
    assert "Dice" in shown
    assert "mAP" not in shown
    assert "segmented on the board" in shown


def test_a_capped_evaluation_is_scored_on_its_images(
    tmp_path: Path, experiment: Experiment
) -> None:
    """Where time was up after two images, the other two do not count as missed."""
    ids = asked(tmp_path, experiment)[:2]
    masks = [white(name, int(name.removesuffix(".png")) + 1) for name in ids]
    (row,), _, _ = stored(tmp_path, experiment, masks)
    assert (row["dice"], row["images"]) == (1.0, 2)


def test_labels_that_the_model_does_not_have_are_nothing(
    tmp_path: Path, experiment: Experiment
) -> None:
    """A board that marks every pixel with an unknown class has found nothing."""
    masks = [white(name, SIZE, label=250) for name in asked(tmp_path, experiment)]
    (row,), _, _ = stored(tmp_path, experiment, masks)
    assert row["dice"] == 0.0


@pytest.mark.parametrize("lie", ["strange", "order", "size"])
def test_masks_that_were_not_asked_for_are_not_scored(
    tmp_path: Path, experiment: Experiment, lie: str
) -> None:
    """Strange images, another order or another size: no figure, and the times are kept."""
    ids = asked(tmp_path, experiment)
    masks = {
        "strange": [white("nobody", 3)],
        "order": [white(name, 3) for name in reversed(ids)],
        "size": [white(name, 3, size=8) for name in ids],
    }[lie]
    rows, errors, _ = stored(tmp_path, experiment, masks)
    assert rows == []
    assert any("pi: seg/fp32: " in error for error in errors)


def test_a_fake_board_finds_nothing(tmp_path: Path, experiment: Experiment) -> None:
    """The board that is only arithmetic reports empty masks of the right size."""
    with Store.open(tmp_path / "results.sqlite", create=True) as store:
        run(store, job(tmp_path, experiment, [fake_board("pi")]))
        rows = store.rows("SELECT dice, images FROM evaluations")
    assert rows == [{"dice": 0.0, "images": 4}]


def test_an_input_too_large_for_a_mask_is_timed_only(tmp_path: Path) -> None:
    """Above 2048 x 2048 a board could not report masks: it is measured without accuracy."""
    segmenter(tmp_path / "seg.onnx", 2064)
    made = adhoc(tmp_path, "seg.onnx", data=str(cells(tmp_path / "cells")))
    with Store.open(tmp_path / "results.sqlite", create=True) as store:
        report = run(store, job(tmp_path, made, [fake_board("pi")]))
        assert store.rows("SELECT * FROM evaluations") == []
    assert (report.state, report.finished_trials) == ("finished", 2)


# ---------------------------------------------------------------- what the build says


def accuracy(**figures: float) -> Accuracy:
    return Accuracy("e", "1", 9, {}, (), **figures)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (accuracy(map50=0.8), accuracy(map50=0.7), "keeps 87.5% of fp32's mAP50 (0.700 of 0.800)"),
        (accuracy(dice=0.8), accuracy(dice=0.7), "keeps 87.5% of fp32's Dice (0.700 of 0.800)"),
        (accuracy(map50=0.8), accuracy(map50=0.77), None),
        (accuracy(map50=0.8), accuracy(), None),
        (accuracy(map50=0.0), accuracy(map50=0.0), None),
    ],
)
def test_lost_accuracy_is_said(before: Accuracy, after: Accuracy, said: str | None) -> None:
    """A variant below 95 % of its baseline is named in words, with both figures."""
    scores = {("net", "fp32", "aarch64"): before, ("net", "int8", "aarch64"): after}
    lines = lost_accuracy(scores, "fp32")
    assert len(lines) == (said is not None)
    assert said is None or said in lines[0]
    assert lost_accuracy({("net", "int8", "aarch64"): after}, "fp32") == []
