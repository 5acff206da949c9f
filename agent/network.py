"""Which interface a board's packets leave by, and whether that is Wi-Fi."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.procfs import read_text

_ANYWHERE: Final = "0" * 8
_ANYWHERE_6: Final = "0" * 32


@dataclass(frozen=True)
class Uplink:
    """The interface of the default route; `wireless` is None where /sys does not show it."""

    interface: str
    wireless: bool | None


def uplink(sysroot: Path) -> Uplink | None:
    """The default route with the lowest metric, IPv4 before IPv6; None where there is none."""
    name = _default_4(sysroot) or _default_6(sysroot)
    if name is None or "/" in name or name in (".", ".."):
        return None
    directory = sysroot / "sys/class/net" / name
    if not directory.is_dir():
        return Uplink(name, None)
    return Uplink(name, any((directory / mark).exists() for mark in ("wireless", "phy80211")))


def _default_4(sysroot: Path) -> str | None:
    """Columns of /proc/net/route: interface, destination, ... metric (decimal), mask."""
    routes = []
    for line in (read_text(sysroot, "proc/net/route") or "").splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[1] == fields[7] == _ANYWHERE and fields[6].isdecimal():  # noqa: PLR2004 - see the columns
            routes.append((int(fields[6]), fields[0]))
    return min(routes)[1] if routes else None


def _default_6(sysroot: Path) -> str | None:
    """Columns of /proc/net/ipv6_route: destination, its bits, ... metric (hex), ... interface."""
    routes = []
    for line in (read_text(sysroot, "proc/net/ipv6_route") or "").splitlines():
        fields = line.split()
        if len(fields) == 10 and fields[0] == _ANYWHERE_6 and fields[1] == "00":  # noqa: PLR2004 - see the columns
            try:
                routes.append((int(fields[5], 16), fields[9]))
            except ValueError:
                continue
    return min(((metric, name) for metric, name in routes if name != "lo"), default=(0, None))[1]
