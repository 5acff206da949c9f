"""What a screen needs to know of a run: a state that events are folded into. No screen here."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agent.wire import RUNTIME_PACKAGES
from orchestrator.buildprogress import Builds
from orchestrator.events import (
    BoardConnected,
    BoardConnecting,
    BoardDone,
    BoardFailed,
    Event,
    GateWaiting,
    PushProgress,
    TrialEnded,
    TrialProgress,
    TrialSkipped,
    TrialStarted,
)
from orchestrator.text import printable

TEMPERATURES_KEPT = 24
MEBIBYTE = 1 << 20


@dataclass
class BoardProgress:
    """One board as it stands."""

    name: str
    model: str = ""
    state: str = "waiting"
    emulated: bool = False
    planned: int = 0
    ended: int = 0
    failed: int = 0
    variant: str = ""
    phase: str = ""
    samples: int = 0
    samples_wanted: int = 0
    images: int = 0
    images_wanted: int = 0
    recent_p50_ns: int | None = None
    temps_c: deque[float] = field(default_factory=lambda: deque(maxlen=TEMPERATURES_KEPT))
    error: str = ""


@dataclass
class RunProgress:
    """The whole run; `log` has one line for each thing worth reading later."""

    boards: dict[str, BoardProgress]
    stage: str = "connecting"
    log: deque[str] = field(default_factory=lambda: deque(maxlen=200))
    builds: Builds = field(default_factory=Builds)

    @classmethod
    def of(cls, names: list[str]) -> RunProgress:
        """A run that has not begun."""
        return cls({name: BoardProgress(name) for name in names})

    def plan(self, counts: dict[str, int]) -> None:
        """The plan is made: how many trials each board has."""
        for name, count in counts.items():
            self.boards[name].planned = count
        self.stage = "measuring"

    def note(self, line: str) -> None:
        """Something worth a line of its own."""
        self.log.append(printable(line))

    def fold(self, event: Event) -> str | None:
        """Take an event in; returns the line that it adds to the log, if any."""
        line = _FOLDS[type(event)](self.boards[event.board], event)
        if line is None:
            return None
        self.note(f"{event.board}: {line}")
        return self.log[-1]


def variant_of(event: TrialStarted | TrialEnded | TrialSkipped) -> str:
    """Model and recipe in one word, as they are shown everywhere."""
    return printable(f"{event.trial.model}/{event.trial.recipe}")


def _runtimes(packages: Mapping[str, str]) -> list[str]:
    """Each runtime with its version; onnxruntime also where it is missing."""
    return [
        f"{name} {packages.get(package, 'missing')}"
        for name, package in RUNTIME_PACKAGES.items()
        if package in packages or name == "onnxruntime"
    ]


def _connected(board: BoardProgress, event: BoardConnected) -> str:
    known = event.hello.fingerprint
    board.state = "ready"
    board.model = printable(known.board_model or known.cpu_model or known.machine)
    board.emulated = known.emulated
    return (
        f"ready: {board.model}, {known.isa}, {known.cpu_count} cores, Python {known.python}, "
        + ", ".join(_runtimes(known.packages))
        + (", EMULATED" if known.emulated else "")
    )


def _pushed(board: BoardProgress, event: PushProgress) -> str | None:
    board.state = "pushing"
    if event.moved_bytes < event.missing_bytes:
        board.phase = f"{100 * event.moved_bytes // event.missing_bytes} %"
        return None
    if event.moved_bytes == 0 and event.files_missing:
        return None
    board.phase = ""
    if not event.files_missing:
        return f"all {event.files_total} files are on the board already"
    return f"{event.files_missing} files pushed, {event.moved_bytes / MEBIBYTE:.1f} MiB"


def _ended(board: BoardProgress, event: TrialEnded) -> str:
    state = event.outcome.state
    board.ended += state != "interrupted"  # an interrupted one is measured again
    place = f"{variant_of(event)} block {event.trial.block + 1}"
    if state == "finished":
        return f"{place} finished, {_measured(board, event)}"
    board.failed += 1
    why = event.outcome.failure.message if event.outcome.failure is not None else "no reason given"
    return f"{place} {state}: {why}"


def _measured(board: BoardProgress, event: TrialEnded) -> str:
    """Count and median of the timed samples; an emulated board has no time to show."""
    count = event.samples.counts[2] if event.samples is not None else 0
    words = f"{count} samples" + (" (short)" if event.outcome.short else "")
    if event.samples is None or not count or board.emulated:
        return words
    return f"{words}, p50 {statistics.median(event.samples.latency_ns[-count:]) / 1e6:.2f} ms"


def _connecting(board: BoardProgress, event: BoardConnecting) -> str | None:
    board.state = "connecting"
    return None if event.attempt == 1 else f"connecting again (attempt {event.attempt})"


def _failed(board: BoardProgress, event: BoardFailed) -> str:
    board.state, board.error, board.phase = "failed", printable(str(event.error)), ""
    return f"FAILED: {event.error}"


def _done(board: BoardProgress, _event: BoardDone) -> None:
    board.state, board.phase, board.recent_p50_ns = "done", "", None


def _cooling(board: BoardProgress, event: GateWaiting) -> None:
    board.state, board.phase = "cooling", f"to {event.max_temp_c:.0f} °C"
    board.temps_c.append(event.temp_c)


def _started(board: BoardProgress, event: TrialStarted) -> None:
    board.state, board.phase = "measuring", "start"
    board.variant, board.samples, board.images = variant_of(event), 0, 0
    scenario = event.trial.scenario
    board.samples_wanted = scenario.min_samples if scenario.name == "single_stream" else 0
    board.images_wanted = event.trial.evaluation_images
    board.recent_p50_ns = None


def _progressed(board: BoardProgress, event: TrialProgress) -> None:
    poll = event.poll
    board.state = "measuring"  # after a renewed contact it was another
    board.phase, board.samples = poll.phase, poll.samples_done
    board.images, board.recent_p50_ns = poll.images_done, poll.recent_p50_ns
    board.temps_c.extend(r.temp_c for r in poll.readings if r.temp_c is not None)


def _skipped(board: BoardProgress, event: TrialSkipped) -> str:
    board.ended += 1
    board.failed += 1
    return f"{variant_of(event)} block {event.trial.block + 1} skipped: {event.reason}"


_FOLDS: Final[dict[type[Event], Callable[[BoardProgress, Any], str | None]]] = {
    BoardConnecting: _connecting,
    BoardConnected: _connected,
    BoardFailed: _failed,
    BoardDone: _done,
    PushProgress: _pushed,
    GateWaiting: _cooling,
    TrialStarted: _started,
    TrialProgress: _progressed,
    TrialEnded: _ended,
    TrialSkipped: _skipped,
}
