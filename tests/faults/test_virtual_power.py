"""Power and agent of one of two virtual boards lost in the middle of a run."""

from __future__ import annotations

import time

import pytest
from support.aftermath import ends, require_untouched, samples_kept
from support.pair import AGENT, BOUND_S, HIT, OTHER, Pair
from support.runthread import RunThread

from orchestrator.events import BoardConnecting, Event, PushProgress, TrialEnded
from orchestrator.lab import faults

pytestmark = [
    pytest.mark.slow,
    pytest.mark.virtual,
    pytest.mark.timeout(900),  # the first test builds the image and boots both boards
]
NO_TIME = "1970-01-01T00:00:00"


def require_met_again(run: RunThread, times: int = 1) -> None:
    """The run ended well, and had to look for the one board only; each date in it is true."""
    report = run.end(BOUND_S)
    assert (report.state, report.errors) == ("finished", ())
    assert len(run.events(BoardConnecting, HIT)) > times
    assert len(run.events(BoardConnecting, OTHER)) == 1
    dates = run.rows("SELECT min(started_utc) AS first, max(ended_utc) AS last FROM trials")
    assert [row["first"][:4] for row in dates] == [time.strftime("%Y", time.gmtime())]


def test_power_cut_then_reset_while_sampling_into_1970(pair: Pair) -> None:
    """Each costs one attempt, whose samples on the disk are kept; no time in the past is stored."""
    run = pair.begin()
    pair.await_logged()
    pair.cut_power()
    pair.power_on(clock_utc=NO_TIME)
    run.await_event(TrialEnded, HIT, lambda e: e.outcome.state == "finished")
    pair.lab.as_root(HIT, f"date -s @{time.time():.0f}")  # as network time would have
    pair.await_logged()
    faults.reset(pair.lab.lab, HIT)
    require_met_again(run, times=2)
    assert pair.lab.said(HIT, "date +%Y").split() == ["1970"]
    assert ends(run.rows, HIT) == [[("interrupted", 1), ("finished", 2)]] * 2
    assert samples_kept(run.rows, HIT, ["interrupted"]) > 0
    pair.require_aftermath(run)


def test_power_cut_while_pushing(pair: Pair) -> None:
    """A push that a power cut ends is completed after the boot; what runs is the whole file."""
    run = pair.begin(blocks=1, model="large.onnx", seconds=0)
    cut_at = run.await_event(PushProgress, HIT, lambda e: e.moved_bytes > 0)
    assert cut_at.moved_bytes < cut_at.missing_bytes
    pair.cut_power()
    pair.power_on()
    require_met_again(run)
    again = [e for e in run.events(PushProgress, HIT) if e.moved_bytes == 0]
    assert len(again) >= 2
    assert again[-1].missing_bytes > 0
    require_untouched(run.rows, HIT, 1)
    pair.require_aftermath(run, trials=1)


def test_agent_killed_then_power_cut_between_trials(pair: Pair) -> None:
    """What an agent's death cut is repeated; a trial stored before its board knows is stored once.

    The power is lost when the trial is in the database and its journal not acknowledged.
    """
    cuts: list[Event] = []

    def cut_once(event: Event) -> None:
        stored = isinstance(event, TrialEnded) and event.outcome.state == "finished"
        if stored and event.board == HIT and not cuts:
            cuts.append(event)
            pair.cut_power()
            pair.power_on()

    pair.when_sampling(f"pkill -KILL -f -- '{AGENT}'")
    run = pair.begin(meanwhile=cut_once)
    require_met_again(run, times=2)
    assert len(cuts) == 1
    assert ends(run.rows, HIT) == [[("interrupted", 1), ("finished", 2)], [("finished", 1)]]
    assert samples_kept(run.rows, HIT, ["interrupted"]) > 0
    pair.require_aftermath(run)
