from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.stored import FIRST, LATEST, detected, fill, segmented
from support.terminal import narrow_to

from orchestrator import cli, experimentfile
from orchestrator.plan import RunRequest
from orchestrator.runner import run_record


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("compare") / "results.sqlite")


def compare(database: Path, *args: str) -> list[str]:
    result = CliRunner().invoke(
        cli.cli, ["compare", "--db", str(database), *args], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return [line.rstrip() for line in result.stdout.splitlines()]


def test_every_variant_is_compared_with_the_baseline(database: Path) -> None:
    """Each variant has its ratio, interval, words and difference of accuracy, board by board."""
    lines = compare(database, "--run", FIRST)
    assert lines[0] == f"run {FIRST}: against fp32 on the same board"
    assert [line.split() for line in lines[4:6]] == [
        ["local", "int8_ptq", "faster", "0.500", "0.500", "to", "0.500", "-0.025", "-0.025"],
        ["pi5", "int8_ptq", "slower", "1.200", "1.200", "to", "1.200", "-0.025", "-0.025"],
    ]
    assert any(line.startswith("mAP: difference to the baseline on shapes/val") for line in lines)


def test_the_baseline_can_be_any_variant(database: Path) -> None:
    """With another baseline the ratios turn around."""
    lines = compare(database, "--run", "20260101", "--baseline", "int8_ptq", "--board", "local")
    row = lines[4].split()
    assert row[:4] == ["local", "fp32", "slower", "2.000"]
    assert not any(line.startswith("pi5") for line in lines)


def test_the_runs_own_baseline_is_that_of_every_screen(tmp_path: Path) -> None:
    """Without --baseline, `compare` and `runs show` take ratios to what the run itself did."""
    database = fill(tmp_path / "results.sqlite")
    experiment = experimentfile.load("demo", tmp_path)
    experiment = dataclasses.replace(experiment, baseline="int8_ptq")
    request = RunRequest(run_id=FIRST, seed=7, boards="pi5")
    told = run_record(request, experiment, datetime(2026, 1, 1, tzinfo=UTC)).experiment_json
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE runs SET experiment_json = ? WHERE run_id = ?", [told, FIRST])
    lines = compare(database, "--run", FIRST)
    assert lines[0] == f"run {FIRST}: against int8_ptq on the same board"
    shown = CliRunner().invoke(cli.cli, ["runs", "--db", str(database), "show", FIRST]).stdout
    assert "ratio: p50 as a share of int8_ptq's on the same board" in shown


def test_models_are_told_apart_in_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With several models each interval and each note has the model's name in it."""
    database = fill(tmp_path / "results.sqlite", detected)
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE trials SET model = 'twin' WHERE board = 'local'")
        connection.execute("UPDATE summaries SET steady_from = NULL")
    narrow_to(80, monkeypatch)
    lines = compare(database, "--run", FIRST)
    assert any(line.startswith("local twin/int8_ptq: 95 % interval of mAP50") for line in lines)
    assert "local twin/fp32: 3 of 3 trials reached no steady state" in lines
    assert lines.count("local cannot say whether it was throttled") == 1


def test_what_was_not_measured_is_not_comparable(database: Path) -> None:
    """A variant without a finished trial is listed with the reason, not left out."""
    lines = compare(database)
    assert lines[0].startswith(f"run {LATEST}")
    assert lines[4].split() == ["pi5", "int8_ptq", "not", "comparable", "-", "-", "-", "-"]
    assert "pi5 int8_ptq: no trial finished" in lines


def test_a_missing_baseline_is_a_reason(database: Path) -> None:
    """Where the baseline failed on a board, its variants say so."""
    lines = compare(database, "--baseline", "int8_ptq")
    assert "pi5 fp32: no trial of int8_ptq finished beside it" in lines


def test_two_sides_are_compared_across_runs(database: Path) -> None:
    """Two conditions give a verdict in words, also across runs and by a run's beginning."""
    lines = compare(database, "board=pi5,variant=fp32,run=20260101", "variant=fp32")
    assert lines[0].startswith("A: tinydet/fp32 on pi5 ")
    assert f"run {LATEST}" in lines[1]
    assert lines[2].startswith("latency: no difference shown: A takes 1.000 of B's time")


def test_what_differs_besides_must_be_named(database: Path) -> None:
    """Boards with other numbers of threads are compared only when that is meant to differ."""
    sides = ("board=local,variant=fp32", "board=pi5,variant=fp32")
    refused = compare(database, "--run", FIRST, *sides)
    assert "latency: not comparable because threads differs: 2 against 4" in refused
    allowed = compare(
        database, "--run", FIRST, *sides, "--across", "threads", "--across", "options"
    )
    assert any(line.startswith("latency: A is faster: A takes 0.100") for line in allowed)


def test_verdicts_can_be_had_as_json(database: Path) -> None:
    """`--json` writes one verdict for two sides and a list without them."""
    both = json.loads("\n".join(compare(database, "--run", FIRST, "--json")))
    assert [verdict["a"]["board"] for verdict in both] == ["local", "pi5"]
    assert both[0]["latency"]["value"] == pytest.approx(0.5, rel=1e-3)
    sides = ("board=local,variant=int8_ptq", "board=local,variant=fp32")
    one = json.loads("\n".join(compare(database, "--json", "--run", FIRST, *sides)))
    assert one["accuracy"]["map50"] == pytest.approx(-0.025)


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("masks") / "results.sqlite", segmented)


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("boxes") / "results.sqlite", detected)


