"""Procedural sets as files: written once into a cache, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from models.errors import DataError
from models.locking import locked


def ensure(cache_dir: Path, name: str, write: Callable[[Path], None]) -> Path:
    """The folder `name` in `cache_dir`, made by `write` first if it is not there.

    The folder appears whole or not at all: it is written under another name and renamed. Of
    two processes one writes while the other waits. Raises DataError when it cannot be written.
    """
    final = cache_dir / name
    if final.is_dir():
        return final
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with locked(cache_dir / f".{name}.lock"):
            if not final.is_dir():
                unfinished = cache_dir / f".{name}.tmp"
                shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
                write(unfinished)
                unfinished.rename(final)
    except OSError as exc:
        raise DataError(f"cannot write the procedural set into {cache_dir}: {exc}") from exc
    return final
