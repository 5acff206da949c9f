"""The emulator's command line: pure, and every path relative to the board's folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from orchestrator.lab.kinds import Kind
from orchestrator.lab.layout import BoardFolder, BoardState

EMULATOR: Final = "qemu-system-aarch64"
MEMORY_MIB: Final = 512
UNPRIVILEGED_USER: Final = "nobody"
NETWORK_CARD: Final = "nic0"
"""Its id in the machine protocol."""
KERNEL_WORDS: Final = "console=ttyAMA0 quiet panic=5 mitigations=off nokaslr"
"""What the board's kernel is told.

Page tables of its own for the kernel (which a random address of the kernel forces) have the
emulator translate everything anew at each system call: without, Python's imports take 40 % less.
"""

_READ_ONLY: Final = ",readonly=on"
_GUEST_ADDRESS: Final = "10.0.2.15"
_RUN_WITH_SINCE: Final = (9, 1)
"""QEMU's version that replaced -runas."""


def argv(
    kind: Kind,
    state: BoardState,
    *,
    drop_privileges: tuple[int, int] | None = None,
    clock_utc: str | None = None,
) -> list[str]:
    """Start one board in the background: run in its folder, it returns when the board is on.

    Everything it opens is opened before it lets go of root's privileges, which it does where
    `drop_privileges` has QEMU's version. `clock_utc` is what the board's clock starts with, such
    as 1970-01-01T00:00:00; None is the true time.
    """
    words = ["nice", "-n", "10", *_machine(f"../../images/{state.image}", kind)]
    words += ["-name", state.name, "-daemonize"]
    words += _disk("root", "disk.qcow2", "qcow2")
    words += _disk("seed", "seed.tar", "raw", _READ_ONLY)
    if state.packages is not None:
        packages = f"../../images/{state.packages}/packages"
        words += _disk("packages", packages, "raw", _READ_ONLY)
    forward = f"hostfwd=tcp:127.0.0.1:{state.port}-{_GUEST_ADDRESS}:22"
    words += ["-netdev", f"user,id=net0,restrict=on,{forward}"]
    words += ["-device", f"virtio-net-pci,netdev=net0,id={NETWORK_CARD},romfile="]
    words += _socket("console", extra=",logfile=console.log,logappend=on")
    words += ["-serial", "chardev:console", *_socket("monitor")]
    words += ["-mon", "chardev=monitor,mode=control"]
    if clock_utc is not None:
        words += ["-rtc", f"base={clock_utc}"]
    return [*words, *_dropping(drop_privileges)]


def compile_argv(
    kind: Kind, image: str, packages: str | None, drop_privileges: tuple[int, int] | None
) -> list[str]:
    """Start a board that compiles Python's modules, on the image's own disk or on a packages disk.

    It has no network, and its console is in compile.log. It ends by itself.
    """
    words = [*_machine(image, kind, " board.compile"), "-no-reboot", "-serial", "file:compile.log"]
    words += _dropping(drop_privileges)
    if packages is None:
        return [*words, *_disk("root", f"{image}/disk", "raw")]
    words += _disk("root", f"{image}/disk", "raw", ",snapshot=on")
    return [*words, *_disk("packages", packages, "raw")]


def overlay_argv(folder: BoardFolder, image: str) -> list[str]:
    """Make an empty disk over an image's, which it names by a path relative to itself."""
    backing = f"../../images/{image}/disk"
    return ["qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", "raw", folder.disk.name]


def _machine(image: str, kind: Kind, told: str = "") -> Sequence[str]:
    """A board without disks and network; `told` is for its init."""
    words = [EMULATOR, "-nodefaults", "-no-user-config", "-display", "none"]
    words += ["-M", "virt", "-accel", "tcg", "-cpu", kind.cpu]
    words += ["-smp", "1", "-m", str(MEMORY_MIB), "-device", "virtio-rng-pci"]
    words += ["-kernel", f"{image}/kernel", "-initrd", f"{image}/initrd"]
    return [*words, "-append", f"{KERNEL_WORDS}{told}"]


def _dropping(version: tuple[int, int] | None) -> Sequence[str]:
    if version is None:
        return ()
    if version >= _RUN_WITH_SINCE:
        return "-run-with", f"user={UNPRIVILEGED_USER}"
    return "-runas", UNPRIVILEGED_USER


def _disk(serial: str, file: str, form: str, flags: str = "") -> Sequence[str]:
    drive = f"if=none,id={serial},file={file},format={form}{flags}"
    return "-drive", drive, "-device", f"virtio-blk-pci,drive={serial},serial={serial}"


def _socket(name: str, extra: str = "") -> Sequence[str]:
    return "-chardev", f"socket,id={name},path={name},server=on,wait=off{extra}"


def version_of(text: str) -> tuple[int, int]:
    """(major, minor) from what `--version` says; (0, 0) where it says something else."""
    words = text.partition("version ")[2].split(".")
    try:
        return int(words[0]), int(words[1].split()[0])
    except (IndexError, ValueError):
        return 0, 0
