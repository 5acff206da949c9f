"""Small files of /proc and /sys below an injected root; what cannot be read is None."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LARGEST_FILE: Final = 1 << 20
"""Bytes read of a file at most: /proc/cpuinfo of a large server has some 400 KB."""

_ARM_LTD: Final = 0x41
_ARM_PARTS: Final = {
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD0D: "Cortex-A77",
    0xD40: "Neoverse-V1",
    0xD41: "Cortex-A78",
    0xD47: "Cortex-A710",
    0xD49: "Neoverse-N2",
}
"""Main ID register part numbers, from Arm's technical reference manuals of each core."""


@dataclass(frozen=True)
class CpuInfo:
    """What /proc/cpuinfo says; `cores` are the (implementer, part) pairs of Arm cores."""

    model: str | None
    features: tuple[str, ...]
    cores: tuple[tuple[int, int], ...]
    is_x86: bool


def read_text(sysroot: Path, path: str) -> str | None:
    """A file's text without NULs and outer blanks; None where it is missing or empty."""
    try:
        with (sysroot / path).open("rb") as stream:
            data = stream.read(_LARGEST_FILE)
    except OSError:
        return None
    return data.decode("utf-8", "replace").replace("\0", " ").strip() or None


def read_int(sysroot: Path, path: str, base: int = 10) -> int | None:
    """A file that holds one whole number; None where it is missing or holds anything else."""
    text = read_text(sysroot, path)
    try:
        return int(text, base) if text is not None else None
    except ValueError:
        return None


def board_text(sysroot: Path, name: str) -> str | None:
    """A NUL-terminated string of the device tree; None on machines without one."""
    return read_text(sysroot, f"proc/device-tree/{name}") or read_text(
        sysroot, f"sys/firmware/devicetree/base/{name}"
    )


def cpu_info(sysroot: Path) -> CpuInfo:
    """Cores and features of the CPU, with Arm's part numbers turned into names."""
    text = read_text(sysroot, "proc/cpuinfo") or ""
    pairs = re.findall(
        r"^CPU implementer\s*:\s*0x([0-9a-f]+)$.*?^CPU part\s*:\s*0x([0-9a-f]+)$",
        text,
        re.MULTILINE | re.DOTALL,
    )
    cores = tuple(
        dict.fromkeys((int(implementer, 16), int(part, 16)) for implementer, part in pairs)
    )
    features = re.search(r"^(?:Features|flags)\s*:(.*)$", text, re.MULTILINE)
    named = re.search(r"^model name\s*:\s*(\S.*)$", text, re.MULTILINE)
    model = " + ".join(map(_core_name, cores)) or (named[1].strip() if named else None)
    return CpuInfo(
        model=model,
        features=tuple(features[1].split()) if features else (),
        cores=cores,
        is_x86=re.search(r"^(?:vendor_id|flags)\s*:", text, re.MULTILINE) is not None,
    )


def _core_name(core: tuple[int, int]) -> str:
    implementer, part = core
    if implementer == _ARM_LTD and part in _ARM_PARTS:
        return _ARM_PARTS[part]
    return f"implementer 0x{implementer:02x} part 0x{part:03x}"
