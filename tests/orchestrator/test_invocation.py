"""One command line carried out: fake boards, but a real build, database, table and JSON."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.onnxmodels import tiny_model
from support.runs import CLOCK, fake_board

from orchestrator import invocation
from orchestrator.boards.fake import FakeBoard
from orchestrator.cli import main
from orchestrator.errors import BoardUnreachable
from orchestrator.inventory import BoardEntry

INVENTORY = "boards:\n  a: {address: 10.0.0.1}\n  b: {address: 10.0.0.2}\n"
RUN = ("run", "--model", "tiny.onnx", "--profile", "smoke", "--seed", "1")


@pytest.fixture
def boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeBoard]:
    """A workspace whose boards are fake and whose time costs nothing."""
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    tiny_model(tmp_path / "tiny.onnx")
    made = {name: fake_board(name) for name in ("a", "b")}

    def make(entry: BoardEntry, *_: object) -> FakeBoard:
        return made[entry.name]

    monkeypatch.setattr(invocation, "make_board", make)
    monkeypatch.setattr(invocation, "SystemClock", lambda: CLOCK)
    monkeypatch.chdir(tmp_path)
    return made


def rows(sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect("file:results.sqlite?mode=ro", uri=True)) as db:
        return db.execute(sql).fetchall()


def off(name: str) -> Callable[[str], None]:
    def sabotage(method: str) -> None:
        if method == "connect":
            raise BoardUnreachable("no answer", name)

    return sabotage


Boards = dict[str, FakeBoard]


def test_table(boards: Boards, capsys: pytest.CaptureFixture[str]) -> None:
    """What was measured is told on stderr and shown as a table on stdout, with the run's id."""
    assert main([*RUN, "--boards", "all"]) == 0
    shown = capsys.readouterr()
    ((run_id, state),) = rows("SELECT run_id, state FROM runs")
    assert state == "finished"
    assert f"run {run_id}" in shown.out.splitlines()[-1]
    assert [line.split()[0] for line in shown.out.splitlines() if " fp32 " in line] == ["a", "b"]
    assert "a: tiny/fp32 block 1 finished" in shown.err
    assert "finished" not in shown.out


def test_fake_boards_show_no_times(boards: Boards, capsys: pytest.CaptureFixture[str]) -> None:
    """A board that is no silicon never shows a time, in the lines or in the table."""
    main([*RUN, "--boards", "a"])
    shown = capsys.readouterr()
    assert "emulated" in shown.out
    assert " ms" not in shown.err


def test_json(boards: Boards, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json there is one JSON object on stdout and nothing else."""
    assert main([*RUN, "--boards", "a,b", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == "finished"
    assert found["errors"] == []
    assert [(row["board"], row["variant"]) for row in found["rows"]] == [
        ("a", "fp32"),
        ("b", "fp32"),
    ]
    assert found["rows"][0]["map50"] is None


def test_a_board_that_fails(boards: Boards, capsys: pytest.CaptureFixture[str]) -> None:
    """What was measured is shown although a board failed, whose error and code end the command."""
    boards["b"].agent.sabotage = off("b")
    assert main([*RUN, "--boards", "all"]) == 30
    shown = capsys.readouterr()
    assert [line.split()[0] for line in shown.out.splitlines() if " fp32 " in line] == ["a"]
    assert "b: no answer" in shown.err.splitlines()[-1]
    assert rows("SELECT state FROM runs") == [("partial",)]


def test_json_of_a_failed_run(boards: Boards, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON is printed as well where nothing could be measured, with the errors in it."""
    for name, board in boards.items():
        board.agent.sabotage = off(name)
    assert main([*RUN, "--boards", "all", "--json"]) == 30
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["rows"]) == ("failed", [])
    assert sorted(found["errors"]) == ["a: no answer", "b: no answer"]


def test_refused_names_record_no_run(boards: Boards) -> None:
    """A model that is not there ends the command before a run is recorded or a board contacted."""
    calls: list[str] = []
    boards["a"].agent.sabotage = calls.append
    assert main(["run", "--model", "none.onnx", "--boards", "a"]) == 21
    assert calls == []
    assert not Path("results.sqlite").exists() or rows("SELECT 1 FROM runs") == []


def test_an_unknown_builder_is_refused_before_data_is_read(
    boards: Boards, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped --build-on ends a run, and a dry run, before anything else is done."""
    for words in (("--boards", "a"), ("--boards", "a", "--dry-run")):
        assert main([*RUN, *words, "--data", "nowhere", "--build-on", "gpubx"]) == 12
        assert "no builder 'gpubx'" in capsys.readouterr().err


def test_two_runs(boards: Boards) -> None:
    """A second run is stored beside the first, and finds its artifact built and pushed."""
    main([*RUN, "--boards", "a"])
    pushed = len(boards["a"].agent.files)
    main([*RUN, "--boards", "a"])
    assert rows("SELECT COUNT(*), COUNT(DISTINCT run_id) FROM trials") == [(2, 2)]
    assert len(boards["a"].agent.files) == pushed == 1


def test_what_was_asked_is_stored(boards: Boards) -> None:
    """The run's record has the request and the experiment as they were."""
    main([*RUN, "--boards", "a"])
    ((text, seed, profile),) = rows("SELECT experiment_json, seed, profile FROM runs")
    whole = json.loads(text)
    assert (seed, profile) == (1, "smoke")
    assert whole["request"]["model"] == "tiny.onnx"
    assert whole["experiment"]["models"][0]["reference"] == "tiny.onnx"


def test_a_database_that_cannot_be_opened(
    boards: Boards, capsys: pytest.CaptureFixture[str]
) -> None:
    """A database that is none is refused before anything is contacted."""
    Path("results.sqlite").write_text("this is no database, " * 100)
    calls: list[str] = []
    boards["a"].agent.sabotage = calls.append
    assert main([*RUN, "--boards", "a"]) == 40
    assert "results.sqlite" in capsys.readouterr().err
    assert calls == []


def test_no_database_yet(tmp_path: Path) -> None:
    """Where no run has made a database, none is opened and none is made."""
    with invocation.opened_if_there(tmp_path / "results.sqlite") as store:
        assert store is None
    assert list(tmp_path.iterdir()) == []
