"""inventory.yaml: which boards there are and how they are reached."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from orchestrator import yamlfile
from orchestrator.builders.entry import BuilderDoc, BuilderEntry, entry_of
from orchestrator.errors import InventoryError, UnknownName, unknown_name
from orchestrator.isa import Isa
from orchestrator.lab.kinds import is_kind_name
from orchestrator.workspace import Workspace

DEFAULT_HOME: Final = "~/.orchestrator"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]*")
_HOST: Final = re.compile(r"[A-Za-z0-9_:\[][A-Za-z0-9_.:%\[\]-]*")
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")
_JUMP: Final = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9_.:%@\[\]+-]*")
_REMOTE_PATH: Final = re.compile(r"[A-Za-z0-9_./~][A-Za-z0-9_./+@-]*")


@dataclass(frozen=True)
class BoardEntry:
    """How one board is reached. An `ssh` board has `address`, `ssh_alias`, or both.

    `ssh_alias` is a Host of the user's ssh config and wins over `address`; what is None is left
    to ssh. `home` is the agent's directory on the board; its `~` is the board user's.
    `python` always wins where it is set; None, for an ssh board, means the interpreter that
    `boards provision` made below `home`, or else the board's `python3`.
    `lock` is the file of the board-wide lease where the agent's own choice does not serve (two
    containers that are one board, or one machine that plays several).
    `threads` and `arch` are what a plan assumes: None means all cores, and what the board says.
    A `lab` board is a virtual one of `orchestrator lab`, with an `ssh_config` of its own that
    stands for the inventory's.
    """

    name: str
    kind: Literal["local", "ssh"]
    address: str | None = None
    port: int | None = None
    user: str | None = None
    ssh_alias: str | None = None
    jump: str | None = None
    labels: tuple[str, ...] = ()
    python: str | None = None
    home: str = DEFAULT_HOME
    lock: str | None = None
    threads: int | None = None
    arch: Isa | None = None
    ssh_config: Path | None = None
    lab: bool = False

    @property
    def target(self) -> str:
        """What ssh is told to connect to; 'localhost' for a local board."""
        return self.ssh_alias or self.address or "localhost"


@dataclass(frozen=True)
class Inventory:
    """The boards by name, in the file's order, then virtual ones.

    `ssh_config` is a file for `ssh -F`.
    """

    path: Path
    boards: Mapping[str, BoardEntry]
    default_experiment: str | None = None
    ssh_config: Path | None = None
    builders: Mapping[str, BuilderEntry] = field(default_factory=dict)


class _BoardDoc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One board as it is written in the file."""

    local: bool = False
    address: str | None = None
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    user: str | None = None
    ssh_alias: str | None = None
    jump: str | None = None
    labels: tuple[str, ...] = ()
    python: str | None = None
    home: str = DEFAULT_HOME
    lock: str | None = None
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)] | None = None
    arch: Isa | None = None

    def __post_init__(self) -> None:
        """Raises ValueError, which yamlfile gives a place."""
        remote = ("address", "port", "user", "ssh_alias", "jump")
        if self.local:
            for field in remote:
                if getattr(self, field) is not None:
                    raise ValueError(f"{field}: a board with 'local: true' has no {field}")
        elif self.address is None and self.ssh_alias is None:
            raise ValueError("expected 'address: HOST', 'ssh_alias: NAME' or 'local: true'")
        _check_address(self.address)
        _check("ssh_alias", self.ssh_alias, _HOST, "a Host of your ssh config")
        _check("user", self.user, _USER, "a user name")
        for hop in self.jump.split(",") if self.jump is not None else ():
            _check("jump", hop, _JUMP, "[user@]host[:port], several after commas")
        _check_paths(self.python, self.home, self.lock)
        for label in self.labels:
            _check("labels", label, _NAME, "names of a-z, 0-9, '.', '_' and '-'")


class _InventoryDoc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    boards: dict[str, _BoardDoc]
    default_experiment: str | None = None
    ssh_config: str | None = None
    builders: dict[str, BuilderDoc] = {}

    def __post_init__(self) -> None:
        """Raises ValueError, which yamlfile gives a place."""
        if not self.boards:
            raise ValueError("boards: expected at least one board")
        for name in self.boards:
            if name == "all":
                raise ValueError("boards: a board cannot be called 'all', which means every board")
            _check("boards", name, _NAME, "names of a-z, 0-9, '.', '_' and '-'")
        for name in self.builders:
            _check("builders", name, _NAME, "names of a-z, 0-9, '.', '_' and '-'")


