"""The agent's bundle: this version's agent files, named by their digest, put on a board."""

from __future__ import annotations

import contextlib
import fnmatch
import io
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from agent.wire import bundle
from agent.wire.bundle import ENTRY_NAME, ENTRY_TEXT, bundle_digest, bundle_files

HOME_MARKER: Final = ".orchestrator-home"
"""A file that says that a directory is an agent's home, and nobody else's."""

HOME_MARKER_TEXT: Final = "An agent's home; 'orchestrator boards remove' removes it.\n"

OWN_NAMES: Final = (
    HOME_MARKER, "agent-*.sock", "agent.lock", "artifacts", "bundles", "env", "log.old.txt",
    "log.txt", "trials",
)  # fmt: skip
"""All that an agent and its host ever put into a home, as shell patterns."""


HALF_MADE: Final = ".new-"
"""How a bundle is called until it is whole."""

LEFT_OVER_S: Final = 3600.0
"""What is half made for so long belongs to an installation that was cut."""


def may_be_marked(names: Sequence[str]) -> bool:
    """Whether a directory with these entries is an agent's home: nothing of others is in it."""
    return all(any(fnmatch.fnmatchcase(name, own) for own in OWN_NAMES) for name in names)


def _remove_left_over(bundles: Path) -> None:
    """Delete what runs that were killed left half made; a young one may still be at it."""
    before_s = time.time() - LEFT_OVER_S
    for entry in bundles.glob(f"{HALF_MADE}*"):
        with contextlib.suppress(OSError):  # another run may be faster
            if entry.lstat().st_mtime < before_s:
                shutil.rmtree(entry, ignore_errors=True)


@dataclass(frozen=True)
class Bundle:
    """Files by path within the bundle, and the digest that names them."""

    digest: str
    files: dict[str, bytes]

    @staticmethod
    @cache
    def of_this_version() -> Bundle:
        """The agent that ships with this host."""
        # Not by the package's name: a folder `agent` in the working directory may share it.
        package = Path(bundle.__file__).resolve().parents[1]
        files = bundle_files(package)
        files[ENTRY_NAME] = ENTRY_TEXT.encode()
        return Bundle(bundle_digest(package), files)

    @property
    def directory_name(self) -> str:
        """Its directory's name under `bundles/` in the agent's home."""
        return self.digest[:12]

    def install(self, home: Path) -> Path:
        """Put the bundle below a home on this machine; a complete one is left as it is."""
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if may_be_marked([path.name for path in home.iterdir()]):
            (home / HOME_MARKER).write_text(HOME_MARKER_TEXT)
        bundles = home / "bundles"
        target = bundles / self.directory_name
        _remove_left_over(bundles)
        if target.is_dir():
            return target
        bundles.mkdir(exist_ok=True)
        half_made = Path(tempfile.mkdtemp(dir=bundles, prefix=HALF_MADE))
        try:
            for name, data in self.files.items():
                path = half_made / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            half_made.chmod(0o700)
            os.rename(half_made, target)  # noqa: PTH104 - fails when another run was faster
        except OSError:
            if not target.is_dir():
                raise
        finally:
            shutil.rmtree(half_made, ignore_errors=True)
        return target

    def tar(self) -> bytes:
        """The bundle as one compressed archive, the same bytes every time but for gzip's clock."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, data in self.files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                info.mode = 0o600
                archive.addfile(info, io.BytesIO(data))
        return buffer.getvalue()
