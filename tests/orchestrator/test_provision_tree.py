from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.fakewheels import make_wheel, make_wheels

from orchestrator.errors import WheelsMissing
from orchestrator.provision.lock import Pin
from orchestrator.provision.tree import files_of, pack

PIN = Pin("numpy", "2.4.6")
PINS = (PIN, Pin("rpyc", "6.0.2"))


def names(archive: Path) -> list[str]:
    with tarfile.open(archive) as opened:
        return opened.getnames()


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    """Wheels written at another time, in another order, give the same archive."""
    wheels = list(make_wheels(tmp_path / "a", PINS).iterdir())
    for path in wheels:
        os.utime(path, (1e9, 1e9))
    first = pack(wheels, tmp_path / "1.tar.gz")
    second = pack(wheels[::-1], tmp_path / "2.tar.gz")
    assert first.archive.read_bytes() == second.archive.read_bytes()
    assert (first.content, first.sha256) == (second.content, second.sha256)
    assert first.size_bytes == first.archive.stat().st_size


def test_other_contents_have_another_digest(tmp_path: Path) -> None:
    """One changed byte in one file changes the digest that names the environment."""
    trees = [
        pack(
            [make_wheel(tmp_path, PIN, source=source)],
            tmp_path / "tree.tar.gz",
        )
        for source in ("x = 1\n", "x = 2\n")
    ]
    assert trees[0].content != trees[1].content


def test_what_goes_into_site_packages(tmp_path: Path) -> None:
    """Library files go in, wherever the wheel keeps them; scripts and headers stay out."""
    data = "numpy-2.4.6.data"
    wheel = make_wheel(
        tmp_path,
        PIN,
        extra={
            f"{data}/purelib/pure.py": b"",
            f"{data}/platlib/native.so": b"elf",
            f"{data}/scripts/f2py": b"#!python",
            f"{data}/headers/h.h": b"",
        },
    )
    found = names(pack([wheel], tmp_path / "t.tar.gz").archive)
    assert {"pure.py", "native.so", "numpy/__init__.py"} <= set(found)
    assert not [name for name in found if "f2py" in name or "h.h" in name or ".data" in name]


def test_private_and_of_nobody(tmp_path: Path) -> None:
    """Files come out private, and the archive names no account of this host."""
    tree = pack([make_wheel(tmp_path, PIN)], tmp_path / "t.tar.gz")
    with tarfile.open(tree.archive) as opened:
        assert {(one.mode, one.uid, one.uname) for one in opened} == {(0o600, 0, "")}


@pytest.mark.parametrize("name", ["../escape.py", "/etc/cron.d/x", "a/../../b", "a\\..\\b"])
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    """A wheel cannot place a file outside of the tree."""
    wheel = make_wheel(tmp_path, PIN, extra={name: b"x"})
    with pytest.raises(WheelsMissing, match="leads out"):
        list(files_of(wheel))


def test_a_changed_file(tmp_path: Path) -> None:
    """A file that is not what the wheel recorded is refused by name."""
    wheel = make_wheel(tmp_path, PIN, source="x = 1\n")
    with zipfile.ZipFile(wheel) as opened:
        files = {name: opened.read(name) for name in opened.namelist()}
    files["numpy/__init__.py"] = b"x = 2\n"
    with zipfile.ZipFile(wheel, "w") as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    with pytest.raises(WheelsMissing, match=r"numpy/__init__\.py does not have the digest"):
        list(files_of(wheel))


def test_a_file_without_record(tmp_path: Path) -> None:
    """A file that the wheel does not record is refused, as is a wheel without a record."""
    wheel = make_wheel(tmp_path, PIN)
    with zipfile.ZipFile(wheel, "a") as opened:
        opened.writestr("sneaky.py", "")
    with pytest.raises(WheelsMissing, match="is not in its RECORD"):
        list(files_of(wheel))
    with pytest.raises(WheelsMissing, match="damaged"):
        list(files_of(make_wheel(tmp_path, PINS[1], records=False)))


@pytest.mark.parametrize("keep", [0, 10, -30])
def test_a_cut_wheel(tmp_path: Path, keep: int) -> None:
    """A wheel that is cut short is refused and named, with what to do."""
    wheel = make_wheel(tmp_path, PIN)
    wheel.write_bytes(wheel.read_bytes()[:keep])
    with pytest.raises(WheelsMissing, match=r"numpy-2\.4\.6.*damaged"):
        list(files_of(wheel))


def test_one_file_of_two_wheels(tmp_path: Path) -> None:
    """Two wheels that both bring a file contradict each other."""
    wheels = [make_wheel(tmp_path, pin, extra={"shared.py": pin.name.encode()}) for pin in PINS]
    with pytest.raises(WheelsMissing, match=r"shared\.py is in two wheels"):
        pack(wheels, tmp_path / "t.tar.gz")
