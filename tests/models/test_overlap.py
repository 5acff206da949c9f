"""Dice and IoU against answers worked out by hand."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.onnxmodels import segmenter

from agent.vision import prepare, read_image
from agent.wire import ImageMask, ImagePrep, SegmentHead
from models.data import MaskedImage, SegmentationSet
from models.errors import DataError, ModelUnreadable
from models.overlap import MaskScores, score_masks, segment_on_host

ROWS = {
    "a": ["1100", "1100", "0000", "0000"],
    "b": ["0000", "0000", "0000", "0000"],
}
PREP = ImagePrep(4, 4)
SAME = {k: k for k in range(9)}


def labels(rows: list[str]) -> np.ndarray:
    return np.array([[int(digit) for digit in row] for row in rows], dtype=np.uint8)


def truth(folder: Path, rows: dict[str, list[str]], *names: str) -> SegmentationSet:
    """A set whose masks have these values; the digit 9 is ignored."""
    images = []
    for name, lines in rows.items():
        values = labels(lines)
        values[values == 9] = 255
        Image.fromarray(np.stack([values] * 3, axis=2)).save(folder / f"{name}.png")
        Image.fromarray(values).save(folder / f"{name}_mask.png")
        height, width = values.shape
        path, mask = folder / f"{name}.png", folder / f"{name}_mask.png"
        images.append(MaskedImage(name, path, width, height, mask))
    return SegmentationSet("drawn/val", names or ("cell",), tuple(images))


def mask(image_id: str, rows: list[str]) -> ImageMask:
    values = labels(rows)
    return ImageMask(image_id, *values.shape, zlib.compress(values.tobytes()))


def scored(folder: Path, found: dict[str, list[str]]) -> MaskScores:
    masks = {name: mask(name, rows) for name, rows in found.items()}
    return score_masks(truth(folder, ROWS), masks, PREP, SAME)


@pytest.mark.parametrize(
    ("found", "dice", "iou"),
    [
        (ROWS, [1.0, 1.0], 1.0),
        ({"a": ["0110", "0110", "0000", "0000"], "b": ROWS["b"]}, [0.5, 1.0], 1 / 3),
        ({"a": ["1111", "1111", "1111", "1111"], "b": ROWS["b"]}, [0.4, 1.0], 1 / 4),
        ({"a": ROWS["a"], "b": ["1000", "0000", "0000", "0000"]}, [1.0, 0.0], 4 / 5),
        ({"a": ROWS["b"], "b": ROWS["b"]}, [0.0, 1.0], 0.0),
        ({"a": ROWS["a"]}, [1.0, 1.0], 1.0),
        ({}, [0.0, 1.0], 0.0),
    ],
)
def test_one_class(
    tmp_path: Path, found: dict[str, list[str]], dice: list[float], iou: float
) -> None:
    """Dice is of each image, 1 where both are empty, then averaged; IoU is of all pixels."""
    scores = scored(tmp_path, found)
    assert list(scores.per_image.values()) == pytest.approx(dice)
    assert scores.dice == pytest.approx(sum(dice) / 2)
    assert scores.iou == pytest.approx(iou)
    assert scores.per_class == pytest.approx({"cell": iou})


def test_several_classes(tmp_path: Path) -> None:
    """Background counts for IoU, as VOC's does, and not for Dice; absent classes count for none."""
    rows = {"a": ["0011", "0011", "2200", "2200"]}
    found = {"a": ["1122", "1111", "3311", "3311"]}  # labels: 1 + class index
    dataset = truth(tmp_path, rows, "background", "cat", "dog", "hen")
    scores = score_masks(dataset, {"a": mask("a", found["a"])}, PREP, SAME)
    assert scores.per_class == pytest.approx({"background": 8 / 10, "cat": 2 / 4, "dog": 1.0})
    assert scores.iou == pytest.approx((0.8 + 0.5 + 1.0) / 3)
    assert scores.dice == pytest.approx((4 / 6 + 1.0) / 2)


