"""The worker: one process measures one trial, says how it goes on stdout, and ends.

    trial directory: spec.json in; samples.bin and detections.jsonl or masks.jsonl out
    (layouts: agent.wire)
    artifact directory: files named by sha256

load, one cold inference, warm-up, samples, then the evaluation. Nothing is printed, collected
or allocated by this program inside the timed loop.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import re
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

from agent import feeds
from agent.artifacts import require_intact
from agent.errors import Refused
from agent.evaluation import can_be_reported, evaluate, part_of
from agent.procfs import read_text
from agent.runtimes import Feed, LoadedModel, runtime
from agent.samplewriter import MAX_SAMPLES, SampleWriter, capacity_for
from agent.timing import Clock, StopRule, clock_ns, run_phase
from agent.wire import (
    MAX_CLASSES,
    MAX_MASK_PIXELS,
    Failure,
    FailureKind,
    Scenario,
    TrialSpec,
    WireError,
    decode,
)
from agent.worker_events import (
    Emit,
    Ended,
    Failed,
    Loaded,
    PhaseStarted,
    WorkerEvent,
    event_line,
)

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ONE_CALL: Final = StopRule(min_samples=1, min_duration_ns=0, max_duration_ns=0)
_MAX_SIDE: Final = 16_384
_MAX_BYTE: Final = 255


def main(trial_dir: Path, artifacts: Path) -> int:
    """Measure the trial of `trial_dir`; every failure is an event, and then the code is 0 too."""
    _end_at_once_on_sigterm()
    with _private_stdout() as stream:

        def emit(event: WorkerEvent) -> None:
            stream.write(event_line(event))

        try:
            run(trial_dir, artifacts, emit)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the supervisor is told
            with contextlib.suppress(OSError):  # stderr may be a file on a full disk
                traceback.print_exc()
            emit(Failed(failure_of(exc)))
    return 0


def run(trial_dir: Path, artifacts: Path, emit: Emit, clock: Clock = clock_ns) -> None:
    """Measure and evaluate, telling `emit`; raises Refused, OSError, WireError, MemoryError."""
    spec = decode((trial_dir / "spec.json").read_bytes(), TrialSpec)
    check_spec(spec)
    emit(PhaseStarted("load", clock()))
    model = _load(spec, artifacts, emit, clock)
    if spec.evaluation is not None:
        feeds.image_input(model.inputs, spec.evaluation.prep)  # refused before, not after, timing
    timed = feeds.timed_feeds(model.inputs, spec.inputs, artifacts)
    measured = measure(model, timed, spec.scenario, trial_dir / "samples.bin", emit, clock)
    peak = peak_rss_bytes()
    if spec.evaluation is not None:
        emit(PhaseStarted("evaluate", clock()))
        path = trial_dir / f"{part_of(spec.evaluation)}.jsonl"
        evaluate(model, spec.evaluation, artifacts, path, emit, clock)
    emit(Ended(measured.short, measured.calls, peak))


def check_spec(spec: TrialSpec) -> None:
    """Refuse what no board can measure (bad_request), naming the field and its value."""
    scenario, options = spec.scenario, spec.options
    calls = scenario.warmup_min_samples + scenario.min_samples + 1
    preps = [spec.inputs.prep, spec.evaluation.prep if spec.evaluation else None]
    checks = {
        "options.intra_op_num_threads": options.intra_op_num_threads >= 1,
        "options.inter_op_num_threads": options.inter_op_num_threads >= 1,
        "scenario (no field may be below 0)": min(_numbers(scenario)) >= 0,
        "scenario (min_samples or min_duration_ns must be above 0)": (
            scenario.min_samples > 0 or scenario.min_duration_ns > 0
        ),
        f"scenario (at most {MAX_SAMPLES:,} samples)": calls <= MAX_SAMPLES,
        "scenario (sustained: both durations equal and above 0, min_samples 1)": (
            scenario.name != "sustained"
            or (
                scenario.min_samples == 1
                and 0 < scenario.min_duration_ns == scenario.max_duration_ns
            )
        ),
        "prep": all(
            1 <= prep.height <= _MAX_SIDE
            and 1 <= prep.width <= _MAX_SIDE
            and 0 <= prep.pad_value <= _MAX_BYTE
            for prep in preps
            if prep is not None
        ),
        f"head (1 to {MAX_CLASSES} classes, masks of {MAX_MASK_PIXELS:,} pixels at most)": (
            spec.evaluation is None or can_be_reported(spec.evaluation)
        ),
    }
    wrong = [name for name, good in checks.items() if not good]
    if wrong:
        raise Refused(FailureKind.BAD_REQUEST, f"trial {spec.trial_id}: bad {'; '.join(wrong)}")


def _numbers(scenario: Scenario) -> list[int]:
    return [
        scenario.warmup_min_samples,
        scenario.warmup_min_duration_ns,
        scenario.min_samples,
        scenario.min_duration_ns,
        scenario.max_duration_ns,
    ]


def _load(spec: TrialSpec, artifacts: Path, emit: Emit, clock: Clock) -> LoadedModel:
    """Load the model; its time is the runtime's own, without the import of its package."""
    path = artifacts / spec.artifact.sha256
    if not path.is_file():
        raise Refused(
            FailureKind.MISSING_ARTIFACT,
            f"model {spec.artifact.sha256} is not on the board; push it first",
        )
    require_intact(path)
    chosen = runtime(spec.runtime)
    start = clock()
    model = chosen.load(path, spec.artifact.format, spec.options)
    load_ns = clock() - start
    kind: Literal["images", "synthetic"] = "images" if spec.inputs.images else "synthetic"
    emit(Loaded(load_ns, model.runtime_version, dict(model.settings), kind))
    return model


