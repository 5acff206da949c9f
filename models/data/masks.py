"""Segmentation folders: images and masks by the same name, or Pascal VOC's SegmentationClass.

    images/[SPLIT/]a.png   masks/[SPLIT/]a.png      or SPLIT/images/a.png, SPLIT/masks/a.png
    [SPLIT.txt, else splits/SPLIT.txt: names, one a line]   [classes.txt: class names, one a line]

With two class names or more, a mask's pixels are class indices, and 255 is 'ignore'. With one or
none, every pixel above 0 belongs to the one class, so masks of 0 and 1, of 0 and 255 and of
numbered objects all do; without classes.txt it is called 'foreground'. Where nothing tells the
splits, a fifth of the images, drawn by their names, are 'val' and the others 'train'.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.vision import MAX_PIXELS
from models.data.files import (
    contents,
    has_folders,
    image_files,
    image_size,
    read_names,
    read_text,
)
from models.data.types import IGNORE, MaskedImage, SegmentationSet
from models.data.voc import VOC_CLASSES
from models.errors import DataError

FOREGROUND: Final = "foreground"
"""The only class of a set that names none."""

_SUFFIXES: Final = (".png", ".tif", ".tiff", ".gif", ".bmp")
_ENDINGS: Final = ("", "_mask")
_FIFTH: Final = 5


def looks_like_masks(root: Path) -> bool:
    """Whether a folder has images/ and masks/, itself or in each of its splits."""
    places = [root, *sorted(entry for entry in root.iterdir() if entry.is_dir())]
    return any((place / "images").is_dir() and (place / "masks").is_dir() for place in places)


def looks_like_voc_masks(root: Path) -> bool:
    """Whether a folder has VOC's subfolders for segmentation."""
    return (root / "JPEGImages").is_dir() and (root / "SegmentationClass").is_dir()


def load_masks(root: Path, split: str, name: str) -> SegmentationSet:
    """Read one split's names and sizes; raises DataError naming the file at fault."""
    if not (root.is_dir() and looks_like_masks(root)):
        found = contents(root) if root.is_dir() else "a file"
        raise DataError(f"{root}: looked for images/ and masks/, found {found}")
    images, masks, files = _split_files(root, split)
    told = root / "classes.txt"
    names = read_names(told) if told.is_file() else (FOREGROUND,)
    pairs = tuple(_pair(file, file.relative_to(images), masks) for file in files)
    return SegmentationSet(name, names, pairs)


def load_voc_masks(root: Path, split: str, name: str) -> SegmentationSet:
    """Read one split of VOC's segmentation; raises DataError naming the file at fault."""
    if not looks_like_voc_masks(root):
        raise DataError(
            f"{root}: looked for JPEGImages/ and SegmentationClass/ (VOC), found {contents(root)}"
        )
    listing = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not listing.is_file():
        there = sorted(path.stem for path in listing.parent.glob("*.txt"))
        found = ", ".join(there) if there else f"no list in {listing.parent}"
        raise DataError(f"{root}: looked for split {split!r} at {listing}, found {found}")
    images = root / "JPEGImages"
    files = _listed(listing, images)
    told = root / "classes.txt"
    names = read_names(told) if told.is_file() else ("background", *VOC_CLASSES)
    masks = root / "SegmentationClass"
    return SegmentationSet(
        name, names, tuple(_pair(file, file.relative_to(images), masks) for file in files)
    )


def read_labels(dataset: SegmentationSet, image: MaskedImage) -> NDArray[np.uint8]:
    """The truth (height, width): 0 no class, 1 + class index, IGNORE where nobody counts.

    Raises DataError for a mask that cannot be read, of another size than its image, or with a
    class that the set does not have.
    """
    values = _read_mask(image.mask_path)
    if values.shape != (image.height, image.width):
        raise DataError(
            f"{image.mask_path}: {values.shape[1]} x {values.shape[0]} pixels, but its image "
            f"{image.path} has {image.width} x {image.height}"
        )
    count = len(dataset.class_names)
    if count == 1:
        return (values > 0).astype(np.uint8)
    wrong = values[(values >= count) & (values != IGNORE)]
    if wrong.size:
        raise DataError(
            f"{image.mask_path}: a pixel of class {wrong.max()}, but classes are 0 to {count - 1} "
            f"(and {IGNORE} is ignored); is classes.txt complete?"
        )
    return np.where(values == IGNORE, IGNORE, values + 1).astype(np.uint8)


