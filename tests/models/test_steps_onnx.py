"""Steps on ONNX files that need no calibration: half precision, dynamic INT8, zeros."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support import nets

from models import recipes, zoo
from models.build import VariantRequest, build, find_cached
from models.errors import BuildFailed, NothingQuantized
from models.recipes import Recipe
from models.spec import StepSpec
from models.steps.fp16 import skip_round_trips
from models.steps.isa import family, host_isa
from models.steps.sparsify import prune
from models.store import Artifact, ArtifactStore

on_x86 = pytest.mark.skipif(family(host_isa()) != "x86_64", reason="counts are of x86-64 kernels")


def silent(_text: str) -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def tinydet(recipe: str) -> VariantRequest:
    return VariantRequest(zoo.resolve("tinydet"), recipes.get(recipe), host_isa())


def outputs(artifact: Artifact, side: int) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(artifact.path), options, providers=["CPUExecutionProvider"]
    )
    tensor = np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)
    return np.asarray(session.run(None, {"images": tensor})[0])


def one_step(request: VariantRequest, name: str, **params: Any) -> VariantRequest:
    return dataclasses.replace(request, recipe=Recipe("mine", (StepSpec(name, params),), ""))


# ---------------------------------------------------------------- fp16


def test_half_precision_keeps_the_decode_and_the_interface(store: ArtifactStore) -> None:
    """Half the size; float32 in and out; every node of the decode reads and writes float32."""
    plain = build(tinydet("fp32"), store, silent)
    half = build(tinydet("fp16"), store, silent)
    assert half.size_bytes == pytest.approx(1_578_612, rel=0.01)
    assert half.manifest.inputs == plain.manifest.inputs
    assert half.manifest.outputs == plain.manifest.outputs
    assert half.manifest.parameters == plain.manifest.parameters
    model = onnx.shape_inference.infer_shapes(onnx.load(half.path))
    kinds = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    decode = [n for n in model.graph.node if n.name.startswith("/decode/") and "cast" not in n.name]
    made = {kinds[name] for node in decode for name in node.output if name in kinds}
    assert made <= {TensorProto.FLOAT, TensorProto.INT64}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    assert {kinds[node.output[0]] for node in convs} == {TensorProto.FLOAT16}


def test_half_precision_finds_the_same(store: ArtifactStore) -> None:
    """Boxes differ by less than half a pixel and scores by less than 0.01 from float32's."""
    exact = outputs(build(tinydet("fp32"), store, silent), 160)
    half = outputs(build(tinydet("fp16"), store, silent), 160)
    assert half.dtype == np.float32
    assert np.abs(half - exact)[:, :4].max() < 0.5
    assert np.abs(half - exact)[:, 4:].max() < 0.01


