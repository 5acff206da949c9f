"""The procedural set of cells: fixed pixels, at any size, written once."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from models.data import DataSpec, load, load_segmentation, read_labels, task_of
from models.data import blobs as blobs_module
from models.data.blobs import NAME, draw_blobs, ensure_blobs
from models.errors import DataError

FEW = {"train": 2, "val": 3}


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a handful of images where the whole set would be written."""
    monkeypatch.setattr(blobs_module, "COUNTS", FEW)
    monkeypatch.setattr(blobs_module.ensure_blobs, "__defaults__", (FEW,))


def test_blobs_have_the_same_pixels_and_masks_on_every_machine() -> None:
    """The procedural set is fixed: pixels and masks of its first images hash to this value."""
    digest = hashlib.sha256()
    for split in ("train", "val"):
        for index in range(6):
            drawn = draw_blobs(split, index)
            digest.update(drawn.pixels.tobytes() + drawn.labels.tobytes())
            digest.update(draw_blobs(split, index, 48).pixels.tobytes())
    assert digest.hexdigest() == "0ecff9125a40f4d99a4cb6e835a2550fc426a794726473f87806643d1a79b5ac"


def test_every_image_has_cells_and_ground() -> None:
    """Cells cover a few to some forty percent of each image, and no image is square."""
    for index in range(40):
        labels = draw_blobs("val", index).labels
        assert 0.02 < labels.mean() < 0.45
        assert labels.shape[0] != labels.shape[1]
        assert set(np.unique(labels)) == {0, 1}


def test_no_single_threshold_finds_the_cells() -> None:
    """The light is too uneven for one brightness to separate cells from ground in all images."""
    images = [draw_blobs("val", index) for index in range(20)]
    best = max(
        np.mean([_dice(image.pixels.mean(axis=2) > bar, image.labels) for image in images])
        for bar in range(10, 200, 5)
    )
    assert best < 0.75


def _dice(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * (found & (truth > 0)).sum() / (found.sum() + truth.sum())


@pytest.mark.parametrize("size", [32, 64, 160])
def test_the_same_scene_at_any_size(size: int) -> None:
    """In a square of any size about the same share of the image is covered by cells."""
    small, natural = draw_blobs("train", 3, size), draw_blobs("train", 3)
    assert small.pixels.shape == (size, size, 3)
    assert small.labels.mean() == pytest.approx(natural.labels.mean(), abs=0.08)


def test_splits_do_not_share_images() -> None:
    """No image of train is in val."""
    train = {draw_blobs("train", index).pixels.tobytes() for index in range(8)}
    assert not any(draw_blobs("val", index).pixels.tobytes() in train for index in range(8))


@pytest.mark.usefixtures("few_images")
def test_what_is_written_is_what_was_drawn(tmp_path: Path) -> None:
    """The set is loaded from its files with the pixels and labels that were drawn."""
    spec = DataSpec("blobs", split="val")
    assert task_of(spec) == "segment"
    found = load_segmentation(spec, tmp_path)
    assert (found.name, found.class_names) == (f"{NAME}/val", ("blob",))
    assert [image.image_id for image in found.images] == [f"val_{i:05d}.png" for i in range(3)]
    for index, image in enumerate(found.images):
        assert np.array_equal(read_labels(found, image), draw_blobs("val", index).labels)


@pytest.mark.usefixtures("few_images")
def test_the_set_is_written_once(tmp_path: Path) -> None:
    """A second use finds the folder and leaves its files alone."""
    first = ensure_blobs(tmp_path)
    before = {file: file.stat().st_mtime_ns for file in first.rglob("*") if file.is_file()}
    assert ensure_blobs(tmp_path) == first
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert len(before) == 11


@pytest.mark.usefixtures("few_images")
def test_a_damaged_cache_says_what_to_remove(tmp_path: Path) -> None:
    """A mask that was deleted from the cache is named, with the folder to remove."""
    (ensure_blobs(tmp_path) / "masks" / "val" / "val_00001.png").unlink()
    with pytest.raises(DataError, match=rf"val_00001.*remove .*{NAME}"):
        load_segmentation(DataSpec("blobs"), tmp_path)


def test_misuse_is_refused(tmp_path: Path) -> None:
    """An unknown split, a layout without its source and a detector's wish are told apart."""
    with pytest.raises(DataError, match="splits train, val, not 'test'"):
        load_segmentation(DataSpec("blobs", split="test"), tmp_path)
    with pytest.raises(DataError, match="needs the source 'blobs'"):
        load_segmentation(DataSpec(str(tmp_path), "blobs"), tmp_path)
    with pytest.raises(DataError, match="masks and no boxes"):
        load(DataSpec("blobs"), tmp_path)
    with pytest.raises(DataError, match="boxes and no masks"):
        load_segmentation(DataSpec("shapes", "shapes"), tmp_path)
