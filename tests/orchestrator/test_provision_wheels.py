from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.fakewheels import make_wheel, make_wheels

from agent.probe import PACKAGES
from orchestrator.errors import WheelsMissing
from orchestrator.provision.larder import Larder
from orchestrator.provision.lock import Pin, parse, shipped_pins
from orchestrator.provision.target import Target, platform_tags
from orchestrator.provision.wheels import arguments, chosen, download

PI5 = Target("aarch64", (3, 11), (2, 36))
PINS = (Pin("numpy", "2.4.6"), Pin("typing-extensions", "4.16.0"))


def test_the_shipped_lock_has_what_the_agent_imports() -> None:
    """The lock pins every package that the agent's probe tries, each once."""
    names = [pin.name for pin in shipped_pins()]
    assert set(PACKAGES) <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "line", ["numpy", "numpy>=2", "numpy==2.4 ; python_version>'3'", "-r other.txt", "a==1 b==2"]
)
def test_a_lock_has_plain_pins_only(line: str) -> None:
    """A line that is no NAME==VERSION is refused with its number."""
    with pytest.raises(WheelsMissing, match="line 3"):
        parse(f"# comment\n\n{line}\n")


def test_lock_names_are_normalised() -> None:
    """Names are compared as indexes compare them; comments end a line."""
    assert parse("Typing_Extensions==4.16.0 # why\n") == (Pin("typing-extensions", "4.16.0"),)


def test_tags_go_up_to_the_glibc_of_the_board() -> None:
    """Every manylinux tag from the board's glibc down is named, newest first, and no newer one."""
    tags = platform_tags("aarch64", (2, 36))
    assert tags[0] == "manylinux_2_36_aarch64"
    assert "manylinux_2_37_aarch64" not in tags
    assert [tag for tag in tags if tag.startswith("manylinux_2_")] == [
        f"manylinux_2_{minor}_aarch64" for minor in range(36, 16, -1)
    ]
    assert tags[-1] == "manylinux2014_aarch64"
    assert platform_tags("aarch64", (2, 17)) == ("manylinux_2_17_aarch64", "manylinux2014_aarch64")


def test_tags_of_x86() -> None:
    """An x86-64 board may use the older policies as well."""
    tags = platform_tags("x86_64", (2, 28))
    assert {"manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"} <= set(tags)
    assert tags[-2] == "manylinux_2_5_x86_64"


def test_pip_is_told_everything() -> None:
    """Pip hears of Python, ABI and every platform, and never builds or follows dependencies."""
    words = arguments(PI5)
    assert words.count("--platform") == len(platform_tags("aarch64", (2, 36)))
    assert words[words.index("--abi") + 1] == "cp311"
    assert words[words.index("--python-version") + 1] == "311"
    assert {"--only-binary=:all:", "--no-deps"} <= set(words)


def test_a_wheel_for_a_newer_glibc_is_not_chosen(tmp_path: Path) -> None:
    """A wheel that needs a newer glibc than the board's does not count."""
    for tag in ("cp311-cp311-manylinux_2_39_aarch64", "cp311-cp311-manylinux_2_28_aarch64"):
        make_wheel(tmp_path, PINS[0], tag)
    (path,) = chosen(tmp_path.glob("*.whl"), PINS[:1], PI5)
    assert "manylinux_2_28" in path.name


@pytest.mark.parametrize(
    "tag",
    [
        "cp312-cp312-manylinux_2_28_aarch64",
        "cp311-cp311-manylinux_2_28_x86_64",
        "cp311-cp311-musllinux_1_2_aarch64",
        "cp311-cp311-manylinux_2_37_aarch64",
        "cp313-abi3-manylinux_2_28_aarch64",
    ],
)
def test_wheels_that_do_not_fit(tmp_path: Path, tag: str) -> None:
    """Wheels for another Python, processor or C library are none for this board."""
    make_wheel(tmp_path, PINS[0], tag)
    with pytest.raises(WheelsMissing, match=r"0 wheels of numpy==2\.4\.6"):
        chosen(tmp_path.glob("*.whl"), PINS[:1], PI5)


def test_older_versions_are_never_chosen(tmp_path: Path) -> None:
    """A folder that has another version only is refused, by pip and by the check after it."""
    make_wheel(tmp_path, Pin("numpy", "1.26.0"))
    with pytest.raises(WheelsMissing, match="0 wheels"):
        chosen(tmp_path.glob("*.whl"), PINS[:1], PI5)
    with pytest.raises(WheelsMissing, match=r"no wheel of numpy==2\.4\.6 for Python 3\.11, aarch"):
        download(PI5, PINS[:1], tmp_path / "to", offline=tmp_path)


