import hashlib
import importlib
import sys

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from PIL import Image
from support.onnxmodels import tiny_model

from agent import feeds, runtimes
from agent.errors import Refused
from agent.runtimes import onnxruntime as ours
from agent.runtimes.base import InputSpec
from agent.wire import FailureKind, ImagePrep, ImageRef, Inputs, RuntimeOptions


def graph_model(path, node, inputs, initializers=(), outputs=(("y", None),)):
    """A model of one node; `inputs` and `outputs` are (name, shape) of float tensors."""

    def values(pairs):
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in pairs]

    graph = helper.make_graph([node], "g", values(inputs), values(outputs), list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def as_ort_format(path, target):
    """Convert an ONNX file with ONNX Runtime itself."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return target


def load(path, model_format="onnx", **options):
    fields = {"intra_op_num_threads": 1} | options
    return runtimes.runtime("onnxruntime").load(path, model_format, RuntimeOptions(**fields))


def refused(kind, match, call, *args, **kwargs):
    with pytest.raises(Refused, match=match) as caught:
        call(*args, **kwargs)
    assert caught.value.failure.kind is kind
    return caught.value.failure.message


def test_a_model_tells_its_inputs_and_its_version(tmp_path):
    """Name, type and shape of each input are known, a dynamic dimension as None."""
    node = helper.make_node("Relu", ["x"], ["y"])
    model = load(graph_model(tmp_path / "m", node, [("x", ["n", 3, None])]))
    assert model.inputs == (InputSpec("x", "float32", (None, 3, None), "tensor(float)"),)
    assert model.runtime_version == ort.__version__


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"intra_op_num_threads": 2, "inter_op_num_threads": 2},
        {"graph_optimization_level": "disabled", "allow_spinning": False},
        {"graph_optimization_level": "basic", "enable_cpu_mem_arena": False},
        {"graph_optimization_level": "extended", "enable_mem_pattern": False},
    ],
)
def test_every_option_is_applied_and_read_back(tmp_path, changes):
    """The settings are what the session itself reports, under ONNX Runtime's names."""
    options = RuntimeOptions(**({"intra_op_num_threads": 1} | changes))
    level = {"disabled": "DISABLE_ALL", "all": "ENABLE_ALL"}.get(
        options.graph_optimization_level, f"ENABLE_{options.graph_optimization_level.upper()}"
    )
    assert load(tiny_model(tmp_path / "m"), **changes).settings == {
        "intra_op_num_threads": str(options.intra_op_num_threads),
        "inter_op_num_threads": str(options.inter_op_num_threads),
        "execution_mode": "ORT_SEQUENTIAL",
        "graph_optimization_level": f"ORT_{level}",
        "enable_cpu_mem_arena": str(options.enable_cpu_mem_arena),
        "enable_mem_pattern": str(options.enable_mem_pattern),
        "enable_mem_reuse": "True",
        "session.load_model_format": "ONNX",
        "session.intra_op.allow_spinning": str(int(options.allow_spinning)),
        "session.inter_op.allow_spinning": str(int(options.allow_spinning)),
        "session.set_denormal_as_zero": "0",
        "session.disable_prepacking": "0",
        "providers": "CPUExecutionProvider",
    }


def test_both_formats_give_the_same_outputs(tmp_path):
    """A file of the ORT format without a suffix loads and computes what its ONNX file does."""
    onnx_file = tiny_model(tmp_path / "a")
    ort_file = as_ort_format(onnx_file, tmp_path / "b.ort").rename(tmp_path / "b")
    feed = {"x": np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)}
    expected = load(onnx_file).infer(feed)
    found = load(ort_file, "ort")
    assert found.settings["session.load_model_format"] == "ORT"
    np.testing.assert_allclose(found.infer(feed)[0], expected[0], rtol=1e-6)


def test_a_bound_call_runs_one_inference_and_cycles(tmp_path, monkeypatch):
    """Calls go through the feeds in order and start again; the result is dropped."""
    model = load(tiny_model(tmp_path / "m"))
    seen = []
    monkeypatch.setattr(model, "_run", lambda names, feed: seen.append((names, feed)))
    call = model.bind([{"x": 1}, {"x": 2}])
    assert [call() for _ in range(3)] == [None] * 3
    assert seen == [(None, {"x": 1}), (None, {"x": 2}), (None, {"x": 1})]


def test_one_feed_is_bound_without_a_detour(tmp_path):
    """With a single feed a call is the session's own run."""
    model = load(tiny_model(tmp_path / "m"))
    feed = {"x": np.ones((1, 3, 8, 8), np.float32)}
    call = model.bind([feed])
    call()
    assert call.func == model._run
    assert call.args == (None, feed)


