"""From records to the rows that hold them: pure, and strict about what could not be kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import msgspec

from agent.wire import Reading, Samples
from results.digest import Value, canonical, content_digest, samples_digest, text_digest
from results.errors import RecordRefused
from results.matches import encoded
from results.records import (
    ArtifactRecord,
    BoardRecord,
    EvaluationRecord,
    RunRecord,
    TrialRecord,
)
from results.stats import reading_summary, summary

READING_COLUMNS = (
    "t_ns",
    "temp_c",
    "clock_hz",
    "throttled_bits",
    "memory_available_bytes",
    "worker_rss_bytes",
    "power_w",
)

IMAGE_COLUMNS = ("image_id", "dice", "matches_json")


@dataclass(frozen=True)
class TrialRows:
    """All rows of one trial, without row numbers; samples stay columns until written."""

    trial: dict[str, Value]
    summary: dict[str, Value]
    readings: list[tuple[Value, ...]]
    evaluation: dict[str, Value] | None
    images: list[tuple[Value, ...]]
    samples: Samples | None


def run_row(run: RunRecord) -> dict[str, Value]:
    """The row of a run that has just started."""
    return {
        "run_id": _name("run_id", run.run_id),
        "state": "running",
        "started_utc": utc_text(run.started_utc),
        "ended_utc": None,
        "experiment": _name("experiment", run.experiment),
        "experiment_json": _json("experiment_json", run.experiment_json),
        "profile": run.profile,
        "seed": run.seed,
        "host_json": canonical(dict(run.host)),
        "software_version": run.software_version,
    }


def fingerprint_row(board: BoardRecord) -> dict[str, Value]:
    """The row of a board's fingerprint, named by its content."""
    found = board.fingerprint
    whole = canonical(found)
    return {
        "fingerprint_sha256": text_digest(whole),
        "board_model": found.board_model,
        "serial": found.serial,
        "hostname": found.hostname,
        "isa": found.isa,
        "cpu_model": found.cpu_model,
        "cpu_count": found.cpu_count,
        "memory_bytes": found.memory_bytes,
        "os_name": found.os_name,
        "kernel": found.kernel,
        "python": found.python,
        "emulated": int(found.emulated),
        "emulated_by": found.emulated_by,
        "fingerprint_json": whole,
    }


def board_row(run_id: str, board: BoardRecord) -> dict[str, Value]:
    """The row of a board as a run met it."""
    return {
        "run_id": run_id,
        "name": _name("board", board.name),
        "fingerprint_sha256": text_digest(canonical(board.fingerprint)),
        "temp_source": board.sources.temp,
        "clock_source": board.sources.clock,
        "throttled_source": board.sources.throttled,
        "power_source": board.sources.power,
        "clock_offset_ns": board.clock_offset_ns,
        "hello_monotonic_ns": board.hello_monotonic_ns,
        "hello_utc": utc_text(board.hello_utc),
    }


def artifact_row(artifact: ArtifactRecord) -> dict[str, Value]:
    """The row of an artifact."""
    return {
        "artifact_sha256": artifact.sha256,
        "size_bytes": artifact.size_bytes,
        "format": artifact.format,
        "model": _name("model", artifact.model),
        "variant": _name("variant", artifact.variant),
        "recipe": artifact.recipe,
        "isa": artifact.isa,
        "parent_sha256": artifact.parent_sha256,
        "manifest_json": _json("manifest_json", artifact.manifest_json),
    }


def trial_rows(record: TrialRecord) -> TrialRows:
    """All rows of a trial. Raises RecordRefused when the record contradicts itself."""
    _check_trial(record)
    readings = [_reading_row(reading) for reading in record.readings]
    evaluation = _trial_evaluation(record)
    images = image_rows(record.evaluation) if record.evaluation else []
    samples = record.samples if record.samples and sum(record.samples.counts) else None
    trial = _trial_row(record, samples_digest(samples) if samples else None)
    trial["content_sha256"] = content_digest(trial, readings, evaluation, images)
    return TrialRows(trial, summary_row(record), readings, evaluation, images, samples)


def summary_row(record: TrialRecord) -> dict[str, Value]:
    """The summary of a trial's samples and readings."""
    return asdict(summary(record.samples)) | asdict(reading_summary(record.readings))


def evaluation_row(
    run_id: str, artifact_sha256: str, evaluation: EvaluationRecord
) -> dict[str, Value]:
    """The row of an evaluation, without the trial it may belong to."""
    return {
        "run_id": run_id,
        "artifact_sha256": artifact_sha256,
        "place": evaluation.where,
        "set_name": _name("set_name", evaluation.set_name),
        "split": evaluation.split,
        "images": evaluation.images,
        "subset_seed": evaluation.subset_seed,
        "map50": _real("map50", evaluation.map50),
        "map50_95": _real("map50_95", evaluation.map50_95),
        "dice": _real("dice", evaluation.dice),
        "iou": _real("iou", evaluation.iou),
        "evaluator": evaluation.evaluator,
        "evaluator_version": evaluation.evaluator_version,
        "per_class_json": _scores(evaluation.per_class),
    }


