from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import inventory
from orchestrator.errors import InventoryError, UnknownName

ROOT = Path(inventory.__file__).parents[1]

LAB = """\
boards:
  local: {local: true}
  pi5: {address: 192.168.1.50, user: pi, labels: [lab, new]}
  pi3b: {ssh_alias: attic, jump: "a@gate.example:2222,b", labels: [lab], python: venv/bin/python}
"""


def load(folder: Path, text: str) -> inventory.Inventory:
    path = folder / "inventory.yaml"
    path.write_text(text)
    return inventory.load(path)


def names(folder: Path, selection: str) -> list[str]:
    return [board.name for board in inventory.select(load(folder, LAB), selection)]


def test_the_shipped_inventory_measures_on_this_machine() -> None:
    """The shipped inventory has the board `local` and the experiment `demo`, nothing remote."""
    shipped = inventory.load(ROOT / "inventory.yaml")
    assert list(shipped.boards) == ["local"]
    assert shipped.boards["local"].kind == "local"
    assert shipped.default_experiment == "demo"


def test_the_commented_examples_of_the_shipped_inventory_are_valid(tmp_path: Path) -> None:
    """Taking the comment signs away from the shipped examples gives the boards pi5 and pi3b."""
    text = (ROOT / "inventory.yaml").read_text()
    uncommented = re.sub(r"^#(  |$)", r"\1", text, flags=re.MULTILINE)
    boards = load(tmp_path, uncommented).boards
    assert list(boards) == ["local", "pi5", "pi3b"]
    assert boards["pi3b"].jump == "gateway.example.org"
    assert boards["pi3b"].arch == "aarch64"


def test_boards_keep_what_the_file_says_and_get_defaults(tmp_path: Path) -> None:
    """Each board has its own fields, and the documented defaults for the rest."""
    boards = load(tmp_path, LAB).boards
    assert boards["local"].python == sys.executable
    assert boards["local"].target == "localhost"
    assert boards["pi5"] == inventory.BoardEntry(
        name="pi5", kind="ssh", address="192.168.1.50", user="pi", labels=("lab", "new")
    )
    assert boards["pi5"].python is None
    assert boards["pi5"].home == "~/.orchestrator"
    assert boards["pi5"].target == "192.168.1.50"
    assert boards["pi3b"].target == "attic"


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("pi5", ["pi5"]),
        ("pi3b,pi5", ["pi3b", "pi5"]),
        (" pi3b , local,", ["pi3b", "local"]),
        ("label:lab", ["pi5", "pi3b"]),
        ("label:new,label:lab", ["pi5", "pi3b"]),
        ("all", ["local", "pi5", "pi3b"]),
        ("pi3b,all,pi3b", ["pi3b", "local", "pi5"]),
    ],
)
def test_a_selection_keeps_its_order_and_takes_each_board_once(
    tmp_path: Path, selection: str, expected: list[str]
) -> None:
    """Names, labels and `all` give the boards in the selection's order, each once."""
    assert names(tmp_path, selection) == expected


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("p15", r"no board 'p15'; did you mean 'pi5'\?"),
        ("pi5,zebra", r"no board 'zebra' \(known: local, pi3b, pi5\)"),
        ("label:lba", r"no label 'lba'; did you mean 'lab'\? \(known: lab, new\)"),
        ("label:", r"no label ''"),
        ("", r"no boards are named in '' \(known: local, pi5, pi3b\)"),
        (" , ,", r"no boards are named"),
    ],
)
def test_an_unknown_or_empty_selection_is_refused(
    tmp_path: Path, selection: str, expected: str
) -> None:
    """A board or label that is not there is answered with the nearest; no board at all is one."""
    with pytest.raises(UnknownName, match=expected):
        names(tmp_path, selection)


