"""The record of one trial on the board's disk; it survives crashes and power cuts.

    trials/<trial_id>/
      spec.json          the TrialSpec, written before anything else
      started.json       when it started, what telemetry there is, the worker's process
      events.jsonl       the worker's own words, as they came
      samples.bin        written by the worker through a memory map (agent.wire.samples)
      samples.log        a copy that survives a power cut, until samples.bin is closed
      readings.jsonl     one Reading a line
      detections.jsonl   written by the worker, one ImageDetections a line; or
      masks.jsonl        one ImageMask a line
      stderr.txt         what the worker printed
      ballast            room kept free so that the end can be written on a full disk
      outcome.json       written last and in one step: a trial with it is final

While samples are taken, agent.keeper forces what is new to the disk about once a second, beside the
timed process; before outcome.json is written everything is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from agent import samplefile
from agent.artifacts import sync_directory
from agent.errors import Refused
from agent.home import make_private
from agent.report import Report, replay
from agent.samplefile import Recorded, replace_file
from agent.wire import (
    EndState,
    EvaluationOutcome,
    Failure,
    FailureKind,
    ImageDetections,
    ImageMask,
    Outcome,
    Part,
    PartName,
    Reading,
    Sources,
    TrialSpec,
    Wire,
    WireError,
    decode,
    encode,
)

PART_FILES: Final[dict[PartName, str]] = {
    "samples": "samples.bin",
    "readings": "readings.jsonl",
    "detections": "detections.jsonl",
    "masks": "masks.jsonl",
}
EVENTS: Final = "events.jsonl"
GROWING_FILES: Final = (EVENTS, "readings.jsonl", "detections.jsonl", "masks.jsonl")
"""What agent.keeper forces to the disk as it grows; events first: samples are placed by them."""

_EVALUATED: Final[tuple[PartName, ...]] = ("detections", "masks")
_BALLAST_BYTES: Final = 1 << 18
_TRIAL_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
_FORGOTTEN: Final = ".forgotten-"
_STDERR_TAIL_BYTES: Final = 8192
_HASH_BYTES: Final = 1 << 20


class Started(Wire, frozen=True):
    """Facts of a trial's start that its end needs."""

    monotonic_ns: int
    sources: Sources
    worker_pid: int | None = None
    worker_ticks: int | None = None
    """When that process was started, so that its number is not mistaken for another's."""


@dataclass(frozen=True)
class Verdict:
    """How a trial ended."""

    state: EndState
    failure: Failure | None
    ended_monotonic_ns: int


def checked_trial_id(trial_id: str) -> str:
    """The id itself; raises Refused unless it can be a directory's name and nothing else."""
    if not _TRIAL_ID.match(trial_id):
        raise Refused(
            FailureKind.BAD_REQUEST,
            f"trial_id {trial_id[:80]!r}: expected 1 to 64 letters, digits, '-' or '_'",
        )
    return trial_id


