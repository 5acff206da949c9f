"""Whether the instructions run here are the CPU's own: timings of an emulator mean nothing.

A virtual machine on a CPU of its own kind (KVM, Xen, Hyper-V, a cloud's) is NOT emulation: its
instructions run on silicon. Only translation of instructions is (qemu-user, QEMU's TCG).

The rules, first match wins; each says what it relies on:

1. The kernel is of another kind than the interpreter (/proc/sys/kernel/arch, Linux 6.1), or
   /proc/cpuinfo is an x86 CPU's under an Arm interpreter: qemu-user.
2. /proc/thread-self/exe is a QEMU: qemu-user hides itself behind /proc/self/exe only.
3. An Arm core with implementer 0, which no silicon has: TCG's CPU `max`.
4. x86 whose model name has 'QEMU TCG', or is QEMU's generic CPU where the guest has no
   kvm-clock: TCG.
5. QEMU's Arm machine `virt` (device tree `linux,dummy-virt`, or DMI of QEMU): TCG, unless
   something proves silicon: a KVM clock device, Xen, or a core that TCG cannot imitate.
   The limit: with KVM on an Arm host, a core TCG knows (Neoverse-N1, say) and no such device
   it is called emulated although it is not. The safe side: no real board is such a machine.

What they cannot see: QEMU's `raspi3b` machine, which shows the device tree of the real board.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent.procfs import CpuInfo, board_text, read_text

_ARM: Final = ("aarch64", "arm64", "armv8l", "armv7l", "armv6l")
_X86: Final = ("x86_64", "amd64", "AMD64", "i686", "i586", "i386")

_ARM_LTD: Final = 0x41
_FUJITSU: Final = 0x46
_TCG_CORES: Final = frozenset(
    [(_ARM_LTD, part) for part in (0xD03, 0xD04, 0xD05, 0xD07, 0xD08, 0xD0B, 0xD0C)]
    + [(_ARM_LTD, part) for part in (0xD40, 0xD47, 0xD49)]
    + [(_FUJITSU, 0x001)]
)
"""64-bit cores in QEMU's list `-cpu help` (10.0): Cortex A53 A35 A55 A57 A72 A76, Neoverse N1 V1,
Cortex A710, Neoverse N2, A64FX."""


def emulated_by(sysroot: Path, machine: str, cpu: CpuInfo) -> str | None:
    """Name of the emulator that runs this interpreter, or None; the rules are above."""
    if _is_user_mode(sysroot, machine, cpu):
        return "qemu-user"
    if machine in _ARM:
        return "QEMU TCG" if _is_tcg_arm(sysroot, cpu) else None
    if machine in _X86:
        return "QEMU TCG" if _is_tcg_x86(sysroot, cpu) else None
    return None


def _is_user_mode(sysroot: Path, machine: str, cpu: CpuInfo) -> bool:
    kernel = read_text(sysroot, "proc/sys/kernel/arch")
    for family in (_ARM, _X86):
        if kernel is not None and (kernel in family) != (machine in family):
            return True
    if machine in _ARM and cpu.is_x86:
        return True
    try:
        executable = (sysroot / "proc/thread-self/exe").readlink()
    except OSError:
        return False
    return executable.name.startswith("qemu-")


def _is_tcg_arm(sysroot: Path, cpu: CpuInfo) -> bool:
    if any(implementer == 0 for implementer, _ in cpu.cores):
        return True
    return _is_qemu_machine(sysroot) and not _proves_silicon(sysroot, cpu)


def _is_qemu_machine(sysroot: Path) -> bool:
    vendor = read_text(sysroot, "sys/class/dmi/id/sys_vendor") or ""
    compatible = board_text(sysroot, "compatible") or ""
    return vendor == "QEMU" or "linux,dummy-virt" in compatible.split()


def _proves_silicon(sysroot: Path, cpu: CpuInfo) -> bool:
    """Xen or KVM names itself, or there is a core that TCG cannot imitate."""
    if read_text(sysroot, "sys/hypervisor/type") is not None:
        return True
    clocks = (sysroot / "sys/class/ptp").glob("*/clock_name")
    if any("KVM" in (read_text(path.parent, path.name) or "") for path in clocks):
        return True
    return any(core not in _TCG_CORES for core in cpu.cores)


def _is_tcg_x86(sysroot: Path, cpu: CpuInfo) -> bool:
    model = cpu.model or ""
    if "QEMU TCG" in model:
        return True
    clocks = "sys/devices/system/clocksource/clocksource0/available_clocksource"
    return "QEMU Virtual CPU" in model and "kvm-clock" not in (read_text(sysroot, clocks) or "")
