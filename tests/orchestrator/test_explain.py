"""`orchestrator build --explain`: figures of every variant, for people and for programs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import helper, numpy_helper
from support import nets

from agent.wire import BenchError
from models import recipes, zoo
from models.build import VariantRequest, build
from models.data.shapes import ensure_shapes
from models.figures import Figures, Section
from models.store import Artifact, ArtifactStore, CurvePoint
from orchestrator import building, explain
from orchestrator.accuracy import Accuracy
from orchestrator.assign import BuiltVariant
from orchestrator.cli import main
from orchestrator.tables import PipeConsole

ISA = "x86_64-vnni"


def silent(_text: str) -> None:
    pass


@pytest.fixture
def tinydet(tmp_path: Path) -> BuiltVariant:
    model = zoo.resolve("tinydet")
    request = VariantRequest(model, recipes.get("fp32"), ISA)
    return BuiltVariant(build(request, ArtifactStore(tmp_path / "store"), silent), model)


def changed(variant: BuiltVariant, **fields: Any) -> BuiltVariant:
    old = variant.artifact
    manifest = msgspec.structs.replace(old.manifest, **fields)
    artifact = Artifact(old.sha256, old.size_bytes, old.format, old.path, manifest)
    return BuiltVariant(artifact, variant.model)


def at_80_columns(built: Any) -> list[str]:
    screen = io.StringIO()
    explain.show(PipeConsole(file=screen, width=80, highlight=False), built)
    return screen.getvalue().splitlines()


def test_figures_fit_80_columns(tinydet: BuiltVariant) -> None:
    """Parameters, FLOPs, sizes and each section's share stand in tables of 80 columns, uncut."""
    lines = at_80_columns({("tinydet", "fp32", ISA): tinydet})
    (total,) = [line for line in lines if line.startswith("tinydet/fp32 ") and "0.249" in line]
    assert total.split()[2:8] == ["768,414", "124.6", "0.249", "3.10", "2.86", "0%"]
    (backbone,) = [line for line in lines if " backbone " in line]
    assert backbone.split()[-6:] == ["586,704", "76.4%", "2.35", "76.4%", "90.3", "72.5%"]
    tables = [line for line in lines if line.startswith(("variant", "tinydet/fp32 "))]
    tables.remove(f"tinydet/fp32 for {ISA}")
    assert len(tables) == 6
    assert all(len(line) <= 80 and "…" not in line for line in tables)
    assert any("operators: Conv 34, Relu 28" in line for line in lines)
    assert "FLOPs are twice as many" in " ".join(lines)


def test_learning_curves_are_shown_once(tinydet: BuiltVariant) -> None:
    """What was learned on the way stands in a table; variants that share it do not repeat it."""
    learned = changed(tinydet, curves=tuple(CurvePoint(e, "train", "loss", 1 / e) for e in (1, 2)))
    lines = at_80_columns({("tinydet", recipe, ISA): learned for recipe in ("fp32", "int8_ptq")})
    assert sum(line.startswith("learning curves of") for line in lines) == 1
    (loss,) = [line for line in lines if " loss " in line]
    assert loss.split() == ["1", "train", "loss", "2", "1.0000", "0.5000", "0.5000", "█▁"]


def test_the_same_as_json(tinydet: BuiltVariant) -> None:
    """Every figure is a number with its unit in its name; a failed variant has its error."""
    built = {
        ("tinydet", "fp32", ISA): tinydet,
        ("tinydet", "broken", ISA): BenchError("no such luck"),
    }
    good, bad = json.loads(json.dumps(explain.as_json(built)))
    assert (good["parameters"], good["macs"], good["flops"]) == (768_414, 124_552_800, 249_105_600)
    assert good["size_bytes"] == 3_103_841
    assert [part["name"] for part in good["sections"]] == ["backbone", "neck", "head"]
    for field in ("parameters", "weight_bytes", "macs"):
        assert sum(part["shares"][field] for part in good["sections"]) == pytest.approx(1)
    assert good["operators"]["Conv"] == 34
    assert bad == {"model": "tinydet", "recipe": "broken", "isa": ISA, "error": "no such luck"}


def test_artifacts_of_older_versions_are_counted_now(tinydet: BuiltVariant) -> None:
    """A manifest without figures is no reason to show none: the file is still there."""
    old = changed(tinydet, figures=None)
    (found,) = explain.as_json({("tinydet", "fp32", ISA): old})
    assert found["macs"] == 124_552_800


