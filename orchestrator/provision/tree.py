"""What wheels hold, as one archive: the same bytes every time, and a digest of what is in it.

Wheels are zip files. What belongs into site-packages is copied as it is, after each file was
compared with the wheel's own RECORD; scripts and headers are left out, since nothing on a board
runs them. Nothing is compiled: the board's Python does that when it first imports.
"""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

from orchestrator.errors import WheelsMissing

_MTIME: Final = 315_532_800
"""1980, the earliest that a zip file knows: times must not change the digest."""

_COMPRESSION: Final = 4
"""Level 6 takes twice the time for 2 % less."""
_LIBRARIES: Final = ("purelib", "platlib")


@dataclass(frozen=True)
class Tree:
    """A packed tree: `content` is the sha256 of what it unpacks to, `sha256` of the file itself."""

    archive: Path
    content: str
    sha256: str
    size_bytes: int
    unpacked_bytes: int


@dataclass(frozen=True)
class _File:
    name: str
    data: bytes


class _Digesting:
    """Hands bytes on and remembers their digest and number."""

    def __init__(self, sink: IO[bytes] | gzip.GzipFile) -> None:
        self._sink = sink
        self.digest = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size_bytes += len(data)
        self._sink.write(data)
        return len(data)

    def flush(self) -> None:
        self._sink.flush()


def pack(wheels: Sequence[Path], archive: Path) -> Tree:
    """Write the files of all wheels into `archive` (tar.gz); raises WheelsMissing.

    The content's digest is taken before compression, which differs between versions of zlib.
    """
    unpacked_bytes = 0
    written: set[str] = set()
    with archive.open("wb") as stream:
        outer = _Digesting(stream)
        with gzip.GzipFile("", "wb", _COMPRESSION, outer, mtime=0) as zipped:
            inner = _Digesting(zipped)
            with tarfile.open(fileobj=inner, mode="w|", format=tarfile.GNU_FORMAT) as tar:  # type: ignore[call-overload] # as above
                for wheel in sorted(wheels, key=lambda path: path.name):
                    for file in files_of(wheel):
                        if file.name in written:
                            raise WheelsMissing(f"{wheel.name}: {file.name} is in two wheels")
                        written.add(file.name)
                        unpacked_bytes += len(file.data)
                        tar.addfile(_entry(file), io.BytesIO(file.data))
    return Tree(
        archive, inner.digest.hexdigest(), outer.digest.hexdigest(), outer.size_bytes,
        unpacked_bytes,
    )  # fmt: skip


def _entry(file: _File) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(file.name)
    entry.size = len(file.data)
    entry.mode = 0o600
    entry.mtime = _MTIME
    return entry


def files_of(wheel: Path) -> Iterator[_File]:
    """What a wheel puts into site-packages, by name; raises WheelsMissing for a damaged one."""
    try:
        with zipfile.ZipFile(wheel) as opened:
            recorded = _recorded(opened)
            for info in sorted(opened.infolist(), key=lambda info: info.filename):
                place = None if info.is_dir() else _place(info.filename)
                if place is None:
                    continue
                data = opened.read(info)
                _check(info.filename, data, recorded)
                yield _File(place, data)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError) as exc:
        raise WheelsMissing(f"{wheel} is damaged ({exc}); remove it and provision again") from exc


def _place(name: str) -> str | None:
    """Where a file of a wheel goes below site-packages; None where it does not go there."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ValueError(f"the name '{name}' leads out of the tree")
    if not path.parts[0].endswith(".data"):
        return str(path)
    if len(path.parts) > 2 and path.parts[1] in _LIBRARIES:  # noqa: PLR2004 - DATA/LIB/NAME
        return str(PurePosixPath(*path.parts[2:]))
    return None


def _recorded(opened: zipfile.ZipFile) -> dict[str, str]:
    """Digests by name as RECORD has them: 'sha256=' and base64 without padding."""
    (name,) = [
        name for name in opened.namelist() if name.count("/") == 1
        and name.endswith(".dist-info/RECORD")
    ]  # fmt: skip
    rows = csv.reader(io.StringIO(opened.read(name).decode()))
    return {row[0]: row[1] for row in rows if len(row) > 1}


def _check(name: str, data: bytes, recorded: dict[str, str]) -> None:
    stated = recorded.get(name)
    if not stated:
        if name.rpartition("/")[2] in ("RECORD", "RECORD.jws", "RECORD.p7s"):
            return
        raise ValueError(f"{name} is not in its RECORD")
    kind, _, digest = stated.partition("=")
    if kind not in ("sha256", "sha384", "sha512"):
        raise ValueError(f"{name} is recorded with {kind}")
    found = base64.urlsafe_b64encode(hashlib.new(kind, data).digest()).decode().rstrip("=")
    if found != digest:
        raise ValueError(f"{name} does not have the digest in its RECORD")