def image_rows(evaluation: EvaluationRecord) -> list[tuple[Value, ...]]:
    """The columns of IMAGE_COLUMNS of each image of an evaluation, in order."""
    return [
        (
            image.image_id,
            _real("dice", image.dice),
            None if image.matches is None else encoded(image.matches),
        )
        for image in evaluation.per_image
    ]


def utc_text(moment: datetime) -> str:
    """`YYYY-MM-DDTHH:MM:SS.ffffffZ`; refuses a time without a zone."""
    if moment.tzinfo is None:
        raise RecordRefused(f"time {moment.isoformat()} has no zone: use datetime.now(UTC)")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _trial_row(record: TrialRecord, samples_sha256: str | None) -> dict[str, Value]:
    spec, outcome = record.spec, record.outcome
    return {
        "run_id": spec.run_id,
        "board": record.board,
        "trial_id": spec.trial_id,
        "attempt": record.attempt,
        "model": _name("model", record.model),
        "variant": _name("variant", record.variant),
        "recipe": record.recipe,
        "isa": record.isa,
        "artifact_sha256": spec.artifact.sha256,
        "scenario": _name("scenario", record.scenario),
        "threads": spec.options.intra_op_num_threads,
        "block": record.block,
        "plan_order": record.plan_order,
        "state": outcome.state,
        "short": int(outcome.short),
        "failure_kind": outcome.failure.kind.value if outcome.failure else None,
        "failure_message": outcome.failure.message if outcome.failure else None,
        "load_ns": outcome.load_ns,
        "peak_rss_bytes": outcome.peak_rss_bytes,
        "runtime": spec.runtime,
        "runtime_version": outcome.runtime_version,
        "inputs_kind": outcome.inputs_kind,
        "started_utc": utc_text(record.started_utc),
        "ended_utc": utc_text(record.ended_utc),
        "started_monotonic_ns": outcome.started_monotonic_ns,
        "first_call_monotonic_ns": outcome.first_call_monotonic_ns,
        "ended_monotonic_ns": outcome.ended_monotonic_ns,
        "spec_json": canonical(spec),
        "outcome_json": canonical(outcome),
        "samples_sha256": samples_sha256,
    }


def _reading_row(reading: Reading) -> tuple[Value, ...]:
    """The columns of READING_COLUMNS."""
    return (
        reading.t_ns,
        _real("temp_c", reading.temp_c),
        reading.clock_hz,
        reading.throttled_bits,
        reading.memory_available_bytes,
        reading.worker_rss_bytes,
        _real("power_w", reading.power_w),
    )


def _trial_evaluation(record: TrialRecord) -> dict[str, Value] | None:
    if record.evaluation is None:
        return None
    spec = record.spec
    return evaluation_row(spec.run_id, spec.artifact.sha256, record.evaluation)


def _check_trial(record: TrialRecord) -> None:
    spec, outcome, samples = record.spec, record.outcome, record.samples
    if outcome.trial_id != spec.trial_id:
        raise RecordRefused(f"outcome of {outcome.trial_id!r} for trial {spec.trial_id!r}")
    if record.evaluation and record.evaluation.where != "board":
        raise RecordRefused(
            f"trial {spec.trial_id!r}: its evaluation ran on the host; use record_evaluation"
        )
    if samples is None:
        return
    sizes = (sum(samples.counts), len(samples.latency_ns), len(samples.gap_ns))
    if len(set(sizes)) != 1 or min(samples.counts) < 0:
        raise RecordRefused(
            f"trial {spec.trial_id!r}: phase counts {samples.counts}, "
            f"{sizes[1]} latencies and {sizes[2]} gaps do not agree"
        )


def _name(field: str, value: str) -> str:
    if not value or value != value.strip():
        raise RecordRefused(f"{field} is {value!r}: it must be a word without spaces around it")
    return value


def _json(field: str, value: str) -> str:
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeError) as exc:
        raise RecordRefused(f"{field} is not JSON: {exc}") from exc
    return value


def _real(field: str, value: float | None) -> float | None:
    """A float that both databases keep as it is (SQLite turns NaN into NULL)."""
    if value is None:
        return None
    if not math.isfinite(value):
        raise RecordRefused(f"{field} is {value}: pass None where there is no figure")
    return float(value)


def _scores(per_class: Mapping[str, float]) -> str:
    return canonical({name: _real(f"per_class {name}", ap) for name, ap in per_class.items()})
