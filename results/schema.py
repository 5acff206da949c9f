"""The tables, as SQLAlchemy classes; the same metadata creates SQLite and PostgreSQL.

On SQLite every table is STRICT (a text in an integer column is refused), and `samples` is
WITHOUT ROWID: its rows lie in the order of its key. Times of day are text
`YYYY-MM-DDTHH:MM:SS.ffffffZ`, which sorts by time and which SQLite's date functions read.
Flags are 0 or 1. The comments become `docs/schema.md` and PostgreSQL's column comments.
"""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from results.columns import Big, Real, Small, Str, about, at_least, digest, one_of, options


class Base(DeclarativeBase):
    """Base of all tables."""


class SchemaInfo(Base):
    """See the table's comment."""

    __tablename__ = "schema_info"
    __table_args__ = options(
        CheckConstraint("id = 1", name="one_row"),
        comment="One row: which version of this schema the database has.",
    )

    id: Mapped[Small] = mapped_column(primary_key=True, autoincrement=False, comment="always 1")
    version: Mapped[Small] = about("version of the schema")
    software_version: Mapped[Str] = about("version of the software that created the database")
    created_utc: Mapped[Str] = about("when the database was created")


class Run(Base):
    """See the table's comment."""

    __tablename__ = "runs"
    __table_args__ = options(
        one_of("state", "running", "finished", "interrupted", "partial", "failed"),
        CheckConstraint("(state = 'running') = (ended_utc IS NULL)", name="ended_has_a_time"),
        comment="One row an invocation of `orchestrator run`.",
    )

    run_id: Mapped[Str] = mapped_column(primary_key=True, comment="name of the run")
    state: Mapped[Str] = about(
        "running, finished, interrupted (by the user), partial (some boards failed) or failed"
    )
    started_utc: Mapped[Str] = about("when it started, host clock")
    ended_utc: Mapped[Str | None] = about("when it ended, host clock; NULL while running")
    experiment: Mapped[Str] = about("name of the experiment")
    experiment_json: Mapped[Str] = about("the whole request, enough to run it again")
    profile: Mapped[Str] = about("smoke, quick, normal or another named profile")
    seed: Mapped[Big] = about("seed of the plan's order and of every subset")
    host_json: Mapped[Str] = about("facts about the host")
    software_version: Mapped[Str] = about("version of the software that ran")


class FingerprintRow(Base):
    """See the table's comment."""

    __tablename__ = "fingerprints"
    __table_args__ = options(
        digest("fingerprint_sha256"),
        CheckConstraint("emulated IN (0, 1)", name="emulated_is_flag"),
        comment="What a board said of itself; equal answers are stored once.",
    )

    fingerprint_sha256: Mapped[Str] = mapped_column(
        primary_key=True, comment="sha256 of `fingerprint_json`"
    )
    board_model: Mapped[Str | None] = about("model from the device tree; NULL where it has none")
    serial: Mapped[Str | None] = about("serial number; NULL where the board does not say")
    hostname: Mapped[Str] = about("host name")
    isa: Mapped[Str] = about("instruction set that variants are built for")
    cpu_model: Mapped[Str | None] = about("name of the processor core")
    cpu_count: Mapped[Small] = about("cores that the agent may use")
    memory_bytes: Mapped[Big] = about("main memory")
    os_name: Mapped[Str] = about("operating system")
    kernel: Mapped[Str] = about("kernel release")
    python: Mapped[Str] = about("version of Python")
    emulated: Mapped[Small] = about("1 when this is no real board: its speed means nothing")
    emulated_by: Mapped[Str | None] = about("what emulates it")
    fingerprint_json: Mapped[Str] = about("the whole fingerprint")


class Board(Base):
    """See the table's comment."""

    __tablename__ = "boards"
    __table_args__ = options(
        UniqueConstraint("run_id", "name", "fingerprint_sha256"),
        UniqueConstraint("board_no", "run_id", "name"),
        comment=(
            "A board as a run met it. A board whose fingerprint changed during a run (it was "
            "rebooted, say) has a further row."
        ),
    )

    board_no: Mapped[Big] = mapped_column(primary_key=True, comment="number of the row")
    run_id: Mapped[Str] = mapped_column(
        ForeignKey("runs.run_id", ondelete="CASCADE"), comment="the run"
    )
    name: Mapped[Str] = about("name in the inventory")
    fingerprint_sha256: Mapped[Str] = mapped_column(
        ForeignKey("fingerprints.fingerprint_sha256", ondelete="RESTRICT"),
        index=True,
        comment="what it said of itself",
    )
    temp_source: Mapped[Str | None] = about("where temperatures come from; NULL: it has none")
    clock_source: Mapped[Str | None] = about("where clock rates come from; NULL: it has none")
    throttled_source: Mapped[Str | None] = about("where throttle bits come from; NULL: none")
    power_source: Mapped[Str | None] = about("where power comes from; NULL: it has none")
    clock_offset_ns: Mapped[Big | None] = about("host UTC minus board monotonic; NULL: unknown")
    hello_monotonic_ns: Mapped[Big] = about("the board's monotonic clock at the first hello")
    hello_utc: Mapped[Str] = about("the host's clock at the same moment")


