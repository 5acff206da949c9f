import errno
import gc
import hashlib
import json
import mmap
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from support.onnxmodels import tiny_model

from agent import feeds, worker
from agent.errors import Refused
from agent.runtimes.base import InputSpec
from agent.vision import detections, prepare, read_image
from agent.wire import (
    SAMPLES_HEADER,
    ArtifactRef,
    DetectHead,
    Evaluation,
    FailureKind,
    ImageDetections,
    ImagePrep,
    ImageRef,
    Inputs,
    RuntimeOptions,
    Scenario,
    TrialSpec,
    decode,
    decode_samples,
    encode,
)
from agent.worker_events import Ended, Evaluated, Failed, Loaded, PhaseStarted, decode_event

REPOSITORY = Path(__file__).resolve().parents[2]
PREP = ImagePrep(16, 16)
HEAD = DetectHead("yolo_v8", 2, score_threshold=0.1)
SECOND_NS = 10**9


def scenario(**changes):
    fields = {
        "warmup_min_samples": 2,
        "warmup_min_duration_ns": 0,
        "min_samples": 5,
        "min_duration_ns": 0,
        "max_duration_ns": 60 * SECOND_NS,
    }
    return Scenario(**(fields | changes))


class Rig:
    """A trial's directory and the artifacts it needs."""

    def __init__(self, root):
        self.trial = root / "trial"
        self.artifacts = root / "artifacts"
        self.trial.mkdir()
        self.artifacts.mkdir()

    def add(self, data, model_format="onnx"):
        digest = hashlib.sha256(data).hexdigest()
        (self.artifacts / digest).write_bytes(data)
        return ArtifactRef(digest, len(data), model_format)

    def image(self, name, size=(20, 10), seed=0):
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        path = self.artifacts / "new.png"
        Image.fromarray(pixels).save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(self.artifacts / digest)
        return ImageRef(digest, name)

    def write(self, artifact, **changes):
        fields = {
            "trial_id": "t1",
            "run_id": "r1",
            "artifact": artifact,
            "options": RuntimeOptions(intra_op_num_threads=1),
            "scenario": scenario(),
            "inputs": Inputs(),
            "deadline_ns": 60 * SECOND_NS,
        }
        spec = TrialSpec(**(fields | changes))
        (self.trial / "spec.json").write_text(encode(spec))
        return spec

    def command(self):
        return [
            sys.executable,
            *("-m", "agent", "worker"),
            *("--trial-dir", str(self.trial), "--artifacts", str(self.artifacts)),
        ]

    def start(self, **options):
        return subprocess.Popen(self.command(), cwd=REPOSITORY, stdout=subprocess.PIPE, **options)

    def here(self):
        """Measure in this process, which is quicker; the events."""
        events = []
        try:
            worker.run(self.trial, self.artifacts, events.append)
        except Exception as exc:  # noqa: BLE001 - as the worker's own main does
            events.append(Failed(worker.failure_of(exc)))
        return events

    def failure_here(self):
        """Measure in this process to the failure."""
        last = self.here()[-1]
        assert isinstance(last, Failed)
        return last.failure

    def measure(self, **options):
        """Run a worker process to its end; its events."""
        done = subprocess.run(
            self.command(),
            cwd=REPOSITORY,
            capture_output=True,
            timeout=60,
            check=False,
            **options,
        )
        assert done.returncode == 0, done.stderr
        return [decode_event(line) for line in done.stdout.splitlines()]

    def failure(self, **options):
        """Run a worker process to its failure."""
        last = self.measure(**options)[-1]
        assert isinstance(last, Failed)
        return last.failure

    def samples(self):
        return decode_samples((self.trial / "samples.bin").read_bytes())


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


@pytest.fixture
def tiny(rig, tmp_path):
    """A small model of input x (1, 3, 8, 8)."""
    return rig.add(tiny_model(tmp_path / "tiny.onnx").read_bytes())


