"""The main job as a user runs it, on this machine as a board, with the shipped detector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Desk, desk, table

pytestmark = pytest.mark.slow

SMOKE = ("run", "demo", "--boards", "here", "--profile", "smoke")
VARIANTS = {"fp32", "ort_format", "int8_ptq", "int8_ptq_all"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One workspace for all tests here: what the first run builds, the others find."""
    with desk(tmp_path_factory.mktemp("main")) as made:
        yield made


@pytest.fixture(scope="module")
def first(place: Desk) -> dict[str, object]:
    result = place.run(*SMOKE, "--json", timeout_s=300)
    assert result.returncode == 0, result.stderr
    return table(result)


@pytest.mark.timeout(400)
def test_one_command_from_model_to_table(first: dict[str, object], place: Desk) -> None:
    """The demo builds, measures and scores four variants and stores all of it."""
    assert first["state"] == "finished"
    rows = {row["variant"]: row for row in first["rows"]}  # type: ignore[attr-defined]
    assert rows.keys() == VARIANTS
    for row in rows.values():
        assert row["p50_ms"] > 0
        assert row["n"] >= 8
        assert row["eval_images"] == 4
        assert not row["emulated"]
    (kept,) = place.rows("SELECT COUNT(*) AS n FROM trials WHERE state = 'finished'")
    assert kept["n"] == 4
    (samples,) = place.rows("SELECT COUNT(*) AS n, MIN(latency_ns) AS low FROM samples")
    assert samples["n"] >= 4 * (1 + 2 + 8)
    assert samples["low"] > 0


def test_quantized_files_are_smaller(first: dict[str, object]) -> None:
    """INT8 weights make the file less than a third of the FP32 one."""
    size = {row["variant"]: row["size_bytes"] for row in first["rows"]}  # type: ignore[attr-defined]
    assert size["int8_ptq"] < size["fp32"] / 3


def test_second_run_builds_nothing(first: dict[str, object], place: Desk) -> None:
    """A second run finds every artifact built and on the board, and loads no torch."""
    result = place.run(*SMOKE, "--plain")
    assert result.returncode == 0, result.stderr
    assert "are on the board already" in result.stderr
    assert ": step " not in result.stderr


def test_sql_over_past_runs(first: dict[str, object], place: Desk) -> None:
    """Past runs answer SQL, and SQL cannot change them."""
    asked = place.run(
        "query", "SELECT variant, p50_ms FROM v_trials WHERE model = 'tinydet'", "--format", "csv"
    )
    assert asked.returncode == 0
    assert {line.split(",")[0] for line in asked.stdout.splitlines()[1:]} == VARIANTS
    refused = place.run("query", "DELETE FROM trials")
    assert refused.returncode == 42


def test_dry_run_does_nothing(first: dict[str, object], place: Desk) -> None:
    """A dry run names every trial, what is built and the time, and stores nothing."""
    before = place.rows("SELECT COUNT(*) AS n FROM runs")
    result = place.run("run", "demo", "--boards", "here", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("tinydet/int8_ptq_all") == 3 + 1
    assert "built before" in result.stdout
    assert "estimate" in result.stdout
    assert place.rows("SELECT COUNT(*) AS n FROM runs") == before


def test_full_set_on_the_host(first: dict[str, object], place: Desk) -> None:
    """The whole set is scored here on request, and INT8 with a float decode loses under a point."""
    result = place.run(
        "build", "--model", "tinydet", "--recipes", "fp32,int8_ptq,int8_ptq_all",
        "--data", "shapes", "--score",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = place.rows(
        "SELECT a.recipe, e.map50, e.map50_95, e.images FROM evaluations e "
        "JOIN artifacts a USING (artifact_sha256) WHERE e.place = 'host'"
    )
    score = {row["recipe"]: row["map50"] for row in found}
    strict = {row["recipe"]: row["map50_95"] for row in found}
    assert {row["images"] for row in found} == {256}
    assert abs(score["fp32"] - score["int8_ptq"]) < 0.01
    assert abs(strict["fp32"] - strict["int8_ptq"]) < 0.01
    assert score["int8_ptq_all"] < score["fp32"] - 0.05


def test_two_boards_at_once(first: dict[str, object], tmp_path: Path) -> None:
    """Two boards are measured in one run, and each has every variant."""
    with desk(tmp_path, "left", "right") as two:
        result = two.run(
            "run", "--boards", "left,right", "--model", "tinydet", "--profile", "smoke", "--json"
        )
        assert result.returncode == 0, result.stderr
        assert [row["board"] for row in table(result)["rows"]] == ["left", "right"]
