"""Runtimes that a board may have beside onnxruntime: what they cost it, and which it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from agent.wire import RUNTIME_PACKAGES
from orchestrator.boards.shell import Shell, run_script
from orchestrator.errors import BoardDiskFull, BoardUnfit
from orchestrator.provision.lock import EXTRAS, Extra
from orchestrator.provision.survey import Survey
from orchestrator.provision.target import Target

_MEBIBYTE: Final = 1 << 20
_GIBIBYTE: Final = 1 << 30

_PRESENT: Final = """
cd "$1/env/current/" 2>/dev/null || exit 0
shift
for name in "$@"; do
  for found in lib/python3*/site-packages/"$name"-*.dist-info; do
    [ -d "$found" ] && echo "has=$name"
  done
done
"""


@dataclass(frozen=True)
class Cost:
    """Of an optional runtime for aarch64: wheels to fetch, room on the card, memory to run."""

    fetch_bytes: int
    disk_bytes: int
    memory_bytes: int


COSTS: Final[dict[Extra, Cost]] = {
    "torch": Cost(148 * _MEBIBYTE, 690 * _MEBIBYTE, 650 * _MEBIBYTE),
    "litert": Cost(15 * _MEBIBYTE, 51 * _MEBIBYTE, 55 * _MEBIBYTE),
}
"""By the versions in the locks as they were packed for Python 3.11 and 3.13, with a fifth for byte
code; memory with a small model on x86-64 (torch: its CUDA build, so an upper bound)."""


def consider(
    survey: Survey,
    target: Target,
    wanted: Iterable[Extra],
    board: str,
    say: Callable[[str], None],
) -> None:
    """Say what runtimes cost before anything is fetched.

    Raises BoardUnfit where there is no build of one for the board, BoardDiskFull where its disk
    cannot hold them in any case.
    """
    chosen = tuple(wanted)
    if "torch" in chosen and target.machine != "aarch64":
        raise BoardUnfit(
            f"the package index has torch for {target.machine} with CUDA's libraries only (some "
            f"gigabytes); install a CPU build into a Python of your own and name it with `python:` "
            f"in the inventory",
            board,
        )
    for name in chosen:
        cost = COSTS[name]
        say(
            f"runtime {name}: about {cost.fetch_bytes // _MEBIBYTE} MiB to push and "
            f"{cost.disk_bytes // _MEBIBYTE} MiB on the card"
        )
        if survey.memory_bytes is not None and _scarce(survey.memory_bytes, cost):
            say(
                f"note: {name} alone takes up to {cost.memory_bytes // _MEBIBYTE} MiB of memory, "
                f"and this board has {survey.memory_bytes // _MEBIBYTE}: large models will not fit"
            )
    needed = sum(COSTS[name].disk_bytes + COSTS[name].fetch_bytes for name in chosen)
    if chosen and survey.free_bytes is not None and survey.free_bytes < needed:
        raise BoardDiskFull(
            f"{survey.free_bytes // _MEBIBYTE} MiB are free where {survey.home} lies, and the "
            f"runtimes {', '.join(chosen)} need about {needed // _MEBIBYTE} MiB while they are "
            f"unpacked; free some space, or set `home:` in the inventory to another disk",
            board,
        )


def _scarce(memory_bytes: int, cost: Cost) -> bool:
    """A Pi 3B+ with its 1 GB, less what the firmware keeps, where a third would be gone."""
    return memory_bytes <= _GIBIBYTE and cost.memory_bytes * 3 > memory_bytes


def present(shell: Shell, home: str) -> tuple[Extra, ...]:
    """The runtimes of the environment that the board uses now."""
    names = {_wheel_name(RUNTIME_PACKAGES[extra]): extra for extra in EXTRAS}
    said = run_script(shell, _PRESENT, home, *names).stdout.split()
    found = {names[word[4:]] for word in said if word.startswith("has=") and word[4:] in names}
    return tuple(extra for extra in EXTRAS if extra in found)


def _wheel_name(package: str) -> str:
    """As the folder of its metadata is called."""
    return package.replace("-", "_")