class Artifact(Base):
    """See the table's comment."""

    __tablename__ = "artifacts"
    __table_args__ = options(
        digest("artifact_sha256"),
        one_of("format", "onnx", "ort", "pt2", "tflite"),
        *at_least(1, "size_bytes"),
        comment=(
            "A model file, named by its content. Two variants with equal bytes share a row, "
            "which keeps the labels of the first; each trial has its own labels."
        ),
    )

    artifact_sha256: Mapped[Str] = mapped_column(primary_key=True, comment="sha256 of the file")
    size_bytes: Mapped[Big] = about("size of the file")
    format: Mapped[Str] = about("onnx, ort (ONNX Runtime's own), pt2 (torch.export) or tflite")
    model: Mapped[Str] = about("model it was made from")
    variant: Mapped[Str] = about("name of the variant")
    recipe: Mapped[Str] = about("recipe it was made by")
    isa: Mapped[Str] = about("instruction set it was built for")
    parent_sha256: Mapped[Str | None] = about("file it was made from; NULL for an original")
    manifest_json: Mapped[Str] = about("parameters, tool versions, fused-kernel counts")


class Trial(Base):
    """See the table's comment."""

    __tablename__ = "trials"
    __table_args__ = options(
        ForeignKeyConstraint(
            ["board_no", "run_id", "board"],
            ["boards.board_no", "boards.run_id", "boards.name"],
            ondelete="CASCADE",
        ),
        UniqueConstraint("run_id", "board", "trial_id", "attempt"),
        Index(
            "one_finished_attempt",
            "run_id",
            "board",
            "trial_id",
            unique=True,
            sqlite_where=text("state = 'finished'"),
            postgresql_where=text("state = 'finished'"),
        ),
        one_of("state", "finished", "failed", "cancelled", "interrupted"),
        CheckConstraint("short IN (0, 1)", name="short_is_flag"),
        CheckConstraint(
            "(failure_kind IS NULL) = (failure_message IS NULL)", name="failure_is_whole"
        ),
        digest("content_sha256"),
        digest("samples_sha256"),
        *at_least(1, "attempt"),
        *at_least(0, "threads", "block", "plan_order", "load_ns", "peak_rss_bytes"),
        comment="One row an attempt at a trial. A finished trial never changes.",
    )

    trial_no: Mapped[Big] = mapped_column(primary_key=True, comment="number of the row")
    run_id: Mapped[Str] = mapped_column(
        ForeignKey("runs.run_id", ondelete="CASCADE"), comment="the run"
    )
    board_no: Mapped[Big] = mapped_column(index=True, comment="the board as the run met it")
    board: Mapped[Str] = about("name of the board")
    trial_id: Mapped[Str] = about("the plan's name for it; `trial_no` numbers its attempts")
    attempt: Mapped[Small] = about("1 for the first attempt")
    model: Mapped[Str] = about("model")
    variant: Mapped[Str] = about("variant of the model; `fp32` is the original")
    recipe: Mapped[Str] = about("recipe that made the variant")
    isa: Mapped[Str] = about("instruction set the artifact was built for")
    artifact_sha256: Mapped[Str] = mapped_column(
        ForeignKey("artifacts.artifact_sha256", ondelete="RESTRICT"),
        index=True,
        comment="file that was measured",
    )
    scenario: Mapped[Str] = about("how inferences were issued")
    threads: Mapped[Small] = about("threads within an operator")
    block: Mapped[Small] = about("randomised block, from 0; ratios are paired within blocks")
    plan_order: Mapped[Big] = about("place in the board's plan, from 0")
    state: Mapped[Str] = about("finished, failed, cancelled or interrupted")
    short: Mapped[Small] = about("1 when the time cap ended sampling before both minimums held")
    failure_kind: Mapped[Str | None] = about("kind of failure; NULL: none")
    failure_message: Mapped[Str | None] = about("what happened and what to do")
    load_ns: Mapped[Big | None] = about("time to load the model; NULL: it never loaded")
    peak_rss_bytes: Mapped[Big | None] = about("peak resident memory of the worker process")
    runtime: Mapped[Str] = about("what ran the file: onnxruntime, torch or litert")
    runtime_version: Mapped[Str | None] = about("its version; NULL: it never loaded")
    inputs_kind: Mapped[Str | None] = about("images or synthetic")
    started_utc: Mapped[Str] = about("when it was started, host clock")
    ended_utc: Mapped[Str] = about("when its end was seen, host clock")
    started_monotonic_ns: Mapped[Big] = about("the board's monotonic clock at its start")
    first_call_monotonic_ns: Mapped[Big | None] = about(
        "the board's monotonic clock at the start of the first, cold, inference; NULL: no call, "
        "or lost in a power cut"
    )
    ended_monotonic_ns: Mapped[Big] = about("the board's monotonic clock at its end")
    spec_json: Mapped[Str] = about("the whole TrialSpec that was sent")
    outcome_json: Mapped[Str] = about("the whole Outcome that came back")
    samples_sha256: Mapped[Str | None] = about(
        "sha256 of the samples in order (see results/digest.py); NULL: no sample"
    )
    content_sha256: Mapped[Str] = about(
        "sha256 of all that is stored of the trial (see results/digest.py)"
    )