def test_wheels_of_a_folder(tmp_path: Path) -> None:
    """Pip takes the fitting wheels of a folder, in the order of the pins, without a network."""
    source = make_wheels(tmp_path / "from", PINS)
    make_wheel(source, PINS[0], "cp311-cp311-manylinux_2_36_aarch64")
    files = download(PI5, PINS, tmp_path / "to", offline=source)
    assert [path.name for path in files] == [
        "numpy-2.4.6-cp311-cp311-manylinux_2_36_aarch64.whl",
        "typing_extensions-4.16.0-py3-none-any.whl",
    ]


def failing(said: str) -> object:
    def fetch(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, 1, "", said)

    return fetch


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "WARNING: Retrying ... NewConnectionError('... Name or service not known')\n"
            "ERROR: No matching distribution found for numpy==2.4.6",
            "cannot be reached.*--wheels",
        ),
        ("ERROR: No matching distribution found for numpy==2.4.6", r"no wheel of numpy==2\.4\.6"),
        ("/usr/bin/python3: No module named pip", "ensurepip"),
        ("ERROR: something else", "something else"),
    ],
)
def test_failures_of_pip_in_words(tmp_path: Path, said: str, words: str) -> None:
    """What pip says is told as what to do."""
    with pytest.raises(WheelsMissing, match=words):
        download(PI5, PINS, tmp_path, fetch=failing(said))  # type: ignore[arg-type]


class CountingPip:
    """Copies wheels as pip would, and counts how often it was asked."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.calls = 0

    def __call__(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        self.calls += 1
        folder = Path(words[words.index("--dest") + 1])
        for path in self.source.glob("*.whl"):
            (folder / path.name).write_bytes(path.read_bytes())
        return subprocess.CompletedProcess(list(words), 0, "", "")


def test_the_larder_fetches_once(tmp_path: Path) -> None:
    """A kind of board is fetched for once; later calls and later processes use what is kept."""
    pip = CountingPip(make_wheels(tmp_path / "from", PINS))
    said: list[str] = []
    first = Larder(tmp_path / "kept", PINS, fetch=pip).tree(PI5, said.append)
    again = Larder(tmp_path / "kept", PINS, fetch=pip)
    assert again.tree(PI5, said.append) == first == again.tree(PI5, said.append)
    assert pip.calls == 1
    assert first.archive.is_file()
    assert any("fetching 2 wheels" in line for line in said)


def test_the_larder_forgets_an_older_lock(tmp_path: Path) -> None:
    """A new lock replaces what was kept for the same kind of board, and for no other."""
    pip = CountingPip(make_wheels(tmp_path / "from", PINS))
    kept = tmp_path / "kept"
    other = Target("aarch64", (3, 13), (2, 41))
    for target in (PI5, other):
        Larder(kept, PINS, fetch=pip).tree(target, lambda text: None)
    Larder(kept, PINS[:1], fetch=pip).tree(PI5, lambda text: None)
    assert sorted(path.name.rpartition("-")[0] for path in kept.iterdir()) == [
        "cp311-aarch64-glibc2.36",
        "cp313-aarch64-glibc2.41",
    ]
    assert pip.calls == 3


@pytest.mark.parametrize("damage", ["note", "archive"])
def test_a_damaged_larder_is_made_again(tmp_path: Path, damage: str) -> None:
    """What was cut short on disk is fetched again rather than used."""
    pip = CountingPip(make_wheels(tmp_path / "from", PINS))
    tree = Larder(tmp_path / "kept", PINS, fetch=pip).tree(PI5, lambda text: None)
    path = tree.archive if damage == "archive" else tree.archive.with_name("tree.json")
    path.write_bytes(path.read_bytes()[:-5])
    assert Larder(tmp_path / "kept", PINS, fetch=pip).tree(PI5, lambda text: None) == tree
    assert pip.calls == 2


def test_nothing_half_made_is_left(tmp_path: Path) -> None:
    """A fetch that fails leaves no folder behind."""
    larder = Larder(tmp_path / "kept", PINS, fetch=failing("ERROR: no"))  # type: ignore[arg-type]
    with pytest.raises(WheelsMissing):
        larder.tree(PI5, lambda text: None)
    assert list((tmp_path / "kept").iterdir()) == []
