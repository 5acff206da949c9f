"""Waiting for a cool board, on a fake board and a fake clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.clock import FakeClock

from agent import wire
from orchestrator.boards.base import Session
from orchestrator.boards.fake import FakeAgent
from orchestrator.errors import LeaseLost
from orchestrator.events import GateResult
from orchestrator.gate import Gate, wait

GATE = Gate(max_temp_c=60.0, timeout_s=20.0)


class Cooling:
    """A board that cools by a degree a second from `start_c` on."""

    def __init__(self, start_c: float | None, ttl_s: float = 60.0) -> None:
        self.clock = FakeClock()
        self.agent = FakeAgent(self.clock, temp_c=start_c)
        self.session = Session("pi", self.agent)
        self.session.lease(wire.LeaseRequest(holder="tester", run_id="run", ttl_s=ttl_s))
        self.heard: list[tuple[float, float]] = []
        begun_s = self.clock.monotonic_s()
        if start_c is not None:
            plain = self.agent._telemetry

            def telemetry() -> wire.Reading:
                self.agent.temp_c = start_c - (self.clock.monotonic_s() - begun_s)
                return plain()

            self.agent._telemetry = telemetry  # type: ignore[method-assign]

    def wait(self, gate: Gate | None, keep_going: Callable[[], bool] = lambda: True) -> GateResult:
        def waiting(temp_c: float, waited_s: float) -> None:
            self.heard.append((temp_c, waited_s))

        return wait(self.session, gate, "run", self.clock, waiting, keep_going)


def test_no_gate() -> None:
    """Without a limit the trial starts at once, with the temperature that it starts at."""
    assert Cooling(85.0).wait(None) == GateResult(None, 0.0, 85.0)


def test_no_sensor() -> None:
    """A board without a sensor passes at once, and nothing is claimed of its temperature."""
    assert Cooling(None).wait(GATE) == GateResult(None, 0.0, None)


@pytest.mark.parametrize("temp_c", [60.0, 20.0])
def test_cool_already(temp_c: float) -> None:
    """A board at or below the limit does not wait."""
    board = Cooling(temp_c)
    assert board.wait(GATE) == GateResult(True, 0.0, temp_c)
    assert board.heard == []


def test_it_cools_down() -> None:
    """The trial starts when the limit is reached, and the waiting is told on the way."""
    board = Cooling(67.0)
    result = board.wait(GATE)
    assert result == GateResult(True, 8.0, 59.0)
    assert board.heard == [(67.0, 0.0), (65.0, 2.0), (63.0, 4.0), (61.0, 6.0)]


def test_it_stays_hot() -> None:
    """After the time-out the trial starts all the same, marked as not cooled."""
    result = Cooling(95.0).wait(GATE)
    assert (result.reached, result.temp_c) == (False, 75.0)
    assert GATE.timeout_s <= result.waited_s <= GATE.timeout_s + GATE.period_s


def test_stopped_while_waiting() -> None:
    """A stopped run does not go on waiting."""
    answers = iter([True, True, False])
    assert Cooling(95.0).wait(GATE, lambda: next(answers)) == GateResult(False, 4.0, 91.0)


def test_the_lease_is_kept() -> None:
    """A wait longer than the lease does not lose the board."""
    board = Cooling(75.0, ttl_s=3.0)
    assert board.wait(GATE).reached
    assert board.session.renew("run").run_id == "run"


def test_the_lease_is_lost() -> None:
    """A board that another run has taken in the meantime is not measured on."""
    board = Cooling(75.0)

    def taken(temp_c: float, waited_s: float) -> None:
        board.agent.lease_holder = wire.LeaseRequest(holder="kim", run_id="other", ttl_s=60)

    with pytest.raises(LeaseLost, match="run run does not hold this board"):
        wait(board.session, GATE, "run", board.clock, taken, lambda: True)
