import base64
import json
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import wire, worker_events
from agent.wire import WireError, decode, decode_reply, encode

READING = wire.Reading(
    t_ns=5,
    temp_c=48.3,
    clock_hz=2_400_000_000,
    throttled_bits=0,
    memory_available_bytes=1 << 30,
    worker_rss_bytes=None,
    power_w=None,
)
READING_JSON = {
    "t_ns": 5,
    "temp_c": 48.3,
    "clock_hz": 2_400_000_000,
    "throttled_bits": 0,
    "memory_available_bytes": 1 << 30,
    "worker_rss_bytes": None,
    "power_w": None,
}
SOURCES = wire.Sources(temp="thermal_zone0 (cpu-thermal)", clock=None, throttled=None, power=None)
SOURCES_JSON = {
    "temp": "thermal_zone0 (cpu-thermal)",
    "clock": None,
    "throttled": None,
    "power": None,
}
LEASE = wire.LeaseInfo(holder="ann@host", run_id="r1", expires_in_s=29.5)
LEASE_JSON = {"holder": "ann@host", "run_id": "r1", "expires_in_s": 29.5}
FAILURE = wire.Failure(kind=wire.FailureKind.BUSY, message="a trial runs")
FAILURE_JSON = {"kind": "busy", "message": "a trial runs"}
FINGERPRINT = wire.Fingerprint(
    board_model="Raspberry Pi 5 Model B Rev 1.0",
    serial=None,
    hostname="pi5",
    machine="aarch64",
    userland_bits=64,
    isa="aarch64-dotprod",
    cpu_model="Cortex-A76",
    cpu_count=4,
    cpu_features=("fp", "asimddp"),
    max_clock_hz=None,
    governor="ondemand",
    memory_bytes=8 << 30,
    swap_bytes=0,
    os_name="Debian GNU/Linux 12 (bookworm)",
    kernel="6.6.31",
    libc="glibc 2.36",
    python="3.11.2",
    packages={"numpy": "2.4.6"},
    emulated=False,
    emulated_by=None,
    boot_id=None,
)
FINGERPRINT_JSON = {
    "board_model": "Raspberry Pi 5 Model B Rev 1.0",
    "serial": None,
    "hostname": "pi5",
    "machine": "aarch64",
    "userland_bits": 64,
    "isa": "aarch64-dotprod",
    "cpu_model": "Cortex-A76",
    "cpu_count": 4,
    "cpu_features": ["fp", "asimddp"],
    "max_clock_hz": None,
    "governor": "ondemand",
    "memory_bytes": 8 << 30,
    "swap_bytes": 0,
    "os_name": "Debian GNU/Linux 12 (bookworm)",
    "kernel": "6.6.31",
    "libc": "glibc 2.36",
    "python": "3.11.2",
    "packages": {"numpy": "2.4.6"},
    "emulated": False,
    "emulated_by": None,
    "boot_id": None,
}
CHECK = wire.Check(name="governor", state="warn", found="ondemand", fix="set another")
CHECK_JSON = {"name": "governor", "state": "warn", "found": "ondemand", "fix": "set another"}
ARTIFACT = wire.ArtifactRef(sha256="ab" * 32, size_bytes=7, format="onnx")
ARTIFACT_JSON = {"sha256": "ab" * 32, "size_bytes": 7, "format": "onnx"}
IMAGE = wire.ImageRef(sha256="cd" * 32, image_id="000012")
IMAGE_JSON = {"sha256": "cd" * 32, "image_id": "000012"}
OPTIONS = wire.RuntimeOptions(intra_op_num_threads=4)
OPTIONS_JSON = {
    "intra_op_num_threads": 4,
    "inter_op_num_threads": 1,
    "graph_optimization_level": "all",
    "enable_cpu_mem_arena": True,
    "enable_mem_pattern": True,
    "allow_spinning": True,
}
SCENARIO = wire.Scenario(
    warmup_min_samples=1,
    warmup_min_duration_ns=2,
    min_samples=3,
    min_duration_ns=4,
    max_duration_ns=5,
)
SCENARIO_JSON = {
    "warmup_min_samples": 1,
    "warmup_min_duration_ns": 2,
    "min_samples": 3,
    "min_duration_ns": 4,
    "max_duration_ns": 5,
    "name": "single_stream",
}
PREP = wire.ImagePrep(height=320, width=640)
PREP_JSON = {"height": 320, "width": 640, "pad_value": 114}
INPUTS = wire.Inputs(images=(IMAGE,), prep=PREP, shapes={"x": (1, 3)}, seed=9)
INPUTS_JSON = {"images": [IMAGE_JSON], "prep": PREP_JSON, "shapes": {"x": [1, 3]}, "seed": 9}
HEAD = wire.DetectHead(decoder="yolo_v8", num_classes=6)
HEAD_JSON = {
    "task": "detect",
    "decoder": "yolo_v8",
    "num_classes": 6,
    "score_threshold": 0.001,
    "iou_threshold": 0.7,
    "max_detections": 300,
}
EVALUATION = wire.Evaluation(images=(IMAGE,), prep=PREP, head=HEAD, max_duration_ns=60)
EVALUATION_JSON = {
    "images": [IMAGE_JSON],
    "prep": PREP_JSON,
    "head": HEAD_JSON,
    "max_duration_ns": 60,
}
SEGMENT_HEAD = wire.SegmentHead(num_classes=1)
SEGMENT_HEAD_JSON = {"task": "segment", "num_classes": 1, "threshold": 0.5}
SPEC = wire.TrialSpec(
    trial_id="t1",
    run_id="r1",
    artifact=ARTIFACT,
    options=OPTIONS,
    scenario=SCENARIO,
    inputs=INPUTS,
    deadline_ns=100,
    evaluation=EVALUATION,
)
SPEC_JSON = {
    "trial_id": "t1",
    "run_id": "r1",
    "artifact": ARTIFACT_JSON,
    "options": OPTIONS_JSON,
    "scenario": SCENARIO_JSON,
    "inputs": INPUTS_JSON,
    "deadline_ns": 100,
    "evaluation": EVALUATION_JSON,
    "runtime": "onnxruntime",
}
DETECTION = wire.Detection(1.0, 2.0, 3.5, 4.0, 0.875, 5)
DETECTION_JSON = [1.0, 2.0, 3.5, 4.0, 0.875, 5]
PACKED = zlib.compress(bytes([0, 1, 1, 0, 0, 1]))
MASK = wire.ImageMask(image_id="000012", height=2, width=3, packed=PACKED)
MASK_JSON = {
    "image_id": "000012",
    "height": 2,
    "width": 3,
    "packed": base64.b64encode(PACKED).decode(),
}

