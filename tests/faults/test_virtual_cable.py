"""A cable that is pulled and a board that hangs, in the middle of a run over two virtual boards."""

from __future__ import annotations

import time

import pytest
from support.aftermath import require_untouched
from support.pair import BOUND_S, HIT, OTHER, SHORT, Pair

from orchestrator.errors import AgentDied, BoardUnreachable
from orchestrator.events import BoardConnected, BoardConnecting, BoardFailed, TrialProgress
from orchestrator.lab import faults

pytestmark = [
    pytest.mark.slow,
    pytest.mark.virtual,
    pytest.mark.long,
    pytest.mark.timeout(900),  # the first test builds the image and boots both boards
]


def test_cable_out_for_five_seconds_then_a_frozen_board(pair: Pair) -> None:
    """Both cost time and nothing else: the same attempt goes on, and is followed again."""
    run = pair.begin(blocks=1, seconds=8)
    pair.await_samples(run)
    faults.set_link(pair.lab.lab, HIT, up=False)
    time.sleep(5)
    faults.set_link(pair.lab.lab, HIT, up=True)
    run.await_event(TrialProgress, HIT, after=len(run.events(TrialProgress, HIT)))
    assert len(run.events(BoardConnecting, HIT)) == 1, "the connection did not live on"
    faults.freeze(pair.lab.lab, HIT)
    run.await_event(BoardConnecting, HIT, after=1)
    faults.thaw(pair.lab.lab, HIT)
    report = run.end(BOUND_S)
    assert (report.state, report.errors) == ("finished", ())
    assert len(run.events(BoardConnected, HIT)) > 1
    assert len(run.events(BoardConnecting, OTHER)) == 1
    require_untouched(run.rows, HIT, 1)
    pair.require_aftermath(run, trials=1)


def test_cable_out_for_longer_than_every_wait(pair: Pair) -> None:
    """A board without a cable is given up in bounded time, alone; `resume` finds its trial done."""
    run = pair.begin(blocks=1, patience=SHORT)
    pair.await_samples(run)
    pulled_s = run.elapsed_s
    faults.set_link(pair.lab.lab, HIT, up=False)
    try:
        run.await_event(BoardFailed, HIT)
        gave_up_s = run.elapsed_s - pulled_s
        report = run.end(BOUND_S)
    finally:
        faults.set_link(pair.lab.lab, HIT, up=True)
    assert 10 < gave_up_s < 90
    assert report.state == "partial"
    assert [type(error) for error in report.errors] in ([BoardUnreachable], [AgentDied])
    require_untouched(run.rows, OTHER, 1)
    run = pair.resume()
    report = run.end(BOUND_S)
    assert (report.state, report.errors) == ("finished", ())
    require_untouched(run.rows, HIT, 1)
    pair.require_aftermath(run, trials=1)
