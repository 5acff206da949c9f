"""Keys of the lab: one that logs in, one for each board's sshd, and what a board is born with."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Final

from orchestrator.lab.errors import LabError
from orchestrator.lab.layout import BoardFolder, Lab, replace_file

USER: Final = "pi"
_USER_ID: Final = 1000
_TIMEOUT_S: Final = 30.0


def make_key(path: Path, comment: str) -> Path:
    """An Ed25519 key pair, unless it is there; raises LabError."""
    if not path.is_file():
        result = subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S,
            check=False,
        )  # fmt: skip
        if result.returncode != 0:
            raise LabError(f"{path}: ssh-keygen failed: {(result.stderr or result.stdout).strip()}")
    return path


def make_login(lab: Lab) -> None:
    """The key that every board lets in, and how ssh is told to use it and no other."""
    make_key(lab.login_key, "orchestrator lab")
    key = str(lab.login_key).replace("%", "%%")
    lines = [f'IdentityFile "{key}"', "IdentitiesOnly yes", "IdentityAgent none"]
    text = "Host *\n" + "".join(f"  {line}\n" for line in lines)
    replace_file(lab.ssh_config, text.encode())


def known_hosts_line(folder: BoardFolder) -> str:
    """The board's host key as known_hosts has it, under the board's name."""
    kind, key, *_ = folder.host_key.with_suffix(".pub").read_text().split()
    return f"{folder.name} {kind} {key}"


def make_seed(lab: Lab, folder: BoardFolder) -> None:
    """The archive with what makes a board this one: its name, its host key, who may log in."""
    authorized = lab.login_key.with_suffix(".pub").read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        _add(archive, "etc/hostname", f"{folder.name}\n".encode(), 0o644, 0)
        host_key = folder.host_key.read_bytes()
        _add(archive, "etc/ssh/ssh_host_ed25519_key", host_key, 0o600, 0)
        _add(archive, f"home/{USER}/.ssh/authorized_keys", authorized, 0o600, _USER_ID)
    replace_file(folder.seed, buffer.getvalue())


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int, owner: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    info.uid = info.gid = owner
    archive.addfile(info, io.BytesIO(data))
