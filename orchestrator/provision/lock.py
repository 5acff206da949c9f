"""agent/requirements.lock: what a board gets, exactly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from typing import Final

from orchestrator.errors import WheelsMissing

_LINE: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.+!_-]*)")


@dataclass(frozen=True)
class Pin:
    """One distribution and its only version; `name` is normalised as package indexes do it."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def shipped_pins() -> tuple[Pin, ...]:
    """The pins of this version's lock."""
    return parse((resources.files("agent") / "requirements.lock").read_text())


def parse(text: str) -> tuple[Pin, ...]:
    """The pins of a lock; raises WheelsMissing for a line that is no plain NAME==VERSION."""
    pins = []
    for number, line in enumerate(text.splitlines(), start=1):
        stated = line.partition("#")[0].strip()
        if not stated:
            continue
        found = _LINE.fullmatch(stated)
        if found is None:
            raise WheelsMissing(
                f"agent/requirements.lock, line {number}: expected NAME==VERSION without markers, "
                f"found '{stated}'"
            )
        pins.append(Pin(normalised(found[1]), found[2]))
    return tuple(pins)


def normalised(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