class Journal:
    """The files of one trial."""

    def __init__(self, trials: Path, trial_id: str) -> None:
        self.directory = trials / checked_trial_id(trial_id)
        self.trial_id = trial_id

    def exists(self) -> bool:
        """Whether this board knows the trial."""
        return (self.directory / "spec.json").is_file()

    def create(self, spec: TrialSpec, started: Started) -> None:
        """Begin the journal; raises OSError (a half-made one is removed)."""
        make_private(self.directory)
        try:
            with (self.directory / "ballast").open("wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, _BALLAST_BYTES)
            self.note_start(started)
            replace_file(self.directory / "spec.json", encode(spec).encode())
            sync_directory(self.directory.parent)
        except OSError:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    def note_start(self, started: Started) -> None:
        """Write down when and as which process the trial runs."""
        replace_file(self.directory / "started.json", encode(started).encode())

    def spec(self) -> TrialSpec:
        """What was asked for; raises WireError, OSError."""
        return decode((self.directory / "spec.json").read_bytes(), TrialSpec)

    def started(self) -> Started:
        """When it started; zero and no sources where the power went before that was kept."""
        try:
            return decode((self.directory / "started.json").read_bytes(), Started)
        except (WireError, OSError):
            return Started(0, Sources(temp=None, clock=None, throttled=None, power=None))

    def report(self) -> Report:
        """What the worker said before it, or the agent, was gone."""
        return replay(_lines(self.directory / EVENTS))

    def recorded(self, spec: TrialSpec) -> Recorded:
        """How many samples there are, also while they are being written."""
        return samplefile.look(self.directory / PART_FILES["samples"], spec.scenario)

    def stderr_tail(self) -> bytes:
        """The end of what the worker printed."""
        with contextlib.suppress(OSError), (self.directory / "stderr.txt").open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _STDERR_TAIL_BYTES))
            return stream.read()
        return b""

    def outcome(self) -> Outcome | None:
        """How the trial ended; None when it has not, or when that was not written whole."""
        with contextlib.suppress(FileNotFoundError, WireError):
            return decode((self.directory / "outcome.json").read_bytes(), Outcome)
        return None

    def finalise(self, spec: TrialSpec, started: Started, report: Report, end: Verdict) -> Outcome:
        """Close every file, then say that the trial is over.

        The outcome is returned also when the disk takes nothing more: its failure says so.
        """
        (self.directory / "ballast").unlink(missing_ok=True)
        problem = self._close_parts(spec)
        if problem is not None and end.state != "interrupted":
            end = Verdict("failed", end.failure or problem, end.ended_monotonic_ns)
        told, report = report, self._kept(report)
        lost = self._lost(spec, told, report) if end.state == "finished" else None
        if lost is not None:
            end = Verdict("interrupted", lost, end.ended_monotonic_ns)
        outcome = self._outcome(spec, started, report, end)
        with contextlib.suppress(OSError):
            replace_file(self.directory / "outcome.json", encode(outcome).encode())
        return outcome

    def _kept(self, report: Report) -> Report:
        """The report without images whose results did not reach the disk."""
        told = report.evaluation
        if told is None:
            return report
        lines = sum(len(_lines(self.directory / PART_FILES[name])) for name in _EVALUATED)
        if lines >= told.images_done:
            return report
        return replace(report, evaluation=EvaluationOutcome(lines, told.images_total, capped=True))

    def _lost(self, spec: TrialSpec, told: Report, kept: Report) -> Failure | None:
        """Why a worker that ended well has not measured everything after all, or None."""
        calls = sum(self.recorded(spec).counts)
        if calls >= told.calls and kept == told:
            return None
        images = "" if kept.evaluation is None else f", {kept.evaluation.images_done} images"
        return Failure(
            FailureKind.INTERRUPTED,
            f"the power went before all of it was on the disk: {calls} of {told.calls} timed calls "
            f"are{images}; measure it again",
        )

    def _close_parts(self, spec: TrialSpec) -> Failure | None:
        try:
            self._keep_good_lines(PART_FILES["readings"], Reading)
            self._keep_good_lines(PART_FILES["detections"], ImageDetections)
            self._keep_good_lines(PART_FILES["masks"], ImageMask)
            samples = self.directory / PART_FILES["samples"]
            if samples.exists() or samples.with_name(samplefile.LOG_NAME).exists():
                samplefile.close(samples, spec.scenario, spec.deadline_ns)
        except WireError as exc:
            samples.rename(samples.with_name("samples.damaged"))
            return Failure(kind=FailureKind.INTERNAL, message=f"the journal is damaged: {exc}")
        except OSError as exc:
            return Failure(
                kind=FailureKind.DISK_FULL,
                message=f"the journal in {self.directory} cannot be closed: {exc.strerror}",
            )
        return None

    def _keep_good_lines(self, name: str, kind: Any) -> None:
        """Drop what a crash left unfinished of a file of JSON lines, and force it to the disk."""
        path = self.directory / name
        if not path.exists():
            return
        with path.open("rb") as stream:
            if all(_is_whole(line, kind) for line in stream):
                os.fsync(stream.fileno())
                return
            stream.seek(0)
            replace_file(path, b"".join(line for line in stream if _is_whole(line, kind)))

    def _outcome(self, spec: TrialSpec, started: Started, report: Report, end: Verdict) -> Outcome:
        calls = sum(self.recorded(spec).counts)
        evaluation = report.evaluation
        if evaluation is None and spec.evaluation is not None and end.state == "finished":
            evaluation = EvaluationOutcome(0, len(spec.evaluation.images), capped=True)
        return Outcome(
            trial_id=self.trial_id,
            state=end.state,
            failure=end.failure,
            short=report.short,
            load_ns=report.load_ns,
            peak_rss_bytes=report.peak_rss_bytes,
            runtime_version=report.runtime_version,
            runtime_settings=dict(report.settings),
            inputs_kind=report.inputs_kind,
            sources=started.sources,
            evaluation=evaluation,
            started_monotonic_ns=started.monotonic_ns,
            first_call_monotonic_ns=report.first_call_ns if calls else None,
            ended_monotonic_ns=max(end.ended_monotonic_ns, started.monotonic_ns),
            parts={
                name: _part(self.directory / file)
                for name, file in PART_FILES.items()
                if (self.directory / file).is_file()
            },
        )

    def size_bytes(self) -> int:
        """Bytes of all its files."""
        with contextlib.suppress(FileNotFoundError):  # acknowledged meanwhile
            return sum(entry.stat().st_size for entry in os.scandir(self.directory))
        return 0

    def last_reading_ns(self) -> int | None:
        """Time of the last reading that was kept: the nearest to the end of a cut trial."""
        for line in reversed(_lines(self.directory / PART_FILES["readings"])):
            with contextlib.suppress(WireError):
                return decode(line, Reading).t_ns
        return None

    def read(self, part: str, offset: int, length: int) -> bytes:
        """Bytes of a part; empty past its end and for a part that does not exist."""
        for name, file in PART_FILES.items():
            if name == part and offset >= 0 and length > 0:
                with contextlib.suppress(OSError), (self.directory / file).open("rb") as stream:
                    stream.seek(offset)
                    return stream.read(length)
        return b""

    def forget(self) -> None:
        """Delete the trial in one step: a name that starts so is no trial."""
        hidden = self.directory.with_name(f"{_FORGOTTEN}{self.trial_id}")
        with contextlib.suppress(FileNotFoundError):
            self.directory.rename(hidden)
            sync_directory(hidden.parent)
        shutil.rmtree(hidden, ignore_errors=True)


