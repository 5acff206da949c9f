"""What is counted of a file, against figures worked out by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support import nets

from models import zoo
from models.build import VariantRequest, build
from models.explain import OTHER, compressed_bytes, count_macs, explain, sparsity
from models.figures import Figures, Section
from models.recipes import Recipe
from models.spec import StepSpec
from models.steps.isa import host_isa
from models.store import ArtifactStore, Manifest


def silent(_text: str) -> None:
    pass


def weight(name: str, *shape: int) -> Any:
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def net(path: Path, nodes: list[Any], weights: list[Any], given: Any, made: Any) -> Path:
    inputs, outputs = {"x": given}, {"y": made}
    return nets.save(path, nodes, weights, inputs=inputs, outputs=outputs, opset=19)


@pytest.mark.parametrize(
    ("node", "weights", "given", "made", "macs"),
    [
        # 5 outputs of 6x6, each from 4 channels of 3x3
        (
            helper.make_node("Conv", ["x", "w"], ["y"], name="n", pads=[1, 1, 1, 1]),
            [weight("w", 5, 4, 3, 3)],
            (1, 4, 6, 6),
            (1, 5, 6, 6),
            5 * 6 * 6 * 4 * 9,
        ),
        # stride 2 and two groups: 8 outputs of 3x3, each from 2 channels of 3x3
        (
            helper.make_node(
                "Conv", ["x", "w"], ["y"], name="n", pads=[1] * 4, strides=[2, 2], group=2
            ),
            [weight("w", 8, 2, 3, 3)],
            (1, 4, 6, 6),
            (1, 8, 3, 3),
            8 * 3 * 3 * 2 * 9,
        ),
        # each of 4 x 6 x 6 inputs is spread over 5 channels of 2x2
        (
            helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="n", strides=[2, 2]),
            [weight("w", 4, 5, 2, 2)],
            (1, 4, 6, 6),
            (1, 5, 12, 12),
            4 * 6 * 6 * 5 * 4,
        ),
        # 8 outputs of 4x4, each from 2 channels of 3x3, wherever those are looked up
        (
            helper.make_node("DeformConv", ["x", "w", "o"], ["y"], name="n", group=2),
            [weight("w", 8, 2, 3, 3), weight("o", 1, 18, 4, 4)],
            (1, 4, 6, 6),
            (1, 8, 4, 4),
            8 * 4 * 4 * 2 * 9,
        ),
        (
            helper.make_node("Gemm", ["x", "w"], ["y"], name="n", transB=1),
            [weight("w", 7, 10)],
            (3, 10),
            (3, 7),
            3 * 7 * 10,
        ),
        (
            helper.make_node("MatMul", ["x", "w"], ["y"], name="n"),
            [weight("w", 10, 7)],
            (2, 3, 10),
            (2, 3, 7),
            2 * 3 * 7 * 10,
        ),
        (helper.make_node("Relu", ["x"], ["y"], name="n"), [], (1, 4), (1, 4), 0),
    ],
)
def test_multiply_accumulates_by_hand(
    tmp_path: Path, node: Any, weights: list[Any], given: Any, made: Any, macs: int
) -> None:
    """Each kind of layer needs as many multiply-accumulates as its definition says."""
    path = net(tmp_path / "net.onnx", [node], weights, given, made)
    figures = explain(path, {})
    assert (figures.macs, figures.flops, figures.note) == (macs, 2 * macs, None)


def test_a_dynamic_input_is_counted_at_its_fixed_shape(tmp_path: Path) -> None:
    """Without a shape the count is absent, with the reason; with one it is that shape's."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv")
    path = net(
        tmp_path / "net.onnx", [node], [weight("w", 2, 3, 1, 1)], (1, 3, "h", "w"), (1, 2, "h", "w")
    )
    unknown = explain(path, {})
    assert (unknown.macs, unknown.flops) == (None, None)
    assert "the shape of 'y' at 'conv' is not known" in (unknown.note or "")
    assert explain(path, {"x": (1, 3, 10, 20)}).macs == 2 * 3 * 10 * 20


def test_layers_out_of_sight_are_not_passed_over() -> None:
    """Layers in a branch, in a function or fused by ONNX Runtime have no figure rather than 0."""
    conv = helper.make_node("Conv", ["x", "w"], ["y"], name="c")
    branch = helper.make_graph([conv], "b", [], [])
    chosen = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    idle = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "b", [], [])
    harmless = helper.make_node("If", ["x"], ["y"], then_branch=idle, else_branch=idle)
    opset = [helper.make_opsetid("", 17)]
    function = helper.make_function("own", "Block", ["x", "w"], ["y"], [conv], opset)
    called = helper.make_node("Block", ["x", "w"], ["y"], domain="own")
    fused = helper.make_node("FusedConv", ["x", "w"], ["y"], domain="com.microsoft")
    told = "multiply-accumulates not counted: no rule for "
    for node, name in ((chosen, "If"), (called, "Block"), (fused, "FusedConv")):
        graph = helper.make_graph([node], "g", [], [])
        assert count_macs(helper.make_model(graph, functions=[function]), {}) == ({}, told + name)
    graph = helper.make_graph([harmless], "g", [], [])
    assert count_macs(helper.make_model(graph, opset_imports=opset), {}) == ({}, None)


def test_operators_without_a_rule_are_not_passed_over() -> None:
    """A recurrent network has no figure rather than one that is too small."""
    graph = helper.make_graph([helper.make_node("LSTM", ["x"], ["y"], name="l")], "g", [], [])
    assert count_macs(helper.make_model(graph), {}) == (
        {},
        "multiply-accumulates not counted: no rule for LSTM",
    )