@dataclass(frozen=True)
class Measured:
    """How the timed part ended."""

    short: bool
    calls: int
    """All that were timed, the cold one and the warm-up included."""


def measure(
    model: LoadedModel,
    timed: list[Feed],
    scenario: Scenario,
    path: Path,
    emit: Emit,
    clock: Clock = clock_ns,
) -> Measured:
    """Cold inference, warm-up and samples into the file `path`.

    Raises Refused (model_run, out_of_memory) and OSError; what was recorded stays in the file.
    """
    timer = _Timer(model, model.bind(timed), clock)
    warmup = StopRule(
        scenario.warmup_min_samples, scenario.warmup_min_duration_ns, scenario.max_duration_ns
    )
    sample = StopRule(scenario.min_samples, scenario.min_duration_ns, scenario.max_duration_ns)
    with _no_garbage_collection():
        file = SampleWriter(path, capacity_for(scenario))
        emit(PhaseStarted("cold", clock()))
        timer.run(file.latency_ns, file.gap_ns, _ONE_CALL)
        file.set_counts(1, 0, 0)
        emit(PhaseStarted("warmup", clock()))
        kept = file.capacity - scenario.min_samples  # a long warm-up leaves room to sample
        timer.run(file.latency_ns[:kept], file.gap_ns[:kept], warmup)
        warm = timer.next_index - 1
        file.set_counts(1, warm, 0)
        emit(PhaseStarted("sample", clock()))
        short = timer.run(file.latency_ns, file.gap_ns, sample)
        file.set_counts(1, warm, timer.next_index - warm - 1)
    return Measured(short, timer.next_index)


class _Timer:
    """The phases of one trial one after the other, with the gap from each to the next."""

    def __init__(self, model: LoadedModel, call: Callable[[], None], clock: Clock) -> None:
        self.next_index = 0
        self._model = model
        self._call = call
        self._clock = clock
        self._last_end_ns: int | None = None

    def run(self, latency_ns: memoryview, gap_ns: memoryview, rule: StopRule) -> bool:
        """Time one phase; True when it ended short. Raises Refused (model_run, out_of_memory)."""
        first, last = self.next_index, self._last_end_ns
        try:
            end = run_phase(self._call, latency_ns, gap_ns, first, last, rule, self._clock)
        except Exception as exc:  # runtimes' errors share no base class but Exception
            raise self._model.explain(exc) from exc
        self.next_index, self._last_end_ns = end.next_index, end.last_end_ns
        return end.short


def failure_of(error: Exception) -> Failure:
    """What an exception that ended the trial is called on the wire."""
    if isinstance(error, Refused):
        return error.failure
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError):
        return Failure(FailureKind.OUT_OF_MEMORY, f"the board has too little memory ({text})")
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return Failure(FailureKind.DISK_FULL, f"no room on the board's disk ({text}); free some")
    if isinstance(error, WireError):
        return Failure(FailureKind.BAD_REQUEST, f"spec.json: {error}")
    return Failure(FailureKind.INTERNAL, text)


def peak_rss_bytes() -> int | None:
    """Largest resident memory of this process so far.

    From /proc, because getrusage's figure also has the memory of the process that forked it.
    """
    status = read_text(Path("/"), "proc/self/status") or ""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect now and not again until the end: a collection would fall into some sample."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


@contextlib.contextmanager
def _private_stdout() -> Iterator[BinaryIO]:
    """The real stdout for events alone: what native code prints goes to stderr instead."""
    with os.fdopen(os.dup(1), "wb", buffering=0) as stream:
        os.dup2(2, 1)
        yield stream


def _end_at_once_on_sigterm() -> None:
    """The default action, also where the parent ignored or blocked the signal."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
