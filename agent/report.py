"""What is known of a trial from its worker's words and from how the worker ended. Pure."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from agent.wire import EvaluationOutcome, Failure, FailureKind, Phase, WireError
from agent.worker_events import (
    Ended,
    Evaluated,
    Failed,
    Loaded,
    PhaseStarted,
    WorkerEvent,
    decode_event,
)

STDERR_CHARACTERS: Final = 2000
"""How much of a dead worker's last words a failure quotes."""


@dataclass(frozen=True)
class Report:
    """The worker's events so far, put together."""

    phase: Phase = "queued"
    first_call_ns: int | None = None
    """Board's clock directly before the first, cold, call."""
    load_ns: int | None = None
    runtime_version: str | None = None
    settings: tuple[tuple[str, str], ...] = ()
    inputs_kind: Literal["images", "synthetic"] | None = None
    evaluation: EvaluationOutcome | None = None
    complete: bool = False
    short: bool = False
    calls: int = 0
    """Timed calls that a complete trial made."""
    peak_rss_bytes: int | None = None
    failure: Failure | None = None

    def after(self, event: WorkerEvent) -> Report:
        """The report with one more event."""
        match event:
            case PhaseStarted():
                first_ns = event.monotonic_ns if event.phase == "cold" else self.first_call_ns
                return replace(self, phase=event.phase, first_call_ns=first_ns)
            case Loaded():
                return replace(
                    self,
                    load_ns=event.load_ns,
                    runtime_version=event.runtime_version,
                    settings=tuple(sorted(event.settings.items())),
                    inputs_kind=event.inputs_kind,
                )
            case Evaluated():
                outcome = EvaluationOutcome(event.images_done, event.images_total, event.capped)
                return replace(self, evaluation=outcome)
            case Ended():
                return replace(
                    self,
                    complete=True,
                    short=event.short,
                    calls=event.calls,
                    peak_rss_bytes=event.peak_rss_bytes,
                )
            case Failed():
                return replace(self, failure=event.failure)


def replay(lines: Iterable[bytes]) -> Report:
    """The report of recorded events; a torn line is what a power cut leaves, and is skipped."""
    report = Report()
    for line in lines:
        try:
            report = report.after(decode_event(line))
        except WireError:
            continue
    return report


def crash(
    returncode: int, *, oom_kills: int, available_bytes: int | None, stderr: bytes
) -> Failure:
    """Why a worker is gone that said neither Ended nor Failed.

    `returncode` as of subprocess: minus the signal's number, or the exit code. `oom_kills`: by
    how much the kernel's count of processes killed for want of memory rose meanwhile.
    `available_bytes`: the least memory that was seen available.
    """
    words = printable(stderr)
    said = f"; its last words: {words}" if words else ""
    if returncode >= 0:
        return Failure(
            kind=FailureKind.INTERNAL,
            message=f"the worker ended with exit code {returncode} and no result{said}",
        )
    number = -returncode
    name = _signal_name(number)
    if number == signal.SIGKILL and oom_kills > 0:
        seen = "" if available_bytes is None else f" ({available_bytes} bytes were last available)"
        return Failure(
            kind=FailureKind.OUT_OF_MEMORY,
            message=f"the kernel killed the worker for want of memory{seen}; use a smaller model "
            f"or input, or a board with more memory{said}",
        )
    if number == signal.SIGILL:
        return Failure(
            kind=FailureKind.WORKER_KILLED,
            message=f"illegal instruction on this CPU ({name}): a library on this board was built "
            f"for another processor; install another version of the runtime{said}",
        )
    return Failure(kind=FailureKind.WORKER_KILLED, message=f"{name} ended the worker process{said}")


def printable(text: bytes) -> str:
    """The end of what a process printed, fit to be shown anywhere: no control characters."""
    tail = text.decode(errors="replace").strip()[-STDERR_CHARACTERS:]
    lines = ("".join(c if c.isprintable() else "?" for c in line) for line in tail.splitlines())
    return " | ".join(line.strip() for line in lines if line.strip())


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