def test_the_shipped_detector() -> None:
    """tinydet: its sections add up to its parameters and its multiply-accumulates."""
    figures = explain(zoo.SHIPPED["tinydet"], {})
    assert figures.macs == 124_552_800
    assert [part.name for part in figures.sections] == ["backbone", "neck", "head"]
    assert [part.parameters for part in figures.sections] == [586_704, 55_536, 126_174]
    assert sum(part.macs or 0 for part in figures.sections) == figures.macs
    assert all(part.weight_bytes == 4 * part.parameters for part in figures.sections)
    assert figures.compressed_bytes < zoo.SHIPPED["tinydet"].stat().st_size


def test_weights_outside_every_section_are_named(tmp_path: Path) -> None:
    """What no section claims is counted as `other`, so that shares add up to one."""
    path = nets.detector(
        tmp_path / "net.onnx", metadata={"sections": json.dumps({"head": ["/head/*"]})}
    )
    found = {part.name: part.parameters for part in explain(path, {}).sections}
    assert found == {"head": 6 * 32, OTHER: 16 * 3 * 9 + 32 * 16 * 9}


def test_zeros_are_counted_in_float_and_in_int8(tmp_path: Path) -> None:
    """70 % zeros stay 70 % zeros or more after quantization, and compress the file."""
    store = ArtifactStore(tmp_path / "store")
    request = nets.request(tmp_path, "int8_ptq", isa=host_isa())
    pruned = StepSpec("sparsify", {"ratio": 0.7})
    chain = Recipe("both", (pruned, *request.recipe.steps), "")
    dense = build(dataclasses.replace(request, recipe=Recipe("f", (), "")), store, silent)
    sparse = build(dataclasses.replace(request, recipe=Recipe("s", (pruned,), "")), store, silent)
    both = build(dataclasses.replace(request, recipe=chain), store, silent)
    figures = [artifact.manifest.figures for artifact in (dense, sparse, both)]
    assert figures[0] is not None
    assert figures[1] is not None
    assert figures[2] is not None
    assert figures[0].sparsity == 0
    assert figures[1].sparsity == pytest.approx(0.7, abs=0.001)
    assert figures[2].sparsity == pytest.approx(0.7, abs=0.02)
    assert sparse.size_bytes == dense.size_bytes
    assert figures[1].compressed_bytes < 0.6 * figures[0].compressed_bytes
    assert figures[1].macs == figures[2].macs == figures[0].macs


def test_each_channel_has_its_own_zero(tmp_path: Path) -> None:
    """With a zero point a column, the zeros of each column are found where its own point is."""
    rng = np.random.default_rng(0)
    values = (rng.normal(0, 0.3, (64, 32)) + np.linspace(-1, 1, 32)).astype(np.float32)
    path = net(
        tmp_path / "net.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="n")],
        [numpy_helper.from_array(values, "w")],
        (1, 64),
        (1, 32),
    )
    steps = (
        StepSpec("sparsify", {"ratio": 0.7}),
        StepSpec("dynamic", {"per_channel": True}),
    )
    request = VariantRequest(zoo.resolve(str(path)), Recipe("mine", steps, ""), host_isa())
    artifact = build(request, ArtifactStore(tmp_path / "store"), silent)
    weights = {t.name: list(t.dims) for t in onnx.load(artifact.path).graph.initializer}
    assert weights["w_zero_point"] == [32]
    assert artifact.manifest.figures is not None
    assert artifact.manifest.figures.sparsity == pytest.approx(0.7, abs=0.01)


def test_a_graph_without_layers_has_no_sparsity(tmp_path: Path) -> None:
    """No weights, no share of zeros."""
    assert sparsity(onnx.load(nets.relu_only(tmp_path / "relu.onnx")).graph) is None


def test_large_files_are_sampled(tmp_path: Path) -> None:
    """The estimate for 40 MiB of which half is noise is within 5 % of the whole's size."""
    rng = np.random.default_rng(0)
    path = tmp_path / "large"
    with path.open("wb") as file:
        for _ in range(40):
            file.write(rng.bytes(1 << 19))
            file.write(bytes(1 << 19))
    assert compressed_bytes(path) == pytest.approx(20 * (1 << 20), rel=0.05)


def test_manifests_carry_figures_and_do_without(tmp_path: Path) -> None:
    """The figures come back from JSON, and a manifest of an older version has none."""
    store = ArtifactStore(tmp_path / "store")
    manifest = build(nets.request(tmp_path, "ort_format"), store, silent).manifest
    assert manifest.figures is not None
    text = msgspec.json.encode(manifest)
    assert msgspec.json.decode(text, type=Manifest) == manifest
    older = msgspec.json.decode(text)
    del older["figures"]
    assert msgspec.json.decode(msgspec.json.encode(older), type=Manifest).figures is None


def test_ort_files_keep_the_counts_of_what_they_were_made_from(tmp_path: Path) -> None:
    """An ORT file's operators are its parent's in another form; only its own size is new."""
    store = ArtifactStore(tmp_path / "store")
    parent = build(nets.request(tmp_path, "fp32"), store, silent).manifest.figures
    child = build(nets.request(tmp_path, "ort_format"), store, silent).manifest.figures
    assert parent is not None
    assert child is not None
    assert child == msgspec.structs.replace(parent, compressed_bytes=child.compressed_bytes)
    assert child.compressed_bytes != parent.compressed_bytes


def test_flops_are_two_for_each_multiply_accumulate() -> None:
    """The convention is in one place, and an unknown count stays unknown."""
    known = Figures(macs=5, compressed_bytes=1, sparsity=None, sections=(Section("a", 1, 4, 5),))
    assert known.flops == 10
    assert Figures(macs=None, compressed_bytes=1, sparsity=None).flops is None
