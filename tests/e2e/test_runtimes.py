"""One network on this machine as a board, run by ONNX Runtime and by PyTorch's eager mode."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
from support.cli import Desk, desk, table

pytestmark = [
    pytest.mark.slow,
    pytest.mark.torch,
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None, reason="torch is not installed (extra 'models')"
    ),
]

EXPERIMENT = """
models:
  - {model: unet, imgsz: 32, options: {width: 0.25}}
recipes: [fp32, torch_eager]
profile: smoke
blocks: 3
cooldown: null
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk(tmp_path_factory.mktemp("runtimes")) as made:
        (made.root / "two.yaml").write_text(EXPERIMENT)
        yield made


@pytest.fixture(scope="module")
def first(place: Desk) -> dict[str, object]:
    result = place.run("run", "two.yaml", "--boards", "here", "--json", timeout_s=500)
    assert result.returncode == 0, result.stderr
    return table(result)


@pytest.mark.timeout(600)
def test_both_runtimes_measure_the_same_network(first: dict[str, object], place: Desk) -> None:
    """Each recipe's runtime runs its own file, and the ratio goes across the two."""
    rows = {row["variant"]: row for row in first["rows"]}  # type: ignore[attr-defined]
    assert {name: row["runtime"] for name, row in rows.items()} == {
        "fp32": "onnxruntime",
        "torch_eager": "torch",
    }
    assert all(row["p50_ms"] > 0 for row in rows.values())
    assert rows["torch_eager"]["ratio"]["value"] > 0
    stored = place.rows(
        "SELECT DISTINCT t.runtime, t.runtime_version, a.format FROM trials t "
        "JOIN artifacts a USING (artifact_sha256) ORDER BY t.runtime"
    )
    assert [(row["runtime"], row["format"]) for row in stored] == [
        ("onnxruntime", "onnx"),
        ("torch", "pt2"),
    ]
    assert all(row["runtime_version"] for row in stored)


def test_a_comparison_across_runtimes_says_so(first: dict[str, object], place: Desk) -> None:
    """The two can be compared, and the comparison names both runtimes."""
    result = place.run("compare")
    assert result.returncode == 0, result.stderr
    assert "ran by torch" in result.stdout
    assert "runtime_version differs" not in result.stdout