@pytest.mark.parametrize(
    ("board", "expected"),
    [
        ("{address: a, prot: 22}", r":2: boards\.b\.prot: .* did you mean 'port'\?"),
        ("{address: a, port: '22'}", r":2: boards\.b\.port: expected a whole number, found '22'"),
        ("{address: a, port: 0}", r":2: boards\.b\.port: expected a whole number >= 1, found '0'"),
        ("{}", r":2: boards\.b: expected 'address: HOST', 'ssh_alias: NAME' or 'local: true'"),
        ("", r":2: boards\.b: expected a mapping, found nothing"),
        ("{local: true, address: a}", r"boards\.b\.address: a board with 'local: true' has no add"),
        ("{local: true, jump: a}", r"boards\.b\.jump: a board with 'local: true' has no jump"),
        ("{address: pi@host}", r"boards\.b\.address: expected a host without a user, found 'pi@h"),
        ("{address: 'host:22'}", r"boards\.b\.address: expected a host without a port, found 'hos"),
        ("{address: a, arch: arm64}", r"boards\.b\.arch: expected one of aarch64, aarch64-dotprod"),
        ("{address: a, home: bench}", r"boards\.b\.home: expected a path that starts with '/' or"),
        ("{address: a, labels: [A]}", r"boards\.b\.labels: expected names of a-z"),
        ("{address: a, threads: 0}", r"boards\.b\.threads: expected a whole number >= 1"),
    ],
)
def test_a_malformed_board_is_answered_with_line_and_field(
    tmp_path: Path, board: str, expected: str
) -> None:
    """Each mistake in a board gives file, line, field, what was found and what is expected."""
    with pytest.raises(InventoryError, match=expected):
        load(tmp_path, f"boards:\n  b: {board}\n")


HOSTILE = ["-oProxyCommand=x", "a b", "a\tb", "a\nb", "a;b", "a$(b)", "a`b`", "'a'", "a\x1bb", ""]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("field", ["address", "ssh_alias", "user", "jump", "python", "home"])
def test_nothing_that_ssh_or_a_shell_would_misread_is_accepted(
    tmp_path: Path, field: str, value: str
) -> None:
    """A value that could become an option, a second word or a command is refused."""
    quoted = '"' + value.encode("unicode_escape").decode().replace('"', '\\"') + '"'
    host = "" if field in {"address", "ssh_alias"} else "address: a, "
    with pytest.raises(InventoryError, match=rf"boards\.b\.{field}"):
        load(tmp_path, f"boards:\n  b: {{{host}{field}: {quoted}}}\n")


def test_an_option_behind_a_comma_of_jump_is_refused(tmp_path: Path) -> None:
    """Every hop of `jump` is checked, not only the first."""
    with pytest.raises(InventoryError, match=r"boards\.b\.jump: expected .*found '-oX'"):
        load(tmp_path, "boards:\n  b: {address: a, jump: 'gate,-oX'}\n")


@pytest.mark.parametrize("name", ["-pi", "Pi5", "pi 5", "pi/5", "../pi", "", ".pi", "label:x", "é"])
def test_board_names_are_plain(tmp_path: Path, name: str) -> None:
    """A board's name that could not be a file's name or would be read otherwise is refused."""
    with pytest.raises(InventoryError, match="boards: expected names of a-z"):
        load(tmp_path, f"boards:\n  '{name}': {{address: a}}\n")


def test_no_board_can_be_called_all(tmp_path: Path) -> None:
    """The word for every board names no single one."""
    with pytest.raises(InventoryError, match="cannot be called 'all'"):
        load(tmp_path, "boards:\n  all: {address: a}\n")


def test_an_inventory_without_boards_is_refused(tmp_path: Path) -> None:
    """An inventory has at least one board."""
    with pytest.raises(InventoryError, match=":1: boards: expected at least one board"):
        load(tmp_path, "boards: {}\n")
    with pytest.raises(InventoryError, match=":1: boards: this field is missing"):
        load(tmp_path, "default_experiment: demo\n")


def test_ssh_config_is_found_from_the_inventory(tmp_path: Path) -> None:
    """`ssh_config` is a path from the inventory's folder, and must be there."""
    (tmp_path / "config").write_text("")
    loaded = load(tmp_path, LAB + "ssh_config: config\n")
    assert loaded.ssh_config == tmp_path / "config"
    with pytest.raises(InventoryError, match=r"ssh_config: there is no file .*absent"):
        load(tmp_path, LAB + "ssh_config: absent\n")


@given(st.lists(st.sampled_from(["pi5", "pi3b", "local", "all", "label:lab"]), min_size=1))
def test_any_selection_of_known_names_has_no_duplicates(parts: list[str]) -> None:
    """However names, labels and `all` are combined, no board comes twice and none is missing."""
    boards = {
        name: inventory.BoardEntry(name, "ssh", address=name, labels=labels)
        for name, labels in (("local", ()), ("pi5", ("lab",)), ("pi3b", ("lab",)))
    }
    chosen = inventory.select(inventory.Inventory(Path("x"), boards), ",".join(parts))
    found = [board.name for board in chosen]
    assert len(found) == len(set(found))
    assert {part for part in parts if part in boards} <= set(found)
    assert "all" not in parts or set(found) == set(boards)