EXAMPLES = [
    (READING, READING_JSON),
    (SOURCES, SOURCES_JSON),
    (LEASE, LEASE_JSON),
    (FAILURE, FAILURE_JSON),
    (FINGERPRINT, FINGERPRINT_JSON),
    (wire.HelloRequest(protocol=1, host="h"), {"protocol": 1, "host": "h"}),
    (
        wire.Hello(
            protocol=1,
            agent_version="0.1.0",
            agent_digest="ef" * 32,
            pid=77,
            monotonic_ns=8,
            fingerprint=FINGERPRINT,
            sources=SOURCES,
            reading=READING,
            lease=LEASE,
            unacknowledged=("t0",),
        ),
        {
            "protocol": 1,
            "agent_version": "0.1.0",
            "agent_digest": "ef" * 32,
            "pid": 77,
            "monotonic_ns": 8,
            "fingerprint": FINGERPRINT_JSON,
            "sources": SOURCES_JSON,
            "reading": READING_JSON,
            "lease": LEASE_JSON,
            "unacknowledged": ["t0"],
        },
    ),
    (
        wire.LeaseRequest(holder="ann", run_id="r1", ttl_s=30.0),
        {"holder": "ann", "run_id": "r1", "ttl_s": 30.0},
    ),
    (
        wire.Has(complete=("a",), partial_bytes={"b": 4}),
        {"complete": ["a"], "partial_bytes": {"b": 4}},
    ),
    (CHECK, CHECK_JSON),
    (
        wire.Diagnosis(complete=True, board_utc_ns=-5, machine_id=None, checks=(CHECK,)),
        {"complete": True, "board_utc_ns": -5, "machine_id": None, "checks": [CHECK_JSON]},
    ),
    (wire.Put(received_bytes=9, complete=False), {"received_bytes": 9, "complete": False}),
    (ARTIFACT, ARTIFACT_JSON),
    (IMAGE, IMAGE_JSON),
    (OPTIONS, OPTIONS_JSON),
    (SCENARIO, SCENARIO_JSON),
    (PREP, PREP_JSON),
    (INPUTS, INPUTS_JSON),
    (HEAD, HEAD_JSON),
    (SEGMENT_HEAD, SEGMENT_HEAD_JSON),
    (MASK, MASK_JSON),
    (EVALUATION, EVALUATION_JSON),
    (SPEC, SPEC_JSON),
    (
        wire.Poll(
            phase="sample",
            samples_done=3,
            images_done=0,
            recent_p50_ns=None,
            elapsed_ns=11,
            readings=(READING,),
            next_cursor=1,
        ),
        {
            "phase": "sample",
            "samples_done": 3,
            "images_done": 0,
            "recent_p50_ns": None,
            "elapsed_ns": 11,
            "readings": [READING_JSON],
            "next_cursor": 1,
        },
    ),
    (wire.Part(size_bytes=3, sha256="00"), {"size_bytes": 3, "sha256": "00"}),
    (
        wire.EvaluationOutcome(images_done=3, images_total=64, capped=True),
        {"images_done": 3, "images_total": 64, "capped": True},
    ),
    (
        wire.Outcome(
            trial_id="t1",
            state="failed",
            failure=FAILURE,
            short=True,
            load_ns=None,
            peak_rss_bytes=None,
            runtime_version="1.31.1",
            runtime_settings={"intra_op_num_threads": "4"},
            inputs_kind="synthetic",
            sources=SOURCES,
            evaluation=None,
            started_monotonic_ns=1,
            first_call_monotonic_ns=None,
            ended_monotonic_ns=2,
            parts={"samples": wire.Part(size_bytes=3, sha256="00")},
        ),
        {
            "trial_id": "t1",
            "state": "failed",
            "failure": FAILURE_JSON,
            "short": True,
            "load_ns": None,
            "peak_rss_bytes": None,
            "runtime_version": "1.31.1",
            "runtime_settings": {"intra_op_num_threads": "4"},
            "inputs_kind": "synthetic",
            "sources": SOURCES_JSON,
            "evaluation": None,
            "started_monotonic_ns": 1,
            "first_call_monotonic_ns": None,
            "ended_monotonic_ns": 2,
            "parts": {"samples": {"size_bytes": 3, "sha256": "00"}},
        },
    ),
    (DETECTION, DETECTION_JSON),
    (
        wire.ImageDetections(image_id="000012", detections=(DETECTION,)),
        {"image_id": "000012", "detections": [DETECTION_JSON]},
    ),
]
IDS = [type(message).__name__ for message, _ in EXAMPLES]
TYPES = [type(message) for message, _ in EXAMPLES]

