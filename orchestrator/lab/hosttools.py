"""What this host must have to build and run virtual boards, and the one command that adds it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from orchestrator.lab.errors import HostToolsMissing

PACKAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "qemu-system-aarch64": "qemu-system-arm",
        "qemu-img": "qemu-utils",
        "mmdebstrap": "mmdebstrap",
        "fakeroot": "fakeroot",
        "mke2fs": "e2fsprogs",
        "modprobe": "kmod",
        "cpio": "cpio",
        "ssh-keygen": "openssh-client",
        "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
    }
)
"""Debian's package of every program, and of the keys that its archive is signed with."""


def find(name: str) -> str | None:
    """The path of a program, those of /sbin among them; or of a file, where it is there."""
    if name.startswith("/"):
        return name if Path(name).is_file() else None
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=f"{path}:/usr/sbin:/sbin")


def require(look: Callable[[str], str | None] = find) -> None:
    """Raises HostToolsMissing, whose message has one command that installs all that is missing."""
    missing = [name for name in PACKAGES if look(name) is None]
    if not missing:
        return
    names = ", ".join(missing)
    if look("apt-get") is None:
        raise HostToolsMissing(
            f"virtual boards need {names}; they are built with the tools of Debian or Ubuntu, and "
            f"this host has no apt-get"
        )
    packages = " ".join(sorted({PACKAGES[name] for name in missing}))
    sudo = "" if os.geteuid() == 0 else "sudo "
    raise HostToolsMissing(
        f"virtual boards need {names}; install all of it with:\n"
        f"  {sudo}apt-get install --no-install-recommends {packages}"
    )
