"""One trial while it runs: its worker process, its telemetry, its deadline, its end."""

from __future__ import annotations

import contextlib
import logging
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Literal, TypeAlias

from agent.journal import EVENTS, GROWING_FILES, PART_FILES, Journal, Started, Verdict
from agent.keeper import KEEP_PERIOD_S, Keeper
from agent.processes import end_group, oom_kills, started_ticks
from agent.report import Report, crash
from agent.sampler import Sampler, Telemetry
from agent.wire import (
    Failure,
    FailureKind,
    Outcome,
    Phase,
    Reading,
    TrialSpec,
    WireError,
)
from agent.worker_events import decode_event

_EXIT_PATIENCE_S: Final = 10.0
"""How long a worker may live on after its last word."""
_TICK_S: Final = 1.0
_NS_PER_S: Final = 1_000_000_000

_log = logging.getLogger(__name__)

Cut: TypeAlias = Literal["deadline", "cancelled", "stopped"]


@dataclass(frozen=True)
class Surroundings:
    """What a running trial needs of the machine; every part can be replaced in a test."""

    telemetry: Telemetry
    argv: Callable[[Path], Sequence[str]]
    """Command line of a worker for a trial's directory."""
    clock: Callable[[], int] = time.monotonic_ns
    sample_period_s: float = 1.0
    keep_period_s: float = KEEP_PERIOD_S
    vmstat: Path = Path("/proc/vmstat")


