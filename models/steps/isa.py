"""Instruction sets: of this host, and what they have in common. Names as in wire.Fingerprint."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Literal

Family = Literal["aarch64", "x86_64", "other"]
_CPUINFO = Path("/proc/cpuinfo")


def family(isa: str) -> Family:
    """`aarch64` of `aarch64-dotprod`, `x86_64` of `x86_64-vnni`, else `other`."""
    match isa.partition("-")[0]:
        case "aarch64":
            return "aarch64"
        case "x86_64":
            return "x86_64"
    return "other"


def host_isa(machine: str | None = None, cpuinfo: Path = _CPUINFO) -> str:
    """The instruction set of this host, by the same rules as a board's fingerprint."""
    machine = machine or platform.machine()
    flags = _flags(cpuinfo)
    if machine in ("aarch64", "arm64"):
        return "aarch64-dotprod" if "asimddp" in flags else "aarch64"
    if machine in ("x86_64", "AMD64"):
        return "x86_64-vnni" if flags & {"avx512_vnni", "avx_vnni"} else "x86_64"
    return "other"


def nchwc_block(cpuinfo: Path = _CPUINFO) -> int:
    """Channels per block in ONNX Runtime's NCHWc layout on this host: 16 with AVX-512, else 8.

    Source: MlasNchwcGetBlockSize in onnxruntime's mlas. A graph saved with one block size
    computes nonsense on a CPU with the other.
    """
    return 16 if "avx512f" in _flags(cpuinfo) else 8


def _flags(cpuinfo: Path) -> frozenset[str]:
    """The CPU features of the first core; empty where the file cannot be read."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        return frozenset()
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return frozenset(match[1].split()) if match else frozenset()
