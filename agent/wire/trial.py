"""What a trial is, how it goes and how it ended."""

from __future__ import annotations

import zlib
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from agent.wire.base import MAX_MASK_PIXELS, Count, Failure, Pixels, Text, Wire
from agent.wire.board import Reading, Sources

ModelFormat = Literal["onnx", "ort", "pt2", "tflite"]
"""Of a model's file: ONNX, ONNX Runtime's own, a torch.export archive, a TensorFlow Lite model."""

RuntimeName = Literal["onnxruntime", "torch", "litert"]
"""What runs a model on a board; all but the first are optional there."""

RUNTIME_PACKAGES: Final[dict[RuntimeName, str]] = {
    "onnxruntime": "onnxruntime",
    "torch": "torch",
    "litert": "ai-edge-litert",
}
"""The distribution that a runtime is; a board's fingerprint says which it has."""


class ArtifactRef(Wire, frozen=True):
    """An immutable file in the board's cache."""

    sha256: str
    size_bytes: int
    format: ModelFormat


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


class DetectHead(Wire, frozen=True, tag_field="task", tag="detect"):
    """How raw outputs become detections.

    `yolo_v8`: one output (1, 4 + classes, anchors), cx, cy, w, h in input pixels, scores in
    0..1, NMS here. `end_to_end`: one output (1, n, 6) of x1, y1, x2, y2, score, class.
    """

    decoder: Literal["yolo_v8", "end_to_end"]
    num_classes: int
    score_threshold: float = 0.001
    iou_threshold: float = 0.7
    max_detections: int = 300


class SegmentHead(Wire, frozen=True, tag_field="task", tag="segment"):
    """How raw outputs become a mask.

    One output (1, classes, h, w) of probabilities, as large as the input. One class counts from
    `threshold` on; of several the most probable one counts.
    """

    num_classes: int
    threshold: float = 0.5


Head: TypeAlias = DetectHead | SegmentHead


class Evaluation(Wire, frozen=True):
    """Images whose detections or masks the board returns; it stops early at `max_duration_ns`."""

    images: tuple[ImageRef, ...]
    prep: ImagePrep
    head: Head
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
    runtime: RuntimeName = "onnxruntime"


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


PartName: TypeAlias = Literal["samples", "readings", "detections", "masks"]


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
    """The settings that were really applied, by the runtime's own names."""
    inputs_kind: Literal["images", "synthetic"] | None
    sources: Sources
    evaluation: EvaluationOutcome | None
    started_monotonic_ns: Count
    first_call_monotonic_ns: Count | None
    """Start of the first, cold, call on the clock of the readings; None: no call was timed.

    Call i starts at first_call_monotonic_ns + sum(latency_ns[:i]) + sum(gap_ns[: i + 1]).
    """
    ended_monotonic_ns: Count
    parts: dict[PartName, Part]


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


class ImageMask(Wire, frozen=True):
    """What was found at each pixel of one image, at the size that the model is fed.

    `packed` is zlib over one byte a pixel, row after row: 0 for no class, else 1 + class index.
    A mask that does not unpack to exactly height * width bytes cannot be made or decoded.
    """

    image_id: Text
    height: Count
    width: Count
    packed: Annotated[bytes, msgspec.Meta(max_length=MAX_MASK_PIXELS + (1 << 16))]

    def __post_init__(self) -> None:
        """Raises ValueError."""
        self.labels()

    def labels(self) -> bytes:
        """One byte a pixel, row after row; never more memory than the mask's own size."""
        wanted = self.height * self.width
        if not 0 < wanted <= MAX_MASK_PIXELS:
            raise ValueError(f"a mask of {self.height} x {self.width}: 1 to {MAX_MASK_PIXELS}")
        unpacking = zlib.decompressobj()
        try:
            labels = unpacking.decompress(self.packed, wanted + 1)
        except zlib.error as exc:
            raise ValueError(f"a mask that does not unpack: {exc}") from exc
        if len(labels) != wanted or not unpacking.eof or unpacking.unused_data:
            raise ValueError(f"a mask of {len(labels)} bytes for {self.height} x {self.width}")
        return labels