def model_of(nodes, inputs, outputs, initializers=()):
    def values(pairs):
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in pairs]

    graph = helper.make_graph(nodes, "g", values(inputs), values(outputs), list(initializers))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return made.SerializeToString()


def detector():
    """A model of images (1, 3, 16, 16) that always sees one box; its score is the mean pixel."""
    box = np.array([8, 8, 4, 4], np.float32).reshape(1, 4, 1)
    zero = np.zeros((1, 1, 1), np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Reshape", ["mean", "shape"], ["score"]),
        helper.make_node("Concat", ["box", "score", "zero"], ["out"], axis=1),
    ]
    constants = [
        numpy_helper.from_array(box, "box"),
        numpy_helper.from_array(zero, "zero"),
        numpy_helper.from_array(np.array([1, 1, 1], np.int64), "shape"),
    ]
    return model_of(nodes, [("images", [1, 3, 16, 16])], [("out", [1, 6, 1])], constants)


def phases(events):
    return [event.phase for event in events if isinstance(event, PhaseStarted)]


def only(events, kind):
    (found,) = [event for event in events if isinstance(event, kind)]
    return found


def test_a_synthetic_trial_says_and_records_everything(rig, tiny):
    """One trial: phases in order, one cold sample, warm-ups kept apart, every sample recorded."""
    rig.write(tiny)
    events = rig.measure()
    assert phases(events) == ["load", "cold", "warmup", "sample"]
    loaded, ended = only(events, Loaded), only(events, Ended)
    assert events[1] is loaded
    assert events[-1] is ended
    assert loaded.inputs_kind == "synthetic"
    assert loaded.runtime_version == ort.__version__
    assert loaded.settings["intra_op_num_threads"] == "1"
    assert loaded.load_ns > 0
    assert not ended.short
    assert 10 << 20 < ended.peak_rss_bytes < 2 << 30
    samples = rig.samples()
    assert samples.counts == (1, 2, 5)
    assert min(samples.latency_ns) > 0
    assert samples.gap_ns[0] == 0
    assert min(samples.gap_ns[1:]) > 0
    assert not (rig.trial / "detections.jsonl").exists()


def test_samples_lie_where_the_events_say(rig, tiny):
    """With the cold phase's time, latencies and gaps place every sample on the readings' clock."""
    before = time.monotonic_ns()
    rig.write(tiny, scenario=scenario(min_samples=50))
    events = rig.here()
    after = time.monotonic_ns()
    started = {
        event.phase: event.monotonic_ns for event in events if isinstance(event, PhaseStarted)
    }
    samples = rig.samples()
    cold, warmup, _ = samples.counts

    def start_of(index):
        spent = sum(samples.latency_ns[:index]) + sum(samples.gap_ns[: index + 1])
        return started["cold"] + spent

    slack = 1_000_000
    assert before < started["load"] < started["cold"]
    assert start_of(0) + samples.latency_ns[0] <= started["warmup"] + slack
    assert started["warmup"] - slack <= start_of(cold)
    assert started["sample"] - slack <= start_of(cold + warmup)
    assert start_of(cold + warmup - 1) <= started["sample"] + slack
    assert start_of(len(samples.latency_ns) - 1) < after


def test_both_minimums_hold_in_both_phases(rig, tiny):
    """Warm-up and sampling each last at least their time, however fast the model is."""
    wanted = scenario(warmup_min_duration_ns=30_000_000, min_duration_ns=60_000_000)
    rig.write(tiny, scenario=wanted)
    assert not only(rig.here(), Ended).short
    samples = rig.samples()
    cold, warmup, sample = samples.counts
    spans = [range(cold, cold + warmup), range(cold + warmup, cold + warmup + sample)]
    for span, at_least in zip(spans, (30_000_000, 60_000_000), strict=True):
        assert sum(samples.latency_ns[i] + samples.gap_ns[i] for i in span) >= at_least