def _split_files(root: Path, split: str) -> tuple[Path, Path, Sequence[Path]]:
    """The folders of images and masks, and the split's images."""
    own = root / split
    if (own / "images").is_dir() and (own / "masks").is_dir():
        return own / "images", own / "masks", image_files(own / "images")
    images, masks = root / "images", root / "masks"
    if not images.is_dir():
        raise DataError(f"{root}: looked for split {split!r} at {own}, found {contents(root)}")
    if (images / split).is_dir():
        return images / split, masks / split, image_files(images / split)
    for listing in (root / f"{split}.txt", root / "splits" / f"{split}.txt"):
        if listing.is_file():
            return images, masks, _listed(listing, images)
    others = [*root.glob("*.txt"), *root.glob("splits/*.txt")]
    divided = has_folders(images) or any(file.name != "classes.txt" for file in others)
    if divided or split not in ("train", "val"):
        looked = f"images/{split}/, {split}.txt and splits/{split}.txt"
        raise DataError(f"{root}: looked for split {split!r} at {looked}, found {contents(root)}")
    return images, masks, _drawn(image_files(images), images, split)


def _drawn(files: Sequence[Path], images: Path, split: str) -> list[Path]:
    """The fifth with the smallest digests of their names for val, the others for train."""

    def rank(file: Path) -> bytes:
        return hashlib.sha256(file.relative_to(images).as_posix().encode()).digest()

    val = set(sorted(files, key=rank)[: -(-len(files) // _FIFTH)])
    chosen = [file for file in files if (file in val) == (split == "val")]
    if not chosen:
        raise DataError(f"{images}: {len(files)} images are too few for a split {split!r}")
    return chosen


def _listed(listing: Path, images: Path) -> list[Path]:
    """The images that a list names, with their suffix or without."""
    by_name: dict[str, Path] = {}
    for file in image_files(images):
        relative = file.relative_to(images)
        by_name[relative.with_suffix("").as_posix()] = by_name[relative.as_posix()] = file
    names = [line.strip() for line in read_text(listing).splitlines() if line.strip()]
    missing = [name for name in names if name not in by_name]
    if missing:
        raise DataError(f"{listing}: image {missing[0]!r} is missing in {images}")
    files = [by_name[name] for name in names]
    if not files or len(set(files)) < len(files):
        raise DataError(f"{listing}: {'an image is named twice' if files else 'no image is named'}")
    return files


def _pair(file: Path, relative: Path, masks: Path) -> MaskedImage:
    """An image with its mask, whose name may end in _mask."""
    for ending in _ENDINGS:
        for suffix in _SUFFIXES:
            mask = (masks / relative).with_name(f"{relative.stem}{ending}{suffix}")
            if mask.is_file():
                width, height = image_size(file)
                return MaskedImage(relative.as_posix(), file, width, height, mask)
    wanted = " ".join(_SUFFIXES)
    raise DataError(f"{file}: looked for its mask {masks / relative.stem} ({wanted}), found none")


def _read_mask(path: Path) -> NDArray[np.int64]:
    """A mask's values (height, width): palette indices, not colours; of colours the brightest."""
    try:
        with Image.open(path) as mask:
            if mask.width * mask.height > MAX_PIXELS:
                raise DataError(f"{path}: more than {MAX_PIXELS:,} pixels; make it smaller")
            values = np.asarray(mask)
            colours = mask.mode in ("RGB", "RGBA", "LA")
            alpha = mask.mode in ("RGBA", "LA")
    except DataError:
        raise
    except Exception as exc:  # a corrupt file makes Pillow's decoders raise almost anything
        raise DataError(f"{path}: not a readable mask: {type(exc).__name__}: {exc}") from exc
    if colours:
        values = values[..., :-1].max(axis=2) if alpha else values.max(axis=2)
    if values.ndim != 2 or values.dtype.kind not in "bui":  # noqa: PLR2004 - height, width
        raise DataError(f"{path}: whole numbers, one a pixel, expected; it has {values.dtype}")
    return values.astype(np.int64)
