"""What a trial is, how it goes and how it ended."""

from __future__ import annotations

from typing import Literal

import msgspec

from agent.wire.base import Count, Failure, Pixels, Text, Wire
from agent.wire.board import Reading, Sources


class ArtifactRef(Wire, frozen=True):
    """An immutable file in the board's cache."""

    sha256: str
    size_bytes: int
    format: Literal["onnx", "ort"]


class ImageRef(Wire, frozen=True):
    """An image file in the board's cache; `image_id` is its name within the data set."""

    sha256: str
    image_id: str


class RuntimeOptions(Wire, frozen=True):
    """Session settings, all explicit: defaults differ between versions and boards."""

    intra_op_num_threads: int
    inter_op_num_threads: int = 1
    graph_optimization_level: Literal["disabled", "basic", "extended", "all"] = "all"
    enable_cpu_mem_arena: bool = True
    enable_mem_pattern: bool = True
    allow_spinning: bool = True


ScenarioName = Literal["single_stream", "sustained"]
"""How inferences are issued."""


class Scenario(Wire, frozen=True):
    """MLPerf's single stream: the next inference starts when the previous one has ended.

    `single_stream`: sampling ends when `min_samples` AND `min_duration_ns` hold, or at
    `max_duration_ns`; in the latter case the trial is marked short.
    `sustained`: the same, for a fixed time: both durations are that time, one sample is enough,
    so it ends neither early nor short. For latency against temperature.
    """

    warmup_min_samples: int
    warmup_min_duration_ns: int
    min_samples: int
    min_duration_ns: int
    max_duration_ns: int
    name: ScenarioName = "single_stream"


class ImagePrep(Wire, frozen=True):
    """Letterbox to (height, width), RGB, NCHW float32 in 0..1."""

    height: int
    width: int
    pad_value: int = 114


class Inputs(Wire, frozen=True):
    """What the timed loop is fed: real images, or synthetic tensors where `images` is empty.

    `shapes` fixes dynamic dimensions by input name.
    """

    images: tuple[ImageRef, ...] = ()
    prep: ImagePrep | None = None
    shapes: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict)
    seed: int = 0


class DetectHead(Wire, frozen=True):
    """How raw outputs become detections.

    `yolo_v8`: one output (1, 4 + classes, anchors), cx, cy, w, h in input pixels, scores in
    0..1, NMS here. `end_to_end`: one output (1, n, 6) of x1, y1, x2, y2, score, class.
    """

    decoder: Literal["yolo_v8", "end_to_end"]
    num_classes: int
    score_threshold: float = 0.001
    iou_threshold: float = 0.7
    max_detections: int = 300


class Evaluation(Wire, frozen=True):
    """Images whose detections the board returns; it stops early at `max_duration_ns`."""

    images: tuple[ImageRef, ...]
    prep: ImagePrep
    head: DetectHead
    max_duration_ns: int


class TrialSpec(Wire, frozen=True):
    """One measurement of one artifact, complete in itself."""

    trial_id: str
    run_id: str
    artifact: ArtifactRef
    options: RuntimeOptions
    scenario: Scenario
    inputs: Inputs
    deadline_ns: int
    evaluation: Evaluation | None = None
    runtime: Literal["onnxruntime"] = "onnxruntime"


Phase = Literal["queued", "load", "cold", "warmup", "sample", "evaluate", "finalise", "ended"]
EndState = Literal["finished", "failed", "cancelled", "interrupted"]


class Poll(Wire, frozen=True):
    """Progress of a trial. `readings` are those after `cursor`; pass `next_cursor` next time."""

    phase: Phase
    samples_done: Count
    images_done: Count
    recent_p50_ns: Count | None
    elapsed_ns: Count
    readings: tuple[Reading, ...]
    next_cursor: Count


class Part(Wire, frozen=True):
    """One file of a finalised journal."""

    size_bytes: int
    sha256: str


class EvaluationOutcome(Wire, frozen=True):
    """How many of the images were evaluated."""

    images_done: Count
    images_total: Count
    capped: bool
    """True when the time cap ended it before the last image."""


class Outcome(Wire, frozen=True):
    """How a trial ended. Written last and atomically, so its presence means 'final'."""

    trial_id: Text
    state: EndState
    failure: Failure | None
    short: bool
    load_ns: Count | None
    peak_rss_bytes: Count | None
    runtime_version: Text | None
    runtime_settings: dict[Text, Text]
    """The settings that were really applied, by ONNX Runtime's own names."""
    inputs_kind: Literal["images", "synthetic"] | None
    sources: Sources
    evaluation: EvaluationOutcome | None
    started_monotonic_ns: Count
    first_call_monotonic_ns: Count | None
    """Start of the first, cold, call on the clock of the readings; None: no call was timed.

    Call i starts at first_call_monotonic_ns + sum(latency_ns[:i]) + sum(gap_ns[: i + 1]).
    """
    ended_monotonic_ns: Count
    parts: dict[Literal["samples", "readings", "detections"], Part]


class Detection(Wire, frozen=True, array_like=True):
    """One box in pixels of the original image; `x2`, `y2` exclusive."""

    x1: Pixels
    y1: Pixels
    x2: Pixels
    y2: Pixels
    score: float
    class_index: Count


class ImageDetections(Wire, frozen=True):
    """What was found in one image."""

    image_id: Text
    detections: tuple[Detection, ...]
