"""A power cut on one of two virtual boards, in the middle of a run.

Each board's part is small, but long enough to be hit. The board that is not hit must finish all
of its trials at the first attempt; the other's are complete once the run, or its resumption, is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psutil
import pytest
from support.aftermath import (
    experiment,
    require_complete,
    require_untouched,
)
from support.onnxmodels import tiny_model
from support.runthread import RunThread
from support.virtual import RealLab

from orchestrator.events import (
    BoardConnecting,
    TrialProgress,
)
from orchestrator.execute import Patience
from orchestrator.lab import faults

HIT, OTHER = "pi5-virtual", "pi3b-virtual"
TRIAL_S = 4
TOLERANT = Patience(reconnect_delays_s=(1.0, 2.0, 5.0, 10.0, 20.0, 20.0, 20.0))
"""A virtual board boots within seconds, or within a minute where others compute."""
BOUND_S = 420.0
"""For a run of about a minute with a boot in it; 230 s where four other emulators compute."""
FIRST_CONTACT_S = 480.0
"""The agent is deployed, and its packages are imported for the first time."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.virtual,
    pytest.mark.timeout(900),  # the first test builds the image and boots both boards
]


@pytest.fixture(scope="module")
def lab(virtual_lab: RealLab) -> RealLab:
    """Both boards, up, with an agent that has run before."""
    virtual_lab.up(HIT, OTHER)
    tiny_model(virtual_lab.place.root / "tiny.onnx")
    first = begin(virtual_lab, TOLERANT, blocks=1, seconds=0)
    assert first.end(FIRST_CONTACT_S).errors == ()
    return virtual_lab


@pytest.fixture(autouse=True)
def _no_thread_or_child_is_left(lab: RealLab) -> Iterator[None]:
    """No ssh of a run outlives it, nor does a thread."""
    before = set(threading.enumerate())
    yield
    children = [child.cmdline()[:1] for child in psutil.Process().children(recursive=True)]
    assert ["ssh"] not in children
    assert {one for one in threading.enumerate() if one not in before and not one.daemon} == set()


def begin(
    lab: RealLab,
    patience: Patience,
    *,
    blocks: int = 2,
    model: str = "tiny.onnx",
    seconds: float = TRIAL_S,
) -> RunThread:
    name = "faults.yaml"
    text = experiment(blocks=blocks, seconds=seconds, models=[model])
    (lab.place.root / name).write_text(text)
    return RunThread(lab.place, f"{HIT},{OTHER}", name, patience)


def await_samples(run: RunThread) -> None:
    """Until the board that will be hit is in the middle of a trial."""
    run.await_event(TrialProgress, HIT, lambda e: e.poll.phase == "sample" and e.poll.samples_done)


def switch_off_and_on(lab: RealLab, clock_utc: str | None = None) -> None:
    faults.cut_power(lab.lab, HIT)
    faults.power_on(lab.lab, HIT, clock_utc)


def require_aftermath(lab: RealLab, run: RunThread, trials: int = 2) -> None:
    """All is stored once, the other board did not notice, and the boards have nothing left."""
    require_complete(run.rows, {HIT: trials, OTHER: trials})
    require_untouched(run.rows, OTHER, trials)
    look = "ls -A ~/.orchestrator/trials; pgrep -f -- '[-]-trial-dir'; true"
    for name in (HIT, OTHER):
        assert lab.said(name, look).split() == []


def test_power_cut_while_sampling(lab: RealLab) -> None:
    """A board that loses power mid-trial, and its clock with it, repeats that trial and goes on."""
    run = begin(lab, TOLERANT)
    await_samples(run)
    switch_off_and_on(lab, clock_utc="1970-01-01T00:00:00")
    report = run.end(BOUND_S)
    assert (report.state, report.errors) == ("finished", ())
    assert len(run.events(BoardConnecting, HIT)) > 1
    assert len(run.events(BoardConnecting, OTHER)) == 1
    years = {
        row["year"] for row in run.rows("SELECT substr(started_utc, 1, 4) AS year FROM trials")
    }
    assert "1970" not in years
    require_aftermath(lab, run)
