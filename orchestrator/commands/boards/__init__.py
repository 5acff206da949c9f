"""`orchestrator boards`: the boards of the inventory, from a bare login to one that measures.

One file a subcommand; each is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import click

from orchestrator.lazygroup import LazyGroup

if TYPE_CHECKING:
    from agent.wire import BenchError
    from orchestrator.inventory import BoardEntry, Inventory
    from orchestrator.workspace import Workspace

SUBCOMMANDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "list": "Show the boards of the inventory; --probe contacts them.",
        "trust": "Show a board's host key and record it; --copy-key puts your key there.",
        "provision": "Make a bare board one that measures; without root and internet.",
        "check": "Have boards examine themselves: can they be trusted now?",
        "remove": "Stop the agent and remove all that was put on a board.",
    }
)
"""Name and one-line help of every subcommand; the module has the subcommand's name."""


@click.group("boards", cls=LazyGroup, lines=SUBCOMMANDS, package=__name__)
def command() -> None:
    """List, trust, provision, check and clean the boards of the inventory."""


def opened(inventory: Path | None) -> tuple[Workspace, Inventory]:
    """The workspace of `--inventory` or of this folder, and its inventory."""
    from orchestrator import inventory as inventories  # noqa: PLC0415 - keeps --help fast
    from orchestrator import workspace  # noqa: PLC0415 - keeps --help fast

    place = workspace.find(Path.cwd(), inventory)
    return place, inventories.load(place.inventory)


def where(entry: BoardEntry) -> str:
    """How a board is reached, for a person."""
    if entry.kind == "local":
        return "this machine"
    user = f"{entry.user}@" if entry.user else ""
    port = f":{entry.port}" if entry.port else ""
    return f"{user}{entry.target}{port}" + (f" through {entry.jump}" if entry.jump else "")


def fail_together(errors: Sequence[BenchError]) -> None:
    """Raise one error for those of several boards: of their class where they share one."""
    from orchestrator.errors import RunIncomplete  # noqa: PLC0415 - keeps --help fast

    if not errors:
        return
    words = "\n".join(str(error) for error in errors)
    kinds = {type(error) for error in errors}
    raise (kinds.pop() if len(kinds) == 1 else RunIncomplete)(words)
