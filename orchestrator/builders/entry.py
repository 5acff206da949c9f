"""Builders as the inventory names them under `builders:`, or as `--build-on` gives an address."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

DEFAULT_HOME: Final = "~/.orchestrator-builder"
DEFAULT_WORKERS: Final = 2
_HOST: Final = re.compile(r"[A-Za-z0-9_:\[][A-Za-z0-9_.:%@\[\]-]*")
_PATH: Final = re.compile(r"[A-Za-z0-9_./~][A-Za-z0-9_./+@-]*")
_DASK: Final = re.compile(r"(tls|tcp)://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")


@dataclass(frozen=True)
class BuilderEntry:
    """A machine that builds. `ssh`: `address` is what ssh is told; `dask`: the scheduler's URL.

    `python` runs the build there and has the packages of the extra `models`; code comes from
    here. `home` is where it keeps files and artifacts. `paths` says where it has this machine's
    folders of training images. `ca`, `cert` and `key` are files of the cluster's own TLS.
    `workers` is how many builds run at once.
    """

    name: str
    kind: Literal["ssh", "dask"]
    address: str
    python: str = "python3"
    home: str = DEFAULT_HOME
    paths: Mapping[str, str] = field(default_factory=dict)
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    workers: int = DEFAULT_WORKERS


class BuilderDoc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One builder as it is written in the inventory."""

    host: str | None = None
    dask: str | None = None
    python: str = "python3"
    home: str = DEFAULT_HOME
    paths: dict[str, str] = {}
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = DEFAULT_WORKERS

    def __post_init__(self) -> None:
        """Raises ValueError, which yamlfile gives a place."""
        if (self.host is None) == (self.dask is None):
            raise ValueError("expected either 'host: NAME' (ssh) or 'dask: tls://HOST:PORT'")
        if self.host is not None and not _HOST.fullmatch(self.host):
            raise ValueError(f"host: expected a host or an ssh alias, found '{self.host}'")
        if self.dask is not None:
            try:
                check_scheduler(self.dask)
            except ValueError as exc:
                raise ValueError(f"dask: {exc}") from exc
        for name in ("python", "home"):
            if not _PATH.fullmatch(getattr(self, name)):
                raise ValueError(f"{name}: expected a path without spaces")


def check_scheduler(address: str) -> None:
    """Refuse what would send models and code in the clear; raises ValueError."""
    match = _DASK.fullmatch(address)
    if match is None:
        raise ValueError(f"expected tls://HOST:PORT, found '{address}'")
    scheme, host = match[1], match[2].strip("[]")
    if scheme == "tcp" and not _is_loopback(host):
        raise ValueError(
            f"{address} is not encrypted, and whoever reaches that port runs code on the cluster; "
            "give the cluster TLS and use tls:// (tcp:// is for 127.0.0.1 alone)"
        )


def entry_of(name: str, doc: BuilderDoc, base: Path) -> BuilderEntry:
    """An entry from the inventory in folder `base`."""

    def file(text: str | None) -> Path | None:
        return None if text is None else base / Path(text).expanduser()

    return BuilderEntry(
        name=name,
        kind="ssh" if doc.host is not None else "dask",
        address=doc.host or doc.dask or "",
        python=doc.python,
        home=doc.home,
        paths=doc.paths,
        ca=file(doc.ca),
        cert=file(doc.cert),
        key=file(doc.key),
        workers=doc.workers,
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
