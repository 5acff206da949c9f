"""What all layouts need of files: image sizes from headers, folders told in errors, boxes."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Final

from PIL import Image

from models.data.types import Box
from models.errors import DataError

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_KNOWN: Final = 1 << 18
"""Images whose sizes are remembered, about 50 MB; COCO has 123,287 with labels."""
_SHOWN: Final = 8
"""Entries of a folder that an error names."""


def image_files(path: Path) -> tuple[Path, ...]:
    """All images below a folder, sorted by path, or the one image that `path` is.

    Hidden files and folders are left out. Raises DataError when there is none.
    """
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        return (path,)
    if not path.is_dir():
        raise DataError(f"{path}: no such folder of images")
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not found:
        wanted = " ".join(IMAGE_SUFFIXES)
        raise DataError(f"{path}: looked for images ({wanted}), found {contents(path)}")
    return tuple(found)


def has_folders(path: Path) -> bool:
    """Whether there are folders in a folder, hidden ones left aside."""
    return any(entry.is_dir() and not entry.name.startswith(".") for entry in path.iterdir())


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels from the file's header; nothing is decoded.

    Raises DataError for a missing file or one that is no image.
    """
    try:
        status = path.stat()
        return _known_size(str(path), status.st_size, status.st_mtime_ns)
    except FileNotFoundError as exc:
        raise DataError(f"{path}: the image is missing") from exc
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise DataError(f"{path}: not a readable image: {exc}") from exc


@functools.lru_cache(maxsize=MAX_KNOWN)
def _known_size(path: str, _size_bytes: int, _mtime_ns: int) -> tuple[int, int]:
    """Of a file that is read once as long as it stays as it is: large sets are loaded often."""
    with Image.open(path) as image:
        return image.size


def contents(folder: Path) -> str:
    """The first entries of a folder, in words, for an error."""
    try:
        names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    except OSError as exc:
        return f"a folder that cannot be listed ({exc.strerror})"
    if not names:
        return "an empty folder"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def read_text(path: Path) -> str:
    """A text file, without the mark that Windows begins some with.

    Raises DataError when it is missing or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path}: cannot be read: {exc}") from exc


def read_names(path: Path) -> tuple[str, ...]:
    """Class names, one a line; raises DataError when one occurs twice."""
    names = [line.strip() for line in read_text(path).splitlines()]
    return distinct([name for name in names if name], str(path))


def distinct(names: list[str], where: str) -> tuple[str, ...]:
    """The names as a tuple; raises DataError when there is none or one occurs twice."""
    if not names:
        raise DataError(f"{where}: no class names")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{where}: class name {twice[0]!r} occurs {names.count(twice[0])} times")
    return tuple(names)


def clipped(box: Box, width: int, height: int, where: str) -> Box:
    """The box within its image; raises DataError when nothing of it lies there."""
    finite = all(math.isfinite(value) for value in (box.x1, box.y1, box.x2, box.y2))
    x1, y1 = max(0.0, box.x1), max(0.0, box.y1)
    x2, y2 = min(float(width), box.x2), min(float(height), box.y2)
    if not (finite and x1 < x2 and y1 < y2):
        raise DataError(
            f"{where}: box ({box.x1:g}, {box.y1:g})-({box.x2:g}, {box.y2:g}) "
            f"covers nothing of an image of {width} x {height} pixels"
        )
    return Box(x1, y1, x2, y2, box.class_index, box.ignore)