def test_casts_there_and_back_are_removed() -> None:
    """float32 to float16 and back is no step at all, also where it ends in the graph's output."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="a"),
        helper.make_node("Cast", ["a"], ["b"], name="down", to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["b"], ["c"], name="up", to=TensorProto.FLOAT),
        helper.make_node("Relu", ["c"], ["d"], name="d"),
        helper.make_node("Cast", ["d"], ["e"], name="down2", to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["e"], ["y"], name="up2", to=TensorProto.FLOAT),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph(nodes, "g", [given], [made])
    skip_round_trips(graph)
    assert [(n.op_type, *n.input, *n.output) for n in graph.node] == [
        ("Relu", "x", "a"),
        ("Relu", "a", "d"),
        ("Identity", "d", "y"),
    ]


def test_half_precision_of_nothing_is_refused(tmp_path: Path, store: ArtifactStore) -> None:
    """A model without weights is not called float16, and the failed step leaves its parent only."""
    model = zoo.resolve(str(nets.relu_only(tmp_path / "relu.onnx")))
    request = VariantRequest(model, recipes.get("fp16"), "x86_64")
    with pytest.raises(BuildFailed, match="relu/fp16 for x86_64: step fp16: no weight became"):
        build(request, store, silent)
    assert [path.stem for path in store.root.glob("artifacts/*/*.onnx")] == [model.source.sha256]
    assert find_cached(request, store) is None


def test_half_precision_is_not_halved_again(store: ArtifactStore) -> None:
    """A model that has float16 weights is refused with what to do, not as a broken file."""
    twice = dataclasses.replace(
        tinydet("fp16"), recipe=Recipe("mine", tuple(2 * [*recipes.get("fp16").steps]), "")
    )
    with pytest.raises(BuildFailed, match="float16 weights already; name `fp16` once"):
        build(twice, store, silent)


# ---------------------------------------------------------------- dynamic


@on_x86
def test_dynamic_quantization_in_numbers(store: ArtifactStore) -> None:
    """All 34 convolutions of tinydet become integer ones with u8 weights, at 28 % of the size."""
    lines: list[str] = []
    artifact = build(tinydet("int8_dynamic"), store, lines.append)
    assert artifact.manifest.fused_kernels == {"ConvInteger": 34}
    assert artifact.size_bytes == pytest.approx(861_240, rel=0.01)
    graph = onnx.load(artifact.path).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    weights = {kinds[n.input[1]] for n in graph.node if n.op_type == "ConvInteger"}
    assert weights == {TensorProto.UINT8}
    assert any("34 of 34 learned layers compute in INT8" in line for line in lines)
    assert any("slower than FP32 on convolutional networks" in line for line in lines)
    assert not any("WARNING" in line for line in lines)


def test_little_dynamic_quantization_is_warned_of(store: ArtifactStore) -> None:
    """Where most layers stay in float the log says what not to expect."""
    lines: list[str] = []
    build(one_step(tinydet("fp32"), "dynamic", only=["neck"]), store, lines.append)
    (warning,) = [line for line in lines if "WARNING" in line]
    assert "only 5 of 34 learned layers were quantized" in warning


def test_no_dynamic_quantization_is_refused(store: ArtifactStore) -> None:
    """A result without a single integer layer does not pass for INT8."""
    with pytest.raises(NothingQuantized, match="step dynamic: none of 34 learned layers"):
        build(one_step(tinydet("fp32"), "dynamic", exclude=["*"]), store, silent)


# ---------------------------------------------------------------- sparsify


def test_each_layer_loses_its_smallest_weights(tmp_path: Path, store: ArtifactStore) -> None:
    """70 % of each layer's weights are zero, the largest are untouched, biases all stay."""
    request = nets.request(tmp_path, "sparse70")
    before = {
        t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "net.onnx").graph.initializer
    }
    after = {
        t.name: numpy_helper.to_array(t)
        for t in onnx.load(build(request, store, silent).path).graph.initializer
    }
    for name in ("w1", "w2", "w3"):
        zero = after[name] == 0
        assert zero.mean() == pytest.approx(0.7, abs=0.01)
        assert np.array_equal(after[name][~zero], before[name][~zero])
        assert np.abs(before[name][zero]).max() <= np.abs(before[name][~zero]).min()
    assert np.array_equal(after["parts"], before["parts"])


def test_over_the_whole_network_small_layers_may_vanish() -> None:
    """With scope `network` one threshold holds for all, so a layer of small weights loses more."""
    rng = np.random.default_rng(0)
    values = {"small": rng.normal(0, 0.01, (10, 10)), "large": rng.normal(0, 1, (20, 5))}
    found = prune(values, 0.5, whole=True)
    assert Counter((found["small"] == 0).ravel())[True] > 95
    assert sum((array == 0).sum() for array in found.values()) == 100
    assert {name: array.shape for name, array in found.items()} == {
        "small": (10, 10),
        "large": (20, 5),
    }


def test_quantized_weights_are_not_sparsified(tmp_path: Path, store: ArtifactStore) -> None:
    """After quantization there are no float weights left to prune, which is said."""
    request = nets.request(tmp_path)
    steps = (*request.recipe.steps, StepSpec("sparsify", {}))
    with pytest.raises(BuildFailed, match=r"step sparsify: .*sparsify before quantizing"):
        build(dataclasses.replace(request, recipe=Recipe("mine", steps, "")), store, silent)


@pytest.mark.parametrize("recipe", ["fp16", "int8_dynamic", "sparse70"])
def test_steps_are_cached_by_content(tmp_path: Path, store: ArtifactStore, recipe: str) -> None:
    """The same step on the same file runs once, whatever the recipe is called."""
    request = nets.request(tmp_path, recipe)
    first = build(request, store, silent)
    lines: list[str] = []
    renamed = dataclasses.replace(request, recipe=dataclasses.replace(request.recipe, name="x"))
    assert build(renamed, store, lines.append) == first
    assert lines == []
