"""What virtual boards boot: a kernel and a root disk, and a disk with the agent's packages.

Both are built once and named by the digest of what they are made from. No Arm code runs while
they are built and no privilege is needed: packages of Debian are unpacked, never configured.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources, util
from pathlib import Path
from typing import Final

from orchestrator.lab import build, machine, qemu
from orchestrator.lab.errors import ImageBuildFailed, LabError
from orchestrator.lab.kinds import KINDS
from orchestrator.lab.layout import Lab, half_made_path
from orchestrator.provision.target import platform_tags

SUITE: Final = "bookworm"
PYTHON: Final = (3, 11)
"""The suite's own Python."""
DISK_SIZE: Final = "2G"
"""What a board's disk can hold; on the host it takes what is written."""
PACKAGES_SIZE: Final = "512M"
FREE_BYTES: Final = 1_500_000_000
"""What a build needs on the host's disk at its worst moment."""

DEBIAN_PACKAGES: Final = (
    "base-files", "base-passwd", "bash", "busybox-static", "ca-certificates", "coreutils", "dash",
    "diffutils", "findutils", "grep", "gzip", "hostname", "iproute2", "kmod", "libc-bin",
    "libstdc++6", "linux-image-cloud-arm64", "login", "mawk", "mount", "ncurses-base",
    "openssh-server", "passwd", "procps", "python3", "sed", "tar", "util-linux",
)  # fmt: skip
"""No pip and no venv, as on a Raspberry Pi OS Lite; numpy needs libstdc++6."""

GLIBC: Final = (2, 36)
"""The suite's own C library."""
WHEEL_TAGS: Final = platform_tags("aarch64", GLIBC)
PREFIX: Final = "/opt/orchestrator"
"""Where a board finds the packages disk: laid out as a virtual environment is."""
BOARD_PYTHON: Final = f"{PREFIX}/bin/python3"

Log = Callable[[str], None]


@dataclass(frozen=True)
class Image:
    """A complete build in its folder."""

    path: Path

    @property
    def digest(self) -> str:
        """What it is named by."""
        return self.path.name

    @property
    def kernel(self) -> Path:
        """The kernel, uncompressed."""
        return self.path / "kernel"

    @property
    def initrd(self) -> Path:
        """The initramfs that finds the root disk."""
        return self.path / "initrd"

    @property
    def disk(self) -> Path:
        """The root file system, raw; boards write to an overlay of it."""
        return self.path / "disk"


def ensure_image(lab: Lab, log: Log) -> Image:
    """The image that this version boots, built where it is not there yet (about a minute).

    Raises ImageBuildFailed, LabError.
    """
    target = lab.images / image_digest()
    if not target.is_dir():
        log("building the virtual boards' image: some 120 MB of Debian packages, about a minute")
        if not _is_same_python():
            log("then some minutes of compiling there: boards have Python {}.{}".format(*PYTHON))
        _make(lab, target, _build_image)
    return Image(target)


def ensure_packages(lab: Lab, log: Log) -> str:
    """The digest of the disk with the agent's packages; raises as `ensure_image`."""
    target = lab.images / packages_digest()
    if not target.is_dir():
        log("installing the agent's packages for 64-bit Arm: some 40 MB of wheels")
        _make(lab, target, _build_packages)
    return target.name


def image_digest() -> str:
    """Twelve digits that change with everything an image is made from."""
    parts = [SUITE, DISK_SIZE, *DEBIAN_PACKAGES]
    parts += [path.read_text() for path in sorted(_files().iterdir())]
    return _digest("image", parts)


def packages_digest() -> str:
    """Twelve digits that change with every version of a package."""
    return _digest("packages", [_lock().read_text(), PREFIX, PACKAGES_SIZE, *WHEEL_TAGS])


def _digest(what: str, parts: list[str]) -> str:
    whole = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return f"{what}-{whole[:12]}"


