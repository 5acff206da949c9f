"""Which virtual boards there are, by name: no state, no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from orchestrator.errors import UnknownName, nearest
from orchestrator.isa import Isa

LABEL: Final = "virtual"
"""The label of every virtual board."""

_NAME: Final = re.compile(r"(?P<kind>[a-z0-9]+-virtual)(-[1-9][0-9]{0,2})?")


@dataclass(frozen=True)
class Kind:
    """A model of virtual board; `cpu` is QEMU's name of the core."""

    name: str
    cpu: str
    isa: Isa
    stands_for: str


KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("pi5-virtual", "cortex-a76", "aarch64-dotprod", "Raspberry Pi 5"),
            Kind("pi3b-virtual", "cortex-a53", "aarch64", "Raspberry Pi 3B+"),
        )
    }
)
"""QEMU has no Raspberry Pi 5; its machine `virt` with the same core has the same instructions."""


def is_kind_name(name: str) -> bool:
    """Whether a virtual board can be called `name`."""
    match = _NAME.fullmatch(name)
    return match is not None and match["kind"] in KINDS


def kind_of(name: str) -> Kind:
    """The kind of the virtual board `name`: a kind's own name, or that with -2, -3 ... behind it.

    Raises UnknownName, which lists the kinds.
    """
    match = _NAME.fullmatch(name)
    if match is not None and match["kind"] in KINDS:
        return KINDS[match["kind"]]
    near = nearest(name, KINDS)
    guess = f"; did you mean '{near}'?" if near else ""
    known = ", ".join(KINDS)
    raise UnknownName(
        f"no kind of virtual board is called '{name}'{guess} (there are {known}; "
        f"a second one of a kind is {next(iter(KINDS))}-2)"
    )
