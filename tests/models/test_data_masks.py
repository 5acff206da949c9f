"""Folders of images and masks, in the forms that people have them, and what is wrong with some."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.data import (
    IGNORE,
    DataSpec,
    SegmentationSet,
    load_for,
    load_segmentation,
    read_labels,
    task_of,
)
from models.errors import DataError

LEFT = np.zeros((6, 8), dtype=np.uint8)
LEFT[:, :3] = 255
"""A mask whose three left columns are foreground."""


def write(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def folder(root: Path, mask: np.ndarray = LEFT, names: int = 1, suffix: str = ".png") -> Path:
    for index in range(names):
        write(root / "images" / f"{index}.png", np.full((6, 8, 3), 9, dtype=np.uint8))
        write(root / "masks" / f"{index}{suffix}", mask)
    return root


def loaded(root: Path, split: str = "val", layout: str = "auto") -> SegmentationSet:
    return load_segmentation(DataSpec(str(root), layout, split), root)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mask", "suffix"),
    [
        (LEFT, ".png"),
        (LEFT // 255, ".png"),
        (LEFT, ".tif"),
        (LEFT, ".bmp"),
        (LEFT > 0, ".png"),
        (LEFT.astype(np.uint16) * 3, ".tif"),
        (LEFT.astype(np.uint16) * 3, ".png"),
        (np.stack([LEFT] * 3, axis=2), ".png"),
        (np.stack([LEFT, LEFT, LEFT, np.full_like(LEFT, 255)], axis=2), ".png"),
    ],
)
def test_every_usual_binary_mask_is_read(tmp_path: Path, mask: np.ndarray, suffix: str) -> None:
    """0/1, 0/255, 1 bit, 16 bits and grey written as colours all mean the same foreground."""
    found = loaded(folder(tmp_path, mask, suffix=suffix))
    assert found.class_names == ("foreground",)
    (image,) = found.images
    assert (image.image_id, image.width, image.height) == ("0.png", 8, 6)
    assert np.array_equal(read_labels(found, image), LEFT // 255)


def test_masks_of_several_classes(tmp_path: Path) -> None:
    """With names, pixels are class indices, labels count from 1 and 255 stays ignored."""
    values = np.array([[0, 1, 2], [2, 255, 0]], dtype=np.uint8)
    write(tmp_path / "images" / "a.jpg", np.zeros((2, 3, 3), dtype=np.uint8))
    write(tmp_path / "masks" / "a_mask.png", values)
    (tmp_path / "classes.txt").write_text("background\ncat\ndog\n")
    found = loaded(tmp_path)
    labels = read_labels(found, found.images[0])
    assert labels.tolist() == [[1, 2, 3], [3, IGNORE, 1]]


def test_a_palette_holds_indices(tmp_path: Path) -> None:
    """Of a mask with a palette, as VOC's are, the indices count and not the colours."""
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("2007_1\n")
    write(tmp_path / "JPEGImages" / "2007_1.jpg", np.zeros((1, 3, 3), dtype=np.uint8))
    mask = Image.fromarray(np.array([[0, 15, 255]], dtype=np.uint8), mode="P")
    mask.putpalette([i % 256 for i in range(768)])
    (tmp_path / "SegmentationClass").mkdir()
    mask.save(tmp_path / "SegmentationClass" / "2007_1.png")
    found = loaded(tmp_path)
    assert found.class_names[:2] == ("background", "aeroplane")
    assert read_labels(found, found.images[0]).tolist() == [[1, 16, IGNORE]]
    with pytest.raises(DataError, match=r"looked for split 'train'.*found val"):
        loaded(tmp_path, "train")


def test_splits_in_folders_and_lists(tmp_path: Path) -> None:
    """A split is a subfolder of both, a folder with both, or a list of names."""
    for split in ("train", "val"):
        write(tmp_path / "a" / "images" / split / f"{split}.png", LEFT)
        write(tmp_path / "a" / "masks" / split / f"{split}.png", LEFT)
        write(tmp_path / "b" / split / "images" / f"{split}.png", LEFT)
        write(tmp_path / "b" / split / "masks" / f"{split}.png", LEFT)
    folder(tmp_path / "c", names=3)
    (tmp_path / "c" / "val.txt").write_text("2\n0.png\n")
    for root in (tmp_path / "a", tmp_path / "b"):
        assert [image.image_id for image in loaded(root, "train").images] == ["train.png"]
        assert task_of(DataSpec(str(root))) == "segment"
    assert [image.image_id for image in loaded(tmp_path / "c").images] == ["2.png", "0.png"]
    for name in ("a", "b", "c"):
        with pytest.raises(DataError, match=r"looked for split 'test'.*found"):
            loaded(tmp_path / name, "test")


