"""The agent's bundle: named by its content, put on this machine whole or not at all."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

import agent
from agent.wire.bundle import ENTRY_NAME, bundle_digest
from orchestrator import deploy
from orchestrator.deploy import HALF_MADE, HOME_MARKER, LEFT_OVER_S, Bundle


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.of_this_version()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def leftovers(home: Path) -> list[str]:
    return [path.name for path in (home / "bundles").iterdir() if path.name.startswith(".")]


def test_the_files_of_a_bundle(bundle: Bundle) -> None:
    """A bundle holds the sources of the package `agent` and an entry, and nothing else."""
    assert {"agent/__main__.py", "agent/wire/base.py", ENTRY_NAME} <= bundle.files.keys()
    assert all(name == ENTRY_NAME or name.startswith("agent/") for name in bundle.files)
    assert all(name.endswith(".py") for name in bundle.files)


def test_the_digest_is_the_agents_own(bundle: Bundle, tmp_path: Path) -> None:
    """What the host calls a bundle is what the installed agent says of itself."""
    directory = bundle.install(tmp_path / "home")
    said = subprocess.run(
        [
            sys.executable, "-I", "-c",
            "import sys; sys.path.insert(0, sys.argv[1]); import agent, pathlib;"
            "from agent.wire.bundle import bundle_digest;"
            "print(bundle_digest(pathlib.Path(agent.__file__).parent))",
            str(directory),
        ],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == bundle.digest
    assert directory.name == bundle.directory_name == bundle.digest[:12]


def test_the_digest_depends_on_every_byte(tmp_path: Path) -> None:
    """Another byte, another name or another file is another agent."""
    package = Path(agent.__file__).parent
    digests = {bundle_digest(package)}
    for change in ("append", "rename", "add", "remove"):
        copy = tmp_path / change / "agent"
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
        assert bundle_digest(copy) in digests
        file = copy / "wire" / "samples.py"
        if change == "append":
            file.write_bytes(file.read_bytes() + b"\n")
        elif change == "rename":
            file.rename(file.with_name("samples2.py"))
        elif change == "add":
            (copy / "extra.py").write_text("")
        else:
            file.unlink()
        digests.add(bundle_digest(copy))
    assert len(digests) == 5


def test_other_files_do_not_matter(tmp_path: Path) -> None:
    """Compiled files and modes, which differ from machine to machine, change nothing."""
    package = Path(agent.__file__).parent
    copy = tmp_path / "agent"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "dial.cpython-311.pyc").write_bytes(b"compiled")
    (copy / "dial.py").chmod(0o600)
    os.utime(copy / "dial.py", (1, 1))
    assert bundle_digest(copy) == bundle_digest(package)


def test_install(bundle: Bundle, tmp_path: Path) -> None:
    """An installed bundle has exactly its files, in directories that only this account enters."""
    home = tmp_path / "deep" / "home"
    directory = bundle.install(home)
    assert directory == home / "bundles" / bundle.directory_name
    assert contents(directory) == bundle.files
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert leftovers(home) == []
    assert (home / HOME_MARKER).is_file()


@pytest.mark.slow
def test_it_runs(bundle: Bundle, tmp_path: Path) -> None:
    """The installed bundle starts as the host starts it, whatever lies in the working directory."""
    directory = bundle.install(tmp_path / "home")
    (tmp_path / "agent.py").write_text("raise SystemExit('the wrong agent')")
    done = subprocess.run(
        [sys.executable, "-I", str(directory), "probe"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["missing"] == {}


def test_install_again(bundle: Bundle, tmp_path: Path) -> None:
    """A second installation touches nothing of the first."""
    first = bundle.install(tmp_path)
    before = {path: path.stat() for path in first.rglob("*")}
    assert bundle.install(tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == {
        path: found.st_mtime_ns for path, found in before.items()
    }


def test_two_versions_side_by_side(bundle: Bundle, tmp_path: Path) -> None:
    """Another version gets a directory of its own, so that a running agent keeps its files."""
    other = Bundle("f" * 64, {**bundle.files, "agent/more.py": b""})
    assert bundle.install(tmp_path) != other.install(tmp_path)
    assert contents(bundle.install(tmp_path)) == bundle.files


def test_installing_at_the_same_time(bundle: Bundle, tmp_path: Path) -> None:
    """Several runs that install at once all end with one whole bundle and nothing else."""
    start = threading.Barrier(8)
    found: list[Path] = []

    def install() -> None:
        start.wait()
        found.append(bundle.install(tmp_path))

    threads = [threading.Thread(target=install) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert contents(found[0]) == bundle.files
    assert leftovers(tmp_path) == []


def test_a_cut_installation(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installation that fails midway leaves nothing, and the next one succeeds."""
    plain = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "base.py":
            raise OSError(28, "No space left on device")
        return plain(path, data)

    with monkeypatch.context() as broken:
        broken.setattr(deploy.Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            bundle.install(tmp_path)
    assert list((tmp_path / "bundles").iterdir()) == []
    assert contents(bundle.install(tmp_path)) == bundle.files


def test_what_a_killed_installation_left(bundle: Bundle, tmp_path: Path) -> None:
    """Half a bundle of a run that was killed is not taken for a whole one."""
    half = tmp_path / "bundles" / ".new-killed"
    half.mkdir(parents=True)
    (half / ENTRY_NAME).write_text("half")
    assert contents(bundle.install(tmp_path)) == bundle.files


def test_left_overs_are_cleared(bundle: Bundle, tmp_path: Path) -> None:
    """What killed runs left half made goes with the next contact; a young one may be at work."""
    bundle.install(tmp_path)
    for name in ("killed", "at-work"):
        (tmp_path / "bundles" / f"{HALF_MADE}{name}" / "agent").mkdir(parents=True)
    hours_ago = time.time() - 2 * LEFT_OVER_S
    os.utime(tmp_path / "bundles" / f"{HALF_MADE}killed", (hours_ago, hours_ago))
    bundle.install(tmp_path)
    assert leftovers(tmp_path) == [f"{HALF_MADE}at-work"]


def test_tar(bundle: Bundle) -> None:
    """The archive unpacks to the bundle's files, owned by nobody in particular."""
    with tarfile.open(fileobj=io.BytesIO(bundle.tar())) as archive:
        members = archive.getmembers()
        found = {member.name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    assert found == bundle.files
    assert {member.mode for member in members} == {0o600}


def test_small_enough_to_send(bundle: Bundle) -> None:
    """The archive is a few hundred kilobytes at most: it crosses in a second."""
    assert len(bundle.tar()) < 300_000