def load(path: Path) -> Inventory:
    """Read an inventory and the virtual boards beside it.

    Raises InventoryError with file, line, field, found and expected.
    """
    own = load_own(path)
    listed = Workspace(path).lab_inventory
    if not listed.is_file():
        return own
    virtual = load_own(listed)
    for name in virtual.boards:
        if name in own.boards:
            raise InventoryError(
                f"{path}: boards.{name}: a virtual board has this name; rename the board here, or "
                f"delete that one with `orchestrator lab remove {name}`"
            )
    marked = {
        name: replace(board, lab=True, ssh_config=virtual.ssh_config)
        for name, board in virtual.boards.items()
    }
    return replace(own, boards={**own.boards, **marked})


def load_own(path: Path) -> Inventory:
    """Read one inventory file alone; raises as `load`."""
    doc = yamlfile.load(path, _InventoryDoc, InventoryError)
    boards = {name: _entry(name, board) for name, board in doc.boards.items()}
    ssh_config = None
    if doc.ssh_config is not None:
        ssh_config = path.parent / Path(doc.ssh_config).expanduser()
        if not ssh_config.is_file():
            raise InventoryError(f"{path}: ssh_config: there is no file {ssh_config}")
    builders = {name: entry_of(name, one, path.parent) for name, one in doc.builders.items()}
    return Inventory(path, boards, doc.default_experiment, ssh_config, builders)


def select(inventory: Inventory, selection: str) -> tuple[BoardEntry, ...]:
    """The boards of a selection such as "pi5,label:lab,all": in its order, each once.

    `all` leaves virtual boards out: whoever wants them says so by name or label.
    Raises UnknownName for a name or label that no board has, and for an empty selection.
    """
    chosen: dict[str, BoardEntry] = {}
    for item in (part.strip() for part in selection.split(",")):
        if item:
            chosen |= {board.name: board for board in _matching(inventory, item)}
    if not chosen:
        known = ", ".join(inventory.boards)
        raise UnknownName(f"no boards are named in '{selection}' (known: {known})")
    return tuple(chosen.values())


def _matching(inventory: Inventory, item: str) -> tuple[BoardEntry, ...]:
    boards = tuple(inventory.boards.values())
    if item == "all":
        return tuple(board for board in boards if not board.lab)
    if item.startswith("label:"):
        label = item.removeprefix("label:")
        found = tuple(board for board in boards if label in board.labels)
        if not found:
            raise unknown_name("label", label, {one for board in boards for one in board.labels})
        return found
    if item not in inventory.boards:
        if is_kind_name(item):
            raise UnknownName(f"no board '{item}' yet; start it with `orchestrator lab up {item}`")
        raise unknown_name("board", item, inventory.boards)
    return (inventory.boards[item],)


def _entry(name: str, doc: _BoardDoc) -> BoardEntry:
    return BoardEntry(
        name=name,
        kind="local" if doc.local else "ssh",
        address=doc.address,
        port=doc.port,
        user=doc.user,
        ssh_alias=doc.ssh_alias,
        jump=doc.jump,
        labels=doc.labels,
        python=doc.python or (sys.executable if doc.local else None),
        home=doc.home,
        lock=doc.lock,
        threads=doc.threads,
        arch=doc.arch,
    )


def _check(field: str, value: str | None, allowed: re.Pattern[str], expected: str) -> None:
    """Refuse what a command line or a remote shell could take for something else."""
    if value is not None and not allowed.fullmatch(value):
        raise ValueError(f"{field}: expected {expected}, found '{value}'")


def _check_address(address: str | None) -> None:
    if address is None:
        return
    if "@" in address:
        raise ValueError(f"address: expected a host without a user, found '{address}'; use 'user:'")
    if address.count(":") == 1:
        raise ValueError(f"address: expected a host without a port, found '{address}'; use 'port:'")
    _check("address", address, _HOST, "a host name or an IP address")


def _check_paths(python: str | None, home: str, lock: str | None) -> None:
    _check("python", python, _REMOTE_PATH, "a command or a path without spaces")
    _check("lock", lock, _REMOTE_PATH, "a path without spaces")
    _check("home", home, _REMOTE_PATH, "a path without spaces")
    if not home.startswith(("/", "~/")):
        raise ValueError(f"home: expected a path that starts with '/' or '~/', found '{home}'")
