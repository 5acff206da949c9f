from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from orchestrator.lab import keys, qemu
from orchestrator.lab.errors import LabError
from orchestrator.lab.kinds import KINDS, is_kind_name, kind_of
from orchestrator.lab.layout import BoardState, Lab

STATE = BoardState(name="pi5-virtual", image="image-1", packages="packages-1", port=2222)
FIVE = kind_of("pi5-virtual")


def option(words: list[str], name: str) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == name]


def test_the_only_way_in_is_a_forwarded_loopback_port() -> None:
    """The command line has one network, restricted, with one port of 127.0.0.1 to sshd."""
    words = qemu.argv(FIVE, STATE)
    assert option(words, "-netdev") == [
        "user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:2222-10.0.2.15:22"
    ]
    assert not {"-vnc", "-gdb", "-s", "-spice", "-net", "-nic"} & set(words)
    assert "-nodefaults" in words


def test_every_path_is_relative_to_the_boards_folder() -> None:
    """No absolute path is on the command line: commas in one would be QEMU's separators."""
    assert not [word for word in qemu.argv(FIVE, STATE) if word.startswith("/") or "=/" in word]


def test_kinds_differ_by_their_core() -> None:
    """Each kind emulates its own core, in software even where the host could do better."""
    for name, core in (("pi5-virtual", "cortex-a76"), ("pi3b-virtual-7", "cortex-a53")):
        words = qemu.argv(kind_of(name), STATE)
        assert option(words, "-cpu") == [core]
        assert option(words, "-accel") == ["tcg"]


def test_disks_but_the_boards_own_are_read_only() -> None:
    """A board writes to its overlay; seed and packages cannot be changed by it."""
    drives = option(qemu.argv(FIVE, STATE), "-drive")
    assert [
        ("readonly=on" in drive, drive.split("file=")[1].split(",")[0]) for drive in drives
    ] == [
        (False, "disk.qcow2"),
        (True, "seed.tar"),
        (True, "../../images/packages-1/packages"),
    ]


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (None, []),
        ((7, 2), ["-runas", "nobody"]),
        ((9, 0), ["-runas", "nobody"]),
        ((9, 1), ["-run-with", "user=nobody"]),
        ((10, 0), ["-run-with", "user=nobody"]),
    ],
)
def test_root_gives_up_its_privileges(version: tuple[int, int] | None, expected: list[str]) -> None:
    """Started by root, QEMU becomes another user, in the words of its version."""
    words = qemu.argv(FIVE, STATE, drop_privileges=version)
    assert [word for word in words if "nobody" in word or "-run" in word] == expected


def test_a_clock_can_be_wrong_on_purpose() -> None:
    """A board's clock is the true one unless it is told to start elsewhere."""
    assert "-rtc" not in qemu.argv(FIVE, STATE)
    words = qemu.argv(FIVE, STATE, clock_utc="1970-01-01T00:00:00")
    assert option(words, "-rtc") == ["base=1970-01-01T00:00:00"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright", (7, 2)),
        ("QEMU emulator version 10.0.2", (10, 0)),
        ("QEMU emulator version 9.1", (9, 1)),
        ("something else", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_the_emulators_version_is_read(text: str, expected: tuple[int, int]) -> None:
    """Major and minor version are found in what `--version` says."""
    assert qemu.version_of(text) == expected


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("pi5-virtual", True), ("pi3b-virtual", True), ("pi5-virtual-2", True),
        ("pi3b-virtual-999", True), ("pi5-virtual-0", False), ("pi5-virtual-02", False),
        ("pi5-virtual-", False), ("pi5-virtual-x", False), ("pi5", False), ("pi4-virtual", False),
        ("pi5-virtual\n", False), ("../pi5-virtual", False), ("", False),
    ],
)  # fmt: skip
def test_names_of_virtual_boards(name: str, good: bool) -> None:
    """A board is called as its kind, or that with a number from 1 behind it; nothing else."""
    assert is_kind_name(name) is good


def test_the_kinds_have_names_that_they_accept() -> None:
    """Every shipped kind can be asked for by its own name."""
    assert all(kind_of(name) is kind for name, kind in KINDS.items())


def test_the_seed_makes_a_board_this_one(tmp_path: Path) -> None:
    """The archive has the board's name, its host key for root alone, and who may log in."""
    lab = Lab(tmp_path / "a folder, with % and blanks")
    board = lab.board("pi5-virtual")
    board.path.mkdir(parents=True)
    keys.make_login(lab)
    keys.make_key(board.host_key, "pi5-virtual")
    keys.make_seed(lab, board)
    with tarfile.open(fileobj=io.BytesIO(board.seed.read_bytes())) as archive:
        found = {one.name: (one.mode, one.uid) for one in archive.getmembers()}
        host_key = archive.extractfile("etc/ssh/ssh_host_ed25519_key")
        assert host_key is not None
        assert host_key.read() == board.host_key.read_bytes()
    assert found == {
        "etc/hostname": (0o644, 0),
        "etc/ssh/ssh_host_ed25519_key": (0o600, 0),
        "home/pi/.ssh/authorized_keys": (0o600, 1000),
    }
    assert board.seed.stat().st_mode & 0o777 == 0o600
    assert keys.known_hosts_line(board).startswith("pi5-virtual ssh-ed25519 AAAA")
    assert f'IdentityFile "{lab.login_key}"'.replace("%", "%%") in lab.ssh_config.read_text()


def test_a_key_that_exists_is_kept(tmp_path: Path) -> None:
    """Making a key again changes nothing: boards that know it go on."""
    path = keys.make_key(tmp_path / "key", "test")
    before = path.read_bytes()
    assert keys.make_key(path, "test").read_bytes() == before
    with pytest.raises(LabError, match="ssh-keygen failed"):
        keys.make_key(tmp_path / "no such folder" / "key", "test")