def test_a_dynamic_input_is_counted_at_each_of_its_shapes(tmp_path: Path) -> None:
    """One file for two input sizes has each one's count, or none where it cannot be counted."""
    path = nets.save(
        tmp_path / "net.onnx",
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")],
        [numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")],
        inputs={"x": (1, 3, "h", "w")},
        outputs={"y": (1, 2, "h", "w")},
    )
    store = ArtifactStore(tmp_path / "store")
    found = {}
    for recipe, side in (("fp32", 8), ("fp32", 4), ("ort_format", 8), ("ort_format", 4)):
        model = zoo.resolve(str(path), shapes={"x": (1, 3, side, side)})
        artifact = build(VariantRequest(model, recipes.get(recipe), ISA), store, silent)
        built = {("net", recipe, ISA): BuiltVariant(artifact, model)}
        (found[recipe, side],) = explain.as_json(built)
    assert found["fp32", 8]["sha256"] == found["fp32", 4]["sha256"]
    assert [found["fp32", side]["macs"] for side in (8, 4)] == [2 * 3 * 64, 2 * 3 * 16]
    assert found["ort_format", 8]["macs"] == 2 * 3 * 64
    assert found["ort_format", 4]["macs"] is None
    assert "counted at {'x': (1, 3, 8, 8)}" in found["ort_format", 4]["note"]


def test_what_is_not_known_is_a_dash(tinydet: BuiltVariant) -> None:
    """Absent counts are dashes with the reason, and null in JSON."""
    unknown = Figures(macs=None, compressed_bytes=5, sparsity=None, note="no rule for LSTM")
    odd = changed(tinydet, figures=unknown, fused_kernels=None, fused_note="not counted: other")
    lines = at_80_columns({("odd", "fp32", ISA): odd})
    (total,) = [line for line in lines if line.startswith("odd/fp32  ")]
    assert total.split().count("-") == 4
    assert any("no rule for LSTM" in line for line in lines)
    assert any("not counted: other" in line for line in lines)
    assert not any("section" in line for line in lines)
    (found,) = explain.as_json({("odd", "fp32", ISA): odd})
    assert (found["macs"], found["flops"], found["sparsity"]) == (None, None, None)


def test_bytes_that_a_file_does_not_tell_are_a_dash(tinydet: BuiltVariant) -> None:
    """Sections whose bytes are not known have their other figures, and null for bytes in JSON."""
    parts = (Section("body", 30, None, 50_000_000), Section("head", 10, None, 50_000_000))
    figures = Figures(macs=100_000_000, compressed_bytes=5, sparsity=None, sections=parts)
    built: Any = {("m", "litert", ISA): changed(tinydet, figures=figures, format="tflite")}
    (body,) = [line for line in at_80_columns(built) if " body " in line]
    assert body.split()[-6:] == ["30", "75.0%", "-", "-", "50.0", "50.0%"]
    (found,) = explain.as_json(built)
    assert found["sections"][0]["weight_bytes"] is None
    assert found["sections"][0]["shares"] == {"parameters": 0.75, "weight_bytes": None, "macs": 0.5}


def test_the_command_explains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`build --explain` prints the tables, `--json` one object on stdout and nothing else there."""
    (tmp_path / "inventory.yaml").write_text("boards:\n  here: {local: true}\n")
    monkeypatch.chdir(tmp_path)
    arguments = ["build", "--model", "tinydet", "--recipes", "fp32"]
    assert main([*arguments, "--explain"]) == 0
    assert "124.6" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["variants"][0]["macs"] == 124_552_800
    assert shown["warnings"] == []


@pytest.mark.slow
def test_lost_accuracy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """Quantizing the decode too costs tinydet more than 5 % of its mAP50, and the build says so."""
    (tmp_path / "inventory.yaml").write_text("boards:\n  here: {local: true}\n")
    small = ensure_shapes(tmp_path / "data", {"train": 8, "val": 32})
    (tmp_path / "lost.yaml").write_text(
        "models: [tinydet]\nrecipes: [fp32, int8_ptq, int8_ptq_all]\n"
        f"data: {{source: {small}, split: val}}\n"
        f"calibration: {{source: {small}, split: train, images: 8}}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("orchestrator.assign.BUILD_WORKERS", 1)
    assert main(["build", "lost.yaml", "--score"]) == 0
    told = [line for line in capfd.readouterr().err.splitlines() if "LOST ACCURACY" in line]
    assert len(told) == 1
    assert "tinydet/int8_ptq_all" in told[0]
    kept = float(told[0].split("keeps ")[1].split("%")[0])
    assert 75 < kept < 92


def test_only_what_lost_is_named() -> None:
    """At 95 % nothing is said; a baseline is not compared with itself, nor with another target."""

    def found(map50: float) -> Accuracy:
        return Accuracy("hotcoco", "1", 8, {}, (), map50=map50)

    scores = {
        ("m", "fp32", ISA): found(0.8),
        ("m", "good", ISA): found(0.761),
        ("m", "bad", ISA): found(0.75),
        ("m", "bad", "aarch64"): found(0.1),
    }
    (line,) = building.lost_accuracy(scores, "fp32")
    assert "m/bad (x86_64-vnni) keeps 93.8% of fp32's mAP50" in line
