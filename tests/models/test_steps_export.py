"""The way through ultralytics: export, quantization without the decode, and what goes wrong."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import nets

from models import recipes, zoo
from models.build import VariantRequest, build, calibration, find_cached
from models.chain import fingerprint
from models.errors import BuildFailed, ExtraMissing, ModelNotFound, ModelUnreadable
from models.spec import ModelSource
from models.steps.export import raise_failure
from models.steps.export_child import downloaded
from models.steps.isa import family, host_isa
from models.store import ArtifactStore

SIDE = 64
EXTRA = all(importlib.util.find_spec(name) for name in ("torch", "ultralytics", "onnxslim"))
needs_extra = pytest.mark.skipif(not EXTRA, reason="needs the extra `models` (torch, ultralytics)")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network and no settings of the user; both reach the child process."""
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "ultralytics"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def silent(_text: str) -> None:
    pass


def test_weights_are_downloaded_once_and_whole(tmp_path: Path) -> None:
    """Of builds at once one downloads, and a download that is cut off is begun anew."""
    calls: list[Path] = []

    def cut_off(target: Path) -> str:
        target.write_bytes(b"half")
        raise ConnectionError("gone")

    def whole(target: Path) -> str:
        calls.append(target)
        for part in (b"the ", b"weights"):
            with target.open("ab") as file:
                file.write(part)
            time.sleep(0.1)
        return str(target)

    with pytest.raises(ConnectionError):
        downloaded("a.pt", tmp_path, cut_off)
    assert not (tmp_path / "a.pt").exists()
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: downloaded("a.pt", tmp_path, whole), range(2)))
    assert found == [tmp_path / "a.pt"] * 2
    assert found[0].read_bytes() == b"the weights"
    assert len(calls) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.pt.lock", "a.pt"]


@needs_extra
@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_an_untrained_yolo_becomes_int8(
    tmp_path: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """yolov8n.yaml exports, its 63 convolutions outside the decode are quantized and fuse."""
    monkeypatch.chdir(tmp_path)
    spec = zoo.resolve("yolov8n.yaml", imgsz=SIDE)
    images = nets.tensors(tmp_path / "c", (1, 3, SIDE, SIDE), 2)
    request = VariantRequest(
        spec, recipes.get("int8_ptq"), host_isa(), calibration(images, spec.prep)
    )
    artifact = build(request, store, silent)
    manifest = artifact.manifest
    assert [step.name for step in manifest.steps] == ["export", "int8_ptq"]
    assert manifest.node_counts["Conv"] == 64
    if family(host_isa()) == "x86_64":
        assert manifest.fused_kernels is not None
        assert manifest.fused_kernels["QLinearConv"] == 63
        assert "QLinearSoftmax" not in manifest.fused_kernels
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "store", "ultralytics"]

    exported = store.get(manifest.parent_sha256 or "").manifest
    assert exported.opset == 18
    assert exported.tool_versions.keys() == {"torch", "ultralytics", "onnx", "onnxslim"}
    assert "date" not in exported.metadata
    assert manifest.size_bytes < 0.4 * exported.size_bytes
    assert find_cached(request, store) == artifact

    complete = zoo.complete(spec, artifact)
    assert (complete.task, complete.trained) == ("detect", False)
    assert complete.head is not None
    assert (complete.head.decoder, complete.head.num_classes) == ("yolo_v8", 80)
    assert len(complete.class_names) == 80
    assert complete.prep == spec.prep
    assert "untrained" in (complete.note or "")


