"""A bare emulated board is provisioned through a power cut, and left as clean as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from support.onnxmodels import tiny_model
from support.virtual import RealLab

from orchestrator.boards.registry import make_board
from orchestrator.boards.welcome import REQUIRED
from orchestrator.inventory import load
from orchestrator.lab import faults
from orchestrator.provision import environment

BARE = "pi5-virtual-9"
CUT_AT_BYTES = 8 << 20

pytestmark = [
    pytest.mark.slow,
    pytest.mark.virtual,
    pytest.mark.long,
    pytest.mark.timeout(900),
]


@pytest.fixture
def bare(virtual_lab: RealLab) -> Iterable[RealLab]:
    """A board as a new Raspberry Pi OS Lite is."""
    virtual_lab.up(BARE, bare=True)
    yield virtual_lab
    assert virtual_lab.cli("lab", "remove", BARE) == 0


def cut_power_once(lab: RealLab, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Cut the board's power in the middle of its first push; where each push started."""
    starts: list[int] = []
    real = environment._chunks

    def chunks(path: Path, start: int, progress: Callable[[int], None]) -> Iterable[bytes]:
        starts.append(start)
        sent = start
        for chunk in real(path, start, progress):
            yield chunk
            sent += len(chunk)
            if len(starts) == 1 and sent > CUT_AT_BYTES:
                faults.cut_power(lab.lab, BARE)
                faults.power_on(lab.lab, BARE)
                lab.wait_until_up(BARE)
                starts.append(-1)

    monkeypatch.setattr(environment, "_chunks", chunks)
    return starts


def test_a_bare_board_measures_after_provisioning(
    bare: RealLab,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No root, no internet, no pip, and a power cut: the locked packages measure, then are gone."""
    monkeypatch.chdir(bare.place.root)
    before = bare.said(BARE, "ls -A ~")
    starts = cut_power_once(bare, monkeypatch)
    assert bare.cli("boards", "provision", BARE) == 0
    assert starts[:2] == [0, -1]
    assert "it is called again" in capsys.readouterr().out
    assert bare.cli("boards", "provision", BARE) == 0
    assert "nothing was moved" in capsys.readouterr().out
    known = load(bare.place.inventory)
    session = make_board(known.boards[BARE], known, bare.place).connect()
    found = session.hello("test").fingerprint
    session.close()
    assert set(REQUIRED) <= set(found.packages)
    assert found.isa == "aarch64-dotprod"
    model, stored = str(tiny_model(tmp_path / "tiny.onnx")), str(tmp_path / "results.sqlite")
    assert bare.cli("run", "--boards", BARE, "--model", model, "--db", stored) == 0
    capsys.readouterr()
    assert bare.cli("boards", "check", BARE, "--json") in (0, 1)
    (answer,) = json.loads(capsys.readouterr().out)["boards"]
    told = {check["name"]: check["state"] for check in answer["checks"]}
    assert (told["userland"], told["runtime"], told["emulated"]) == ("ok", "ok", "warn")
    assert bare.cli("boards", "remove", BARE, "--yes") == 0
    elsewhere = "ls -A /run/lock /tmp | grep orchestrator; ps -u pi -o args= | grep '[s]erve --'"
    assert bare.said(BARE, f"ls -A ~; {elsewhere}; true") == before
