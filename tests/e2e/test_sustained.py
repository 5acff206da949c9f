"""A sustained run from the command line to latency beside the board's readings."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cli import desk
from support.onnxmodels import tiny_model

pytestmark = pytest.mark.slow

EXPERIMENT = """
models: [tiny.onnx]
recipes: [fp32, ort_format]
profile: smoke
blocks: 1
cooldown: null
scenario: {name: sustained, duration_s: 2.5}
"""


def test_a_sustained_run(tmp_path: Path) -> None:
    """Each trial samples for its time without being short; samples stand beside readings."""
    tiny_model(tmp_path / "tiny.onnx")
    (tmp_path / "heat.yaml").write_text(EXPERIMENT)
    with desk(tmp_path) as made:
        planned = made.run("run", "./heat.yaml", "--boards", "here", "--dry-run")
        assert planned.stdout.count("2.5 (sustained)") == 2, planned.stderr
        done = made.run("run", "./heat.yaml", "--boards", "here")
        assert done.returncode == 0, done.stderr
        trials = made.rows("SELECT * FROM trials")
        assert len(trials) == 2
        assert {(row["scenario"], row["state"], row["short"]) for row in trials} == {
            ("sustained", "finished", 0)
        }
        for row in trials:
            first_ns = row["first_call_monotonic_ns"]
            assert row["started_monotonic_ns"] < first_ns < row["ended_monotonic_ns"]
        timed = made.rows(
            "SELECT COUNT(*) AS n, MIN(at_s) AS first_s, MAX(at_s) AS last_s, "
            "COUNT(DISTINCT reading_s) AS readings "
            "FROM v_latency_by_temp WHERE phase = 2 GROUP BY trial_no"
        )
        assert len(timed) == 2
        for row in timed:
            assert row["n"] > 100
            assert row["last_s"] - row["first_s"] == pytest.approx(2.5, abs=0.5)
            assert row["readings"] >= 2
    assert "sustained: inferences without a pause" in done.stdout