def test_the_cap_ends_a_trial_short(rig, tiny):
    """At the maximum duration sampling ends with what there is, and says so."""
    rig.write(tiny, scenario=scenario(min_samples=1_000_000, max_duration_ns=20_000_000))
    assert only(rig.here(), Ended).short
    assert 0 < rig.samples().counts[2] < 1_000_000


def test_a_trial_without_warm_up_has_none(rig, tiny):
    """A scenario that asks for no warm-up gets one cold sample and then the samples."""
    rig.write(tiny, scenario=scenario(warmup_min_samples=0))
    rig.here()
    assert rig.samples().counts == (1, 0, 5)


def test_a_model_of_the_ort_format_is_measured(rig, tmp_path):
    """A file of the ORT format, which has no suffix on the board, is loaded as what it is."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "m.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(tiny_model(tmp_path / "m"), options, providers=["CPUExecutionProvider"])
    rig.write(rig.add((tmp_path / "m.ort").read_bytes(), "ort"))
    assert only(rig.measure(), Loaded).settings["session.load_model_format"] == "ORT"
    assert rig.samples().counts == (1, 2, 5)


def test_images_are_timed_and_scored(rig):
    """Detections on the board are those that the same code gives on the host, one line an image."""
    images = tuple(rig.image(f"img{i}", (20 + i, 10), seed=i) for i in range(3))
    evaluation = Evaluation(images, PREP, HEAD, 60 * SECOND_NS)
    rig.write(rig.add(detector()), inputs=Inputs(images, PREP), evaluation=evaluation)
    events = rig.measure()
    assert phases(events) == ["load", "cold", "warmup", "sample", "evaluate"]
    assert only(events, Loaded).inputs_kind == "images"
    progress = [event for event in events if isinstance(event, Evaluated)]
    assert progress == [Evaluated(n, 3, capped=False) for n in (1, 2, 3)]
    lines = (rig.trial / "detections.jsonl").read_bytes().splitlines()
    found = [decode(line, ImageDetections) for line in lines]
    assert [item.image_id for item in found] == ["img0", "img1", "img2"]
    for item, image in zip(found, images, strict=True):
        tensor, geometry = prepare(read_image(rig.artifacts / image.sha256), PREP)
        output = np.array([8, 8, 4, 4, tensor.mean(dtype=np.float64), 0], np.float32)
        (expected,) = detections([output.reshape(1, 6, 1)], HEAD, geometry)
        (box,) = item.detections
        assert (box.x1, box.y1, box.x2, box.y2) == (
            expected.x1, expected.y1, expected.x2, expected.y2,
        )  # fmt: skip
        assert box.score == pytest.approx(expected.score, abs=2e-6)


def test_the_evaluation_stops_at_its_cap(rig):
    """When the time for scoring is up, the rest is left out and the event says so."""
    images = (rig.image("a"), rig.image("b", seed=1))
    rig.write(rig.add(detector()), evaluation=Evaluation(images, PREP, HEAD, 0))
    assert only(rig.here(), Evaluated) == Evaluated(0, 2, capped=True)
    assert (rig.trial / "detections.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (lambda data: data[: len(data) // 2], "model_load", "cannot load the model"),
        (lambda data: b"", "model_load", "cannot load the model"),
        (lambda data: data.replace(b"Relu", b"Rolu"), "model_load", "Rolu"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_a_failure(rig, tmp_path, spoil, kind, words):
    """Truncated, empty and unknown models end the trial with model_load and the reason."""
    rig.write(rig.add(spoil(tiny_model(tmp_path / "m").read_bytes())))
    failure = rig.failure()
    assert (failure.kind, words in failure.message) == (kind, True)
    assert not (rig.trial / "samples.bin").exists()


def test_a_model_that_cannot_run_is_a_failure(rig):
    """A model that loads but cannot compute ends the trial with model_run."""
    shape = numpy_helper.from_array(np.array([2, 2], np.int64), "s")
    node = helper.make_node("Reshape", ["x", "s"], ["y"])
    data = model_of([node], [("x", ["n"])], [("y", None)], [shape])
    rig.write(rig.add(data), inputs=Inputs(shapes={"x": (3,)}))
    failure = rig.failure_here()
    assert failure.kind is FailureKind.MODEL_RUN
    assert "Reshape" in failure.message


def test_an_output_that_fits_no_head_keeps_the_samples(rig, tiny):
    """When scoring fails after timing, the failure is told and the samples are still there."""
    image = rig.image("a", (8, 8))
    evaluation = Evaluation((image,), ImagePrep(8, 8), HEAD, SECOND_NS)
    rig.write(tiny, evaluation=evaluation)
    failure = rig.failure_here()
    assert failure.kind is FailureKind.MODEL_RUN
    assert "image a" in failure.message
    assert rig.samples().counts == (1, 2, 5)


def test_a_dynamic_input_without_a_shape_is_named(rig):
    """A dynamic dimension that nobody fixed is a bad request naming the input."""
    node = helper.make_node("Relu", ["pixels"], ["y"])
    rig.write(rig.add(model_of([node], [("pixels", ["n", 3])], [("y", ["n", 3])])))
    failure = rig.failure_here()
    assert failure.kind is FailureKind.BAD_REQUEST
    assert "'pixels'" in failure.message


def test_images_that_cannot_be_scored_are_refused_before_timing(rig, tiny):
    """A model that does not take the evaluation's images fails before the first sample."""
    rig.write(tiny, evaluation=Evaluation((rig.image("a"),), PREP, HEAD, SECOND_NS))
    assert rig.failure_here().kind is FailureKind.BAD_REQUEST
    assert not (rig.trial / "samples.bin").exists()


