"""One board's part of a run, from the first contact to the release of its lease.

It runs in a thread of its own, touches no database and no screen: everything it learns leaves
as events. A trial's journal is acknowledged only after the event's receipt says 'stored'.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from agent import wire
from orchestrator import gate
from orchestrator.boards.base import Board, Session
from orchestrator.clock import Clock
from orchestrator.errors import (
    AgentDied,
    BoardUnreachable,
    ModelTooLarge,
    TrialDeadline,
    from_failure,
)
from orchestrator.events import (
    BoardConnected,
    BoardConnecting,
    BoardDone,
    BoardFailed,
    Event,
    GateResult,
    GateWaiting,
    PushProgress,
    TrialEnded,
    TrialProgress,
    TrialSkipped,
    TrialStarted,
)
from orchestrator.fetch import Journal, fetch
from orchestrator.plan import PlannedTrial
from orchestrator.plausible import require_plausible
from orchestrator.transfer import File, PushState, push

LEASE_TTL_S: Final = 60.0
POLL_SAMPLING_S: Final = 1.0
"""A poll costs the board a little time, so it is rare while samples are taken."""
POLL_OTHERWISE_S: Final = 0.2
POLL_REST: Final = 4.0
"""How many times as long as the last poll took a board is left alone, up to POLL_SAMPLING_S."""
RECONNECT_DELAYS_S: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 20.0)
"""Waits before each renewed contact; after the last the board is given up.

Together longer than a Raspberry Pi takes to boot, so that a power cut costs one attempt at most.
"""
MAX_ATTEMPTS: Final = 2
"""A trial cut short by the board's or agent's death is measured again once."""
DEADLINE_MARGIN_S: Final = 30.0
_DAMAGED: Final = wire.FailureKind.DIGEST_MISMATCH
"""A file decayed on the board's disk: it is pushed again and the trial repeated."""
_NS_PER_S: Final = 1e9

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """One planned trial with all that the board needs for it."""

    trial: PlannedTrial
    spec: wire.TrialSpec
    files: tuple[File, ...]
    first_attempt: int = 1
    """Above 1 where an earlier part of the run stored attempts that did not finish."""


@dataclass(frozen=True)
class Assignment:
    """What one board is to do; trials that cannot be done are named with the reason."""

    work: Sequence[Work]
    impossible: Sequence[tuple[PlannedTrial, str]] = ()
    gate: gate.Gate | None = None


@dataclass(frozen=True)
class Patience:
    """How long a run waits for a board that does not do its part."""

    lease_ttl_s: float = LEASE_TTL_S
    reconnect_delays_s: tuple[float, ...] = RECONNECT_DELAYS_S
    deadline_margin_s: float = DEADLINE_MARGIN_S


PATIENCE: Final = Patience()


@dataclass(frozen=True)
class Order:
    """What a board's thread is given: who asks, and where its work will come from."""

    run_id: str
    holder: str
    host: str
    assignment: Future[Assignment | None]
    stop: threading.Event
    patience: Patience = PATIENCE
    stored: frozenset[str] = frozenset()
    """Ids, as boards know them, of attempts that are in the database."""


Emit = Callable[[Event], None]
Store = Callable[[TrialEnded], None]
"""Hands a trial over and returns when it is stored; raises what storing raised."""


