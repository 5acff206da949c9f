"""`orchestrator build`: artifacts without a board, and their accuracy on the whole set."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.jobs import voc
from support.nets import tensors
from support.onnxmodels import tiny_model

from models.errors import DataError
from models.steps.isa import host_isa
from orchestrator import building
from orchestrator.cli import main

TINY = ("build", "--model", "tiny.onnx")


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "inventory.yaml").write_text(
        "boards:\n  here: {local: true}\n  pi3b: {address: 10.0.0.3, arch: aarch64}\n"
    )
    tiny_model(tmp_path / "tiny.onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("orchestrator.assign.BUILD_WORKERS", 1)
    return tmp_path


def rows(sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect("file:results.sqlite?mode=ro", uri=True)) as db:
        return db.execute(sql).fetchall()


def test_for_this_machine(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without boards the artifact is for this machine; nothing is measured or stored."""
    assert main([*TINY]) == 0
    shown = capsys.readouterr()
    assert "tiny/fp32" in shown.out
    assert host_isa() in shown.out
    assert "mAP" not in shown.out
    assert not (workspace / "results.sqlite").exists()
    assert any((workspace / ".orchestrator" / "models").rglob("*"))


@pytest.mark.parametrize(
    ("option", "isas"),
    [
        (("--isa", "aarch64, x86_64"), ["aarch64", "x86_64"]),
        (("--boards", "pi3b"), ["aarch64"]),
        (("--boards", "all", "--isa", "aarch64"), sorted({"aarch64", host_isa()})),
    ],
)
def test_for_others(
    option: tuple[str, ...], isas: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Artifacts are built for the instruction sets that are named, or that boards have."""
    assert main([*TINY, *option]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "tiny/fp32" in line]
    assert [line[1] for line in lines] == isas


def test_unknown_instruction_set(capsys: pytest.CaptureFixture[str]) -> None:
    """An instruction set that does not exist is refused with the nearest name."""
    assert main([*TINY, "--isa", "arch64"]) == 12
    assert "did you mean 'aarch64'" in capsys.readouterr().err


def test_a_build_that_fails(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What can be built is shown, what cannot is named, and its code ends the command."""
    (workspace / "two.yaml").write_text(
        "models: [tiny.onnx]\nrecipes: [fp32, ort_format, int8_ptq]\n"
        "calibration: {source: images}\n"
    )
    (workspace / "images").mkdir()
    (workspace / "images" / "broken.png").write_bytes(b"no image")
    code = main(["build", "two.yaml"])
    shown = capsys.readouterr()
    assert 20 <= code < 30
    assert "tiny/fp32" in shown.out
    assert "FAILED" in shown.out
    assert "int8_ptq" in shown.err


def test_again(capsys: pytest.CaptureFixture[str]) -> None:
    """A second build runs no step."""
    main([*TINY])
    assert ": step " in capsys.readouterr().err
    assert main([*TINY]) == 0
    assert ": step " not in capsys.readouterr().err


# ---------------------------------------------------------------- accuracy of the whole set


NOT_CHECKED = "accuracy not checked of "


def test_what_was_not_scored_is_said(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where quantized variants were built and not scored, one line counts them and says how to."""
    tensors(workspace / "calibration", (1, 3, 160, 160), 1)
    words = ["build", "--model", "tinydet", "--calibration", "calibration", "--recipes"]
    assert main([*words, "fp32,ort_format"]) == 0
    assert NOT_CHECKED not in capsys.readouterr().err
    assert main([*words, "fp32,ort_format,fp16,int8_head"]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if NOT_CHECKED in line]
    assert "of 2 variants" in line
    assert "give labelled images with --data and add --score" in line
    assert "95% of fp32's" in line


def test_what_nobody_can_score_is_not_asked_for(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model without a decoder has no accuracy to check."""
    assert main([*TINY, "--recipes", "fp32,fp16"]) == 0
    assert NOT_CHECKED not in capsys.readouterr().err


@pytest.fixture
def data(workspace: Path) -> Path:
    return voc(workspace / "voc", ("circle", "ring"), {"val": 6})


def test_what_was_not_scored_can_be(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where labelled images are given, only `--score` is missing, and so it is said."""
    words = ["build", "--model", "tinydet", "--data", "voc", "--recipes", "fp32,fp16"]
    assert main(words) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if NOT_CHECKED in line]
    assert "of 1 variant that was quantized or changed: add --score" in line
    assert main([*words, "--score"]) == 0
    assert NOT_CHECKED not in capsys.readouterr().err


SCORE = ("build", "--model", "tinydet", "--data", "voc", "--score")


def test_score(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole set is scored here, shown with its count, and stored as a run without boards."""
    assert main([*SCORE]) == 0
    shown = capsys.readouterr()
    assert "on 6 images" in shown.err
    assert "mAP50-95" in shown.out
    assert rows("SELECT place, set_name, split, images, subset_seed FROM evaluations") == [
        ("host", "voc", "val", 6, None)
    ]
    assert rows("SELECT state FROM runs") == [("finished",)]
    assert rows("SELECT COUNT(*) FROM boards") == [(0,)]


def test_score_without_data(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a labelled set there is nothing to score, which is said."""
    assert main([*TINY, "--score"]) == 0
    assert "names no data set" in capsys.readouterr().err


def test_score_of_a_model_that_nobody_can_decode(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model without a known decoder is built and not scored."""
    assert main([*TINY, "--data", "voc", "--score"]) == 0
    assert rows("SELECT COUNT(*) FROM evaluations") == [(0,)]


def test_score_that_fails(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose scoring fails is not left as running."""

    def fail(*args: object) -> object:
        raise DataError("an image is broken")

    monkeypatch.setattr(building, "_score_one", fail)
    assert main([*SCORE]) == 25
    assert rows("SELECT state FROM runs") == [("failed",)]