def test_missing_and_corrupt_images_are_told_apart(rig):
    """An image that is not on the board is missing_artifact, one that is no image bad_image."""
    model = rig.add(detector())
    lost = ImageRef("00" * 32, "lost")
    rig.write(model, inputs=Inputs((lost,), PREP))
    failure = rig.failure()
    assert (failure.kind, "lost" in failure.message) == (FailureKind.MISSING_ARTIFACT, True)
    corrupt = ImageRef(rig.add(b"\x89PNG\r\n\x1a\nrubbish").sha256, "rubbish")
    rig.write(model, inputs=Inputs((corrupt,), PREP))
    failure = rig.failure()
    assert (failure.kind, "rubbish" in failure.message) == (FailureKind.BAD_IMAGE, True)


def test_a_missing_model_is_a_failure(rig):
    """A model that was never pushed ends the trial with missing_artifact."""
    rig.write(ArtifactRef("00" * 32, 5, "onnx"))
    assert rig.failure_here().kind is FailureKind.MISSING_ARTIFACT


@pytest.mark.parametrize("text", ["", "{}", '{"trial_id": 5}', "[" * 5000, "\0"])
def test_a_spec_that_is_none_is_a_bad_request(rig, text):
    """A spec.json that cannot be decoded is a failure with the field, not a crash."""
    (rig.trial / "spec.json").write_text(text)
    failure = rig.failure_here()
    assert failure.kind is FailureKind.BAD_REQUEST
    assert "spec.json" in failure.message


def test_no_spec_at_all_is_told(tmp_path):
    """Without spec.json the worker reports an internal failure that has the path."""
    rig = Rig(tmp_path)
    failure = rig.failure_here()
    assert failure.kind is FailureKind.INTERNAL
    assert "spec.json" in failure.message


