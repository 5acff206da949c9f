"""Whether a trial may start: what it asks for, what is here, and whether it fits. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from agent.artifacts import checked_digest
from agent.errors import Refused
from agent.samplewriter import MAX_SAMPLES
from agent.wire import FailureKind, ImageRef, TrialSpec

MODEL_COPIES: Final = 2
"""A runtime holds a model's file and its prepared weights at the same time while it loads."""

WORKER_BYTES: Final = 150 << 20
"""Interpreter, runtime and activations of a small model; larger ones are the kernel's to judge."""

JOURNAL_BYTES: Final = 3 * 16 * MAX_SAMPLES + (16 << 20)
"""Room for the largest journal: samples of 16 bytes, as the worker writes them, as the log that
survives a power cut, and once more while they are cut to size; the rest (readings, detections) is
a few MB."""

JOURNALS_BYTES: Final = 2 << 30
"""All journals that no host has acknowledged: nothing measured is deleted, so no more is begun."""

MAX_DEADLINE_NS: Final = 7 * 24 * 3600 * 1_000_000_000
_NAMED: Final = 20
"""How many missing digests a message lists."""


def check_spec(spec: TrialSpec) -> None:
    """Raise Refused (bad_request) for a deadline or a digest that makes no sense."""
    if not 0 < spec.deadline_ns <= MAX_DEADLINE_NS:
        raise Refused(
            FailureKind.BAD_REQUEST,
            f"deadline_ns: {spec.deadline_ns} is not within 1..{MAX_DEADLINE_NS}",
        )
    for sha256 in digests(spec):
        checked_digest(sha256)


def check_artifacts(spec: TrialSpec, size_bytes: Callable[[str], int | None]) -> None:
    """Raise Refused unless model and images are here (`size_bytes` is None for what is not)."""
    missing = [sha256 for sha256 in digests(spec) if size_bytes(sha256) is None]
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise Refused(
            FailureKind.MISSING_ARTIFACT,
            f"not on this board: {', '.join(missing[:_NAMED])}{more}; push them first",
        )
    size = size_bytes(spec.artifact.sha256)
    if size != spec.artifact.size_bytes:
        raise Refused(
            FailureKind.BAD_REQUEST,
            f"artifact.size_bytes: {spec.artifact.size_bytes}, but the file has {size}",
        )


def check_memory(spec: TrialSpec, available_bytes: int | None) -> None:
    """Raise Refused (too_large) for a model that would swap; None is a board that does not say."""
    needed = MODEL_COPIES * spec.artifact.size_bytes + WORKER_BYTES
    if available_bytes is not None and needed > available_bytes:
        raise Refused(
            FailureKind.TOO_LARGE,
            f"a model of {spec.artifact.size_bytes} bytes needs about {needed} bytes of memory "
            f"and {available_bytes} are available; it would swap, so it was not started",
        )


def check_disk(free_bytes: int, directory: Path) -> None:
    """Raise Refused (disk_full) when the largest journal might not fit."""
    if free_bytes < JOURNAL_BYTES:
        raise Refused(
            FailureKind.DISK_FULL,
            f"a trial's journal may need {JOURNAL_BYTES} bytes and {free_bytes} are free on the "
            f"disk of {directory}; make room on the board",
        )


def check_journals(held: Mapping[str, int], directory: Path, limit_bytes: int) -> None:
    """Raise Refused (disk_full) where journals wait that nobody fetched; `held` is bytes by run."""
    total = sum(held.values())
    if total <= limit_bytes:
        return
    runs = sorted(held, key=lambda run_id: -held[run_id])
    commands = ", ".join(f"`orchestrator resume {run_id}`" for run_id in runs[:_NAMED])
    raise Refused(
        FailureKind.DISK_FULL,
        f"journals of {total} bytes wait to be fetched and at most {limit_bytes} are kept; fetch "
        f"them with {commands} on the host that began it, or delete what nobody needs in "
        f"{directory}",
    )


def digests(spec: TrialSpec) -> tuple[str, ...]:
    """Every file that a trial needs, each once, the model first."""
    names = (spec.artifact.sha256, *(image.sha256 for image in _images(spec)))
    return tuple(dict.fromkeys(names))


def _images(spec: TrialSpec) -> tuple[ImageRef, ...]:
    return spec.inputs.images + (spec.evaluation.images if spec.evaluation else ())