def all_journals(trials: Path) -> list[Journal]:
    """Every trial on the board's disk, oldest first; what is left of forgotten ones goes."""
    found = []
    for entry in trials.iterdir() if trials.is_dir() else ():
        if entry.name.startswith(_FORGOTTEN):
            shutil.rmtree(entry, ignore_errors=True)
        elif _TRIAL_ID.match(entry.name) and (entry / "spec.json").is_file():
            found.append(((entry / "spec.json").stat().st_mtime_ns, entry.name))
    return [Journal(trials, name) for _, name in sorted(found)]


def bytes_by_run(trials: Path) -> dict[str, int]:
    """Bytes on the disk by run; a journal whose specification is lost belongs to 'unknown'."""
    found: dict[str, int] = {}
    for journal in all_journals(trials):
        try:
            run_id = journal.spec().run_id
        except (OSError, WireError):
            run_id = "unknown"
        found[run_id] = found.get(run_id, 0) + journal.size_bytes()
    return found


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []


def _is_whole(line: bytes, kind: Any) -> bool:
    try:
        decode(line, kind)
    except WireError:
        return False
    return line.endswith(b"\n")


def _part(path: Path) -> Part:
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as stream:
        while block := stream.read(_HASH_BYTES):
            digest.update(block)
            size += len(block)
    return Part(size_bytes=size, sha256=digest.hexdigest())
