"""Learning curves as a table and as a picture."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from rich.console import Console

from models.store import CurvePoint, Manifest
from orchestrator.curves import curves_of, curves_table, draw_curves, sparkline
from orchestrator.studies.measured import Line, curves


def manifest(curves: tuple[CurvePoint, ...]) -> Manifest:
    nothing: dict[str, Any] = {}
    return Manifest(
        sha256="0" * 64, size_bytes=1, format="net", parent_sha256=None, model="tinydet",
        recipe="qat", isa="x86_64", steps=(), tool_versions=nothing, calibration_digest=None,
        calibration_items=None, inputs=nothing, outputs=nothing, metadata=nothing, opset=0,
        parameters=1, weight_bytes=4, node_counts=nothing, fused_kernels=None, unfused_qdq=None,
        fused_note=None, created_utc="2024-01-01T00:00:00+00:00", curves=curves,
    )  # fmt: skip


LOSSES = tuple(CurvePoint(e, "train", "loss", 8.0 / e) for e in (1, 2, 3))
SCORES = tuple(CurvePoint(e, "val", "map50", v) for e, v in ((1, 0.1), (2, 0.6), (3, 0.5)))
AGAIN = (CurvePoint(1, "train", "loss", 2.5), CurvePoint(2, "train", "loss", 2.25))


def test_trainings_are_told_apart_where_epochs_start_over() -> None:
    """A training and a fine-tuning after it are two, each with its own curves."""
    first, second = curves_of((*LOSSES, *SCORES, *AGAIN))
    assert first == {("train", "loss"): LOSSES, ("val", "map50"): SCORES}
    assert second == {("train", "loss"): AGAIN}


def test_interleaved_points_are_one_training() -> None:
    """Loss and score of each epoch in turn, as a training gives them, are not torn apart."""
    mixed = tuple(point for pair in zip(LOSSES, SCORES, strict=True) for point in pair)
    assert curves_of(mixed) == [{("train", "loss"): LOSSES, ("val", "map50"): SCORES}]


def test_the_table_has_first_best_and_last() -> None:
    """The best loss is the lowest, the best score the highest."""
    table = curves_table(manifest((*LOSSES, *SCORES, *AGAIN)))
    assert table is not None
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table)
    title, header, _, *rows = [line.split() for line in console.export_text().splitlines()]
    assert title == ["learning", "curves", "of", "tinydet/qat"]
    assert header[0] == "training"
    assert rows == [
        ["1", "train", "loss", "3", "8.0000", "2.6667", "2.6667", "█▃▁"],
        ["1", "val", "mAP50", "3", "0.1000", "0.6000", "0.5000", "▁█▇"],
        ["2", "train", "loss", "2", "2.5000", "2.2500", "2.2500", "█▁"],
    ]


def test_a_fine_tuning_has_a_picture_of_its_own() -> None:
    """On a page a model's training stands once, and what a variant learned after it as well."""
    trained, more = manifest(LOSSES), manifest((*LOSSES, *AGAIN))
    plain = msgspec.structs.replace(trained, curves=())
    lines = [
        Line(cast(Any, SimpleNamespace(model="net", variant=variant)), made)
        for variant, made in (("fp32", trained), ("int8_ptq", trained), ("qat", more), ("x", plain))
    ]
    assert curves(lines) == {"net": LOSSES, "net/qat": (*LOSSES, *AGAIN)}


def test_no_training_no_table() -> None:
    """An artifact that nothing was trained for has no table."""
    assert curves_table(manifest(())) is None


def test_long_and_flat_curves() -> None:
    """A curve of 200 epochs fits into a line of 80; one that never moves is drawn flat."""
    assert len(sparkline([float(value) for value in range(200)])) == 23
    assert sparkline([0.5, 0.5]) == "▁▁"


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_pictures_are_the_same_for_the_same_curves(suffix: str, tmp_path: Path) -> None:
    """Drawn twice, the files are equal and nothing else is left beside them."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib: install the extra 'models'")
    for name in ("one", "other"):
        draw_curves(tmp_path / f"{name}{suffix}", (*LOSSES, *SCORES, *AGAIN), "tinydet")
    one, other = (tmp_path / f"{name}{suffix}" for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    assert one.stat().st_size > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == [one.name, other.name]


def test_a_picture_has_no_empty_half_and_takes_any_name(tmp_path: Path) -> None:
    """Without scores only losses are drawn, and a Korean name stands in it as text."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib: install the extra 'models'")
    draw_curves(tmp_path / "losses.svg", LOSSES, "유넷")
    draw_curves(tmp_path / "both.svg", (*LOSSES, *SCORES), "유넷")
    losses, both = ((tmp_path / f"{name}.svg").read_text() for name in ("losses", "both"))
    assert (">score<" in losses, ">score<" in both) == (False, True)
    assert ">유넷<" in losses
    assert ">val mAP50<" in both


def test_a_picture_of_nothing_is_refused(tmp_path: Path) -> None:
    """Without points no empty picture is written."""
    with pytest.raises(ValueError, match="nothing was trained"):
        draw_curves(tmp_path / "a.png", ())
