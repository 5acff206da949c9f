"""ONNX Runtime's own format: optimized for its target, and still the same function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from support import nets

from models import zoo
from models.build import build
from models.steps.isa import host_isa
from models.store import Artifact, ArtifactStore


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def silent(_text: str) -> None:
    pass


def run(artifact: Artifact) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        artifact.path.read_bytes(), providers=["CPUExecutionProvider"]
    )
    tensor = np.random.default_rng(0).random((1, 3, nets.SIDE, nets.SIDE), dtype=np.float32)
    return np.asarray(session.run(None, {"images": tensor})[0])


def test_the_converted_model_computes_the_same(tmp_path: Path, store: ArtifactStore) -> None:
    """The .ort file for this host gives the outputs of the .onnx file."""
    exact = build(nets.request(tmp_path, "fp32", host_isa()), store, silent)
    converted = build(nets.request(tmp_path, "ort_format", host_isa()), store, silent)
    assert converted.format == "ort"
    assert converted.path.suffix == ".ort"
    assert converted.path.read_bytes()[4:8] == b"ORTM"
    np.testing.assert_allclose(run(converted), run(exact), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("isa", ["x86_64", "x86_64-vnni", "aarch64", "aarch64-dotprod"])
def test_int8_is_fused_for_every_target(tmp_path: Path, store: ArtifactStore, isa: str) -> None:
    """An INT8 model in ORT format holds fused convolutions, for Arm also when built on x86."""
    manifest = build(nets.request(tmp_path, "int8_ptq_ort", isa), store, silent).manifest
    assert [step.name for step in manifest.steps] == ["import", "int8_ptq", "ort_format"]
    assert manifest.fused_kernels is not None
    assert manifest.fused_kernels["QLinearConv"] == 3
    assert manifest.node_counts["QLinearConv"] == 3


def test_the_manifest_keeps_what_the_format_hides(tmp_path: Path, store: ArtifactStore) -> None:
    """Inputs, outputs, metadata and parameters come from the parent; the description holds."""
    artifact = build(nets.request(tmp_path, "ort_format"), store, silent)
    parent = store.get(artifact.manifest.parent_sha256 or "")
    assert artifact.manifest.inputs == parent.manifest.inputs
    assert artifact.manifest.parameters == parent.manifest.parameters > 5000
    found = zoo.describe_artifact(artifact)
    assert found.class_names == nets.NAMES
    assert found.head is not None


def test_layouts_of_this_cpu_stay_on_it(tmp_path: Path, store: ArtifactStore) -> None:
    """A file for another instruction set has no node of this host's blocked layout."""
    other = "aarch64" if host_isa() != "aarch64" else "x86_64"
    manifest = build(nets.request(tmp_path, "ort_format", other), store, silent).manifest
    assert not {"ReorderInput", "ReorderOutput"} & manifest.node_counts.keys()
    assert manifest.steps[-1].choices["layout"] == "nchw"
