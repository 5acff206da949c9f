"""Waiting until a board is cool enough for the next trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.boards.base import Session
from orchestrator.clock import Clock
from orchestrator.events import GateResult


@dataclass(frozen=True)
class Gate:
    """Start at or below `max_temp_c`, or after `timeout_s` all the same; the trial says which."""

    max_temp_c: float
    timeout_s: float
    period_s: float = 2.0


def wait(
    session: Session,
    gate: Gate | None,
    run_id: str,
    clock: Clock,
    waiting: Callable[[float, float], None],
    keep_going: Callable[[], bool],
) -> GateResult:
    """Poll the board's temperature, keeping its lease, until the gate opens.

    `waiting` is told (temp_c, waited_s). A board without a sensor passes at once.
    """
    started = clock.monotonic_s()
    while True:
        temp_c = session.telemetry().temp_c
        waited_s = clock.monotonic_s() - started
        if gate is None or temp_c is None:
            return GateResult(None, waited_s, temp_c)
        if temp_c <= gate.max_temp_c:
            return GateResult(True, waited_s, temp_c)
        if waited_s >= gate.timeout_s or not keep_going():
            return GateResult(False, waited_s, temp_c)
        waiting(temp_c, waited_s)
        session.renew(run_id)
        clock.sleep(gate.period_s)