def test_without_any_split_a_fifth_is_val(tmp_path: Path) -> None:
    """Where nothing tells the splits, train and val are drawn by name and share no image."""
    root = folder(tmp_path, names=11)
    train, val = loaded(root, "train").images, loaded(root, "val").images
    assert (len(train), len(val)) == (8, 3)
    assert not {image.path for image in train} & {image.path for image in val}
    with pytest.raises(DataError, match="too few"):
        loaded(folder(tmp_path / "one"), "train")


def test_a_subset_is_drawn_by_seed(tmp_path: Path) -> None:
    """A subset has the same images on every machine, and a smaller one is part of it."""
    whole = loaded(folder(tmp_path, names=11), "train")
    ids = [image.image_id for image in whole.subset(4, 7).images]
    assert ids == sorted(ids)
    assert {image.image_id for image in whole.subset(2, 7).images} < set(ids)
    assert len(whole.subset(99, 7).images) == 8


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "masks" / "0.png").unlink(), r"looked for its mask .*masks/0"),
        (lambda root: (root / "images" / "0.png").write_bytes(b"no"), "not a readable image"),
        (lambda root: (root / "classes.txt").write_text("a\na\n"), "'a' occurs 2 times"),
        (lambda root: (root / "val.txt").write_text("7\n"), "image '7' is missing"),
        (lambda root: (root / "val.txt").write_text("0\n0.png\n"), "named twice"),
        (lambda root: (root / "val.txt").write_text("\n"), "no image is named"),
        (lambda root: (root / "images" / "0.png").unlink(), "looked for images"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(tmp_path: Path, spoil: object, said: str) -> None:
    """A missing mask, a broken image, a wrong list: the error names the file."""
    root = folder(tmp_path)
    spoil(root)  # type: ignore[operator]
    with pytest.raises(DataError, match=said):
        loaded(root)


@pytest.mark.parametrize(
    ("mask", "names", "said"),
    [
        (np.zeros((8, 6), dtype=np.uint8), "", "6 x 8 pixels, but its image .* has 8 x 6"),
        (LEFT * 0 + 3, "a\nb\nc\n", "a pixel of class 3, but classes are 0 to 2"),
        (np.zeros((6, 8), dtype=np.float32), "", "whole numbers"),
    ],
)
def test_masks_that_do_not_fit(tmp_path: Path, mask: np.ndarray, names: str, said: str) -> None:
    """A mask of another size, with unknown classes or with fractions is refused when it is read."""
    root = folder(tmp_path, mask, suffix=".tif")
    if names:
        (root / "classes.txt").write_text(names)
    found = loaded(root)
    with pytest.raises(DataError, match=said):
        read_labels(found, found.images[0])


def test_a_mask_that_is_no_image(tmp_path: Path) -> None:
    """A corrupt mask is named."""
    found = loaded(folder(tmp_path))
    found.images[0].mask_path.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match=r"masks/0.png: not a readable mask"):
        read_labels(found, found.images[0])


def test_a_folder_is_taken_for_what_it_is(tmp_path: Path) -> None:
    """Without a task a folder of masks is for segmentation; asked for boxes it is refused."""
    root = folder(tmp_path / "set", names=5)
    spec = DataSpec(str(root))
    assert isinstance(load_for(None, spec, tmp_path), SegmentationSet)
    with pytest.raises(DataError, match="masks"):
        load_for("detect", spec, tmp_path)
    with pytest.raises(DataError, match=r"looked for images/ and masks/.*found 0\.png"):
        load_for("segment", DataSpec(str(root / "images")), tmp_path)
    with pytest.raises(DataError, match="no such folder; the procedural set with masks is 'blobs'"):
        load_for("segment", DataSpec(str(tmp_path / "nowhere")), tmp_path)