EVENTS = [
    (
        worker_events.PhaseStarted(phase="cold", monotonic_ns=4),
        {"event": "phase_started", "phase": "cold", "monotonic_ns": 4},
    ),
    (
        worker_events.Loaded(
            load_ns=3, runtime_version="1.31.1", settings={"a": "b"}, inputs_kind="images"
        ),
        {
            "event": "loaded",
            "load_ns": 3,
            "runtime_version": "1.31.1",
            "settings": {"a": "b"},
            "inputs_kind": "images",
        },
    ),
    (
        worker_events.Evaluated(images_done=1, images_total=2, capped=False),
        {"event": "evaluated", "images_done": 1, "images_total": 2, "capped": False},
    ),
    (
        worker_events.Ended(short=False, calls=9, peak_rss_bytes=None),
        {"event": "ended", "short": False, "calls": 9, "peak_rss_bytes": None},
    ),
    (worker_events.Failed(failure=FAILURE), {"event": "failed", "failure": FAILURE_JSON}),
]


def test_every_message_has_an_example():
    """No type that crosses is left out of the tests below."""
    exported = [getattr(wire, name) for name in wire.__all__]
    messages = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, wire.Wire)}
    assert messages - {wire.Wire, wire.Reply} == set(TYPES)
    assert {type(event) for event, _ in EVENTS} == set(worker_events.WorkerEvent.__args__)