class RunningTrial:
    """A trial from its start to its outcome, in a thread of its own."""

    def __init__(
        self,
        spec: TrialSpec,
        journal: Journal,
        started: Started,
        around: Surroundings,
        on_end: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.journal = journal
        self.started = started
        self.report = Report()
        self.outcome: Outcome | None = None
        self.finalising = False
        self.over = False
        """True when nothing of it runs any more, also if its journal could not be closed."""
        self._around = around
        self._on_end = on_end
        self._process: subprocess.Popen[bytes] | None = None
        self._cut: Cut | None = None
        self._words: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        readings = journal.directory / PART_FILES["readings"]
        self._sampler = Sampler(readings, around.telemetry, self._pid, around.sample_period_s)
        self._keeper = Keeper(journal.directory, GROWING_FILES, around.keep_period_s)
        self._thread = threading.Thread(target=self._run, name=f"trial-{spec.trial_id[:8]}")

    @property
    def phase(self) -> Phase:
        """Where the trial stands; `ended` only once its outcome is there."""
        if self.outcome is not None:
            return "ended"
        return "finalise" if self.finalising else self.report.phase

    @property
    def readings(self) -> list[Reading]:
        """Readings so far, in order; it only grows."""
        return self._sampler.readings

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def cut(self, why: Literal["cancelled", "stopped"]) -> None:
        """End the trial soon; what was measured is kept. The first reason counts."""
        if self._cut is None:
            self._cut = why
            self._words.put(None)

    def join(self) -> None:
        """Wait until the trial has ended."""
        self._thread.join()

    def _pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def _run(self) -> None:
        try:
            verdict = self._measure()
        except Exception as exc:  # noqa: BLE001 - whatever it is, the trial must end
            _log.exception("trial %s", self.spec.trial_id)
            message = f"the agent failed to run the trial: {type(exc).__name__}: {exc}"
            failure = Failure(kind=FailureKind.INTERNAL, message=message)
            verdict = Verdict("failed", failure, self._around.clock())
        self.finalising = True
        outcome = None
        try:
            outcome = self.journal.finalise(self.spec, self.started, self.report, verdict)
        except Exception:  # noqa: BLE001 - the board must not stay busy for ever
            # What is on the disk stays; asking for the outcome tries again.
            _log.exception("trial %s cannot be finalised", self.spec.trial_id)
        self._on_end()
        self.outcome = outcome
        self.over = True

    def _measure(self) -> Verdict:
        kills_before = oom_kills(self._around.vmstat)
        argv = list(self._around.argv(self.journal.directory))
        with (self.journal.directory / "stderr.txt").open("wb") as stderr:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=self.journal.directory,
                start_new_session=True,
            )
        self._process = process
        try:
            self._note_worker(process.pid)
            self._sampler.start()
            self._keeper.start()
            self._listen(process)
        finally:
            end_group(process)
            ended_ns = self._around.clock()
            self._sampler.stop()
            self._keeper.stop()
        kills = oom_kills(self._around.vmstat) - kills_before
        return self._verdict(process.returncode, kills, ended_ns)

    def _note_worker(self, pid: int) -> None:
        before = self.started
        ticks = started_ticks(pid)
        self.started = Started(before.monotonic_ns, before.sources, pid, ticks)
        with contextlib.suppress(OSError):  # a full disk: only the recovery would need it
            self.journal.note_start(self.started)

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Follow the worker's words until it has gone, or is to go."""
        stdout = process.stdout
        if stdout is None:
            raise RuntimeError("the worker has no standard output")
        threading.Thread(target=_read_lines, args=(stdout, self._words), daemon=True).start()
        deadline_ns = self.started.monotonic_ns + self.spec.deadline_ns
        with (self.journal.directory / EVENTS).open("ab", buffering=0) as events:
            while self._cut is None:
                left_s = (deadline_ns - self._around.clock()) / _NS_PER_S
                if left_s <= 0:
                    self._cut = "deadline"
                    return
                if self.report.complete or self.report.failure is not None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(min(left_s, _EXIT_PATIENCE_S))
                    return
                try:
                    line = self._words.get(timeout=min(left_s, _TICK_S))
                except queue.Empty:
                    line = None
                if line is not None:
                    self._hear(line, events)
                elif self._cut is None and _gone(process):
                    self._drain(events)
                    return

    def _drain(self, events: IO[bytes]) -> None:
        """Hear what a worker said that has gone but whose output something still holds open."""
        with contextlib.suppress(queue.Empty):
            while line := self._words.get(timeout=_EXIT_PATIENCE_S / 100):
                self._hear(line, events)

    def _hear(self, line: bytes, events: IO[bytes]) -> None:
        try:
            self.report = self.report.after(decode_event(line))
        except WireError:
            _log.warning("trial %s: not an event: %r", self.spec.trial_id, line[:200])
            return
        with contextlib.suppress(OSError):  # a full disk: what was said is still in memory
            events.write(line)

    def _verdict(self, returncode: int, kills: int, ended_ns: int) -> Verdict:
        if self.report.complete:
            return Verdict("finished", None, ended_ns)
        if self.report.failure is not None:
            return Verdict("failed", self.report.failure, ended_ns)
        after_s = (ended_ns - self.started.monotonic_ns) / _NS_PER_S
        phase = self.report.phase
        if self._cut == "cancelled":
            message = f"cancelled in phase '{phase}' after {after_s:.1f} s"
            return Verdict("cancelled", Failure(FailureKind.CANCELLED, message), ended_ns)
        if self._cut == "stopped":
            message = f"the agent was stopped in phase '{phase}' after {after_s:.1f} s"
            return Verdict("interrupted", Failure(FailureKind.INTERRUPTED, message), ended_ns)
        if self._cut == "deadline":
            limit_s = self.spec.deadline_ns / _NS_PER_S
            message = f"stopped in phase '{phase}': the deadline of {limit_s:.1f} s was over"
            return Verdict("failed", Failure(FailureKind.DEADLINE, message), ended_ns)
        available = [
            reading.memory_available_bytes
            for reading in self.readings
            if reading.memory_available_bytes is not None
        ]
        failure = crash(
            returncode,
            oom_kills=kills,
            available_bytes=min(available, default=None),
            stderr=self.journal.stderr_tail(),
        )
        return Verdict("failed", failure, ended_ns)


def _read_lines(stream: IO[bytes], words: queue.SimpleQueue[bytes | None]) -> None:
    with contextlib.suppress(OSError, ValueError):
        for line in iter(lambda: stream.readline(1 << 20), b""):
            words.put(line)
    words.put(None)
    stream.close()


def _gone(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended, or does within the moment between closing its output and ending."""
    try:
        process.wait(_TICK_S / 10)
    except subprocess.TimeoutExpired:
        return False
    return True
