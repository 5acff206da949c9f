"""What `doctor` makes of a board's clock, heat and power: one pure function a check.

As in agent.checks. The bits are those of the firmware's `get_throttled`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agent.checks import State, check
from agent.wire import Check

STEADY_GOVERNOR: Final = "performance"

SOFT_LIMIT_C: Final = 60.0
HARD_LIMIT_C: Final = 80.0
_SOFT_LIMIT_MODELS: Final = ("Raspberry Pi 3 Model B Plus", "Raspberry Pi 3 Model A Plus")
"""As the device tree names the models with `temp_soft_limit` (60 C unless config.txt has more)."""

_PI: Final = "Raspberry Pi"

UNDER_VOLTAGE: Final = 1 << 0
_HEAT_BITS: Final = {1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
_SLOWED: Final = 0b0110
"""Frequency capped or throttled: the clock is not the board's own any more."""
_SINCE_START: Final = 16
"""Bit n + 16 means that bit n has been set at some time since the board started."""


@dataclass(frozen=True)
class Account:
    """The account that the agent runs as."""

    user: str
    groups: frozenset[str]
    is_root: bool = False


@dataclass(frozen=True)
class Firmware:
    """Raspberry Pi's `vcgencmd`: whether it is installed, and whether it answers."""

    installed: bool
    answers: bool


def governor(names: Sequence[str]) -> Check:
    """`names` are those of all clusters of cores."""
    if not names:
        return check(
            "governor",
            "unknown",
            "this kernel shows none",
            "it takes cpufreq in the kernel; a virtual machine's clock is set by its host",
        )
    found = ", ".join(sorted(set(names)))
    if set(names) == {STEADY_GOVERNOR}:
        return check("governor", "ok", found)
    return check(
        "governor",
        "warn",
        f"{found}: the clock follows the load",
        f"on the board type (needs root, holds until it restarts) `echo {STEADY_GOVERNOR} | "
        f"sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor`",
    )


def power_supply(bits: int | None, alarm: bool | None) -> Check:
    """Under-voltage by the firmware's bits 0 and 16 and by the kernel's alarm (hwmon rpi_volt)."""
    name = "power supply"
    supply = (
        "use the supply that was made for this model (Pi 5: 5.1 V 5 A, Pi 4: 5.1 V 3 A, Pi 3: "
        "5.1 V 2.5 A) and a short cable; unplug what it feeds over USB"
    )
    if alarm or (bits is not None and bits & UNDER_VOLTAGE):
        return check(name, "fail", "under-voltage now: the firmware lowers the clock", supply)
    if bits is None:
        if alarm is None:
            return _unknown_bits(name)
        return check(
            name, "ok", "no under-voltage now (hwmon); since the start of the board: not known"
        )
    if bits & UNDER_VOLTAGE << _SINCE_START:
        said = "under-voltage since the board started, not now"
        return check(name, "warn", said, f"{supply}; a restart clears this")
    return check(name, "ok", "no under-voltage, now and since the board started")


def throttling(bits: int | None) -> Check:
    """The firmware's bits about heat, now (1-3) and since the board started (17-19), in words."""
    name = "throttling"
    if bits is None:
        return _unknown_bits(name)
    now = [words for bit, words in _HEAT_BITS.items() if bits >> bit & 1]
    before = [words for bit, words in _HEAT_BITS.items() if bits >> (bit + _SINCE_START) & 1]
    if not now and not before:
        return check(name, "ok", "none, now and since the board started")
    parts = [f"now: {', '.join(now)}"] if now else []
    parts += [f"since the board started: {', '.join(before)}"] if before else []
    cooling = "a heat sink and a fan, and air around the board"
    if (bits | bits >> _SINCE_START) & UNDER_VOLTAGE:
        cooling = f"first the power supply, which throttles too; then {cooling}"
    state: State = "fail" if bits & _SLOWED else "warn"
    last = "let it cool down" if now else "a restart clears this"
    return check(name, state, f"{'; '.join(parts)} (0x{bits:x})", f"{cooling}; {last}")


def _unknown_bits(name: str) -> Check:
    return check(
        name,
        "unknown",
        "the firmware cannot be asked",
        "it takes a Raspberry Pi whose firmware answers: see the check vcgencmd",
    )


def vcgencmd(firmware: Firmware, account: Account, board_model: str | None) -> Check:
    """Without it throttling, the true clock and power cannot be read."""
    name = "vcgencmd"
    if firmware.answers:
        return check(name, "ok", "answers")
    if not firmware.installed:
        if _PI not in (board_model or ""):
            why = "this is no Raspberry Pi: its throttling cannot be seen"
            return check(name, "unknown", why, "it takes a Raspberry Pi")
        return check(
            name, "warn", "not installed", "on the board type `sudo apt install raspi-utils`"
        )
    if account.is_root or "video" in account.groups:
        return check(
            name, "warn", "does not answer", "on the board `vcgencmd get_throttled` says why"
        )
    return check(
        name,
        "warn",
        f"refused: the account {account.user} is not in the group video",
        f"on the board type `sudo usermod -aG video {shlex.quote(account.user)}`; it holds from "
        f"the next start of the agent, at the latest after `sudo reboot`",
    )


def temperature(temp_c: float | None, board_model: str | None) -> Check:
    """Against the temperature from which the model's firmware lowers the clock."""
    name = "temperature"
    if temp_c is None:
        return check(name, "unknown", "no sensor", "it takes a thermal zone in /sys")
    soft = (board_model or "").startswith(_SOFT_LIMIT_MODELS)
    limit_c = SOFT_LIMIT_C if soft else HARD_LIMIT_C
    found = f"{temp_c:.1f} °C"
    if temp_c <= limit_c:
        return check(name, "ok", found)
    return check(
        name,
        "warn",
        f"{found}, above the {limit_c:.0f} °C from which the clock is lowered",
        "let it cool down; a heat sink and a fan keep it there",
    )