@pytest.mark.parametrize("size", [0, 10, 200])
def test_a_truncated_model_is_refused(tmp_path, size):
    """A model file cut short fails as model_load with ONNX Runtime's own words."""
    data = tiny_model(tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(data[:size])
    message = refused(FailureKind.MODEL_LOAD, "cannot load", load, tmp_path / "cut")
    assert "ONNXRuntimeError" in message


def test_a_model_of_the_other_format_is_refused(tmp_path):
    """An ONNX file that is declared as ORT format fails as model_load."""
    refused(FailureKind.MODEL_LOAD, "cannot load", load, tiny_model(tmp_path / "m"), "ort")


def test_an_unknown_operator_is_refused_by_name(tmp_path):
    """A model with an operator that this version lacks fails as model_load, naming it."""
    node = helper.make_node("Frobnicate", ["x"], ["y"])
    path = graph_model(tmp_path / "m", node, [("x", [1])])
    assert "Frobnicate" in refused(FailureKind.MODEL_LOAD, "cannot load", load, path)


def test_an_inference_that_fails_is_model_run(tmp_path):
    """A graph that loads but cannot compute this input fails as model_run."""
    shape = helper.make_tensor("s", TensorProto.INT64, [2], [2, 2])
    node = helper.make_node("Reshape", ["x", "s"], ["y"])
    model = load(graph_model(tmp_path / "m", node, [("x", ["n"])], [shape]))
    feed = {"x": np.zeros(3, np.float32)}
    refused(FailureKind.MODEL_RUN, "cannot run", model.infer, feed)
    with pytest.raises(Exception, match="Reshape") as caught:
        model.bind([feed])()
    assert model.explain(caught.value).failure.kind is FailureKind.MODEL_RUN


def test_want_of_memory_has_its_own_kind(tmp_path):
    """An allocation that fails is out_of_memory, by Python's error or by ONNX Runtime's words."""
    model = load(tiny_model(tmp_path / "m"))
    for error in (MemoryError(), RuntimeError("std::bad_alloc")):
        assert model.explain(error).failure.kind is FailureKind.OUT_OF_MEMORY
    value = helper.make_tensor("v", TensorProto.FLOAT, [1], [0.0])
    size = helper.make_tensor("s", TensorProto.INT64, [2], [1 << 24, 1 << 24])
    node = helper.make_node("ConstantOfShape", ["s"], ["y"], value=value)
    path = graph_model(tmp_path / "huge", node, [], [size], [("y", [None, None])])
    huge = load(path, graph_optimization_level="disabled")
    refused(FailureKind.OUT_OF_MEMORY, "memory", huge.infer, {})


def test_a_missing_package_is_runtime_missing(monkeypatch):
    """A board without onnxruntime says so, and how to go on."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(FailureKind.RUNTIME_MISSING, "install", runtimes.runtime, "onnxruntime")


def test_a_build_under_another_name_is_used(monkeypatch):
    """Without metadata under the name onnxruntime the package is imported all the same."""
    real = importlib.metadata.version

    def version(name):
        if name == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert runtimes.runtime("onnxruntime") is not None


def test_an_unknown_runtime_is_refused():
    """A runtime that this agent does not have is a bad request with the known names."""
    refused(FailureKind.BAD_REQUEST, "onnxruntime", runtimes.runtime, "abacus")


@pytest.mark.parametrize("cpu", ["Cortex-A53", "Cortex-A72", "Cortex-A53 + Cortex-A72"])
def test_the_deadly_version_is_refused_before_it_is_imported(monkeypatch, cpu):
    """onnxruntime 1.21.0 on a Cortex-A53 or A72 is refused with the reason, not with SIGILL."""
    monkeypatch.setattr(ours, "_installed_version", lambda: "1.21.0")
    monkeypatch.setattr(ours, "cpu_model", lambda: cpu)
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail("it was imported"))
    refused(
        FailureKind.RUNTIME_MISSING, "illegal instruction.*1.21.1", runtimes.runtime, "onnxruntime"
    )


@pytest.mark.parametrize(
    ("version", "cpu"),
    [("1.21.0", "Cortex-A76"), ("1.21.0", None), ("1.21.1", "Cortex-A53"), (None, "Cortex-A53")],
)
def test_only_that_version_on_those_cores_is_refused(version, cpu):
    """Other versions and other cores are let through."""
    assert ours.refusal(version, cpu) is None


def spec(dtype="float32", shape=(1, 3, 4, 4), name="x", declared="tensor(float)"):
    return InputSpec(name, dtype, shape, declared)


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "bool"]
)
def test_synthetic_inputs_have_the_declared_type_and_shape(dtype):
    """Floats lie in 0..1, integers are 0 or 1, and the shape is the declared one."""
    feed = feeds.synthetic_feed([spec(dtype, (2, 50))], Inputs())
    assert (feed["x"].dtype, feed["x"].shape) == (np.dtype(dtype), (2, 50))
    assert 0 <= feed["x"].min() < feed["x"].max() <= 1


def test_synthetic_inputs_follow_the_seed():
    """The same seed gives the same arrays, another seed others."""
    one, same, other = (
        feeds.synthetic_feed([spec(), spec(name="z")], Inputs(seed=seed)) for seed in (3, 3, 4)
    )
    assert np.array_equal(one["x"], same["x"])
    assert not np.array_equal(one["x"], other["x"])
    assert not np.array_equal(one["x"], one["z"])


def test_dynamic_dimensions_need_a_shape():
    """A dynamic input without a shape is a bad request that names the input and its shape."""
    inputs = [spec(shape=(None, 3))]
    refused(FailureKind.BAD_REQUEST, r"'x'.*\(\?, 3\)", feeds.synthetic_feed, inputs, Inputs())
    assert feeds.synthetic_feed(inputs, Inputs(shapes={"x": (5, 3)}))["x"].shape == (5, 3)


@pytest.mark.parametrize("shape", [(5,), (5, 4), (0, 3), (-1, 3), (1, 3, 1)])
def test_shapes_that_do_not_fit_are_refused(shape):
    """A given shape of another rank, size or sign is a bad request that names the input."""
    wanted = Inputs(shapes={"x": shape})
    refused(FailureKind.BAD_REQUEST, "'x'", feeds.synthetic_feed, [spec(shape=(None, 3))], wanted)


def test_shapes_of_unknown_inputs_are_refused():
    """A shape for an input that the model lacks is a bad request with the known names."""
    wanted = Inputs(shapes={"imagse": (1,)})
    refused(FailureKind.BAD_REQUEST, "imagse.*x", feeds.synthetic_feed, [spec()], wanted)


def test_inputs_that_cannot_be_made_up_are_refused():
    """Text and sequences are no synthetic input, and a huge shape is not tried."""
    text = spec(None, (1,), declared="tensor(string)")
    refused(FailureKind.BAD_REQUEST, "string", feeds.synthetic_feed, [text], Inputs())
    huge = Inputs(shapes={"x": (1 << 20, 1 << 20)})
    refused(
        FailureKind.BAD_REQUEST, "bytes", feeds.synthetic_feed, [spec(shape=(None, None))], huge
    )


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [spec(), spec(name="z")],
        [spec("uint8", declared="tensor(uint8)")],
        [spec(shape=(1, 3, 5, 4))],
        [spec(shape=(1, 1, 4, 4))],
        [spec(shape=(2, 3, 4, 4))],
        [spec(shape=(3, 4, 4))],
    ],
)
def test_images_only_go_into_an_input_that_takes_them(inputs):
    """Several inputs, another type or another shape are a bad request."""
    refused(FailureKind.BAD_REQUEST, "input", feeds.image_input, inputs, ImagePrep(4, 4))


def test_images_need_to_know_their_size():
    """Images without `prep` are a bad request."""
    wanted = Inputs(images=(ImageRef("00", "a"),))
    refused(FailureKind.BAD_REQUEST, "prep", feeds.timed_feeds, [spec()], wanted, None)


def test_half_precision_models_get_half_precision_images(tmp_path, image_file):
    """A float16 input is fed the prepared image in that type."""
    half = spec("float16", (1, 3, 4, 4), declared="tensor(float16)")
    feed, geometry = feeds.image_feed(half, image_file, ImagePrep(4, 4), tmp_path)
    assert feed["x"].dtype == np.float16
    assert geometry.width == 6


def test_only_so_many_images_stay_in_memory(tmp_path, image_file, monkeypatch):
    """At most eight images are timed, fewer where they are large, one in any case."""
    wanted = Inputs(images=(image_file,) * 20, prep=ImagePrep(4, 4))
    dynamic = [spec(shape=(None, 3, None, None))]
    assert len(feeds.timed_feeds(dynamic, wanted, tmp_path)) == 8
    monkeypatch.setattr(feeds, "MAX_TIMED_BYTES", 3 * 4 * 4 * 4 * 2 + 1)
    assert len(feeds.timed_feeds(dynamic, wanted, tmp_path)) == 2
    monkeypatch.setattr(feeds, "MAX_TIMED_BYTES", 1)
    assert len(feeds.timed_feeds(dynamic, wanted, tmp_path)) == 1


def test_a_missing_and_a_corrupt_image_are_told_apart(tmp_path, image_file):
    """An image that was not pushed is missing_artifact, one that cannot be read bad_image."""
    prep = ImagePrep(4, 4)
    lost = ImageRef("11" * 32, "cat")
    refused(FailureKind.MISSING_ARTIFACT, "cat", feeds.image_feed, spec(), lost, prep, tmp_path)
    broken = ImageRef(hashlib.sha256(b"GIF89a").hexdigest(), "cat")
    (tmp_path / broken.sha256).write_bytes(b"GIF89a")
    refused(FailureKind.BAD_IMAGE, "cat", feeds.image_feed, spec(), broken, prep, tmp_path)


@pytest.fixture
def image_file(tmp_path):
    """A small image among the artifacts."""
    Image.new("RGB", (6, 3), (10, 20, 30)).save(tmp_path / "image.png")
    digest = hashlib.sha256((tmp_path / "image.png").read_bytes()).hexdigest()
    (tmp_path / "image.png").rename(tmp_path / digest)
    return ImageRef(digest, "dog")
