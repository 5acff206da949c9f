"""What this board is, read live; every path lies below an injected root."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from agent.emulation import emulated_by
from agent.procfs import board_text, cpu_info, read_int, read_text
from agent.wire import RUNTIME_PACKAGES, Fingerprint

PACKAGES: Final = (
    "msgspec", "numpy", "pillow", "psutil", "rpyc", *sorted(RUNTIME_PACKAGES.values()),
)  # fmt: skip

_KIB: Final = 1024
_CPUFREQ: Final = "sys/devices/system/cpu/cpu0/cpufreq"

Isa = Literal["aarch64", "aarch64-dotprod", "x86_64", "x86_64-vnni", "other"]


@dataclass(frozen=True)
class Userland:
    """What the running interpreter says of itself and of the kernel; injected in tests."""

    machine: str
    bits: int
    hostname: str
    kernel: str
    libc: str | None
    python: str
    cpu_count: int


_NAME_CHARS: Final = 200


def this_userland() -> Userland:
    """The real one. `bits` is the interpreter's pointer size: `uname -m` tells the kernel's."""
    uname = os.uname()
    return Userland(
        machine=uname.machine,
        bits=struct.calcsize("P") * 8,
        hostname=uname.nodename,
        kernel=uname.release,
        libc=_libc(),
        python=platform.python_version(),
        cpu_count=os.cpu_count() or 1,
    )


def read(
    sysroot: Path = Path("/"),
    *,
    userland: Userland | None = None,
    packages: Sequence[str] = PACKAGES,
) -> Fingerprint:
    """Facts of this board; None where it does not say, never an exception for a missing file.

    `packages` are looked up without importing them, and left out where they are not installed.
    Where /proc/meminfo is missing, the memory is the C library's figure and the swap is 0.
    """
    host = userland or this_userland()
    cpu = cpu_info(sysroot)
    emulator = emulated_by(sysroot, host.machine, cpu)
    memory, swap = _memory(sysroot)
    return Fingerprint(
        board_model=_short(
            board_text(sysroot, "model") or read_text(sysroot, "sys/class/dmi/id/product_name")
        ),
        serial=_short(board_text(sysroot, "serial-number")),
        hostname=host.hostname,
        machine=host.machine,
        userland_bits=host.bits,
        isa=instruction_set(host.machine, host.bits, cpu.features),
        cpu_model=_short(cpu.model),
        cpu_count=host.cpu_count,
        cpu_features=cpu.features,
        max_clock_hz=_khz(sysroot, f"{_CPUFREQ}/cpuinfo_max_freq"),
        governor=_short(read_text(sysroot, f"{_CPUFREQ}/scaling_governor")),
        memory_bytes=memory,
        swap_bytes=swap,
        os_name=_os_name(sysroot)[:_NAME_CHARS],
        kernel=host.kernel,
        libc=host.libc,
        python=host.python,
        packages=versions(packages),
        emulated=emulator is not None,
        emulated_by=emulator,
        boot_id=_short(read_text(sysroot, "proc/sys/kernel/random/boot_id")),
    )


def _short(text: str | None) -> str | None:
    """A name as long as names are: the wire refuses endless ones."""
    return None if text is None else text[:_NAME_CHARS]


def cpu_model(sysroot: Path = Path("/")) -> str | None:
    """Name of the CPU's cores, such as 'Cortex-A76'; None where /proc/cpuinfo has none."""
    return cpu_info(sysroot).model


def instruction_set(machine: str, bits: int, features: Sequence[str]) -> Isa:
    """Which build of an INT8 model suits this CPU: those with dot products are kept apart.

    A 32-bit userland is 'other', whatever the kernel is: no wheels exist for it.
    """
    if bits == 64 and machine in ("aarch64", "arm64"):  # noqa: PLR2004 - bits of a pointer
        return "aarch64-dotprod" if "asimddp" in features else "aarch64"
    if bits == 64 and machine in ("x86_64", "amd64", "AMD64"):  # noqa: PLR2004
        vnni = {"avx512_vnni", "avx_vnni"} & set(features)
        return "x86_64-vnni" if vnni else "x86_64"
    return "other"


def _memory(sysroot: Path) -> tuple[int, int]:
    """(memory, swap) in bytes."""
    text = read_text(sysroot, "proc/meminfo") or ""
    found = dict(re.findall(r"^(MemTotal|SwapTotal):\s+(\d+) kB$", text, re.MULTILINE))
    if "MemTotal" in found:
        memory = int(found["MemTotal"]) * _KIB
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return memory, int(found.get("SwapTotal", 0)) * _KIB


def _os_name(sysroot: Path) -> str:
    text = read_text(sysroot, "etc/os-release") or read_text(sysroot, "usr/lib/os-release") or ""
    found = re.search(r'^PRETTY_NAME=["\']?(.*?)["\']?$', text, re.MULTILINE)
    return found[1] if found else "Linux"


def _khz(sysroot: Path, path: str) -> int | None:
    value = read_int(sysroot, path)
    return value * 1000 if value is not None and value > 0 else None


def _libc() -> str | None:
    """Such as 'glibc 2.36'; None for a C library that does not say (musl)."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        return None


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of those that are installed, without importing them."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
