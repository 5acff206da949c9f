"""Optional runtimes on a board: what they cost, where they are refused, which are there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from support.fakewheels import make_wheels

from orchestrator.boards.shell import LocalShell
from orchestrator.errors import BoardDiskFull, BoardUnfit, UnknownName
from orchestrator.provision import larder, optional
from orchestrator.provision.larder import Larder
from orchestrator.provision.lock import EXTRAS, Pin, extras_of, lock_name, shipped_pins
from orchestrator.provision.survey import Survey, parse
from orchestrator.provision.target import Target

PI = Target("aarch64", (3, 11), (2, 36))
MIB = 1 << 20


def survey(free_mib: int = 20_000, memory_mib: int = 8_000) -> Survey:
    found = parse(f"home=/home/pi/x\nfree_kib={free_mib * 1024}\nwritable=yes\nend=yes\n")
    assert found is not None
    return dataclasses.replace(found, memory_bytes=memory_mib * MIB)


def consider(given: Survey, *wanted: str, target: Target = PI) -> list[str]:
    said: list[str] = []
    optional.consider(given, target, wanted, "pi", said.append)  # type: ignore[arg-type]
    return said


def test_the_costs_are_said_first() -> None:
    """What each runtime moves and takes on the card is said before anything is fetched."""
    said = consider(survey(), "torch", "litert")
    assert [line.split(":")[0] for line in said] == ["runtime torch", "runtime litert"]
    assert "148 MiB to push" in said[0]
    assert consider(survey()) == []


def test_a_full_card_is_refused_early() -> None:
    """A card that cannot hold a runtime is refused with both figures."""
    with pytest.raises(BoardDiskFull, match=r"300 MiB are free .* torch need about 838 MiB"):
        consider(survey(free_mib=300), "torch")
    assert consider(survey(free_mib=300), "litert")


def test_a_board_of_one_gigabyte_is_warned() -> None:
    """A Pi 3B+ is told what torch leaves of its memory; a larger board is not."""
    assert any("of memory" in line for line in consider(survey(memory_mib=906), "torch"))
    assert not any("of memory" in line for line in consider(survey(memory_mib=906), "litert"))
    assert not any("of memory" in line for line in consider(survey(), "torch"))


def test_torch_for_x86_boards_is_refused_in_words() -> None:
    """There is no CPU build of torch for x86-64 on the index, and the way out is said."""
    with pytest.raises(BoardUnfit, match=r"CUDA.*`python:`"):
        consider(survey(), "torch", target=Target("x86_64", (3, 11), (2, 36)))


@pytest.mark.parametrize(
    ("text", "found"),
    [("torch", ("torch",)), ("litert, torch", ("torch", "litert")), ("", ()),
     ("onnxruntime,litert", ("litert",))],
)  # fmt: skip
def test_runtimes_are_named_with_commas(text: str, found: tuple[str, ...]) -> None:
    """Names are taken in any order; onnxruntime is always there."""
    assert extras_of(text) == found


def test_an_unknown_runtime_is_refused_with_the_nearest() -> None:
    """A mistyped name is refused before any board is contacted."""
    with pytest.raises(UnknownName, match="litert"):
        extras_of("litertt")


def test_the_locks_pin_each_package_once() -> None:
    """No lock contradicts the agent's own, and each has what its runtime is."""
    pins = shipped_pins(EXTRAS)
    names = [canonicalize_name(pin.name) for pin in pins]
    assert len(names) == len(set(names))
    assert {"torch", "ai-edge-litert"} <= set(names) - {pin.name for pin in shipped_pins()}
    assert lock_name("torch") == "requirements-torch.lock"


def test_the_environment_in_use_says_which_runtimes_it_has(tmp_path: Path) -> None:
    """What a board has is read from its environment, so that it can be kept without asking."""
    shell = LocalShell("here")
    assert optional.present(shell, str(tmp_path)) == ()
    packages = tmp_path / "env" / "abc" / "lib" / "python3.11" / "site-packages"
    (packages / "torch-2.10.0.dist-info").mkdir(parents=True)
    (packages / "torchvision-0.25.0.dist-info").mkdir()
    (tmp_path / "env" / "current").symlink_to("abc")
    assert optional.present(shell, str(tmp_path)) == ("torch",)
    (packages / "ai_edge_litert-2.3.0.dist-info").mkdir()
    assert optional.present(shell, str(tmp_path)) == ("torch", "litert")


def test_boards_with_and_without_a_runtime_keep_their_own_trees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime's wheels are part of the tree and its digest; the plain tree is kept beside it."""
    base, more = (Pin("numpy", "2.4.6"),), (Pin("torch", "2.10.0"),)
    monkeypatch.setattr(larder, "_pins_of", lambda extras: more if extras else ())
    wheels = make_wheels(tmp_path / "from", (*base, *more))
    shelf = Larder(tmp_path / "kept", base, offline=wheels)
    plain = shelf.tree(PI, lambda text: None)
    full = shelf.tree(PI, lambda text: None, ("torch",))
    assert plain.content != full.content
    assert plain.archive.is_file()
    assert full.archive.is_file()
    assert full.archive.parent.name.startswith("cp311-aarch64-glibc2.36+torch-")