def test_segmentations_are_compared_by_dice(masks: Path) -> None:
    """The difference in Dice stands where mAP would, with its interval over images."""
    lines = compare(masks, "--run", FIRST)
    assert lines[2].split()[-4:] == ["Dice", "Dice's", "95", "%"]
    assert "mAP" not in "".join(lines)
    assert lines[4].split()[-4:] == ["-0.020", "-0.020", "to", "-0.020"]
    assert "Dice, IoU: difference to the baseline on blobs/val" in " ".join(lines)


@pytest.mark.parametrize("columns", [80, 200])
def test_detectors_are_compared_with_their_intervals(
    boxes: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both mAPs have an interval: in the table where there is room, else in lines below it."""
    narrow_to(columns, monkeypatch)
    lines = compare(boxes, "--run", FIRST)
    assert max(map(len, lines[2:6])) <= columns
    below = [line for line in lines if line.startswith("pi5 int8_ptq: 95 % interval of mAP50 -")]
    assert len(below) == (columns == 80)
    if columns > 80:
        assert lines[2].split()[-6:] == ["mAP50's", "95", "%", "mAP50-95's", "95", "%"]
    assert "images drawn anew" in "".join(lines)


def test_intervals_of_accuracy_are_in_the_json(boxes: Path) -> None:
    """`--json` has the ends of each interval by the figure's name."""
    (local, _) = json.loads("\n".join(compare(boxes, "--run", FIRST, "--json")))
    found = local["accuracy"]["intervals"]
    assert set(found) == {"map50", "map50_95"}
    assert -0.7 < found["map50"]["low"] < -0.4 < found["map50"]["high"] < -0.1


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_the_terminal(
    database: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 80 and on 120 columns each variant is one line, and no header is wrapped."""
    narrow_to(columns, monkeypatch)
    lines = compare(database, "--run", FIRST)
    assert lines[2].split() == [
        "board", "variant", "latency", "ratio", "95", "%", "interval", "mAP50", "mAP50-95",
    ]  # fmt: skip
    assert max(map(len, lines[2:6])) <= columns


@pytest.mark.parametrize(
    ("args", "status", "expected"),
    [
        (["variant=fp32"], 2, "Give both A and B or neither; got 1."),
        (["a=1", "b=2", "c=3"], 2, "Give both A and B or neither; got 3."),
        (["speed=9", "variant=fp32"], 42, "speed=9"),
        (["variant=fp32", "variant=fp23"], 43, "variant=fp23"),
        (["--run", "zebra"], 43, "no run 'zebra'"),
        (["--baseline", "fp23"], 12, "called 'fp23'; did you mean 'fp32'?"),
        (["--board", "pi55"], 12, "called 'pi55'; did you mean 'pi5'?"),
        (["--run", FIRST, "--across", "colour"], 42, "colour"),
    ],
)
def test_wrong_conditions_have_their_exit_codes(
    database: Path,
    args: list[str],
    status: int,
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A condition that fits nothing is an error that says what there is."""
    assert cli.main(["compare", "--db", str(database), *args]) == status
    assert expected in capsys.readouterr().err
