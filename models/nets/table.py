"""Program: the table of networks in docs/zoo.md. `--write` puts it there, `--check` compares.

Counts come from the networks themselves, built without memory for their weights.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch

from models.nets import parts
from models.nets.arch import Arch
from models.nets.registry import FAMILIES
from models.nets.work import count_macs

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "zoo.md"
_BEGIN: Final = "<!-- table: python -m models.nets.table --write -->\n"
_END: Final = "<!-- end of table -->\n"
_HEAD: Final = (
    "| network | input px | parameters | GMACs | share of the parameters |",
    "|---|---|---|---|---|",
)


def rows() -> Iterator[str]:
    """One line of the table a family that can be named."""
    for family in FAMILIES.values():
        if family.described:
            continue
        arch = Arch(
            family=family.name,
            options=dict(family.options),
            imgsz_px=family.imgsz_px,
            class_names=(),
        )
        code = importlib.import_module(family.module)
        with torch.device("meta"):
            module = code.build(arch).eval()
        sizes = {name: value.numel() for name, value in module.named_parameters()}
        total = sum(sizes.values())
        sections = code.sections(arch)
        sums = parts.by_section(sizes, sections)
        shares = ", ".join(f"{section} {sums[section] / total:.1%}" for section in sections)
        gmacs = count_macs(module, family.imgsz_px) / 1e9
        yield f"| {family.name} | {family.imgsz_px} | {total:,} | {gmacs:.2f} | {shares} |"


def written(text: str) -> str:
    """A document with the table renewed; raises ValueError where its marks are missing."""
    before, begin, rest = text.partition(_BEGIN)
    _old, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{DOCUMENT}: no place for the table; it lies between {_BEGIN}and {_END}")
    return before + begin + "\n".join((*_HEAD, *rows())) + "\n" + end + after


def main() -> int:
    """Write or check the document; 1 where it is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="renew the table")
    parser.add_argument("--check", action="store_true", help="compare only (the default)")
    given = parser.parse_args()
    text = DOCUMENT.read_text()
    renewed = written(text)
    if given.write:
        DOCUMENT.write_text(renewed)
    elif renewed != text:
        sys.stderr.write(f"{DOCUMENT} is out of date: python -m models.nets.table --write\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