def test_ignored_pixels_do_not_count(tmp_path: Path) -> None:
    """On pixels that the truth marks with 255 anything may be found."""
    rows = {"a": ["1199", "0099", "0099", "0099"]}
    found = {"a": mask("a", ["2222", "1122", "1122", "1111"])}
    scores = score_masks(truth(tmp_path, rows, "background", "cat"), found, PREP, SAME)
    assert (scores.dice, scores.iou) == (1.0, 1.0)


def test_the_padding_does_not_count(tmp_path: Path) -> None:
    """Of a wide image in a square only the rows that show it are scored."""
    dataset = truth(tmp_path, {"a": ["1100", "1100"]})
    everywhere = ["1111", "1100", "1100", "1111"]
    scores = score_masks(dataset, {"a": mask("a", everywhere)}, PREP, SAME)
    assert scores.dice == 1.0


@pytest.mark.parametrize("size", [(4, 4), (5, 3), (3, 7), (9, 2), (30, 40)])
def test_truth_and_image_are_prepared_alike(tmp_path: Path, size: tuple[int, int]) -> None:
    """A mask drawn as the image is scores nearly 1 against it, wherever the letterbox puts it."""
    height, width = size
    values = np.zeros(size, dtype=np.uint8)
    values[height // 3 :, width // 2 :] = 1
    Image.fromarray(np.stack([values * 255] * 3, axis=2)).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "m.png")
    image = MaskedImage("a", tmp_path / "a.png", width, height, tmp_path / "m.png")
    prep = ImagePrep(64, 96, pad_value=255)
    tensor, _ = prepare(read_image(image.path), prep)
    seen = (tensor[0].mean(axis=0) >= 0.5).astype(np.uint8)  # the padding is bright as well
    found = ImageMask("a", 64, 96, zlib.compress(seen.tobytes()))
    scores = score_masks(SegmentationSet("s/val", ("x",), (image,)), {"a": found}, prep, SAME)
    assert scores.dice == pytest.approx(1.0, abs=0.04)


def test_classes_are_translated(tmp_path: Path) -> None:
    """The model's class numbers are not the set's; a class that the set lacks is none."""
    dataset = truth(tmp_path, {"a": ["01", "02"]}, "background", "cat", "dog")
    found = {"a": mask("a", ["32", "31"])}  # the model: dog, cat, background
    prep = ImagePrep(2, 2)
    assert score_masks(dataset, found, prep, {0: 2, 1: 1, 2: 0}).dice == 1.0
    assert score_masks(dataset, found, prep, {1: 1, 2: 0}).dice == pytest.approx(0.5)
    assert score_masks(dataset, found, prep, {0: 2, 1: 1, 2: 77}).iou == pytest.approx(2 / 3)


def test_masks_of_something_else_are_refused(tmp_path: Path) -> None:
    """Masks of other images, or of another size than the model is fed, are not scored."""
    dataset = truth(tmp_path, ROWS)
    with pytest.raises(DataError, match="none of the 1 images with masks"):
        score_masks(dataset, {"z": mask("z", ROWS["a"])}, PREP, SAME)
    with pytest.raises(DataError, match="a mask of 4 x 4, but the model is fed 8 x 8"):
        score_masks(dataset, {"a": mask("a", ROWS["a"])}, ImagePrep(8, 8), SAME)


def test_an_empty_set_has_no_figure() -> None:
    """Of no image there is no Dice, rather than one of 0 or 1."""
    assert score_masks(SegmentationSet("s/val", ("x",), ()), {}, PREP, SAME) == MaskScores(
        None, None, 0, {}, {}
    )


def test_a_real_model_on_the_host(tmp_path: Path) -> None:
    """An ONNX file is run over the images; a model that finds what is bright finds the truth."""
    rows = {"a": ["1100", "1100", "0000", "0000"]}
    dataset = truth(tmp_path, rows)
    values = labels(rows["a"]) * np.uint8(255)
    Image.fromarray(np.stack([values] * 3, axis=2)).save(dataset.images[0].path)
    model = segmenter(tmp_path / "m.onnx", size=4)
    found = segment_on_host(model, dataset.images, PREP, SegmentHead(1), threads=1)
    assert score_masks(dataset, found, PREP, SAME).dice == 1.0
    model.write_bytes(b"no model")
    with pytest.raises(ModelUnreadable):
        segment_on_host(model, dataset.images, PREP, SegmentHead(1), threads=1)