def limit_files_to(size):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def test_a_file_size_limit_is_disk_full_before_timing(rig, tiny):
    """No room for samples.bin is found before the timed loop and reported as disk_full."""
    rig.write(tiny, scenario=scenario(min_samples=100_000))
    failure = rig.failure(preexec_fn=limit_files_to(65_536))
    assert failure.kind is FailureKind.DISK_FULL
    assert "disk" in failure.message


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this account may not mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_found_before_timing(rig, tiny, small_disk):
    """On a really full disk the trial ends with disk_full, never with a signal."""
    rig.trial = small_disk / "trial"
    rig.trial.mkdir()
    rig.write(tiny, scenario=scenario(min_samples=100_000))
    assert rig.failure().kind is FailureKind.DISK_FULL


def test_a_disk_that_fills_up_later_keeps_the_samples(rig, small_disk):
    """When detections no longer fit, the failure is disk_full and the samples are whole."""
    images = (rig.image("a"), rig.image("b", seed=1))
    rig.trial = small_disk / "trial"
    rig.trial.mkdir()
    evaluation = Evaluation(images, PREP, HEAD, 60 * SECOND_NS)
    rig.write(rig.add(detector()), evaluation=evaluation)
    with (small_disk / "other").open("wb") as stream:
        disk = os.statvfs(small_disk)
        stream.write(bytes((disk.f_bfree - 1) * disk.f_frsize))  # one block is left, for samples
    failure = rig.failure()
    assert failure.kind is FailureKind.DISK_FULL
    assert rig.samples().counts == (1, 2, 5)


def wait_for_samples(rig, process, at_least):
    """Read events until sampling, then wait until so many slots are filled."""
    for line in process.stdout:
        event = decode_event(line)
        if isinstance(event, PhaseStarted) and event.phase == "sample":
            break
    deadline = time.monotonic() + 30
    with (rig.trial / "samples.bin").open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    capacity = SAMPLES_HEADER.unpack_from(mapped)[1]
    column = memoryview(mapped)[SAMPLES_HEADER.size :].cast("Q")[:capacity]
    while column[at_least] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_kill_while_sampling_leaves_the_samples(rig, tiny):
    """After SIGKILL the file has every finished phase counted and the later slots filled."""
    rig.write(tiny, scenario=scenario(min_duration_ns=60 * SECOND_NS))
    with rig.start(stderr=subprocess.DEVNULL) as process:
        wait_for_samples(rig, process, at_least=100)
        process.kill()
        assert process.wait(10) == -signal.SIGKILL
    data = (rig.trial / "samples.bin").read_bytes()
    samples = decode_samples(data)
    assert samples.counts == (1, 2, 0)
    capacity = SAMPLES_HEADER.unpack_from(data)[1]
    latency = np.frombuffer(data, "<u8", capacity, SAMPLES_HEADER.size)
    used = np.flatnonzero(latency)
    assert len(used) > 100
    assert np.array_equal(used, np.arange(len(used)))


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_sigterm_ends_the_worker_at_once(rig, tiny, handler):
    """SIGTERM ends it in the middle of a phase, even where the parent had ignored the signal."""
    rig.write(tiny, scenario=scenario(min_duration_ns=60 * SECOND_NS))

    def before_exec():
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    with rig.start(stderr=subprocess.DEVNULL, preexec_fn=before_exec) as process:
        wait_for_samples(rig, process, at_least=5)
        start = time.monotonic()
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM
    assert time.monotonic() - start < 1.0


def test_nothing_but_events_reaches_stdout(rig, tiny):
    """What native code writes to file descriptor 1 goes to stderr; stdout is events only."""
    rig.write(tiny)
    code = (
        "import os, pathlib, sys; from agent import worker\n"
        "real = worker.run\n"
        "def noisy(*args): os.write(1, b'native noise'); real(*args)\n"
        "worker.run = noisy\n"
        "sys.exit(worker.main(*map(pathlib.Path, sys.argv[1:])))\n"
    )
    command = [sys.executable, "-c", code, str(rig.trial), str(rig.artifacts)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=60, check=True)
    assert b"native noise" in done.stderr
    assert isinstance([decode_event(line) for line in done.stdout.splitlines()][-1], Ended)


