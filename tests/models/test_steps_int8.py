"""Real quantization of a small detector with a decode."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from support import nets

from agent.wire import BenchError, ImagePrep
from models import recipes, zoo
from models.build import VariantRequest, build, calibration
from models.errors import BuildFailed, NothingQuantized
from models.recipes import Recipe, StepSpec
from models.steps.isa import family, host_isa
from models.store import Artifact, ArtifactStore

FOREIGN = "aarch64" if family(host_isa()) == "x86_64" else "x86_64"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def silent(_text: str) -> None:
    pass


def run(artifact: Artifact) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(artifact.path), options, providers=["CPUExecutionProvider"]
    )
    tensor = np.random.default_rng(0).random((1, 3, nets.SIDE, nets.SIDE), dtype=np.float32)
    return np.asarray(session.run(None, {"images": tensor})[0])


def readers_of_quantized(artifact: Artifact) -> set[str]:
    """Names of the nodes with an input that comes from a DequantizeLinear."""
    graph = onnx.load(artifact.path).graph
    made = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    return {n.name for n in graph.node if made & set(n.input) and "QuantizeLinear" not in n.op_type}


def activation_types(artifact: Artifact) -> set[int]:
    """Data types of the zero points of all QuantizeLinear nodes."""
    graph = onnx.load(artifact.path).graph
    weights = {t.name: t.data_type for t in graph.initializer}
    return {weights[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"}


def weight_types(artifact: Artifact) -> set[int]:
    """Data types of the tensors behind the convolutions' weights."""
    graph = onnx.load(artifact.path).graph
    weights = {t.name: t.data_type for t in graph.initializer}
    made = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    return {weights[made[n.input[1]]] for n in graph.node if n.op_type == "Conv"}


@pytest.mark.parametrize(
    ("isa", "kind"), [("x86_64-vnni", TensorProto.UINT8), ("aarch64", TensorProto.INT8)]
)
def test_activations_follow_the_target(
    tmp_path: Path, store: ArtifactStore, isa: str, kind: int
) -> None:
    """Activations are u8 for x86-64 and s8 for Arm, weights s8 for both, scales per channel."""
    artifact = build(nets.request(tmp_path, isa=isa), store, silent)
    assert activation_types(artifact) == {kind}
    assert weight_types(artifact) == {TensorProto.INT8}
    scales = [t for t in onnx.load(artifact.path).graph.initializer if t.name == "w2_scale"]
    assert list(scales[0].dims) == [32]
    assert artifact.manifest.steps[-1].choices["activation"] in ("u8", "s8")


def test_the_decode_stays_in_float(tmp_path: Path, store: ArtifactStore) -> None:
    """All three convolutions are quantized and of the decode only its first input is."""
    artifact = build(nets.request(tmp_path, "int8_ptq"), store, silent)
    readers = readers_of_quantized(artifact)
    assert {"/stem/Conv", "/body/Conv", "/head/Conv"} <= readers
    assert {name for name in readers if name.startswith("/decode/")} == {"/decode/Reshape"}
    assert artifact.manifest.node_counts["QuantizeLinear"] > 3


def test_the_known_bad_recipe_quantizes_the_decode(tmp_path: Path, store: ArtifactStore) -> None:
    """int8_ptq_all reaches the concatenation of boxes and scores, and its scores show it."""
    exact = run(build(nets.request(tmp_path, "fp32"), store, silent))
    good = run(build(nets.request(tmp_path, "int8_ptq"), store, silent))
    artifact = build(nets.request(tmp_path, "int8_ptq_all"), store, silent)
    assert "/decode/Concat" in readers_of_quantized(artifact)
    spoiled = np.abs(run(artifact) - exact)[:, 4:].mean()
    assert spoiled > 3 * np.abs(good - exact)[:, 4:].mean()


