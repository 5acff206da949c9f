import time

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from support.onnxmodels import segmenter, tiny_model
from support.workerrig import HEAD, PREP, SECOND_NS, Rig, detector, model_of, only, phases, scenario

from agent.vision import detections, prepare, read_image, unpacked
from agent.wire import (
    ArtifactRef,
    Evaluation,
    FailureKind,
    ImageDetections,
    ImageMask,
    ImagePrep,
    ImageRef,
    Inputs,
    SegmentHead,
    decode,
)
from agent.worker_events import Ended, Evaluated, Loaded, PhaseStarted


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


@pytest.fixture
def tiny(rig, tmp_path):
    """A small model of input x (1, 3, 8, 8)."""
    return rig.add(tiny_model(tmp_path / "tiny.onnx").read_bytes())


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


def test_a_sustained_trial_lasts_its_time_and_is_not_short(rig, tiny):
    """Sampling goes on for the whole time, ends with the call that completes it, and is whole."""
    fixed_ns = 150_000_000
    wanted = scenario(
        min_samples=1, min_duration_ns=fixed_ns, max_duration_ns=fixed_ns, name="sustained"
    )
    rig.write(tiny, scenario=wanted)
    assert not only(rig.here(), Ended).short
    samples = rig.samples()
    first = samples.counts[0] + samples.counts[1]
    own_ns = sum(samples.latency_ns[first:]) + sum(samples.gap_ns[first + 1 :])
    assert own_ns + samples.gap_ns[first] >= fixed_ns > own_ns - samples.latency_ns[-1]


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


@pytest.mark.parametrize("names", [("blob",), ("sky", "wood", "road")])
def test_images_are_timed_and_segmented(rig, tmp_path, names):
    """Masks on the board are those that the same pixels give on the host, one line an image."""
    model = rig.add(segmenter(tmp_path / "m.onnx", names=names).read_bytes())
    images = tuple(rig.image(f"img{i}", (20 + i, 10), seed=i) for i in range(3))
    evaluation = Evaluation(images, PREP, SegmentHead(len(names)), 60 * SECOND_NS)
    rig.write(model, inputs=Inputs(images, PREP), evaluation=evaluation)
    assert only(rig.measure(), Loaded).inputs_kind == "images"
    lines = (rig.trial / "masks.jsonl").read_bytes().splitlines()
    found = [decode(line, ImageMask) for line in lines]
    assert [item.image_id for item in found] == ["img0", "img1", "img2"]
    assert not (rig.trial / "detections.jsonl").exists()
    for item, image in zip(found, images, strict=True):
        (colours,), _ = prepare(read_image(rig.artifacts / image.sha256), PREP)
        expected = colours.mean(axis=0) >= 0.5 if len(names) == 1 else colours.argmax(axis=0) + 1
        assert np.array_equal(unpacked(item), expected)
        assert len(np.unique(expected)) > 1


@pytest.mark.parametrize(
    ("head", "prep", "kind"),
    [
        (SegmentHead(0), PREP, "bad_request"),
        (SegmentHead(255), PREP, "bad_request"),
        (SegmentHead(1), ImagePrep(4096, 4096), "bad_request"),
        (SegmentHead(2), PREP, "model_run"),
    ],
)
def test_masks_that_cannot_be_had(rig, tmp_path, head, prep, kind):
    """Too many classes or pixels for a mask are refused; so is an output of other classes."""
    model = rig.add(segmenter(tmp_path / "m.onnx").read_bytes())
    rig.write(model, evaluation=Evaluation((rig.image("a"),), prep, head, SECOND_NS))
    assert rig.failure_here().kind == kind


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
