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
    image = f"../../images/{state.image}"
    words = ["nice", "-n", "10", EMULATOR, "-name", state.name]
    words += ["-nodefaults", "-no-user-config", "-display", "none", "-daemonize"]
    words += ["-M", "virt", "-accel", "tcg", "-cpu", kind.cpu]
    words += ["-smp", "1", "-m", str(MEMORY_MIB)]
    words += ["-kernel", f"{image}/kernel", "-initrd", f"{image}/initrd"]
    words += ["-append", "console=ttyAMA0 quiet panic=5"]
    words += _disk("root", "disk.qcow2", "qcow2", read_only=False)
    words += _disk("seed", "seed.tar", "raw")
    if state.packages is not None:
        words += _disk("packages", f"../../images/{state.packages}/packages", "raw")
    words += ["-device", "virtio-rng-pci"]
    forward = f"hostfwd=tcp:127.0.0.1:{state.port}-{_GUEST_ADDRESS}:22"
    words += ["-netdev", f"user,id=net0,restrict=on,{forward}"]
    words += ["-device", f"virtio-net-pci,netdev=net0,id={NETWORK_CARD},romfile="]
    words += _socket("console", extra=",logfile=console.log,logappend=on")
    words += ["-serial", "chardev:console", *_socket("monitor")]
    words += ["-mon", "chardev=monitor,mode=control"]
    if clock_utc is not None:
        words += ["-rtc", f"base={clock_utc}"]
    if drop_privileges is not None:
        modern = drop_privileges >= _RUN_WITH_SINCE
        words += (
            ["-run-with", f"user={UNPRIVILEGED_USER}"] if modern else ["-runas", UNPRIVILEGED_USER]
        )
    return words


def overlay_argv(folder: BoardFolder, image: str) -> list[str]:
    """Make an empty disk over an image's, which it names by a path relative to itself."""
    backing = f"../../images/{image}/disk"
    return ["qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", "raw", folder.disk.name]


def _disk(serial: str, file: str, form: str, *, read_only: bool = True) -> Sequence[str]:
    flags = ",readonly=on" if read_only else ""
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
