"""Trials on this board: one at a time, under the lease, each refused early or kept for good."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from agent.admission import (
    JOURNALS_BYTES,
    check_artifacts,
    check_disk,
    check_journals,
    check_memory,
    check_spec,
    digests,
)
from agent.artifacts import Artifacts, free_bytes
from agent.errors import Refused
from agent.home import make_private
from agent.journal import Journal, Started, Verdict, all_journals, bytes_by_run
from agent.lease import Lease
from agent.processes import end_orphan
from agent.report import Report
from agent.runner import RunningTrial, Surroundings
from agent.wire import (
    CHUNK_BYTES,
    Failure,
    FailureKind,
    Outcome,
    Poll,
    TrialSpec,
    WireError,
)

MAX_READINGS_A_POLL: Final = 256

_log = logging.getLogger(__name__)


class Supervisor:
    """Starts, follows, ends and remembers trials; safe to use from several threads."""

    def __init__(
        self,
        trials: Path,
        artifacts: Artifacts,
        lease: Lease,
        around: Surroundings,
        free: Callable[[Path], int] = free_bytes,
        journals_bytes: int = JOURNALS_BYTES,
    ) -> None:
        make_private(trials)
        self._trials = trials
        self._artifacts = artifacts
        self._lease = lease
        self._around = around
        self._free = free
        self._journals_bytes = journals_bytes
        self._mutex = threading.RLock()
        self._current: RunningTrial | None = None

    def recover(self) -> list[str]:
        """Close the trials that a dead agent or a power cut left open; returns their ids."""
        found = []
        for journal in all_journals(self._trials):
            if journal.outcome() is None:
                _end_worker(journal.started())
                if _close_cut(journal) is not None:
                    found.append(journal.trial_id)
        return found

    def running(self) -> str | None:
        """Id of the trial that has not ended, if there is one."""
        current = self._current
        return None if current is None or current.over else current.spec.trial_id

    def start(self, spec: TrialSpec) -> None:
        """Start a trial; a trial that this board already knows is left as it is.

        Raises Refused: lease_lost, busy, missing_artifact, too_large, disk_full, bad_request.
        """
        journal = Journal(self._trials, spec.trial_id)
        with self._mutex:
            if journal.exists():
                _check_same(journal, spec)
                return
            self._lease.renew(spec.run_id)
            check_spec(spec)
            self._check_idle()
            check_artifacts(spec, self._artifacts.size_bytes)
            check_memory(spec, self._around.telemetry.read(None).memory_available_bytes)
            check_disk(self._free(self._trials), self._trials)
            check_journals(bytes_by_run(self._trials), self._trials, self._journals_bytes)
            self._artifacts.keep(digests(spec))
            self._lease.pin(spec.run_id)
            self._current = self._begin(spec, journal)
            self._current.start()

    def _begin(self, spec: TrialSpec, journal: Journal) -> RunningTrial:
        started = Started(self._around.clock(), self._around.telemetry.sources)
        try:
            journal.create(spec, started)
        except OSError as exc:
            self._lease.unpin()
            raise Refused(
                FailureKind.DISK_FULL,
                f"cannot begin a journal in {self._trials}: {exc.strerror}",
            ) from exc
        return RunningTrial(spec, journal, started, self._around, partial(self._ended, journal))

    def _ended(self, journal: Journal) -> None:
        """Make room for a good copy of what turned out to be damaged, and let go of the board."""
        try:
            outcome = journal.outcome()
            failure = None if outcome is None else outcome.failure
            if failure is not None and failure.kind is FailureKind.DIGEST_MISMATCH:
                damaged = self._artifacts.discard_damaged(digests(journal.spec()))
                _log.warning("deleted damaged files: %s", ", ".join(damaged) or "none was found")
        except (OSError, WireError):
            _log.exception("after trial %s", journal.trial_id)
        finally:
            self._lease.unpin()

    def poll(self, trial_id: str, cursor: int) -> Poll:
        """How far a trial is; asking keeps the lease of its run alive. Raises Refused."""
        if cursor < 0:
            raise Refused(FailureKind.BAD_REQUEST, f"cursor: {cursor} is below 0")
        running = self._find_running(trial_id)
        if running is None:
            return self._poll_ended(trial_id, cursor)
        self._lease.touch(running.spec.run_id)
        phase = running.phase
        recorded = running.journal.recorded(running.spec)
        readings = tuple(running.readings[cursor : cursor + MAX_READINGS_A_POLL])
        evaluation = running.report.evaluation
        return Poll(
            phase=phase,
            samples_done=recorded.counts[2],
            images_done=evaluation.images_done if evaluation is not None else 0,
            recent_p50_ns=_p50(recorded.recent_ns),
            elapsed_ns=self._around.clock() - running.started.monotonic_ns,
            readings=readings,
            next_cursor=cursor + len(readings),
        )

    def _poll_ended(self, trial_id: str, cursor: int) -> Poll:
        outcome = self.outcome(trial_id)
        journal = Journal(self._trials, trial_id)
        recorded = journal.recorded(journal.spec())
        return Poll(
            phase="ended",
            samples_done=recorded.counts[2],
            images_done=outcome.evaluation.images_done if outcome.evaluation is not None else 0,
            recent_p50_ns=_p50(recorded.recent_ns),
            elapsed_ns=outcome.ended_monotonic_ns - outcome.started_monotonic_ns,
            readings=(),
            next_cursor=cursor,
        )

    def cancel(self, trial_id: str) -> None:
        """End a trial soon; nothing happens to one that has ended. Raises Refused."""
        running = self._find_running(trial_id)
        if running is not None:
            running.cut("cancelled")
        elif not Journal(self._trials, trial_id).exists():
            raise _unknown(trial_id)

    def outcome(self, trial_id: str) -> Outcome:
        """How a trial ended; raises Refused while it has not, and for an unknown one."""
        running = self._find_running(trial_id)
        if running is not None:
            raise Refused(
                FailureKind.BUSY, f"trial {trial_id} has not ended (phase '{running.phase}')"
            )
        current = self._current
        if current is not None and current.spec.trial_id == trial_id and current.outcome:
            return current.outcome
        journal = Journal(self._trials, trial_id)
        if not journal.exists():
            raise _unknown(trial_id)
        outcome = journal.outcome() or _close_cut(journal)
        if outcome is None:
            raise Refused(
                FailureKind.INTERNAL, f"the journal of trial {trial_id} cannot be read: see log.txt"
            )
        return outcome

    def read(self, trial_id: str, part: str, offset: int, length: int) -> bytes:
        """Bytes of a part of an ended trial; empty for anything else."""
        if self._find_running(trial_id) is not None:
            return b""
        return Journal(self._trials, trial_id).read(part, offset, min(length, CHUNK_BYTES))

    def acknowledge(self, trial_id: str) -> None:
        """The host has stored the trial: forget it. Raises Refused while it runs."""
        with self._mutex:
            running = self._find_running(trial_id)
            if running is not None:
                raise Refused(FailureKind.BUSY, f"trial {trial_id} has not ended")
            if self._current is not None and self._current.spec.trial_id == trial_id:
                self._current = None
            Journal(self._trials, trial_id).forget()

    def trials(self) -> list[str]:
        """Ids of the trials whose journals are on the board, oldest first."""
        return [journal.trial_id for journal in all_journals(self._trials)]

    def stop(self) -> None:
        """End the running trial, if there is one, and wait until its journal is closed."""
        current = self._current
        if current is not None:
            current.cut("stopped")
            current.join()

    def _find_running(self, trial_id: str) -> RunningTrial | None:
        current = self._current
        if current is None or current.spec.trial_id != trial_id or current.over:
            return None
        return current

    def _check_idle(self) -> None:
        current = self._current
        if current is not None and not current.over:
            raise Refused(
                FailureKind.BUSY,
                f"trial {current.spec.trial_id} of run {current.spec.run_id} is in phase "
                f"'{current.phase}'; one trial runs at a time",
            )


def _check_same(journal: Journal, spec: TrialSpec) -> None:
    """Starting again is harmless; another trial under the same id would be lost."""
    with contextlib.suppress(OSError, WireError):
        if journal.spec() != spec:
            raise Refused(
                FailureKind.BAD_REQUEST,
                f"trial {spec.trial_id} is on this board with another specification",
            )


def _close_cut(journal: Journal) -> Outcome | None:
    """Finalise a trial whose agent is gone: what its worker said last decides how it ended."""
    try:
        spec, started, report = journal.spec(), journal.started(), journal.report()
        ended_ns = journal.last_reading_ns() or started.monotonic_ns
        return journal.finalise(spec, started, report, _verdict_of_cut(report, ended_ns))
    except (OSError, WireError):
        _log.exception("trial %s cannot be recovered", journal.trial_id)
        return None


def _verdict_of_cut(report: Report, ended_ns: int) -> Verdict:
    if report.complete:
        return Verdict("finished", None, ended_ns)
    if report.failure is not None:
        return Verdict("failed", report.failure, ended_ns)
    message = f"the agent or the board stopped in phase '{report.phase}'; measure it again"
    return Verdict("interrupted", Failure(FailureKind.INTERRUPTED, message), ended_ns)


def _end_worker(started: Started) -> None:
    """The worker of a dead agent would disturb what is measured next."""
    if started.worker_pid is not None and started.worker_ticks is not None:
        end_orphan(started.worker_pid, started.worker_ticks)


def _unknown(trial_id: str) -> Refused:
    return Refused(
        FailureKind.UNKNOWN_TRIAL,
        f"this board has no trial {trial_id}; it was acknowledged, or never started here",
    )


def _p50(recent_ns: Iterable[int]) -> int | None:
    values = list(recent_ns)
    return round(median(values)) if values else None