def test_the_manifest_tells_the_making(tmp_path: Path, store: ArtifactStore) -> None:
    """Parent, parameters, choices, versions, calibration, counts and sizes are written down."""
    request = nets.request(tmp_path, isa=host_isa())
    artifact = build(request, store, silent)
    manifest = artifact.manifest
    assert request.calibration is not None
    assert manifest.parent_sha256 == request.model.source.sha256
    assert (manifest.model, manifest.recipe, manifest.isa) == ("net", "int8_ptq", host_isa())
    assert [step.name for step in manifest.steps] == ["import", "int8_ptq"]
    assert manifest.steps[1].params["exclude"] == ["decode"]
    assert manifest.tool_versions.keys() == {"onnx", "onnxruntime", "numpy"}
    assert manifest.tool_versions["onnxruntime"] == onnxruntime.__version__
    assert manifest.calibration_digest == request.calibration.digest
    assert manifest.calibration_items == 4
    assert manifest.size_bytes == artifact.path.stat().st_size
    assert manifest.metadata["task"] == "detect"
    assert manifest.parameters == 16 * 3 * 9 + 32 * 16 * 9 + 6 * 32
    assert manifest.inputs["images"].shape == (1, 3, 32, 32)


def test_what_follows_knows_the_calibration(tmp_path: Path, store: ArtifactStore) -> None:
    """An ORT-format file of an INT8 model still says which files it was calibrated with."""
    request = nets.request(tmp_path, "int8_ptq_ort")
    manifest = build(request, store, silent).manifest
    assert request.calibration is not None
    assert manifest.calibration_digest == request.calibration.digest
    assert manifest.calibration_items == 4


@pytest.mark.skipif(family(host_isa()) == "other", reason="counting is for x86-64 and Arm hosts")
def test_fused_kernels_are_counted_for_the_hosts_family(
    tmp_path: Path, store: ArtifactStore
) -> None:
    """On the host's own family every convolution fuses, and the count is in the manifest."""
    manifest = build(nets.request(tmp_path, isa=host_isa()), store, silent).manifest
    assert manifest.fused_kernels is not None
    assert manifest.fused_kernels["QLinearConv"] == 3
    assert manifest.unfused_qdq is not None
    assert manifest.unfused_qdq < manifest.node_counts["QuantizeLinear"]
    assert manifest.fused_note is None


def test_fused_kernels_of_another_family_are_not_guessed(
    tmp_path: Path, store: ArtifactStore
) -> None:
    """For another family the count is None, and the note names the host."""
    manifest = build(nets.request(tmp_path, isa=FOREIGN), store, silent).manifest
    assert (manifest.fused_kernels, manifest.unfused_qdq) == (None, None)
    assert manifest.fused_note == f"not counted: host is {family(host_isa())}"


def test_a_model_without_weights_is_refused(tmp_path: Path, store: ArtifactStore) -> None:
    """Where nothing can be quantized the step fails, naming model, recipe and sizes."""
    model = zoo.resolve(str(nets.relu_only(tmp_path / "relu.onnx")))
    spec = calibration(nets.tensors(tmp_path / "c", (1, 3, 8, 8)), None)
    request = VariantRequest(model, recipes.get("int8_ptq_all"), "x86_64", spec)
    with pytest.raises(
        NothingQuantized, match=r"relu/int8_ptq_all .* QuantizeLinear nodes; weights"
    ):
        build(request, store, silent)


def test_excluding_every_layer_is_refused(tmp_path: Path, store: ArtifactStore) -> None:
    """Quantized activations around float weights do not pass for INT8."""
    request = nets.request(tmp_path)
    for patterns in (["*"], ["*/Conv"]):
        step = StepSpec("int8_ptq", request.recipe.steps[0].params | {"exclude": patterns})
        wrong = dataclasses.replace(request, recipe=Recipe("mine", (step,), ""))
        with pytest.raises(NothingQuantized, match="would pass for INT8"):
            build(wrong, store, silent)