@pytest.mark.parametrize(("message", "expected"), EXAMPLES, ids=IDS)
def test_json_has_exactly_this_shape(message, expected):
    """Each message is written with exactly these names and values, which is the protocol."""
    assert json.loads(encode(message)) == expected


@pytest.mark.parametrize(("message", "expected"), EXAMPLES, ids=IDS)
def test_messages_survive_the_round_trip(message, expected):
    """Decoding what was encoded gives an equal message, from text and from bytes."""
    text = encode(message)
    assert decode(text, type(message)) == message
    assert decode(text.encode(), type(message)) == message


@pytest.mark.parametrize(("message", "expected"), EXAMPLES, ids=IDS)
def test_messages_cannot_be_changed(message, expected):
    """A message is immutable."""
    with pytest.raises(AttributeError):
        setattr(message, message.__struct_fields__[0], None)


@pytest.mark.parametrize(("message", "expected"), EXAMPLES, ids=IDS)
def test_unknown_fields_are_refused(message, expected):
    """A field that the protocol does not have is refused by name."""
    if isinstance(expected, list):
        changed, pattern = [[*expected], "array"], "array|float"
    else:
        changed, pattern = expected | {"surprise": 1}, "surprise"
    with pytest.raises(WireError, match=pattern):
        decode(json.dumps(changed), type(message))


@pytest.mark.parametrize(("message", "expected"), EXAMPLES, ids=IDS)
def test_missing_fields_are_refused(message, expected):
    """A required field that is missing is refused by name, and no other value is invented."""
    required = message.__struct_fields__[
        : len(message.__struct_fields__) - len(message.__struct_defaults__)
    ]
    for position, name in enumerate(required):
        if isinstance(expected, list):
            changed = expected[:position]
        else:
            changed = {key: value for key, value in expected.items() if key != name}
        with pytest.raises(WireError):
            decode(json.dumps(changed), type(message))


@pytest.mark.parametrize(("message", "expected"), EXAMPLES, ids=IDS)
def test_mistyped_fields_are_refused_with_their_path(message, expected):
    """A value of another type is refused, and the error has the path of the field."""
    fields = message.__struct_fields__
    for position, name in enumerate(fields):
        wrong = {"not": ["this", "type"]}
        if isinstance(expected, list):
            changed = [*expected]
            changed[position] = wrong
            path = rf"\$\[{position}\]"
        else:
            changed = expected | {name: wrong}
            path = rf"\$\.{name}|\$\[\.\.\.\]"
        with pytest.raises(WireError, match=path):
            decode(json.dumps(changed), type(message))


def test_numbers_are_not_read_from_text():
    """Decoding is strict: the text "5" is no number."""
    with pytest.raises(WireError, match="received_bytes"):
        decode('{"received_bytes": "5", "complete": true}', wire.Put)


@pytest.mark.parametrize(("event", "expected"), EVENTS)
def test_worker_events_have_exactly_this_shape(event, expected):
    """Each worker event is one line of this JSON and decodes back to itself."""
    line = worker_events.event_line(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == expected
    assert worker_events.decode_event(line) == event


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"null", b'{"event":"ended"}', b'{"event":"danced"}', b"\xff", b"[" * 5000],
)
def test_lines_that_are_no_event_are_refused(line):
    """Anything else on the worker's stdout raises WireError."""
    with pytest.raises(WireError):
        worker_events.decode_event(line)


def test_replies_carry_one_of_both():
    """A reply has a result or a failure, and decodes to its declared type."""
    good = wire.Reply(ok=wire.Put(received_bytes=1, complete=True))
    bad = wire.Reply(failure=FAILURE)
    assert json.loads(encode(good)) == {
        "ok": {"received_bytes": 1, "complete": True},
        "failure": None,
    }
    assert json.loads(encode(bad)) == {"ok": None, "failure": FAILURE_JSON}
    assert decode_reply(encode(good), wire.Put).ok == good.ok
    assert decode_reply(encode(bad), wire.Put).failure == FAILURE
    with pytest.raises(WireError, match="ok"):
        decode_reply('{"ok": {"received_bytes": 1}}', wire.Put)


