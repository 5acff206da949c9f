from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from orchestrator import inventory, workspace
from orchestrator.errors import InventoryError


def test_the_nearest_inventory_upward_is_found(tmp_path: Path) -> None:
    """From a folder below, the nearest inventory.yaml decides, not one further up."""
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "inventory.yaml").touch()
    assert workspace.find(below).root == tmp_path
    (tmp_path / "a" / "inventory.yaml").touch()
    assert workspace.find(below).root == tmp_path / "a"


def test_a_folder_of_that_name_is_no_inventory(tmp_path: Path) -> None:
    """A folder called inventory.yaml is passed over."""
    (tmp_path / "a" / "inventory.yaml").mkdir(parents=True)
    (tmp_path / "inventory.yaml").touch()
    assert workspace.find(tmp_path / "a").root == tmp_path


def test_database_cache_and_host_keys_lie_beside_the_inventory(tmp_path: Path) -> None:
    """What a run writes is found beside the inventory, and finding it creates nothing."""
    (tmp_path / "inventory.yaml").touch()
    found = workspace.find(tmp_path)
    assert found.database == tmp_path / "results.sqlite"
    assert found.cache == tmp_path / ".orchestrator"
    assert found.known_hosts == tmp_path / ".orchestrator" / "known_hosts"
    assert [path.name for path in tmp_path.iterdir()] == ["inventory.yaml"]


def test_a_named_inventory_wins(tmp_path: Path) -> None:
    """A named inventory of any file name is used, its path taken from the current folder."""
    (tmp_path / "inventory.yaml").touch()
    other = tmp_path / "lab" / "boards.yaml"
    other.parent.mkdir()
    other.touch()
    assert workspace.find(tmp_path, Path("lab/boards.yaml")).inventory == other


def test_a_named_inventory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A missing file and a folder are told apart, and no other inventory is used instead."""
    (tmp_path / "inventory.yaml").touch()
    with pytest.raises(InventoryError, match=r"absent\.yaml is no file"):
        workspace.find(tmp_path, Path("absent.yaml"))
    with pytest.raises(InventoryError, match="is a folder; expected a YAML file"):
        workspace.find(tmp_path, tmp_path)


def test_without_an_inventory_the_message_makes_one(tmp_path: Path) -> None:
    """The command in the message for a missing inventory makes one that works."""
    with pytest.raises(InventoryError, match=r"no inventory\.yaml in ") as caught:
        workspace.find(tmp_path)
    command = str(caught.value).splitlines()[1]
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    boards = inventory.load(workspace.find(tmp_path).inventory).boards
    assert boards["local"].kind == "local"