def test_no_torch_and_none_of_our_other_rooms_is_imported(rig, tiny):
    """A worker needs the board's few packages and nothing of the host side."""
    rig.write(tiny)
    code = (
        "import json, pathlib, sys; from agent import worker\n"
        "worker.main(*map(pathlib.Path, sys.argv[1:]))\n"
        "names = sorted({name.partition('.')[0] for name in sys.modules})\n"
        "print(json.dumps(names), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code, str(rig.trial), str(rig.artifacts)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=60, check=True)
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "orchestrator", "models", "results", "rich", "onnx", "sqlalchemy"}


class FakeModel:
    """A runtime's model that takes as long as it is told on a fake clock."""

    inputs = (InputSpec("x", "float32", (1, 3, 8, 8), "tensor(float)"),)
    runtime_version = "1"
    settings = {}  # noqa: RUF012 - a plain fake

    def __init__(self, lengths_ns, fail_at=None):
        self.now = 1000
        self.lengths = iter(lengths_ns)
        self.fail_at = fail_at
        self.calls = 0
        self.collecting = []

    def clock(self):
        self.now += 1
        return self.now

    def bind(self, feeds):
        return self.call

    def call(self):
        self.collecting.append(gc.isenabled())
        self.calls += 1
        if self.calls == self.fail_at:
            raise ValueError("the graph broke")
        self.now += next(self.lengths)

    def explain(self, error):
        return Refused(FailureKind.MODEL_RUN, str(error))


def test_phases_follow_each_other_without_a_hole(tmp_path):
    """Cold, warm-up and samples fill consecutive places, and gaps span the phases' borders."""
    model = FakeModel([500, 10, 20, 30, 40, 50])
    path = tmp_path / "samples.bin"
    wanted = scenario(min_samples=3)
    events = []
    short = worker.measure(model, [{}], wanted, path, events.append, model.clock)
    samples = decode_samples(path.read_bytes())
    assert not short
    assert samples.counts == (1, 2, 3)
    assert samples.latency_ns.tolist() == [501, 11, 21, 31, 41, 51]
    assert samples.gap_ns.tolist()[:1] == [0]
    assert sum(samples.latency_ns) + sum(samples.gap_ns) == model.now - events[0].monotonic_ns - 2
    assert not any(model.collecting)
    assert gc.isenabled()


def test_a_failure_while_sampling_keeps_what_was_measured(tmp_path):
    """An exception in the loop is translated, and the finished phases and slots stay."""
    model = FakeModel([500, 10, 20, 30, 40, 50], fail_at=6)
    path = tmp_path / "samples.bin"
    with pytest.raises(Refused, match="the graph broke"):
        worker.measure(model, [{}], scenario(), path, lambda event: None, model.clock)
    data = path.read_bytes()
    assert decode_samples(data).counts == (1, 2, 0)
    assert np.frombuffer(data, "<u8", 6, SAMPLES_HEADER.size).tolist() == [501, 11, 21, 31, 41, 0]
    assert gc.isenabled()


def test_a_long_warm_up_leaves_room_for_the_samples(tmp_path, monkeypatch):
    """A warm-up by time that fills the file ends early; the minimum of samples still fits."""
    monkeypatch.setattr("agent.samplewriter.MAX_SAMPLES", 20)
    model = FakeModel([10] * 50)
    wanted = scenario(warmup_min_duration_ns=SECOND_NS, min_samples=5)
    path = tmp_path / "samples.bin"
    assert not worker.measure(model, [{}], wanted, path, lambda event: None, model.clock)
    assert decode_samples(path.read_bytes()).counts == (1, 14, 5)


SPEC = TrialSpec(
    trial_id="t1",
    run_id="r1",
    artifact=ArtifactRef("00" * 32, 1, "onnx"),
    options=RuntimeOptions(intra_op_num_threads=1),
    scenario=scenario(),
    inputs=Inputs(),
    deadline_ns=1,
)


