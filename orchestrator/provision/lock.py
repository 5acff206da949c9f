"""agent/requirements*.lock: what a board gets, exactly."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Final, Literal, get_args

from orchestrator.errors import WheelsMissing, unknown_name

_LINE: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.+!_-]*)")


@dataclass(frozen=True)
class Pin:
    """One distribution and its only version; `name` is normalised as package indexes do it."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


Extra = Literal["torch", "litert"]
"""A runtime that a board may have beside onnxruntime."""
EXTRAS: Final[tuple[Extra, ...]] = get_args(Extra)

_BASE: Final = "requirements.lock"


def lock_name(extra: Extra) -> str:
    """The file in `agent/` with an optional runtime's pins."""
    return f"requirements-{extra}.lock"


def extras_of(text: str) -> tuple[Extra, ...]:
    """Runtimes named as `torch,litert`, each once, in the order of EXTRAS; raises UnknownName."""
    wanted = {name.strip() for name in text.split(",") if name.strip()} - {"onnxruntime"}
    for name in sorted(wanted - set(EXTRAS)):
        raise unknown_name("runtime", name, EXTRAS)
    return tuple(extra for extra in EXTRAS if extra in wanted)


def shipped_pins(extras: Iterable[Extra] = ()) -> tuple[Pin, ...]:
    """The pins of this version's lock, and those of the runtimes `extras`."""
    names = (_BASE, *map(lock_name, extras))
    texts = ((resources.files("agent") / name).read_text() for name in names)
    return tuple(pin for name, text in zip(names, texts, strict=True) for pin in parse(text, name))


def parse(text: str, name: str = _BASE) -> tuple[Pin, ...]:
    """The pins of a lock; raises WheelsMissing for a line that is no plain NAME==VERSION."""
    pins = []
    for number, line in enumerate(text.splitlines(), start=1):
        stated = line.partition("#")[0].strip()
        if not stated:
            continue
        found = _LINE.fullmatch(stated)
        if found is None:
            raise WheelsMissing(
                f"agent/{name}, line {number}: expected NAME==VERSION without markers, "
                f"found '{stated}'"
            )
        pins.append(Pin(normalised(found[1]), found[2]))
    return tuple(pins)


def normalised(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
