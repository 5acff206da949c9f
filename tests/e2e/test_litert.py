"""A TensorFlow Lite file on this machine as a board, from the command to the database."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import convnet
from support.cli import Desk, desk, table

from models import recipes, zoo
from models.build import remember_chain
from models.chain import VariantRequest, links
from models.manifest import describe_result
from models.steps import StepResult
from models.steps.base import FileInfo
from models.steps.isa import host_isa
from models.store import ArtifactStore
from models.tensors import TensorInfo

pytestmark = [
    pytest.mark.slow,
    pytest.mark.litert,
    pytest.mark.skipif(
        importlib.util.find_spec("ai_edge_litert") is None,
        reason="ai-edge-litert is not installed (extra 'litert')",
    ),
]

EXPERIMENT = f"""
models:
  - {{model: unet, imgsz: {convnet.SIZE}}}
recipes: [litert]
baseline: litert
profile: smoke
blocks: 2
cooldown: null
"""


def plant(root: Path) -> str:
    """Put the .tflite file into the store as if a builder had made it of the model; its sha256."""
    store = ArtifactStore(root / ".orchestrator/models")
    model = zoo.resolve("unet", imgsz=convnet.SIZE, need_extra=False)
    request = VariantRequest(model, recipes.get("litert"), host_isa())
    file = Path(shutil.copy(convnet.TFLITE, root / "sent.tflite"))
    shape = (1, 3, convnet.SIZE, convnet.SIZE)
    info = FileInfo(
        inputs={"images": TensorInfo("float32", shape)},
        outputs={"output_0": TensorInfo("float32", (1, 2, *shape[2:]))},
        metadata={"task": "segment", "names": '["a", "b"]', "imgsz": str(convnet.SIZE)},
        parameters=120,
        weight_bytes=480,
    )
    result = StepResult(file, node_counts={"CONV_2D": 2}, info=info)
    manifest = describe_result(request, links(request)[-1], None, result, root)
    store.add(file, manifest)
    remember_chain(request, store, ["0" * 64, manifest.sha256])
    return manifest.sha256


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Desk]:
    with desk(tmp_path) as made:
        (made.root / "one.yaml").write_text(EXPERIMENT)
        yield made


@pytest.mark.timeout(200)
def test_a_tensorflow_lite_file_is_measured(place: Desk) -> None:
    """The file is run by LiteRT itself, and the stored trial says of which file and by whom."""
    sha256 = plant(place.root)
    result = place.run("run", "one.yaml", "--boards", "here", "--json")
    assert result.returncode == 0, result.stderr
    (row,) = table(result)["rows"]
    assert (row["variant"], row["runtime"]) == ("litert", "litert")
    assert row["p50_ms"] > 0
    stored = place.rows(
        "SELECT t.runtime, t.runtime_version, t.state, a.format, artifact_sha256 FROM trials t "
        "JOIN artifacts a USING (artifact_sha256)"
    )
    assert len(stored) == 2
    assert {(one["runtime"], one["state"], one["artifact_sha256"]) for one in stored} == {
        ("litert", "finished", sha256)
    }
    assert {one["format"] for one in stored} == {"tflite"}
    assert all(one["runtime_version"] for one in stored)
