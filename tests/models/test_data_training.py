"""What stands for training data in the keys of what is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from models.data import DataSpec
from models.data.blobs import write_blobs
from models.data.shapes import write_shapes
from models.data.training import chosen, class_names, training_spec
from models.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four drawn images with boxes, as VOC lays them out."""
    root = tmp_path / "shapes"
    write_shapes(root, {"train": 3, "val": 1})
    return root


def digest(root: Path, images: int | None = None, *, val: bool = False) -> str:
    scored = DataSpec(str(root), "voc", "val") if val else None
    spec = DataSpec(str(root), "voc", "train")
    return training_spec(spec, scored, images, root.parent).digest


def test_the_same_folder_has_the_same_digest(folder: Path) -> None:
    """Read twice it is equal; fewer images, or other validation images, are another digest."""
    assert digest(folder) == digest(folder)
    assert len({digest(folder), digest(folder, 2), digest(folder, val=True)}) == 3


def test_a_changed_label_is_another_digest(folder: Path) -> None:
    """One pixel more in one box, and what was trained before is not found again."""
    before = digest(folder)
    label = min((folder / "Annotations").glob("train_*.xml"))
    text = label.read_text()
    start = text.index("<xmax>") + len("<xmax>")
    value = text[start : text.index("</xmax>")]
    label.write_text(text.replace(f"<xmax>{value}<", f"<xmax>{int(value) - 1}<", 1))
    assert digest(folder) != before


def test_a_changed_image_is_another_digest(folder: Path) -> None:
    """An image file of another size in bytes is another image."""
    before = digest(folder)
    file = min((folder / "JPEGImages").glob("train_*.png"))
    with Image.open(file) as image:
        size = image.size
    Image.new("RGB", size, (10, 20, 30)).save(file)
    assert digest(folder) != before


def test_masks_are_part_of_the_digest(tmp_path: Path) -> None:
    """A mask that was drawn anew is another digest."""
    write_blobs(tmp_path / "blobs", {"train": 2})
    spec = DataSpec(str(tmp_path / "blobs"), "masks", "train")
    before = training_spec(spec, None, None, tmp_path).digest
    mask = min((tmp_path / "blobs" / "masks" / "train").iterdir())
    with Image.open(mask) as image:
        size = image.size
    Image.new("L", size, 255).save(mask)
    assert training_spec(spec, None, None, tmp_path).digest != before


def test_a_mask_of_the_same_size_is_another_digest(tmp_path: Path) -> None:
    """Masks count whole: where pixels are stored plainly, a correction changes no file's size."""
    images, masks = tmp_path / "set" / "images", tmp_path / "set" / "masks"
    for name in ("a", "b"):
        for folder in (images, masks):
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("L", (16, 16)).save(folder / f"{name}.bmp")
    (tmp_path / "set" / "train.txt").write_text("a\nb\n")
    spec = DataSpec(str(tmp_path / "set"), "masks", "train")
    before = training_spec(spec, None, None, tmp_path).digest
    size_bytes = (masks / "a.bmp").stat().st_size
    Image.new("L", (16, 16), 255).save(masks / "a.bmp")
    assert (masks / "a.bmp").stat().st_size == size_bytes
    assert training_spec(spec, None, None, tmp_path).digest != before


def test_masks_beside_boxes_are_part_of_the_digest(tmp_path: Path) -> None:
    """A folder that a detector and a segmenter can learn from stands for both kinds of labels."""
    for folder in ("images", "labels", "masks"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        if folder != "labels":
            Image.new("L", (16, 16)).save(tmp_path / "set" / folder / "a.bmp")
    (tmp_path / "set" / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2")
    (tmp_path / "set" / "train.txt").write_text("a\n")
    spec = DataSpec(str(tmp_path / "set"), split="train")
    before = training_spec(spec, None, None, tmp_path).digest
    Image.new("L", (16, 16), 255).save(tmp_path / "set" / "masks" / "a.bmp")
    assert training_spec(spec, None, None, tmp_path).digest != before


def test_a_split_of_boxes_needs_no_masks(folder: Path) -> None:
    """VOC has masks for some images only: a detector learns from a list that they do not have."""
    before = digest(folder)
    (folder / "SegmentationClass").mkdir()
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir()
    (lists / "other.txt").write_text("train_00000\n")
    assert digest(folder) == before


@pytest.mark.parametrize(("source", "names"), [("shapes", 6), ("blobs", 1)])
def test_procedural_sets_are_their_name_and_count(source: str, names: int, tmp_path: Path) -> None:
    """Nothing is written to know what they are; another number of images is another digest."""
    spec = DataSpec(source, split="train")
    digests = {training_spec(spec, None, count, tmp_path).digest for count in (8, 9, None)}
    assert len(digests) == 3
    assert len(class_names(spec, tmp_path)) == names
    assert list(tmp_path.iterdir()) == []


def test_a_smaller_number_of_images_is_drawn_by_their_names(folder: Path) -> None:
    """The same images on every machine, and fewer are a part of more."""
    spec = DataSpec(str(folder), "voc", "train")
    two, one = (chosen(spec, count, folder.parent).images for count in (2, 1))
    assert set(one) < set(two)


@pytest.mark.parametrize(
    ("spec", "images", "words"),
    [
        (DataSpec("shapes", split="test"), None, "splits train, val, not 'test'"),
        (DataSpec("blobs", split="trian"), None, "splits train, val, not 'trian'"),
        (DataSpec("/no/such/folder", split="train"), None, "no such file or folder"),
        (DataSpec("shapes", split="train"), 0, "0 images; give a positive number"),
    ],
)
def test_what_cannot_be_read_is_refused(
    spec: DataSpec, images: int | None, words: str, tmp_path: Path
) -> None:
    """A split, folder or number that does not exist is told before anything is built."""
    with pytest.raises(DataError, match=words):
        training_spec(spec, None, images, tmp_path)
