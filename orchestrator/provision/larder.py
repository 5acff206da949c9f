"""Packed trees and their wheels, kept in the workspace: fetched once for each kind of board.

wheels/<kind>[+runtime ...]-<lock8>/    *.whl, tree.tar.gz, and tree.json, which was written last
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from orchestrator.errors import WheelsMissing
from orchestrator.provision.lock import Extra, Pin, shipped_pins
from orchestrator.provision.target import Target
from orchestrator.provision.tree import Tree, pack
from orchestrator.provision.wheels import Fetch, download, run_pip

_ARCHIVE: Final = "tree.tar.gz"
_NOTE: Final = "tree.json"
_MEBIBYTE: Final = 1 << 20

Say = Callable[[str], None]


class _Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What tree.json says of the archive beside it."""

    content: str
    sha256: str
    size_bytes: int
    unpacked_bytes: int


@dataclass(frozen=True)
class _Kind:
    """A kind of board and what it gets beside the agent's own packages."""

    target: Target
    extras: tuple[Extra, ...]

    def __str__(self) -> str:
        glibc = ".".join(map(str, self.target.glibc))
        extras = "".join(f"+{extra}" for extra in self.extras)
        return f"{self.target.python_tag}-{self.target.machine}-glibc{glibc}{extras}"


class Larder:
    """Gives the tree for a kind of board; safe to use from several threads."""

    def __init__(
        self,
        folder: Path,
        pins: Sequence[Pin],
        *,
        offline: Path | None = None,
        fetch: Fetch = run_pip,
    ) -> None:
        """`offline` is a folder of wheels that is used instead of a package index."""
        self._folder = folder
        self._pins = tuple(pins)
        self._offline = offline
        self._fetch = fetch
        self._mutex = threading.Lock()
        self._given: dict[_Kind, Tree] = {}

    def tree(self, target: Target, say: Say, extras: tuple[Extra, ...] = ()) -> Tree:
        """The packed tree for `target`, with the runtimes `extras`: kept, or made now.

        Raises WheelsMissing.
        """
        kind = _Kind(target, extras)
        with self._mutex:
            if kind not in self._given:
                self._given[kind] = self._kept(kind) or self._made(kind, say)
            return self._given[kind]

    def _wanted(self, kind: _Kind) -> tuple[Pin, ...]:
        own = set(self._pins)
        return self._pins + tuple(pin for pin in _pins_of(kind.extras) if pin not in own)

    def _place(self, kind: _Kind) -> Path:
        pinned = hashlib.sha256("\n".join(map(str, self._wanted(kind))).encode()).hexdigest()[:8]
        return self._folder / f"{kind}-{pinned}"

    def _kept(self, kind: _Kind) -> Tree | None:
        """The tree of an earlier call; not when the user names the wheels to be used."""
        archive = self._place(kind) / _ARCHIVE
        if self._offline is not None:
            return None
        try:
            note = msgspec.json.decode((archive.parent / _NOTE).read_bytes(), type=_Note)
            if archive.stat().st_size != note.size_bytes:
                return None
        except (OSError, msgspec.MsgspecError):
            return None
        return Tree(archive, note.content, note.sha256, note.size_bytes, note.unpacked_bytes)

    def _made(self, kind: _Kind, say: Say) -> Tree:
        source = "the package index" if self._offline is None else str(self._offline)
        target, pins = kind.target, self._wanted(kind)
        say(f"fetching {len(pins)} wheels for {target} from {source}")
        place = self._place(kind)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            half_made = Path(tempfile.mkdtemp(dir=self._folder, prefix=".new-"))
            try:
                wheels = download(target, pins, half_made, self._offline, self._fetch)
                tree = pack(wheels, half_made / _ARCHIVE)
                note = _Note(tree.content, tree.sha256, tree.size_bytes, tree.unpacked_bytes)
                (half_made / _NOTE).write_bytes(msgspec.json.encode(note))
                shutil.rmtree(place, ignore_errors=True)
                half_made.chmod(0o755)
                half_made.rename(place)
            finally:
                shutil.rmtree(half_made, ignore_errors=True)
        except OSError as exc:
            raise WheelsMissing(f"the wheels cannot be kept in {self._folder}: {exc}") from exc
        self._forget_others(kind, place)
        say(f"packed {tree.size_bytes / _MEBIBYTE:.1f} MiB")
        return replace(tree, archive=place / _ARCHIVE)

    def _forget_others(self, kind: _Kind, place: Path) -> None:
        """Remove what earlier locks left for the same kind of board."""
        for other in self._folder.glob(f"{kind}-*"):
            if other != place:
                shutil.rmtree(other, ignore_errors=True)


def _pins_of(extras: tuple[Extra, ...]) -> tuple[Pin, ...]:
    """What the runtimes need beside the agent's own packages."""
    return tuple(pin for pin in shipped_pins(extras) if pin not in shipped_pins())
