"""Where a workspace's virtual boards lie on the host's disk, and what is recorded of each."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from orchestrator.lab.errors import LabError
from orchestrator.lab.process import ProcessId

LOCK_PATIENCE_S: Final = 2400.0
"""How long another command is waited for: twice the longest step of building an image."""
_LOCK_POLL_S: Final = 0.1
_HALF_MADE: Final = ".new-"


class BoardState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of one virtual board; `process` is its emulator's while that is started.

    `image` and `packages` are digests of what its disk was made from; without `packages` the
    board is bare. `port` is the one of 127.0.0.1 that leads to its sshd.
    """

    name: str
    image: str
    packages: str | None
    port: int
    process: ProcessId | None = None


@dataclass(frozen=True)
class BoardFolder:
    """The files of one virtual board."""

    path: Path

    @property
    def name(self) -> str:
        """The board's name."""
        return self.path.name

    @property
    def state_file(self) -> Path:
        """A `BoardState` as JSON."""
        return self.path / "state.json"

    @property
    def disk(self) -> Path:
        """What the board has written, over the image it started from."""
        return self.path / "disk.qcow2"

    @property
    def host_key(self) -> Path:
        """The private key of its sshd; the public one lies beside it."""
        return self.path / "host_key"

    @property
    def seed(self) -> Path:
        """An archive that the board unpacks over its root at every start."""
        return self.path / "seed.tar"

    @property
    def console_log(self) -> Path:
        """Everything its serial console has said."""
        return self.path / "console.log"

    @property
    def console(self) -> Path:
        """The Unix socket of its serial console."""
        return self.path / "console"

    @property
    def monitor(self) -> Path:
        """The Unix socket of its emulator's machine protocol (QMP)."""
        return self.path / "monitor"

    def read(self) -> BoardState | None:
        """What is recorded; None where that is missing, or was written by another version."""
        try:
            return msgspec.json.decode(self.state_file.read_bytes(), type=BoardState)
        except (OSError, msgspec.MsgspecError):
            return None

    def write(self, state: BoardState) -> BoardState:
        """Record a state, in one step."""
        replace_file(self.state_file, msgspec.json.encode(state))
        return state


@dataclass(frozen=True)
class Lab:
    """The folder of a workspace's virtual boards; nothing in it is created here."""

    root: Path

    @property
    def inventory(self) -> Path:
        """The boards, as an inventory of their own."""
        return self.root / "inventory.yaml"

    @property
    def ssh_config(self) -> Path:
        """How ssh logs in to them."""
        return self.root / "ssh_config"

    @property
    def login_key(self) -> Path:
        """The private key that they let in."""
        return self.root / "id_ed25519"

    @property
    def images(self) -> Path:
        """Built kernels, disks and packages, by digest."""
        return self.root / "images"

    def board(self, name: str) -> BoardFolder:
        """The folder of one board, whether it is there or not."""
        return BoardFolder(self.root / "boards" / name)

    def boards(self) -> tuple[BoardFolder, ...]:
        """The boards that were made, by name."""
        found = (self.root / "boards").glob("[!.]*")
        return tuple(BoardFolder(path) for path in sorted(found) if path.is_dir())

    def half_made(self) -> list[Path]:
        """What a command that was killed left unfinished."""
        return [*self.images.glob(f"{_HALF_MADE}*"), *(self.root / "boards").glob(f"{_HALF_MADE}*")]


def half_made_path(target: Path) -> Path:
    """Where `target` is made before it is renamed to its own name."""
    return target.with_name(f"{_HALF_MADE}{target.name}")


@contextlib.contextmanager
def locked(
    lab: Lab, waiting: Callable[[str], None], patience_s: float = LOCK_PATIENCE_S
) -> Iterator[None]:
    """Hold the lab for one command; another one is waited for, after saying so.

    The lock ends with this process, however that ends. Raises LabError where the folder cannot
    be made, and where the other command holds the lab for longer than `patience_s`.
    """
    path, deadline = lab.root / "lock", time.monotonic() + patience_s
    while True:
        try:
            lab.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise LabError(f"{path}: {exc.strerror}; the folder must be writable") from exc
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting("another `orchestrator lab` is at work here; waiting for it to end")
                _await_lock(handle, path, deadline, patience_s)
            if _is_still_there(path, handle):  # `lab remove` deletes it while others wait
                os.ftruncate(handle, 0)
                os.pwrite(handle, str(os.getpid()).encode(), 0)  # for those who lose patience
                yield
                return
        finally:
            os.close(handle)


def _await_lock(handle: int, path: Path, deadline: float, patience_s: float) -> None:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(_LOCK_POLL_S)
                continue
            pid = os.pread(handle, 20, 0).decode(errors="replace")
            holder = f"process {pid}" if pid.isdecimal() else "another process"
            raise LabError(
                f"{path}: {holder}, another `orchestrator lab`, has held the lab for "
                f"{patience_s:.0f} s; look what it waits for, end it (Ctrl-C, or `kill`), and try "
                "again: what it left unfinished is tidied up then"
            ) from None
        return


def _is_still_there(path: Path, handle: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(handle).st_ino
    except FileNotFoundError:
        return False


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a whole file in one step, so that a crash leaves the old one or the new one."""
    new = half_made_path(path)
    new.write_bytes(data)
    new.chmod(mode)
    new.replace(path)