def _make(lab: Lab, target: Path, fill: Callable[[Lab, Path], None]) -> None:
    """Build into a folder of another name, renamed when it is complete."""
    lab.images.mkdir(exist_ok=True)
    free = shutil.disk_usage(lab.images).free
    if free < FREE_BYTES:
        raise LabError(
            f"{lab.images}: {free // 1_000_000} MB are free there, a build needs "
            f"{FREE_BYTES // 1_000_000} MB"
        )
    half_made = half_made_path(target)
    shutil.rmtree(half_made, ignore_errors=True)
    half_made.mkdir()
    try:
        fill(lab, half_made)
        half_made.rename(target)
    finally:
        shutil.rmtree(half_made, ignore_errors=True)


def _build_image(lab: Lab, folder: Path) -> None:
    files = _files()
    build.run(
        ["fakeroot", "sh", str(files / "build-base.sh"), str(files), SUITE,
         ",".join(DEBIAN_PACKAGES), DISK_SIZE, sys.executable],
        lab=lab.root, folder=folder, what="building the root disk",
    )  # fmt: skip
    if not _is_same_python():
        _compile_there(lab, folder, ".", None)
    _drop(folder, keep=("kernel", "initrd", "disk"))


def _build_packages(lab: Lab, folder: Path) -> None:
    """Install the wheels here, for there, in the layout of a virtual environment."""
    if util.find_spec("pip") is None:
        raise ImageBuildFailed(
            f"{sys.executable} has no pip, which installs the agent's packages for a board; add "
            f"it with `{sys.executable} -m ensurepip`, or start the board with --bare"
        )
    version = "python{}.{}".format(*PYTHON)
    tree = folder / "tree"
    site = tree / "lib" / version / "site-packages"
    site.mkdir(parents=True)
    (tree / "bin").mkdir()
    (tree / "bin" / "python3").symlink_to("/usr/bin/python3")
    (tree / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    tags = [word for tag in WHEEL_TAGS for word in ("--platform", tag)]
    build.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--no-deps", "--only-binary=:all:", "--implementation", "cp", "--no-compile",
         "--python-version", "{}.{}".format(*PYTHON), *tags,
         "--target", str(site), "--requirement", str(_lock())],
        lab=lab.root, folder=folder, what="installing the agent's packages",
    )  # fmt: skip
    if _is_same_python():
        build.run(
            [sys.executable, "-m", "compileall", "-q", "-s", str(tree), "-p", PREFIX,
             "--invalidation-mode", "unchecked-hash", str(site)],
            lab=lab.root, folder=folder, what="compiling the agent's packages",
        )  # fmt: skip
    build.run(
        ["fakeroot", "mke2fs", "-q", "-t", "ext4", "-d", str(tree), "packages", PACKAGES_SIZE],
        lab=lab.root, folder=folder, what="making the packages disk",
    )  # fmt: skip
    if not _is_same_python():
        _compile_there(lab, folder, f"../{image_digest()}", "packages")
    _drop(folder, keep=("packages",))


def _is_same_python() -> bool:
    """Whether this Python's compiled modules are those of a board: else a board compiles them."""
    return sys.version_info[:2] == PYTHON


def _compile_there(lab: Lab, folder: Path, base: str, packages: str | None) -> None:
    """Have an emulated board compile the modules of a disk: without, every start takes longer."""
    build.run(
        qemu.compile_argv(next(iter(KINDS.values())), base, packages, machine.dropping()),
        lab=lab.root, folder=folder, what="compiling Python's modules on an emulated board",
    )  # fmt: skip
    said = (folder / "compile.log").read_text(errors="replace")
    if "compiled" not in said.split():
        raise ImageBuildFailed(
            f"compiling Python's modules on an emulated board failed; its console said:\n{said}"
        )


def _drop(folder: Path, keep: tuple[str, ...]) -> None:
    """Delete what a build leaves beside its results."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in keep:
            path.unlink()


def _files() -> Path:
    return Path(str(resources.files("orchestrator.lab"))) / "files"


def _lock() -> Path:
    return Path(str(resources.files("agent"))) / "requirements.lock"
