from __future__ import annotations

import collections
import os
import shutil
from collections.abc import Sequence
from importlib import util
from pathlib import Path

import pytest

from agent.wire import BenchError
from orchestrator.lab import build, hosttools, image
from orchestrator.lab.errors import HostToolsMissing, ImageBuildFailed, LabError
from orchestrator.lab.layout import Lab


def tools(monkeypatch: pytest.MonkeyPatch, *makes: str) -> list[list[str]]:
    """Every build step only makes these files, and is noted."""
    steps: list[list[str]] = []

    def run(argv: Sequence[str], *, lab: Path, folder: Path, what: str) -> None:
        steps.append(list(argv))
        for name in makes:
            (folder / name).touch()

    monkeypatch.setattr(build, "run", run)
    return steps


def ready(folder: Path) -> Lab:
    lab = Lab(folder / "lab")
    lab.root.mkdir()
    return lab


def test_an_image_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first board builds the image, under fakeroot; every further one finds it."""
    said: list[str] = []
    lab, steps = ready(tmp_path), tools(monkeypatch, "kernel", "initrd", "disk", "needed")
    first = image.ensure_image(lab, said.append)
    assert image.ensure_image(lab, said.append) == first
    assert len(steps) == len(said) == 1
    assert steps[0][:2] == ["fakeroot", "sh"]
    assert {path.name for path in first.path.iterdir()} == {"kernel", "initrd", "disk"}
    assert [path.name for path in lab.images.iterdir()] == [first.digest]


def test_a_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a step fails, neither an image nor a half of one is left, and the next `up` builds."""
    lab = ready(tmp_path)

    def fail(argv: Sequence[str], *, lab: Path, folder: Path, what: str) -> None:
        (folder / "disk").touch()
        raise ImageBuildFailed(what)

    with monkeypatch.context() as patch:
        patch.setattr(build, "run", fail)
        with pytest.raises(ImageBuildFailed):
            image.ensure_image(lab, lambda _line: None)
    assert list(lab.images.iterdir()) == []
    steps = tools(monkeypatch, "disk")
    image.ensure_image(lab, lambda _line: None)
    assert len(steps) == 1


def test_the_packages_are_those_of_the_lock_for_the_boards_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wheels for aarch64 and Python 3.11 are installed, from the lock and nothing else."""
    lab, steps = ready(tmp_path), tools(monkeypatch, "packages")
    name = image.ensure_packages(lab, lambda _line: None)
    pip = next(argv for argv in steps if "pip" in argv)
    assert pip[pip.index("--python-version") + 1] == "3.11"
    assert "--only-binary=:all:" in pip
    assert "--no-deps" in pip
    assert Path(pip[pip.index("--requirement") + 1]).name == "requirements.lock"
    platforms = {pip[i + 1] for i, word in enumerate(pip) if word == "--platform"}
    assert {"manylinux_2_28_aarch64", "manylinux2014_aarch64"} <= platforms
    assert {path.name for path in (lab.images / name).iterdir()} == {"packages"}


@pytest.mark.parametrize("said", ["compiled\n", "Kernel panic\n"])
def test_a_host_with_another_python_has_a_board_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """Where the host's Python is another, a board compiles both disks' modules, or it fails."""
    monkeypatch.setattr(image, "_is_same_python", lambda: False)
    lab, steps = ready(tmp_path), []

    def run(argv: Sequence[str], *, lab: Path, folder: Path, what: str) -> None:
        steps.append(list(argv))
        (folder / "compile.log").write_text(said)
        (folder / "packages").touch()

    monkeypatch.setattr(build, "run", run)
    if "compiled" not in said:
        with pytest.raises(ImageBuildFailed, match="its console said:\nKernel panic"):
            image.ensure_image(lab, lambda _line: None)
        return
    image.ensure_image(lab, lambda _line: None)
    image.ensure_packages(lab, lambda _line: None)
    boots = [argv for argv in steps if argv[0].startswith("qemu")]
    drives = [[word for word in argv if "file=" in word and "id=" in word] for argv in boots]
    assert ["snapshot=on" in word for words in drives for word in words] == [False, True, False]
    assert not any("-netdev" in argv for argv in boots)
    assert not any("compileall" in argv for argv in steps)


def test_a_host_without_pip_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without pip the packages cannot be had; the error has both ways out."""
    monkeypatch.setattr(util, "find_spec", lambda _name: None)
    with pytest.raises(ImageBuildFailed, match=r"ensurepip.*--bare"):
        image.ensure_packages(ready(tmp_path), lambda _line: None)


def test_a_full_disk_is_refused_before_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build that cannot fit is not begun; the error has both figures."""
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10, 9, 300_000_000))
    with pytest.raises(LabError, match=r"300 MB are free there, a build needs 1500 MB"):
        image.ensure_image(ready(tmp_path), lambda _line: None)


def test_an_image_changes_its_name_with_what_it_is_made_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another package, script or lock is another image; the same ones are the same."""
    first = image.image_digest()
    assert image.image_digest() == first
    with monkeypatch.context() as patch:
        patch.setattr(image, "DEBIAN_PACKAGES", (*image.DEBIAN_PACKAGES, "vim"))
        assert image.image_digest() != first
    files = tmp_path / "files"
    shutil.copytree(image._files(), files)
    (files / "board-init").write_text("#!/bin/sh\n")
    with monkeypatch.context() as patch:
        patch.setattr(image, "_files", lambda: files)
        assert image.image_digest() != first
    (tmp_path / "requirements.lock").write_text("numpy==1.0\n")
    before = image.packages_digest()
    monkeypatch.setattr(image, "_lock", lambda: tmp_path / "requirements.lock")
    assert image.packages_digest() != before


def test_missing_tools_are_one_message_with_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is missing is named at once, and installed by the one command that is shown."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    present = {"apt-get", "cpio", "ssh-keygen"}
    with pytest.raises(HostToolsMissing) as caught:
        hosttools.require(lambda name: name if name in present else None)
    head, command = str(caught.value).splitlines()
    assert "qemu-system-aarch64, qemu-img, mmdebstrap" in head
    assert command.strip() == (
        "sudo apt-get install --no-install-recommends debian-archive-keyring e2fsprogs fakeroot "
        "kmod mmdebstrap qemu-system-arm qemu-utils"
    )
    assert isinstance(caught.value, BenchError)


def test_a_host_that_is_no_debian_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no apt-get, no command is shown that could not work."""
    with pytest.raises(HostToolsMissing, match=r"Debian or Ubuntu.*no apt-get"):
        hosttools.require(lambda _name: None)
    hosttools.require(lambda name: name)


def test_tools_in_sbin_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An ordinary user's PATH lacks /usr/sbin, where Debian has mke2fs; files are looked at too."""
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    assert hosttools.find("tool") is None
    (tmp_path / "tool").chmod(0o755)
    assert hosttools.find("tool") == str(tmp_path / "tool")
    assert hosttools.find(str(tmp_path / "tool")) == str(tmp_path / "tool")
    assert hosttools.find(str(tmp_path / "no-such-file")) is None
    assert "/usr/sbin:/sbin" in build.process.environment(tmp_path, "build")["PATH"]