def test_the_screen_stays_clean(
    tmp_path: Path, store: ArtifactStore, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the quantizer logs reaches our log and nothing reaches the screen."""
    lines: list[str] = []
    handlers = list(logging.getLogger().handlers)
    build(nets.request(tmp_path), store, lines.append)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers
    assert any("calibrated with 4 of 4" in line for line in lines)


def test_a_log_that_prints_is_printed_once(
    tmp_path: Path, store: ArtifactStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log may itself print while foreign prints are caught."""
    build(nets.request(tmp_path), store, print)
    printed = capsys.readouterr().out.splitlines()
    assert sum("calibrated with 4 of 4" in line for line in printed) == 1


def test_images_are_prepared_as_on_the_board(tmp_path: Path, store: ArtifactStore) -> None:
    """Image files calibrate through the letterbox, of the spec or of the model's input."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 255, (20, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    images = sorted(folder.iterdir())
    request = nets.request(tmp_path)
    prepared = calibration(images, ImagePrep(height=32, width=32))
    first = build(dataclasses.replace(request, calibration=prepared), store, silent)
    unprepared = calibration(images, None)
    second = build(dataclasses.replace(request, calibration=unprepared), store, silent)
    ranges = [
        {t.name: t.raw_data or tuple(t.float_data) for t in onnx.load(a.path).graph.initializer}
        for a in (first, second)
    ]
    assert ranges[0] == ranges[1]


def test_a_dynamic_input_is_calibrated_at_its_fixed_shape(
    tmp_path: Path, store: ArtifactStore
) -> None:
    """Images fit a model whose shape the user gave."""
    path = nets.detector(tmp_path / "net.onnx", dims=("n", 3, "h", "w"), metadata={})
    model = zoo.resolve(str(path), shapes={"images": (1, 3, 32, 32)})
    Image.new("RGB", (50, 40), (200, 30, 40)).save(tmp_path / "a.png")
    spec = calibration([tmp_path / "a.png"], None)
    artifact = build(VariantRequest(model, recipes.get("int8_ptq"), "x86_64", spec), store, silent)
    assert artifact.manifest.inputs["images"].shape == ("n", 3, "h", "w")


def plain_net(path: Path, opset: int) -> Path:
    """Two convolutions in operators that every opset has alike."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (16, 3, 3, 3), "w2": (8, 16, 3, 3), "b2": (8,)}
    return nets.save(
        path,
        [
            helper.make_node("Conv", ["images", "w1"], ["c"], name="/a/Conv", pads=[1] * 4),
            helper.make_node("Relu", ["c"], ["r"], name="/a/Relu"),
            helper.make_node("Conv", ["r", "w2", "b2"], ["y"], name="/b/Conv", pads=[1] * 4),
        ],
        [
            numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
        inputs={"images": (1, 3, 32, 32)},
        outputs={"y": (1, 8, 32, 32)},
        metadata={"kept": "yes"},
        opset=opset,
    )


@pytest.mark.parametrize("opset", [9, 12])
def test_a_model_of_an_old_opset_is_quantized(
    tmp_path: Path, store: ArtifactStore, opset: int
) -> None:
    """Before opset 13 there are no scales by channel: such a model is converted before."""
    spec = calibration(nets.tensors(tmp_path / "calibration"), None)
    old, new = (plain_net(tmp_path / f"{each}.onnx", each) for each in (opset, 17))
    recipe = recipes.get("int8_ptq")
    made = [
        build(VariantRequest(zoo.resolve(str(path)), recipe, "x86_64", spec), store, silent)
        for path in (old, new)
    ]
    assert np.array_equal(run(made[0]), run(made[1]))
    assert made[0].manifest.opset == 18
    assert made[0].manifest.metadata["kept"] == "yes"
    assert made[0].manifest.parameters == made[1].manifest.parameters


def test_an_old_opset_that_cannot_be_converted_is_told(
    tmp_path: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no newer form of the model is known, the message says to export it again."""

    def fail(_model: onnx.ModelProto, _opset: int) -> None:
        raise RuntimeError("No Adapter For Upsample")

    monkeypatch.setattr("models.steps.int8_ptq.version_converter.convert_version", fail)
    spec = calibration(nets.tensors(tmp_path / "calibration"), None)
    model = zoo.resolve(str(plain_net(tmp_path / "old.onnx", 9)))
    with pytest.raises(BuildFailed, match=r"opset 9.*No Adapter For Upsample.*export it again"):
        build(VariantRequest(model, recipes.get("int8_ptq"), "x86_64", spec), store, silent)


def wrong_files(folder: Path) -> dict[str, Path]:
    """Calibration files that cannot be used, by what is wrong with them."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "shape.npy", np.zeros((1, 3, 16, 16), np.float32))
    np.save(folder / "dtype.npy", np.zeros((1, 3, 32, 32), np.float64))
    np.save(folder / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(folder / "name.npz", wrong=np.zeros((1, 3, 32, 32), np.float32))
    (folder / "text.npy").write_text("not numpy")
    (folder / "empty.npz").write_bytes(b"")
    np.savez(folder / "cut.npz", images=np.zeros((1, 3, 32, 32), np.float32))
    (folder / "bare.npz").write_bytes((folder / "dtype.npy").read_bytes())
    (folder / "several.npy").write_bytes((folder / "cut.npz").read_bytes())
    (folder / "cut.npz").write_bytes((folder / "cut.npz").read_bytes()[:-50])
    (folder / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n but not really")
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    "kind",
    [
        *("shape", "dtype", "pickle", "name", "text", "empty", "cut", "bare", "several", "image"),
    ],
)
def test_unusable_calibration_files_are_named(
    tmp_path: Path, store: ArtifactStore, kind: str
) -> None:
    """A calibration file of the wrong kind fails the step with the file's name."""
    path = wrong_files(tmp_path / "wrong")[kind]
    request = nets.request(tmp_path)
    broken = dataclasses.replace(request, calibration=calibration([path], request.model.prep))
    with pytest.raises(BenchError, match=path.name) as caught:
        build(broken, store, silent)
    assert "net/int8_ptq" in str(caught.value)
    assert "step int8_ptq" in str(caught.value)


def test_several_inputs_are_calibrated_by_name(tmp_path: Path, store: ArtifactStore) -> None:
    """An .npz feeds each input by its name; one array for two inputs is refused."""
    weight = onnx.numpy_helper.from_array(
        np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32), "w"
    )
    path = nets.save(
        tmp_path / "two.onnx",
        [
            helper.make_node("Add", ["a", "b"], ["s"], name="add"),
            helper.make_node("MatMul", ["s", "w"], ["y"], name="product"),
        ],
        [weight],
        inputs={"a": (1, 64), "b": (1, 64)},
        outputs={"y": (1, 64)},
    )
    model = zoo.resolve(str(path))
    ones = np.ones((1, 64), np.float32)
    np.savez(tmp_path / "both.npz", a=ones, b=-ones)
    np.save(tmp_path / "one.npy", ones)
    spec = calibration([tmp_path / "both.npz"], None)
    request = VariantRequest(model, recipes.get("int8_ptq"), "x86_64", spec)
    assert build(request, store, silent).manifest.node_counts["QuantizeLinear"] >= 1
    spec = calibration([tmp_path / "one.npy"], None)
    with pytest.raises(BenchError, match="one tensor, but the model takes a, b"):
        build(dataclasses.replace(request, calibration=spec), store, silent)


def test_calibration_is_asked_for_before_anything_runs(
    tmp_path: Path, store: ArtifactStore
) -> None:
    """Without calibration data the request is refused at once, with the option."""
    request = dataclasses.replace(nets.request(tmp_path), calibration=None)
    with pytest.raises(BuildFailed, match="--calibration DIR"):
        build(request, store, silent)
    assert not store.root.exists()
