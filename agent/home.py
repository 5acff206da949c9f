"""The agent's directory: its layout, who may look into it, and where its socket is.

HOME/                      0700, owned by the account that runs the agent
  agent-<digest12>.sock    the only door; the digest is that of the agent's own files
  agent.lock               flock held by the one daemon that serves HOME
  artifacts/               <sha256>, and <sha256>.part while it arrives
  bundles/<digest12>/      the agent's files, put there by the host
  trials/<trial_id>/       journals, until the host has acknowledged them
  log.txt
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import HomeUnsafe

SOCKET_PATH_LIMIT: Final = 100
"""AF_UNIX holds 108 bytes with the final zero; some tools count less."""

_DIGEST_LENGTH: Final = 12


@dataclass(frozen=True)
class Home:
    """Paths below one agent's directory, which exists and is private."""

    root: Path
    socket: Path

    @property
    def artifacts(self) -> Path:
        """Files by sha256."""
        return self.root / "artifacts"

    @property
    def trials(self) -> Path:
        """One directory a trial."""
        return self.root / "trials"

    @property
    def lock(self) -> Path:
        """Flock of the daemon that serves this directory."""
        return self.root / "agent.lock"

    @property
    def log(self) -> Path:
        """What the daemon printed."""
        return self.root / "log.txt"


def open_home(root: Path, digest: str, temporary: Path = Path("/tmp")) -> Home:  # noqa: S108 - its owner and mode are checked
    """The directory, made if absent; raises HomeUnsafe when others can reach into it.

    A path too long for a socket gets the socket below `temporary`, in a private directory.
    """
    root = root.resolve()
    make_private(root)
    name = f"agent-{digest[:_DIGEST_LENGTH]}.sock"
    if len(os.fsencode(root / name)) < SOCKET_PATH_LIMIT:
        return Home(root, root / name)
    mine = temporary / f"orchestrator-{os.geteuid()}"
    make_private(mine)
    short = mine / hashlib.sha256(os.fsencode(root)).hexdigest()[:_DIGEST_LENGTH]
    make_private(short)
    return Home(root, short / name)


def make_private(directory: Path) -> None:
    """Make a directory that only this account can enter; raises HomeUnsafe."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
        if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
            raise HomeUnsafe(
                f"{directory} belongs to uid {found.st_uid}, this is uid {os.geteuid()}; "
                f"choose another directory for the agent"
            )
        if found.st_mode & 0o077:
            directory.chmod(0o700)
            if directory.lstat().st_mode & 0o077:
                raise HomeUnsafe(
                    f"{directory} is open to other accounts (mode {found.st_mode & 0o777:o}) and "
                    f"its file system does not let that be changed; choose another directory"
                )
    except OSError as exc:
        raise HomeUnsafe(f"cannot make the private directory {directory}: {exc.strerror}") from exc


def own_command() -> list[str]:
    """The command line that runs this very agent again, isolated from the account's own files."""
    package_parent = Path(__file__).resolve().parent.parent
    if (package_parent / "__main__.py").is_file():
        return [sys.executable, "-I", str(package_parent)]
    launcher = (
        f"import sys; sys.path.insert(0, {str(package_parent)!r}); "
        f"from agent.__main__ import main; main()"
    )
    return [sys.executable, "-I", "-c", launcher]
