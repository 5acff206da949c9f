from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.stored import FIRST, LATEST, THIRD, add_run, fill
from support.terminal import narrow_to

from orchestrator import cli
from results.store import Store


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("runs") / "results.sqlite")


def runs(database: Path, *args: str) -> list[str]:
    result = CliRunner().invoke(
        cli.cli, ["runs", "--db", str(database), *args], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return [line.rstrip() for line in result.stdout.splitlines()]


def test_runs_are_listed_newest_first(database: Path) -> None:
    """The list has a line a run: when, how it ended, what was measured, and how much."""
    header, _, newest, oldest = runs(database)
    assert header.split() == [
        "run", "started", "UTC", "state", "experiment", "scale", "profile", "boards", "trials",
    ]  # fmt: skip
    assert newest.split() == [
        LATEST, "2026-01-02", "10:00", "partial", "demo", "-", "demo", "pi5", "3", "of", "6",
    ]  # fmt: skip
    assert oldest.split()[3:] == ["finished", "demo", "-", "demo", "local,", "pi5", "12"]


def test_sizes_of_an_experiment_are_told_apart(tmp_path: Path) -> None:
    """Runs of one experiment at two scales are not listed alike."""
    database = fill(tmp_path / "results.sqlite")
    add_run(database, "study", "pi5", scale="untrained")
    assert runs(database)[2].split()[4:6] == ["study", "untrained"]
    shown = runs(database, "show")
    assert "experiment study (scale untrained, profile demo, seed 7)" in shown


def test_the_list_can_be_limited(database: Path) -> None:
    """`--limit` keeps the newest runs and says that there are more."""
    result = CliRunner().invoke(cli.cli, ["runs", "--db", str(database), "--limit", "1"])
    assert LATEST in result.stdout
    assert FIRST not in result.stdout
    assert "more than these 1 runs" in result.stderr


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_fits_the_terminal(
    database: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 80 and on 120 columns each run is one line, and no header is wrapped."""
    narrow_to(columns, monkeypatch)
    lines = runs(database)
    assert len(lines) == 4
    assert max(map(len, lines)) <= columns
    assert lines[0].startswith("run ")
    assert lines[0].endswith("trials")


@pytest.mark.parametrize("columns", [80, 120])
def test_the_final_table_fits_the_terminal(
    database: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 80 and on 120 columns the final table has all asked-for columns on one line a row."""
    narrow_to(columns, monkeypatch)
    lines = runs(database, "show", FIRST)
    header = next(line for line in lines if line.startswith("board "))
    wanted = "board variant MB p50 ms p90 ms p99 ms FPS mAP50 mAP50-95 °C ratio"
    assert " ".join(header.split()).startswith(wanted)
    start = lines.index(header)
    assert [line.split()[:2] for line in lines[start + 2 : start + 6]] == [
        ["local", "int8_ptq"], ["local", "fp32"], ["pi5", "fp32"], ["pi5", "int8_ptq"],
    ]  # fmt: skip
    assert max(map(len, lines[start : start + 6])) <= columns


def test_no_figure_is_cut_where_names_are_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 80 columns figures that follow least from the others go first; none is shortened."""
    database = fill(tmp_path / "results.sqlite")
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE trials SET model = 'yolov9-redesigned' WHERE board = 'local'")
    narrow_to(80, monkeypatch)
    lines = runs(database, "show", FIRST)
    header = next(line for line in lines if line.startswith("board "))
    table = lines[lines.index(header) : lines.index(header) + 6]
    assert max(map(len, table)) <= 80
    assert "…" not in "".join(table)
    assert {"MB", "mAP50", "ratio"} <= set(header.split())
    assert any("95 % intervals of the ratio: pi5 " in line and "yolov9" in line for line in lines)


def test_a_run_is_shown_with_its_final_table(database: Path) -> None:
    """`runs show` has the facts of a run, its figures, and on what accuracy was measured."""
    lines = runs(database, "show", FIRST)
    assert lines[0].split() == ["run", FIRST]
    assert "experiment demo (profile demo, seed 7)" in lines
    row = next(line for line in lines if line.startswith("local  int8_ptq")).split()
    assert row[:2] == ["local", "int8_ptq"]
    assert [float(cell) for cell in row[2:9]] == pytest.approx(
        [2.0, 5.005, 5.008, 5.008, 199.8, 0.875, 0.625], rel=2e-3
    )
    assert row[9:11] == ["-", "0.50"]
    assert any(line.startswith("mAP: 64 images of shapes/val") for line in lines)


def test_without_an_id_the_latest_run_is_shown(database: Path) -> None:
    """`runs show` alone shows the latest run and what of it did not finish."""
    lines = runs(database, "show")
    assert lines[0].split() == ["run", LATEST]
    assert "trials     3 of 6 finished" in lines
    assert "trials that did not finish: pi5/int8_ptq (3)" in lines
    row = next(line for line in lines if line.startswith("pi5    int8_ptq")).split()
    assert row == ["pi5", "int8_ptq", "2.00", *["-"] * 9]


def test_a_build_that_was_scored_is_not_the_latest_run(tmp_path: Path) -> None:
    """`build --score` stores figures without any trial; the latest run is one that measured."""
    database = fill(tmp_path / "results.sqlite")
    add_run(database, "adhoc")
    assert THIRD in runs(database)[2]
    assert runs(database, "show")[0].split() == ["run", LATEST]


def test_the_beginning_of_an_id_is_enough(database: Path) -> None:
    """A run is found by the beginning of its id as long as that is clear."""
    assert runs(database, "show", "20260101")[0].split() == ["run", FIRST]


@pytest.mark.parametrize(
    ("run_id", "expected"),
    [
        ("2026", f"2 runs begin with '2026': {LATEST}, {FIRST}"),
        ("20260101-100000-aaaaab", f"did you mean '{FIRST}'?"),
        ("zebra", f"no run 'zebra' (newest: {LATEST}, {FIRST})"),
        ("\x1b[2J", "no run '\\x1b[2J'"),
    ],
)
def test_an_unclear_id_ends_with_43(
    database: Path, run_id: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An id that no run has, or that several begin with, is answered with those there are."""
    assert cli.main(["runs", "--db", str(database), "show", run_id]) == 43
    err = capsys.readouterr().err
    assert expected in err
    assert "\x1b" not in err


def test_an_empty_database_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no run is stored, the list says how to make one and `show` is an error."""
    Store.open(tmp_path / "new.sqlite", create=True).close()
    assert cli.main(["runs", "--db", str(tmp_path / "new.sqlite")]) == 0
    assert "No run is stored yet" in capsys.readouterr().err
    assert cli.main(["runs", "--db", str(tmp_path / "new.sqlite"), "show"]) == 43


def test_a_missing_database_is_not_created(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asking for runs where there is no database is an error and leaves no file behind."""
    assert cli.main(["runs", "--db", str(tmp_path / "absent.sqlite")]) == 40
    assert "absent.sqlite" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
