"""How much of a network lies in each of its sections."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Mapping

from models.figures import OTHER, Section
from models.nets.arch import Arch
from models.nets.registry import FAMILIES

Prefixes = Mapping[str, tuple[str, ...]]
"""Beginnings of module names by section, in the network's order."""


def prefixes(arch: Arch) -> Prefixes:
    """The sections of a network."""
    found: Prefixes = importlib.import_module(FAMILIES[arch.family].module).sections(arch)
    return found


def by_section(counts: Mapping[str, int], sections: Prefixes) -> dict[str, int]:
    """Sums of what is counted by the names of modules or their tensors."""
    sums: dict[str, int] = defaultdict(int)
    for name, count in counts.items():
        sums[_section(name, sections)] += count
    return sums


def shares(
    sections: Prefixes,
    parameters: Mapping[str, int],
    weight_bytes: Mapping[str, int] | None,
    macs: Mapping[str, int],
) -> tuple[Section, ...]:
    """A Section for each of the network's, and one for what lies in none where something does.

    All are by section; `weight_bytes` is None where the file does not tell.
    """
    known = {} if weight_bytes is None else weight_bytes
    return tuple(
        Section(
            name,
            parameters.get(name, 0),
            None if weight_bytes is None else known.get(name, 0),
            macs.get(name, 0),
        )
        for name in (*sections, OTHER)
        if name != OTHER or any(counts.get(name) for counts in (parameters, known, macs))
    )


def _section(name: str, sections: Prefixes) -> str:
    for section, beginnings in sections.items():
        if any(name == begin or name.startswith(f"{begin}.") for begin in beginnings):
            return section
    return OTHER