class BoardRun:
    """Carries out one order on one board; `run` never raises."""

    def __init__(self, board: Board, order: Order, clock: Clock, emit: Emit, store: Store) -> None:
        self._board = board
        self._order = order
        self._patience = order.patience
        self._clock = clock
        self._emit = emit
        self._store = store
        self._session: Session | None = None
        self._leased_s = 0.0
        self._refused: dict[tuple[str, str], str] = {}

    def run(self) -> None:
        """Connect, wait for the assignment, push, measure, release."""
        ended: Event = BoardDone(self._board.name)
        try:
            self._connect(1)
            assignment = self._await_assignment()
            if assignment is not None:
                self._carry_out(assignment)
        except wire.BenchError as exc:
            ended = BoardFailed(self._board.name, exc)
        except BaseException as exc:  # noqa: BLE001 - a bug on one board must not stop the others
            error = wire.BenchError(f"{self._board.name}: {type(exc).__name__}: {exc}")
            error.__cause__ = exc
            ended = BoardFailed(self._board.name, error)
        try:
            self._let_go()
        finally:
            self._emit(ended)  # whatever happens: the run waits for it

    # ------------------------------------------------------------ contact

    def _connect(self, attempt: int) -> None:
        self._emit(BoardConnecting(self._board.name, attempt))
        session = self._board.connect()
        self._session = session
        hello = session.hello(self._order.host)
        connected = BoardConnected(self._board.name, hello, self._clock.utc())
        self._lease()  # nothing is built for a board that another run holds
        for trial_id in self._order.stored.intersection(hello.unacknowledged):
            session.ack(trial_id)  # the word that it was stored had been lost
        self._emit(connected)

    def _lease(self) -> None:
        """Take the board, or keep it: for the run that has it this is a renewal."""
        self._use().lease(
            wire.LeaseRequest(
                holder=self._order.holder,
                run_id=self._order.run_id,
                ttl_s=self._patience.lease_ttl_s,
            )
        )
        self._leased_s = self._clock.monotonic_s()

    def _use(self) -> Session:
        if self._session is None:
            raise AgentDied("there is no connection to the agent", self._board.name)
        return self._session

    def _persist(self, action: Callable[[], T]) -> T:
        """Do something over the connection; when it breaks, connect anew and do it again.

        So `action` must be safe to repeat. Gives up after the last of its delays.
        """
        delays_s, attempt = self._patience.reconnect_delays_s, 1
        while True:
            try:
                if self._session is None:
                    self._connect(attempt)
                return action()
            except (BoardUnreachable, AgentDied):
                if self._session is not None:
                    self._session.close()
                    self._session = None
                if attempt > len(delays_s) or self._order.stop.is_set():
                    raise
                self._clock.sleep(delays_s[attempt - 1])
                attempt += 1

    def _await_assignment(self) -> Assignment | None:
        """Wait for the plan and the builds, keeping the board meanwhile."""
        while not self._order.stop.is_set():
            try:
                return self._order.assignment.result(timeout=self._patience.lease_ttl_s / 4)
            except FutureTimeoutError:
                self._persist(self._lease)
        return None

    def _let_go(self) -> None:
        """Give the board back, also after an error; where it cannot be told, the lease expires."""
        if self._session is None:
            return
        try:
            with contextlib.suppress(wire.BenchError):
                self._session.release(self._order.run_id)
        finally:
            self._session.close()

    # ------------------------------------------------------------ work

    def _carry_out(self, assignment: Assignment) -> None:
        self._persist(self._lease)
        files = [file for work in assignment.work for file in work.files]
        self._persist(lambda: push(self._use(), files, self._pushed, self._goes_on))
        for trial, reason in assignment.impossible:
            self._emit(TrialSkipped(self._board.name, trial, reason))
        for work in assignment.work:
            if not self._goes_on():
                return
            refused = self._refused.get((work.trial.model, work.trial.recipe))
            if refused is not None:
                self._emit(TrialSkipped(self._board.name, work.trial, refused))
                continue
            self._measure(work, assignment.gate)

    def _goes_on(self) -> bool:
        return not self._order.stop.is_set()

    def _pushed(self, state: PushState) -> None:
        if self._clock.monotonic_s() - self._leased_s > self._patience.lease_ttl_s / 4:
            self._lease()  # a large model over a slow line outlasts it
        self._emit(
            PushProgress(
                self._board.name,
                state.files_total,
                state.files_missing,
                state.moved_bytes,
                state.missing_bytes,
            )
        )

    def _measure(self, work: Work, gate_: gate.Gate | None) -> None:
        """Measure one trial, once more if it was cut short; every attempt is stored."""
        reason = "it failed before"
        for attempt in range(work.first_attempt, work.first_attempt + MAX_ATTEMPTS):
            spec = msgspec.structs.replace(
                work.spec, trial_id=attempt_id(work.trial.trial_id, attempt)
            )
            opened = self._persist(lambda: self._wait(gate_))
            if not self._goes_on():
                return
            try:
                ended = self._attempt(work.trial, spec, attempt, opened)
            except ModelTooLarge as exc:  # refused before it ran; smaller ones may still fit
                self._refused[work.trial.model, work.trial.recipe] = str(exc)
                self._emit(TrialSkipped(self._board.name, work.trial, str(exc), exc))
                return
            self._store(ended)
            self._persist(lambda trial_id=spec.trial_id: self._use().ack(trial_id))  # type: ignore[misc] # mypy cannot type a lambda's default
            outcome = ended.outcome
            if outcome.state in ("finished", "cancelled"):
                return
            if outcome.failure is not None:
                reason = str(from_failure(outcome.failure, self._board.name))
            if outcome.failure is not None and outcome.failure.kind is _DAMAGED:
                self._persist(lambda: push(self._use(), work.files, self._pushed, self._goes_on))
            elif outcome.state != "interrupted":
                break
        self._refused[work.trial.model, work.trial.recipe] = reason

    def _wait(self, gate_: gate.Gate | None) -> GateResult:
        self._lease()  # storing the trial before may have taken longer than it lasts
        return gate.wait(
            self._use(), gate_, self._order.run_id, self._clock, self._cooling(gate_), self._goes_on
        )

    def _cooling(self, gate_: gate.Gate | None) -> Callable[[float, float], None]:
        limit_c = gate_.max_temp_c if gate_ is not None else 0.0
        return lambda temp_c, waited_s: self._emit(
            GateWaiting(self._board.name, temp_c, limit_c, waited_s)
        )

    def _attempt(
        self, trial: PlannedTrial, spec: wire.TrialSpec, attempt: int, opened: GateResult
    ) -> TrialEnded:
        self._emit(TrialStarted(self._board.name, trial, attempt))
        started_utc, started_s = self._clock.utc(), self._clock.monotonic_s()
        limit_s = started_s + spec.deadline_ns / _NS_PER_S + self._patience.deadline_margin_s

        def follow() -> Journal:
            session = self._use()
            session.start(spec)
            self._follow(session, trial, spec.trial_id, limit_s)
            found = fetch(session, spec.trial_id)
            require_plausible(found, self._board.name)
            return found

        journal = self._persist(follow)
        return TrialEnded(
            self._board.name, trial, spec, attempt, journal.outcome, journal.samples,
            journal.readings, journal.detections, opened, started_utc, self._clock.utc(),
            journal.masks,
        )  # fmt: skip

    def _follow(self, session: Session, trial: PlannedTrial, trial_id: str, limit_s: float) -> None:
        """Poll until the trial has ended; cancel it when the run is stopped."""
        cursor, cancelled = 0, False
        while True:
            asked_s = self._clock.monotonic_s()
            progress = session.poll(trial_id, cursor)
            took_s = self._clock.monotonic_s() - asked_s
            cursor = progress.next_cursor
            self._emit(TrialProgress(self._board.name, trial, progress))
            if progress.phase == "ended":
                return
            if not self._goes_on() and not cancelled:
                session.cancel(trial_id)
                cancelled = True
                continue
            if self._clock.monotonic_s() > limit_s:
                session.cancel(trial_id)
                raise TrialDeadline(
                    f"trial {trial_id} is still in phase '{progress.phase}' "
                    f"{self._patience.deadline_margin_s:.0f} s after its deadline",
                    self._board.name,
                )
            sampling = progress.phase in ("warmup", "sample") and not cancelled
            rest_s = max(POLL_OTHERWISE_S, min(took_s * POLL_REST, POLL_SAMPLING_S))
            self._clock.sleep(POLL_SAMPLING_S if sampling else rest_s)


def attempt_id(trial_id: str, attempt: int) -> str:
    """The id under which an attempt is known; the first has the plan's own."""
    if attempt == 1:
        return trial_id
    return hashlib.sha256(f"{trial_id}/{attempt}".encode()).hexdigest()[: len(trial_id)]
