import errno
import gc
import resource
from pathlib import Path

import numpy as np
import pytest
from support.workerrig import HEAD, PREP, SECOND_NS, Rig, scenario

from agent import evaluation, feeds, worker
from agent.errors import Refused
from agent.runtimes.base import InputSpec
from agent.vision import prepare, read_image
from agent.wire import (
    SAMPLES_HEADER,
    ArtifactRef,
    Evaluation,
    FailureKind,
    ImagePrep,
    Inputs,
    RuntimeOptions,
    TrialSpec,
    decode_samples,
)


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


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
    measured = worker.measure(model, [{}], wanted, path, events.append, model.clock)
    samples = decode_samples(path.read_bytes())
    assert measured == worker.Measured(short=False, calls=6)
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
    assert not worker.measure(model, [{}], wanted, path, lambda event: None, model.clock).short
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


def sustained(**changes):
    fields = {"min_samples": 1, "min_duration_ns": 5, "max_duration_ns": 5, "name": "sustained"}
    return scenario(**(fields | changes))


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
        (changed(scenario=sustained(max_duration_ns=6)), "sustained"),
        (changed(scenario=sustained(min_duration_ns=0, max_duration_ns=0)), "sustained"),
        (changed(scenario=sustained(min_samples=2)), "sustained"),
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
    worker.check_spec(changed(scenario=sustained()))


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
    evaluation.write_all(slow, b"0123456789\n")
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