@needs_extra
@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_weights_of_ones_own_are_exported(tmp_path: Path, store: ArtifactStore) -> None:
    """A .pt file becomes an artifact with its own class names; nothing is written beside it."""
    folder = tmp_path / "weights"
    folder.mkdir()
    code = (
        "import sys; from ultralytics import YOLO; model = YOLO('yolov8n.yaml'); "
        "model.model.names = {i: f'thing {i}' for i in range(80)}; model.save(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, str(folder / "mine.pt")], check=True)
    spec = zoo.resolve("mine.pt", imgsz=SIDE, base_dir=folder)
    assert (spec.name, spec.trained) == ("mine", True)
    artifact = build(VariantRequest(spec, recipes.get("fp32"), "aarch64"), store, silent)
    assert zoo.complete(spec, artifact).class_names[79] == "thing 79"
    assert artifact.manifest.inputs["images"].shape == (1, 3, SIDE, SIDE)
    assert [path.name for path in folder.iterdir()] == ["mine.pt"]


@needs_extra
@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_weights_that_cannot_be_downloaded_are_not_found(
    tmp_path: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline, a name without local weights says where to put them and what to use instead."""
    monkeypatch.chdir(tmp_path)
    request = VariantRequest(zoo.resolve("yolov8n"), recipes.get("fp32"), "aarch64")
    with pytest.raises(ModelNotFound, match=r"yolov8n\.pt.*weights.*yolov8n\.yaml"):
        build(request, store, silent)
    assert list(store.root.glob("artifacts/*/*")) == []
    left = [path.name for path in (store.root / "weights").iterdir()]
    assert left == [".yolov8n.pt.lock"]  # empty; to remove it would let two builds hold it


@needs_extra
@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["mine.pt", "mine.yaml"])
def test_damaged_weights_are_unreadable(tmp_path: Path, store: ArtifactStore, name: str) -> None:
    """A file that ultralytics cannot load is named, and left as it was."""
    path = tmp_path / name
    path.write_bytes(b"neither weights nor: [a network")
    request = VariantRequest(zoo.resolve(str(path)), recipes.get("fp32"), "aarch64")
    with pytest.raises(ModelUnreadable, match=name):
        build(request, store, silent)
    assert path.read_bytes() == b"neither weights nor: [a network"


@needs_extra
@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_weights_are_data_and_never_run(tmp_path: Path, store: ArtifactStore) -> None:
    """A pickle that would run a command on loading is refused, and the command does not run."""

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'pwned'}",)

    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(Evil()))
    request = VariantRequest(zoo.resolve(str(path)), recipes.get("fp32"), "aarch64")
    with pytest.raises(ModelUnreadable, match=r"evil\.pt"):
        build(request, store, silent)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("stage", "error", "said"),
    [
        ("import", ExtraMissing, "pip install"),
        ("weights", ModelNotFound, r"put the file into .*or use yolov5n\.yaml"),
        ("load", ModelUnreadable, r"yolov5nu\.pt: the reason"),
        ("export", BuildFailed, "export: the reason"),
    ],
)
def test_each_stage_of_an_export_fails_with_its_own_class(
    tmp_path: Path, stage: str, error: type[Exception], said: str
) -> None:
    """What the child process reports becomes the error of its stage."""
    source = ModelSource("ultralytics", None, "yolov5nu.pt", None, 640)
    with pytest.raises(error, match=said):
        raise_failure({"failed": stage, "error": "the reason"}, source, tmp_path)
    raise_failure({}, source, tmp_path)


def test_a_child_that_dies_is_a_failed_build(
    tmp_path: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a result of the child, its exit code and last words are reported."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    spec = zoo.resolve("yolov8n.yaml")
    monkeypatch.undo()
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\necho 'last words' >&2\nexit 7\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(interpreter))
    lines: list[str] = []
    request = VariantRequest(spec, recipes.get("fp32"), "aarch64")
    with pytest.raises(BuildFailed, match=r"yolov8n\.yaml/fp32 .*code 7: last words"):
        build(request, store, lines.append)
    assert any("last words" in line for line in lines)


def test_the_size_of_an_export_is_part_of_its_key(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exports at 320 and 640 pixels are two artifacts."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    small, large = (zoo.resolve("yolov8n.yaml", imgsz=size) for size in (320, 640))
    request = VariantRequest(small, recipes.get("fp32"), "aarch64")
    assert find_cached(request, store) is None
    assert fingerprint(request) != fingerprint(dataclasses.replace(request, model=large))