def test_every_failure_kind_is_stable():
    """The words for kinds of failure are part of the protocol."""
    words = (
        "bad_request protocol unknown_trial lease_held lease_lost busy disk_full digest_mismatch "
        "missing_artifact too_large runtime_missing model_load model_run bad_image out_of_memory "
        "worker_killed deadline cancelled interrupted internal"
    )
    assert " ".join(wire.FailureKind) == words


@pytest.mark.parametrize("head", [HEAD, SEGMENT_HEAD])
def test_the_head_of_an_evaluation_is_one_of_two(head):
    """An evaluation says by the field `task` which of the two heads it has, and has no other."""
    evaluation = wire.Evaluation(images=(), prep=PREP, head=head, max_duration_ns=1)
    assert decode(encode(evaluation), wire.Evaluation) == evaluation
    with pytest.raises(WireError, match=r"\$\.head"):
        decode(encode(evaluation).replace('"task":"', '"task":"not '), wire.Evaluation)


def masked(height, width, packed):
    encoded = base64.b64encode(packed).decode()
    return json.dumps({"image_id": "i", "height": height, "width": width, "packed": encoded})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (masked(2, 4, PACKED), "6 bytes for 2 x 4"),
        (masked(1, 3, PACKED), "4 bytes for 1 x 3"),
        (masked(0, 6, PACKED), "0 x 6"),
        (masked(2, 3, b"no zlib"), "does not unpack"),
        (masked(2, 3, PACKED[:-2]), "6 bytes for 2 x 3"),
        (masked(2, 3, PACKED + b"more"), "6 bytes for 2 x 3"),
        (masked(2, 3, b""), "0 bytes for 2 x 3"),
        (masked(1 << 40, 1 << 40, PACKED), "1099511627776 x 1099511627776"),
        (masked(64, 64, zlib.compress(bytes(1 << 26))), "4097 bytes for 64 x 64"),
        (masked(-1, -6, PACKED), "height"),
    ],
)
def test_masks_that_are_no_masks(text, said):
    """A mask unpacks to one byte a pixel, no more and no less, or it is refused with its size."""
    with pytest.raises(WireError, match=said):
        decode(text, wire.ImageMask)


def test_the_labels_of_a_mask():
    """Labels come back row after row as they were packed."""
    assert MASK.labels() == bytes([0, 1, 1, 0, 0, 1])


def test_the_magic_line_names_the_protocol():
    """The first line of `dial` has the protocol's number and is one whole line."""
    assert f"orchestrator-agent protocol {wire.PROTOCOL}\n".encode() == wire.MAGIC


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(kind=st.sampled_from(TYPES), data=st.binary() | st.text())
def test_any_bytes_raise_wire_error(kind, data):
    """Random bytes never raise anything but WireError, which names the message."""
    with pytest.raises(WireError, match=kind.__name__):
        decode(data, kind)


def test_text_that_is_no_unicode_is_refused():
    """A lone surrogate, which no UTF-8 can hold, is a WireError."""
    with pytest.raises(WireError):
        decode('{"received_bytes": 1, "complete": "\ud800"}', wire.Put)


@given(example=st.sampled_from(EXAMPLES), data=st.data())
def test_any_changed_message_decodes_or_raises_wire_error(example, data):
    """A valid message with any field replaced by any JSON never raises anything but WireError."""
    message, expected = example
    changed = [*expected] if isinstance(expected, list) else dict(expected)
    keys = range(len(changed)) if isinstance(changed, list) else list(changed)
    changed[data.draw(st.sampled_from(keys))] = data.draw(JSON_VALUES)
    try:
        decoded = decode(json.dumps(changed), type(message))
    except WireError:
        return
    assert decode(encode(decoded), type(message)) == decoded


@given(data=st.binary())
def test_any_line_is_an_event_or_a_wire_error(data):
    """Random bytes from a worker never raise anything but WireError."""
    with pytest.raises(WireError):
        worker_events.decode_event(data)


def test_deeply_nested_json_is_refused():
    """Nesting that would overflow the stack is a WireError."""
    with pytest.raises(WireError):
        decode("[" * 100_000 + "]" * 100_000, msgspec.Raw | list)
