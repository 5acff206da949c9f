from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.boards.shell import LocalShell
from orchestrator.errors import TransferFailed
from orchestrator.provision import service
from orchestrator.provision.service import Service
from orchestrator.provision.survey import Survey, parse

SYSTEMCTL = """#!/bin/sh
echo "$*" >> "$HOME/calls"
case "$*" in *is-active*) [ -e "$HOME/active" ];; *restart*) touch "$HOME/active";;
*disable*) rm -f "$HOME/active";; esac
"""

HOME = "/home/pi/.orchestrator"
PI5 = Service(
    home=HOME,
    python=f"{HOME}/env/0123456789ab/bin/python3",
    bundle=f"{HOME}/bundles/ba9876543210",
    extra=("--lock", "~/my $lock%"),
)


def surveyed(*lines: str) -> Survey:
    found = parse("\n".join([*lines, "end=yes"]))
    assert found is not None
    return found


@pytest.fixture
def shell(tmp_path: Path) -> LocalShell:
    """A shell whose systemctl writes down what it is told."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "systemctl").write_text(SYSTEMCTL)
    (programs / "systemctl").chmod(0o755)
    return LocalShell("pi5", {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path)})


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text().splitlines()


def test_the_unit() -> None:
    """The unit runs this version by its own path, never idle, private, with /sys in view."""
    lines = service.unit_text(PI5).splitlines()
    assert (
        f'ExecStart="{HOME}/env/0123456789ab/bin/python3" "-I" "{HOME}/bundles/ba9876543210" '
        f'"serve" "--home" "{HOME}" "--idle-s" "inf" "--lock" "%h/my $$lock%%"'
    ) in lines
    assert {"UMask=0077", "Restart=on-failure", "WantedBy=default.target"} <= set(lines)
    assert not [line for line in lines if line.startswith("Protect")]


def test_install_and_remove(shell: LocalShell, tmp_path: Path) -> None:
    """The unit is written, enabled and started; afterwards nothing of it is left."""
    assert not service.installed(shell, HOME)
    name = service.install(shell, "pi5", PI5)
    unit = tmp_path / ".config/systemd/user" / name
    assert unit.read_text() == service.unit_text(PI5)
    assert calls(tmp_path) == [
        "--user daemon-reload", f"--user enable --quiet {name}", f"--user restart {name}",
    ]  # fmt: skip
    assert service.installed(shell, HOME)
    assert service.in_use(shell, PI5)
    assert service.remove(shell, "pi5", HOME)
    assert not unit.exists()
    assert not (tmp_path / ".config/systemd").exists()
    assert f"--user disable --quiet --now {name}" in calls(tmp_path)
    assert not service.remove(shell, "pi5", HOME)


def test_another_unit_is_not_ours(shell: LocalShell, tmp_path: Path) -> None:
    """A unit with other contents, or one that does not run, is not in use."""
    name = service.install(shell, "pi5", PI5)
    (tmp_path / ".config/systemd/user" / name).write_text("[Unit]\n")
    assert not service.in_use(shell, PI5)
    service.install(shell, "pi5", PI5)
    (tmp_path / "active").unlink()
    assert not service.in_use(shell, PI5)


def test_units_of_others_stay(shell: LocalShell, tmp_path: Path) -> None:
    """Removing the unit leaves the user's other units alone."""
    service.install(shell, "pi5", PI5)
    other = tmp_path / ".config/systemd/user/mine.service"
    other.touch()
    service.remove(shell, "pi5", HOME)
    assert other.exists()


def test_a_unit_that_cannot_start(shell: LocalShell, tmp_path: Path) -> None:
    """What systemctl says against the unit is the error's message."""
    program = tmp_path / "bin" / "systemctl"
    program.write_text("#!/bin/sh\necho 'Unit is masked.' >&2\nexit 1\n")
    with pytest.raises(TransferFailed, match="Unit is masked"):
        service.install(shell, "pi5", PI5)


def test_linger_is_explained() -> None:
    """A unit needs linger, and the command names the user; where it is on, nothing is said."""
    note = service.linger_note(surveyed("user=pi", "user_manager=yes"))
    assert note is not None
    assert "`sudo loginctl enable-linger pi`" in note
    assert service.linger_note(surveyed("user=pi", "linger=yes")) is None


def test_without_systemd() -> None:
    """A board without a user manager is told that the agent starts on demand."""
    reason = service.unavailable(surveyed("user=pi"), "pi5")
    assert reason is not None
    assert "on demand" in reason
    assert service.unavailable(surveyed("user_manager=yes"), "pi5") is None
