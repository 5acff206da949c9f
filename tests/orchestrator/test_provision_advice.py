from __future__ import annotations

from orchestrator.provision import advice
from orchestrator.provision.survey import parse

FINE = """\
user=pi
groups=pi video
model=Raspberry Pi 5 Model B
vcgencmd=yes
governor=performance
end=yes
"""


def told(text: str = FINE, *, printed: bool = False) -> list[str]:
    found = parse(text, printed_at_login=printed)
    assert found is not None
    return advice.notes(found, "pi5")


def test_nothing_to_say() -> None:
    """A board that is as it should be gets no advice."""
    assert told() == []


def test_outside_the_group_video() -> None:
    """A user outside the group video is told the command that lets him in."""
    text = FINE.replace("vcgencmd=yes", "vcgencmd=refused")
    (note,) = told(text.replace("pi video", "pi"))
    assert "pi is not in the group video" in note
    assert "`sudo usermod -aG video pi`" in note
    (note,) = told(text)
    assert "usermod" not in note


def test_vcgencmd_is_missing() -> None:
    """A Raspberry Pi without vcgencmd is told what to install; another board is not."""
    (note,) = told(FINE.replace("vcgencmd=yes\n", ""))
    assert "`sudo apt install raspi-utils`" in note
    other = FINE.replace("vcgencmd=yes\n", "").replace("Raspberry Pi 5", "Rock 5")
    assert told(other) == []


def test_governor() -> None:
    """A governor that follows the load comes with the command, and with root where it needs it."""
    (note,) = told(FINE.replace("performance", "ondemand"))
    assert "`echo performance | sudo tee /sys/" in note
    (note,) = told(
        FINE.replace("performance", "ondemand").replace("end=", "governor_writable=yes\nend=")
    )
    assert "`echo performance | tee /sys/" in note
    assert "needs no root" in note


def test_a_login_script_that_prints() -> None:
    """A .bashrc that prints is explained, with the line that quiets it."""
    (note,) = told(printed=True)
    assert "~/.bashrc" in note
