"""Where things lie: the inventory, and beside it the database and the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.errors import InventoryError

INVENTORY: Final = "inventory.yaml"
DATABASE: Final = "results.sqlite"
CACHE: Final = ".orchestrator"
KNOWN_HOSTS: Final = "known_hosts"


@dataclass(frozen=True)
class Workspace:
    """The folder of an inventory; nothing in it is created here."""

    inventory: Path

    @property
    def root(self) -> Path:
        """The folder that holds the inventory."""
        return self.inventory.parent

    @property
    def database(self) -> Path:
        """The database that runs are stored in unless `--db` names another."""
        return self.root / DATABASE

    @property
    def cache(self) -> Path:
        """Artifacts, generated images and other things that can be made again."""
        return self.root / CACHE

    @property
    def data(self) -> Path:
        """Generated data sets."""
        return self.cache / "data"

    @property
    def models(self) -> Path:
        """The built artifacts, named by digest."""
        return self.cache / "models"

    @property
    def lab(self) -> Path:
        """The virtual boards."""
        return self.cache / "lab"

    @property
    def lab_inventory(self) -> Path:
        """The virtual boards as an inventory, written by `orchestrator lab` alone."""
        return self.lab / INVENTORY

    @property
    def wheels(self) -> Path:
        """Packages for boards, by kind of board."""
        return self.cache / "wheels"

    @property
    def known_hosts(self) -> Path:
        """The host keys of boards, by board name; ssh and fabric trust no others."""
        return self.cache / KNOWN_HOSTS


def find(start: Path, inventory: Path | None = None) -> Workspace:
    """The workspace of `inventory`, or else of the nearest inventory.yaml from `start` upward.

    Raises InventoryError, which says how to make one.
    """
    if inventory is not None:
        path = start / inventory.expanduser()
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "no file"
            raise InventoryError(f"--inventory: {path} is {kind}; expected a YAML file")
        return Workspace(path.resolve())
    folder = start.resolve()
    for candidate in (folder, *folder.parents):
        if (candidate / INVENTORY).is_file():
            return Workspace(candidate / INVENTORY)
    raise InventoryError(
        f"no {INVENTORY} in {folder} or above it; make one that holds this machine with:\n"
        f"  printf 'boards:\\n  local:\\n    local: true\\n' > {INVENTORY}\n"
        "or name one with --inventory"
    )
