"""What every runtime promises, asked of all of them with the same small net."""

import importlib.util
import subprocess
import sys

import numpy as np
import onnxruntime as ort
import pytest
from support import convnet
from support.workerrig import Rig, scenario

from agent import feeds, runtimes
from agent.errors import Refused
from agent.runtimes.base import InputSpec
from agent.wire import RUNTIME_PACKAGES, FailureKind, ImagePrep, Inputs, RuntimeOptions

OPTIONS = RuntimeOptions(intra_op_num_threads=1)


def needs(module, extra, marker):
    absent = importlib.util.find_spec(module) is None
    reason = f"{module} is not installed (the extra '{extra}')"
    return (marker, pytest.mark.skipif(absent, reason=reason))


TORCH = needs("torch", "models", pytest.mark.torch)
LITERT = needs("ai_edge_litert", "litert", pytest.mark.litert)
EVERY = (
    pytest.param("onnxruntime", "onnx", id="onnxruntime"),
    pytest.param("torch", "pt2", id="torch", marks=TORCH),
    pytest.param("litert", "tflite", id="litert", marks=LITERT),
)
every_runtime = pytest.mark.parametrize(("name", "form"), EVERY)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The net in each format, written where it is first asked for."""
    folder = tmp_path_factory.mktemp("convnet")

    def file(form):
        path = folder / form
        if form == "tflite":
            return convnet.TFLITE
        if not path.is_file():
            {"onnx": convnet.write_onnx, "pt2": convnet.write_pt2}[form](path)
        return path

    return file


def load(name, form, files, options=OPTIONS):
    return runtimes.runtime(name).load(files(form), form, options)


def expected(files, feed):
    session = ort.InferenceSession(str(files("onnx")), providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


@every_runtime
def test_the_outputs_are_those_of_the_same_net(name, form, files):
    """Every runtime computes what ONNX Runtime computes, within float32's rounding."""
    feed = convnet.feed()
    (output,) = load(name, form, files).infer(feed)
    np.testing.assert_allclose(output, expected(files, feed), atol=1e-5)
    assert output.dtype == np.float32
    assert output.shape == (1, 2, 8, 8)


@every_runtime
def test_the_input_is_named_as_in_every_format(name, form, files):
    """The input is `images`, float32, with its fixed shape."""
    (spec,) = load(name, form, files).inputs
    assert (spec.name, spec.dtype, spec.shape) == ("images", "float32", (1, 3, 8, 8))


@every_runtime
def test_a_bound_callable_cycles_through_its_feeds(name, form, files):
    """Calls go through the feeds and start again after the last; the arrays stay as they are."""
    model = load(name, form, files)
    feeds = [convnet.feed(seed) for seed in range(3)]
    before = [feed["images"].copy() for feed in feeds]
    call = model.bind(feeds)
    for _ in range(7):
        call()
    for feed, kept in zip(feeds, before, strict=True):
        np.testing.assert_array_equal(feed["images"], kept)
    np.testing.assert_allclose(model.infer(feeds[1])[0], expected(files, feeds[1]), atol=1e-5)


@every_runtime
def test_threads_are_among_the_settings_and_nothing_foreign(name, form, files):
    """The threads are read back by the runtime's own name; options it lacks are not claimed."""
    model = load(name, form, files)
    own = {"onnxruntime": "intra_op_num_threads", "torch": "num_threads", "litert": "num_threads"}
    assert model.settings[own[name]] == "1"
    assert ("graph_optimization_level" in model.settings) == (name == "onnxruntime")
    assert all(isinstance(value, str) for value in model.settings.values())
    assert model.runtime_version


@every_runtime
def test_a_wrong_input_is_explained_as_a_failure_to_run(name, form, files):
    """An exception while running is translated to model_run and names the runtime's own words."""
    model = load(name, form, files)
    wrong = {"images": np.zeros((1, 5, 8, 8), np.float32)}
    with pytest.raises(Refused) as caught:
        model.infer(wrong)
    assert caught.value.failure.kind is FailureKind.MODEL_RUN
    assert "cannot run the model" in caught.value.failure.message


@every_runtime
@pytest.mark.parametrize("damage", ["empty", "noise", "cut", "text"])
def test_a_damaged_file_is_refused_as_such(name, form, files, damage, tmp_path):
    """A file that is no model is refused as model_load, whatever is wrong with it."""
    whole = files(form).read_bytes()
    data = {
        "empty": b"",
        "noise": np.random.default_rng(3).bytes(4096),
        "cut": whole[: len(whole) // 3],
        "text": b"import os; os.abort()" * 40,
    }[damage]
    path = tmp_path / "m"
    path.write_bytes(data)
    with pytest.raises(Refused) as caught:
        runtimes.runtime(name).load(path, form, OPTIONS)
    assert caught.value.failure.kind is FailureKind.MODEL_LOAD


@every_runtime
def test_a_file_of_another_runtime_is_a_bad_request(name, form, files):
    """A runtime says which formats it runs instead of trying others."""
    other = "onnx" if form != "onnx" else "pt2"
    with pytest.raises(Refused, match=f"{name} runs .*{form}") as caught:
        runtimes.runtime(name).load(files("onnx"), other, OPTIONS)
    assert caught.value.failure.kind is FailureKind.BAD_REQUEST


@every_runtime
def test_a_trial_runs_from_start_to_end(name, form, files, tmp_path):
    """The worker measures a trial of any runtime and records samples and settings."""
    rig = Rig(tmp_path)
    rig.write(
        rig.add(files(form).read_bytes(), form), runtime=name, scenario=scenario(min_samples=6),
        inputs=Inputs(), options=OPTIONS,
    )  # fmt: skip
    events = rig.here()
    assert [type(event).__name__ for event in events if not _is_phase(event)] == ["Loaded", "Ended"]
    assert rig.samples().counts[2] >= 6


def _is_phase(event):
    return type(event).__name__ == "PhaseStarted"


@pytest.mark.parametrize("name", ["torch", "litert"])
def test_a_runtime_that_is_not_installed_is_missing_in_words(name, monkeypatch):
    """Without its package an optional runtime is runtime_missing and says how to get it."""
    gone = {"torch": "torch", "litert": "ai_edge_litert.interpreter"}[name]
    monkeypatch.setitem(sys.modules, gone, None)
    with pytest.raises(Refused, match=rf"provision NAME --runtime {name}") as caught:
        runtimes.runtime(name)
    assert caught.value.failure.kind is FailureKind.RUNTIME_MISSING
    assert RUNTIME_PACKAGES[name] in caught.value.failure.message


def test_no_runtime_is_imported_before_it_is_asked_for():
    """Importing the table of runtimes imports none of them."""
    code = (
        "import sys, agent.runtimes; "
        "print([n for n in ('torch', 'ai_edge_litert', 'onnxruntime') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("dtype", "shape", "words"),
    [("int8", (1, 3, 8, 8), "int8; prepared images are float32"), ("float32", (1, 8, 8, 3), "fit")],
)
def test_images_do_not_go_into_another_kind_of_input(dtype, shape, words):
    """A TensorFlow Lite model with INT8 or channels-last input is refused in words."""
    with pytest.raises(Refused, match=words):
        feeds.image_input((InputSpec("images", dtype, shape, dtype),), ImagePrep(8, 8))
