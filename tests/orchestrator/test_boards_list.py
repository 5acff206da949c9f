from __future__ import annotations

from pathlib import Path

import pytest
from support.cli import desk
from support.stored import fill

from agent import wire
from agent.wire import BenchError
from orchestrator import cli, errors
from orchestrator.boards import registry
from orchestrator.boards.base import Board
from orchestrator.boards.fake import FakeAgent, FakeBoard
from orchestrator.census import Answer
from orchestrator.clock import SystemClock
from orchestrator.commands.boards.list import standing
from orchestrator.inventory import BoardEntry


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An inventory of two boards that must not be contacted."""

    def never(*_: object) -> Board:
        raise AssertionError("it was contacted")

    text = "boards:\n  local:\n    local: true\n  pi5:\n    address: 10.0.0.5\n    labels: [big]\n"
    (tmp_path / "inventory.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "make_board", never)
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    assert cli.main(["boards", "list", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0]: line for line in lines if line.strip()}


def test_registered_boards(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a database and without contact, the inventory's facts are shown."""
    rows = listed(capsys)
    assert "this machine" in rows["local"]
    assert "10.0.0.5" in rows["pi5"]
    assert "big" in rows["pi5"]
    assert "reachable" not in rows["board"]
    assert not (place / "results.sqlite").exists()


def test_last_seen(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """When a run last met a board, and what it was, is read from the database."""
    fill(place / "results.sqlite")
    rows = listed(capsys)
    assert "2026-01-02 10:00" in rows["pi5"]
    assert "Raspberry Pi 5 Model B" in rows["pi5"]
    assert "2026-01-01 10:00" in rows["local"]


def test_a_broken_database_hides_no_board(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the database cannot be read the boards are listed, and stderr has the reason."""
    (place / "results.sqlite").write_bytes(b"this is no database" * 500)
    assert cli.main(["boards", "list"]) == 0
    captured = capsys.readouterr()
    assert "10.0.0.5" in captured.out
    assert captured.err.startswith("'last seen' is left out: ")


def test_probe(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--probe contacts all, tells who holds a board, and ends with 0 whoever is away."""

    def refuse(_method: str) -> None:
        raise errors.BoardUnreachable("no \x1b[31mroute", "pi5")

    leased = FakeAgent(SystemClock())
    leased.lease_holder = wire.LeaseRequest(holder="ann\x1b[2J", run_id="r1", ttl_s=100.0)
    leased.lease_until_s = leased.clock.monotonic_s() + 100
    agents = {"local": leased, "pi5": FakeAgent(SystemClock(), sabotage=refuse)}

    def board(entry: BoardEntry, *_: object) -> Board:
        return FakeBoard(entry.name, agents[entry.name])

    monkeypatch.setattr(registry, "make_board", board)
    rows = listed(capsys, "--probe")
    assert rows["board"].split()[:5] == ["board", "registered", "reachable", "ready", "leased"]
    assert rows["local"].split()[1:4] == ["local", "yes", "yes"]
    assert "by ann\\x1b[2J (run r1)" in rows["local"]
    assert rows["pi5"].split()[1:5] == ["ssh", "no", "-", "-"]
    assert "no \\x1b[31mroute" in rows["pi5:"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.BoardUnreachable("x"), ["no", "-", "-"]),
        (errors.HostKeyRejected("x"), ["yes", "no: host key", "-"]),
        (errors.PackagesMissing("x"), ["yes", "no: packages", "-"]),
        (errors.ProtocolMismatch("x"), ["yes", "no: protocol", "-"]),
        (errors.AgentDied("x"), ["yes", "no: agent", "-"]),
        (errors.BoardDiskFull("x"), ["yes", "no: disk full", "-"]),
        (errors.BoardFailure("x"), ["yes", "no", "-"]),
    ],
)
def test_what_an_error_says_of_a_board(error: BenchError, expected: list[str]) -> None:
    """A board that answers but cannot serve is reachable and not ready, with the kind of reason."""
    assert standing(Answer("pi5", None, error)) == expected


@pytest.mark.slow
def test_probe_of_this_machine(tmp_path: Path) -> None:
    """A real agent is started, and answers that it is ready and that nobody holds it."""
    with desk(tmp_path) as place:
        result = place.run("boards", "list", "--probe")
        assert result.returncode == 0, result.stderr
        (line,) = [line for line in result.stdout.splitlines() if line.startswith("here")]
        assert line.split()[1:5] == ["local", "yes", "yes", "no"]
