"""What happens in a run, as facts: the recorder and the screens only listen to these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from agent import wire
from orchestrator.plan import PlannedTrial


@dataclass(frozen=True)
class Event:
    """Something that happened; `board` is the board's name in the inventory."""

    board: str


@dataclass(frozen=True)
class BoardConnecting(Event):
    """The host tries to reach the board."""

    attempt: int


@dataclass(frozen=True)
class BoardConnected(Event):
    """The agent answered and said what the board is."""

    hello: wire.Hello
    host_utc: datetime
    """When the answer arrived; with `hello.monotonic_ns` it places the board's clock."""


@dataclass(frozen=True)
class BoardFailed(Event):
    """The board takes no further part; `error` says why."""

    error: wire.BenchError


@dataclass(frozen=True)
class BoardDone(Event):
    """Every trial of the board has ended, or the run was interrupted."""


@dataclass(frozen=True)
class PushProgress(Event):
    """`moved_bytes` is what really crossed: files already there cost nothing."""

    files_total: int
    files_missing: int
    moved_bytes: int
    missing_bytes: int


@dataclass(frozen=True)
class GateWaiting(Event):
    """The board cools down before the next trial."""

    temp_c: float
    max_temp_c: float
    waited_s: float


@dataclass(frozen=True)
class TrialStarted(Event):
    """The trial is about to be started on the board."""

    trial: PlannedTrial
    attempt: int


@dataclass(frozen=True)
class TrialProgress(Event):
    """What one poll answered."""

    trial: PlannedTrial
    poll: wire.Poll


@dataclass(frozen=True)
class TrialEnded(Event):
    """A trial with all that the board recorded; it is acknowledged once this is stored."""

    trial: PlannedTrial
    spec: wire.TrialSpec
    attempt: int
    outcome: wire.Outcome
    samples: wire.Samples | None
    readings: Sequence[wire.Reading]
    detections: Sequence[wire.ImageDetections] | None
    gate: GateResult
    started_utc: datetime
    ended_utc: datetime
    masks: Sequence[wire.ImageMask] | None = None


@dataclass(frozen=True)
class TrialSkipped(Event):
    """Not measured because the same variant cannot run on this board.

    `error` is set where the board has just refused it and nothing else tells of that.
    """

    trial: PlannedTrial
    reason: str
    error: wire.BenchError | None = None


@dataclass(frozen=True)
class GateResult:
    """How the wait before a trial ended; `reached` is None where there is no sensor."""

    reached: bool | None
    waited_s: float
    temp_c: float | None