class Sample(Base):
    """See the table's comment."""

    __tablename__ = "samples"
    __table_args__ = options(
        CheckConstraint("phase BETWEEN 0 AND 2", name="phase_is_known"),
        *at_least(0, "seq", "latency_ns", "gap_ns"),
        comment="Every timed inference of every trial, in order. Nothing is left out.",
        sqlite_with_rowid=False,
    )

    trial_no: Mapped[Big] = mapped_column(
        ForeignKey("trials.trial_no", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="the trial",
    )
    seq: Mapped[Big] = mapped_column(
        primary_key=True, autoincrement=False, comment="place in the trial, from 0"
    )
    phase: Mapped[Small] = about("0 cold (the first inference), 1 warm-up, 2 sample")
    latency_ns: Mapped[Big] = about("time of the inference")
    gap_ns: Mapped[Big] = about("time since the previous inference ended; 0 for the first")


class Summary(Base):
    """See the table's comment."""

    __tablename__ = "summaries"
    __table_args__ = options(
        CheckConstraint("(n = 0) = (p50_ns IS NULL)", name="no_samples_no_figures"),
        *at_least(0, "n", "warmup_n"),
        comment=(
            "Statistics of a trial, over its phase 2 only unless the name says otherwise. "
            "Always recomputable from `samples` and `readings` (results/check.py does it). "
            "Percentiles are nearest-rank; p90 needs 64 samples and p99 needs 662, else NULL."
        ),
    )

    trial_no: Mapped[Big] = mapped_column(
        ForeignKey("trials.trial_no", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="the trial",
    )
    n: Mapped[Big] = about("samples of phase 2")
    warmup_n: Mapped[Big] = about("inferences of phase 1")
    cold_ns: Mapped[Big | None] = about("latency of the first inference after loading")
    min_ns: Mapped[Big | None] = about("smallest latency")
    mean_ns: Mapped[Real | None] = about("mean latency")
    p50_ns: Mapped[Big | None] = about("median latency")
    p90_ns: Mapped[Big | None] = about("90th percentile of latency")
    p99_ns: Mapped[Big | None] = about("99th percentile of latency")
    max_ns: Mapped[Big | None] = about("largest latency; outliers are never clipped")
    stdev_ns: Mapped[Real | None] = about("sample standard deviation; NULL below 2 samples")
    fps: Mapped[Real | None] = about("inferences a second: 1e9 / mean_ns")
    cv: Mapped[Real | None] = about("stdev_ns / mean_ns")
    steady_from: Mapped[Big | None] = about(
        "first sample of the steady state, counted from 0 within phase 2; NULL: none was found"
    )
    steady_note: Mapped[Str | None] = about("why there is no steady state")
    readings_n: Mapped[Big] = about("telemetry readings")
    temp_start_c: Mapped[Real | None] = about("first temperature read; NULL: no sensor")
    temp_max_c: Mapped[Real | None] = about("highest temperature read; NULL: no sensor")
    clock_min_hz: Mapped[Big | None] = about("lowest clock rate read; NULL: no source")
    throttled_bits: Mapped[Small | None] = about(
        "throttle bits that were or became set during the trial: 1 under-voltage, 2 frequency "
        "capped, 4 throttled, 8 soft temperature limit; 0: none; NULL: no source"
    )
    power_mean_w: Mapped[Real | None] = about("mean of the power readings; NULL: no source")


class ReadingRow(Base):
    """See the table's comment."""

    __tablename__ = "readings"
    __table_args__ = options(
        *at_least(0, "seq"),
        comment="Telemetry during a trial. A source that the board lacks is NULL, never 0.",
        sqlite_with_rowid=False,
    )

    trial_no: Mapped[Big] = mapped_column(
        ForeignKey("trials.trial_no", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="the trial",
    )
    seq: Mapped[Big] = mapped_column(
        primary_key=True, autoincrement=False, comment="place in the trial, from 0"
    )
    t_ns: Mapped[Big] = about("the board's monotonic clock")
    temp_c: Mapped[Real | None] = about("temperature")
    clock_hz: Mapped[Big | None] = about("clock rate of the cores")
    throttled_bits: Mapped[Big | None] = about("the firmware's throttle word, as read")
    memory_available_bytes: Mapped[Big | None] = about("memory available on the board")
    worker_rss_bytes: Mapped[Big | None] = about("resident memory of the worker process")
    power_w: Mapped[Real | None] = about("power drawn")


class EvaluationRow(Base):
    """See the table's comment."""

    __tablename__ = "evaluations"
    __table_args__ = options(
        one_of("place", "board", "host"),
        CheckConstraint("(place = 'board') = (trial_no IS NOT NULL)", name="board_has_a_trial"),
        *at_least(0, "images"),
        CheckConstraint("map50 BETWEEN 0 AND 1", name="map50_is_a_fraction"),
        CheckConstraint("map50_95 BETWEEN 0 AND 1", name="map50_95_is_a_fraction"),
        CheckConstraint("dice BETWEEN 0 AND 1", name="dice_is_a_fraction"),
        CheckConstraint("iou BETWEEN 0 AND 1", name="iou_is_a_fraction"),
        UniqueConstraint("trial_no"),
        Index("evaluations_of_artifact", "artifact_sha256", "run_id"),
        comment=(
            "Accuracy on a named set of images: of a trial, whose board ran the inference, or "
            "of an artifact, when the host ran it (`trial_no` is then NULL)."
        ),
    )

    evaluation_no: Mapped[Big] = mapped_column(primary_key=True, comment="number of the row")
    run_id: Mapped[Str] = mapped_column(
        ForeignKey("runs.run_id", ondelete="CASCADE"), index=True, comment="the run"
    )
    trial_no: Mapped[Big | None] = mapped_column(
        ForeignKey("trials.trial_no", ondelete="CASCADE"), comment="the trial, if on a board"
    )
    artifact_sha256: Mapped[Str] = mapped_column(
        ForeignKey("artifacts.artifact_sha256", ondelete="RESTRICT"),
        comment="file whose detections or masks were scored",
    )
    place: Mapped[Str] = about("where the inference ran: board or host")
    set_name: Mapped[Str] = about("name of the set")
    split: Mapped[Str] = about("split of the set")
    images: Mapped[Big] = about("images that were scored")
    subset_seed: Mapped[Big | None] = about("seed of the subset; NULL: the whole split")
    map50: Mapped[Real | None] = about("mAP at IoU 0.5, 0..1; NULL: no figure")
    map50_95: Mapped[Real | None] = about("mAP over IoU 0.5 to 0.95, 0..1; NULL: no figure")
    dice: Mapped[Real | None] = about(
        "mean Dice over the images, 0..1; NULL: no figure, or no segmentation"
    )
    iou: Mapped[Real | None] = about(
        "mean IoU over the classes, 0..1; NULL: no figure, or no segmentation"
    )
    evaluator: Mapped[Str] = about("program that scored")
    evaluator_version: Mapped[Str] = about("its version; figures of two evaluators never mix")
    per_class_json: Mapped[Str] = about("AP of each class by name; of a segmentation its IoU")


class ImageScore(Base):
    """See the table's comment."""

    __tablename__ = "image_scores"
    __table_args__ = options(
        *at_least(0, "place"),
        CheckConstraint("dice BETWEEN 0 AND 1", name="dice_is_a_fraction"),
        CheckConstraint("(dice IS NULL) <> (matches_json IS NULL)", name="one_kind_of_score"),
        UniqueConstraint("evaluation_no", "image_id"),
        comment=(
            "What an evaluation's figure is made of, image by image, so that it can be had for "
            "any choice of images: the interval of a difference in accuracy comes from here."
        ),
    )

    evaluation_no: Mapped[Big] = mapped_column(
        ForeignKey("evaluations.evaluation_no", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="the evaluation",
    )
    place: Mapped[Big] = mapped_column(
        primary_key=True, autoincrement=False, comment="place among the images, from 0"
    )
    image_id: Mapped[Str] = about("the image's name within its set")
    dice: Mapped[Real | None] = about("Dice of the image, 0..1; NULL: a detection")
    matches_json: Mapped[Str | None] = about(
        "which detections were right (see results/matches.py); NULL: a segmentation. "
        "Detections that rank behind the last right one of their class are left out: they "
        "change no figure"
    )