def changed(**changes):
    fields = {name: getattr(SPEC, name) for name in SPEC.__struct_fields__}
    return TrialSpec(**(fields | changes))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (changed(options=RuntimeOptions(intra_op_num_threads=0)), "intra_op"),
        (changed(options=RuntimeOptions(1, inter_op_num_threads=-1)), "inter_op"),
        (changed(scenario=scenario(max_duration_ns=-1)), "below 0"),
        (changed(scenario=scenario(min_samples=0)), "above 0"),
        (changed(scenario=scenario(min_samples=3_000_000)), "2,000,000"),
        (changed(inputs=Inputs(prep=ImagePrep(0, 8))), "prep"),
        (changed(inputs=Inputs(prep=ImagePrep(8, 100_000))), "prep"),
        (changed(evaluation=Evaluation((), ImagePrep(8, 8, 300), HEAD, 1)), "prep"),
    ],
)
def test_specs_that_no_board_can_measure_are_refused(spec, field):
    """Impossible numbers are a bad request that names the field."""
    with pytest.raises(Refused, match=field) as caught:
        worker.check_spec(spec)
    assert caught.value.failure.kind is FailureKind.BAD_REQUEST
    worker.check_spec(SPEC)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Refused(FailureKind.BAD_IMAGE, "x"), FailureKind.BAD_IMAGE),
        (OSError(errno.ENOSPC, "x"), FailureKind.DISK_FULL),
        (OSError(errno.EDQUOT, "x"), FailureKind.DISK_FULL),
        (OSError(errno.EACCES, "x"), FailureKind.INTERNAL),
        (MemoryError(), FailureKind.OUT_OF_MEMORY),
        (ZeroDivisionError("x"), FailureKind.INTERNAL),
    ],
)
def test_every_exception_has_a_kind(error, kind):
    """Whatever ends a trial has a kind of failure and a message that is not empty."""
    failure = worker.failure_of(error)
    assert failure.kind is kind
    assert failure.message


def test_peak_memory_is_this_process_s_own():
    """The peak is at least what is resident now, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert worker.peak_rss_bytes() >= pages * resource.getpagesize() // 2


def test_a_write_in_pieces_is_a_whole_line(tmp_path):
    """A stream that takes a few bytes at a time gets every byte."""

    class Slow:
        data = b""

        def write(self, rest):
            self.data += bytes(rest[:3])
            return min(3, len(rest))

    slow = Slow()
    worker.write_all(slow, b"0123456789\n")
    assert slow.data == b"0123456789\n"


def test_timed_images_are_prepared_once_and_cycled(rig):
    """The loop is fed the prepared images in the order of the trial."""
    images = tuple(rig.image(str(i), seed=i) for i in range(3))
    inputs = [InputSpec("images", "float32", (1, 3, 16, 16), "tensor(float)")]
    timed = feeds.timed_feeds(inputs, Inputs(images, PREP), rig.artifacts)
    expected = [prepare(read_image(rig.artifacts / image.sha256), PREP)[0] for image in images]
    assert [list(feed) for feed in timed] == [["images"]] * 3
    for feed, tensor in zip(timed, expected, strict=True):
        assert np.array_equal(feed["images"], tensor)


def test_the_worker_runs_from_a_bundle(rig, tiny, tmp_path):
    """The same worker runs isolated from a copied directory, as it does on a board."""
    bundle = tmp_path / "bundle"
    shutil.copytree(REPOSITORY / "agent", bundle / "agent")
    (bundle / "__main__.py").write_text("from agent.__main__ import main\n\nmain()\n")
    rig.write(tiny)
    command = [sys.executable, "-I", str(bundle), *rig.command()[3:]]
    done = subprocess.run(command, cwd="/", capture_output=True, timeout=60, check=True)
    assert isinstance(decode_event(done.stdout.splitlines()[-1]), Ended)
