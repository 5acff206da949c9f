"""Which wheels a board can use: its processor, its Python and its C library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OLDEST_GLIBC: Final = {"aarch64": (2, 17), "x86_64": (2, 5)}
"""The first glibc that any manylinux policy names, by machine (PEP 600); others have no wheels."""

_ALIASES: Final = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}


@dataclass(frozen=True)
class Target:
    """A kind of board, as far as wheels are concerned; versions are (major, minor)."""

    machine: str
    python: tuple[int, int]
    glibc: tuple[int, int]

    @property
    def python_tag(self) -> str:
        """Such as 'cp311'."""
        return f"cp{self.python[0]}{self.python[1]}"

    @property
    def library(self) -> str:
        """Where its packages lie below an environment."""
        return f"lib/python{self.python[0]}.{self.python[1]}/site-packages"

    def __str__(self) -> str:
        python, glibc = (".".join(map(str, version)) for version in (self.python, self.glibc))
        return f"Python {python}, {self.machine}, glibc {glibc}"


def platform_tags(machine: str, glibc: tuple[int, int]) -> tuple[str, ...]:
    """Every manylinux tag that a board with this glibc can use, newest first.

    All are needed: pip takes a wheel only if one of its tags is named, and silently resolves to
    an older version where none is. None is newer than the board's glibc.
    """
    major, newest = glibc
    oldest = OLDEST_GLIBC[machine]
    tags = []
    for minor in range(newest, oldest[1] - 1, -1):
        tags.append(f"manylinux_{major}_{minor}_{machine}")
        if (alias := _ALIASES.get((major, minor))) is not None:
            tags.append(f"{alias}_{machine}")
    return tuple(tags)
