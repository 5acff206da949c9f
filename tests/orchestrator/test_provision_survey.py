from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest

from orchestrator.boards.shell import LocalShell
from orchestrator.errors import BoardUnfit, TransferFailed
from orchestrator.provision import survey
from orchestrator.provision.target import Target

PI5 = """\
home=/home/pi/.orchestrator
bits=64
machine=aarch64
libc=glibc 2.36
os=Debian GNU/Linux 12 (bookworm)
hostname=raspberrypi
machine_id=00112233445566778899aabbccddeeff
model=Raspberry Pi 5 Model B Rev 1.0
serial=1234567890abcdef
user=pi
groups=pi adm sudo video
free_kib=20000000
writable=yes
vcgencmd=yes
governor=ondemand
user_manager=yes
python=3.11.2 64 cpython /usr/bin/python3.11
end=yes
"""


def answers(text: str = PI5, **changes: str | None) -> survey.Survey:
    """A board's answers with some of them changed, or left out where None."""
    lines = []
    for line in text.splitlines():
        name = line.partition("=")[0]
        if name not in changes:
            lines.append(line)
        elif (value := changes[name]) is not None:
            lines += [f"{name}={one}" for one in value.split("\n")]
    lines[-1:-1] = [
        f"{name}={value}" for name, value in changes.items()
        if value is not None and f"\n{name}=" not in f"\n{text}"
    ]  # fmt: skip
    found = survey.parse("\n".join(lines))
    assert found is not None
    return found


def test_a_fit_board_gets_a_target() -> None:
    """A 64-bit bookworm board is taken, with its own Python and C library as the target."""
    target, python = survey.target_of(answers(), "pi5")
    assert target == Target("aarch64", (3, 11), (2, 36))
    assert python.path == "/usr/bin/python3.11"
    assert answers().free_bytes == 20_000_000 * 1024


def test_this_machine_answers_the_script(tmp_path: Path) -> None:
    """The script runs in this machine's sh and tells what Python itself knows."""
    home = tmp_path / "deep" / "home"
    found = survey.ask(LocalShell("here"), "here", str(home))
    assert found.home == str(home)
    assert found.machine == platform.machine()
    assert found.libc == os.confstr("CS_GNU_LIBC_VERSION")
    assert found.writable
    assert sys.version_info[:2] in {python.version[:2] for python in found.pythons}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bits": "32"}, ["32 bits although its kernel has 64", "64-bit Raspberry Pi OS"]),
        ({"bits": "32", "machine": "armv7l"}, ["has 32 bits, and", "Raspberry Pi 3"]),
        ({"machine": "riscv64"}, ["'riscv64'", "aarch64 and x86_64"]),
        ({"libc": "musl libc (aarch64)"}, ["musl", "glibc"]),
        ({"libc": None}, ["C library is unknown"]),
        ({"python": "3.9.2 64 cpython /usr/bin/python3.9"}, ["3.9.2 is too old", "bookworm"]),
        ({"python": None}, ["no python3", "apt install python3"]),
        ({"python": "3.11.2 32 cpython /usr/bin/python3"}, ["has 32 bits"]),
        ({"python": "3.13.5 64 cpythont /usr/bin/python3.13t"}, ["cpythont"]),
        ({"python": "3.11.9 64 pypy /usr/bin/pypy3"}, ["pypy"]),
        ({"writable": "no"}, ["pi may not write there", "home:"]),
        ({"noexec": "yes"}, ["noexec", "home:"]),
    ],
)
def test_refusals(changes: dict[str, str | None], words: list[str]) -> None:
    """A board that can never measure is refused with the reason and the way out."""
    with pytest.raises(BoardUnfit) as refused:
        survey.target_of(answers(**changes), "pi5")
    for word in ["pi5: ", *words]:
        assert word in str(refused.value)


def test_another_python_is_taken_where_python3_is_too_old() -> None:
    """The board's python3 comes first; where it is too old, the newest other one."""
    old = "3.9.2 64 cpython /usr/bin/python3.9"
    two = "3.11.4 64 cpython /opt/python3.11\n3.13.1 64 cpython /opt/python3.13"
    assert survey.target_of(answers(python=f"{old}\n{two}"), "pi5")[0].python == (3, 13)
    first = "3.11.2 64 cpython /usr/bin/python3.11\n3.13.1 64 cpython /opt/python3.13"
    assert survey.target_of(answers(python=first), "pi5")[0].python == (3, 11)


@pytest.mark.parametrize(
    "python",
    [
        "3.11.2 64 cpython relative/python3",
        "3.11 64 cpython /usr/bin/python3",
        "3.11.2 64 cpython",
        "99999999.1.1 64 cpython /usr/bin/python3",
        "\x1b[2J",
    ],
)
def test_nonsense_about_pythons(python: str) -> None:
    """A line about a Python that makes no sense is as good as none."""
    assert answers(python=python).pythons == ()


@pytest.mark.parametrize("libc", ["glibc 2.36", "glibc 2.36.1"])
def test_glibc(libc: str) -> None:
    """The version of glibc is read as two numbers."""
    assert answers(libc=libc).glibc == (2, 36)


def test_figures_that_are_none() -> None:
    """What is no number is unknown, and long values are cut."""
    found = answers(free_kib="many", bits="sixty-four", hostname="h" * 5000)
    assert found.free_bytes is None
    assert found.bits is None
    assert len(found.hostname) == 300


def test_a_cut_answer() -> None:
    """An answer without its last line is no answer."""
    assert survey.parse(PI5.removesuffix("end=yes\n")) is None
    assert survey.parse("") is None


def test_a_shell_that_fails(tmp_path: Path) -> None:
    """A board whose shell cannot run the script is an error with its own words."""
    broken = tmp_path / "sh"
    broken.write_text("#!/bin/sh\necho 'sh: out of memory' >&2\nexit 3\n")
    broken.chmod(0o755)
    shell = LocalShell("pi5", {"PATH": str(tmp_path)})
    with pytest.raises(TransferFailed, match=r"exit code 3\): sh: out of memory"):
        survey.ask(shell, "pi5", "/home/pi/.orchestrator")


def test_a_login_script_that_prints(tmp_path: Path) -> None:
    """What a login script prints first is told apart from the answer, and remembered."""

    class Chatty(LocalShell):
        def feed(self, command, chunks, timeout_s=60.0):  # type: ignore[no-untyped-def]
            return super().feed(f"echo 'Welcome!'; echo bits=16; {command}", chunks, timeout_s)

    found = survey.ask(Chatty("here"), "here", str(tmp_path))
    assert found.printed_at_login
    assert found.bits == 64
