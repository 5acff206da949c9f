"""Faults of agent, worker, line, disk and host on two boards of this machine, mid-trial.

Each ends with the same questions: is every finished trial stored once, is what was cut
explained and repeated, did the other board go on, is nothing left behind, was it soon enough.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.aftermath import (
    ends,
    experiment,
    finished,
    require_complete,
    require_kept,
    require_untouched,
    samples_kept,
)
from support.cli import Desk, desk
from support.onnxmodels import tiny_model

pytestmark = pytest.mark.slow

HIT, OTHER = "here", "there"
BLOCKS = 2
TRIAL_S = 4
BOUND_S = 60
"""For a run of about 12 s with one fault in it; the resumption of a run has as long again."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Desk]:
    with desk(tmp_path, HIT, OTHER) as made:
        tiny_model(tmp_path / "tiny.onnx")
        (tmp_path / "faults.yaml").write_text(experiment(blocks=BLOCKS, seconds=TRIAL_S))
        yield made


def begin(place: Desk) -> subprocess.Popen[str]:
    return place.start("run", "faults.yaml", "--boards", f"{HIT},{OTHER}", "--plain")


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and stderr, within the bound."""
    _, err = process.communicate(timeout=BOUND_S)
    assert "Traceback" not in err
    return process.returncode, err


def resume(place: Desk) -> None:
    done = place.run("resume", "--plain", timeout_s=BOUND_S)
    assert done.returncode == 0, done.stderr


def agent(place: Desk, board: str = HIT) -> psutil.Process:
    return place.await_process("serve", str(place.root / f"home-{board}"))


def measuring_worker(place: Desk, board: str = HIT) -> psutil.Process:
    """The board's worker, once it has taken samples for a while."""
    trials = place.root / f"home-{board}" / "trials"
    deadline = time.monotonic() + 30
    while not list(trials.glob("*/samples.bin")):
        assert time.monotonic() < deadline, "no trial began"
        time.sleep(0.02)
    time.sleep(TRIAL_S / 3)
    (worker,) = agent(place, board).children()
    return worker


def require_clean(place: Desk) -> None:
    """Journals are acknowledged; no worker and no line is left, whatever agents still idle."""
    for board in (HIT, OTHER):
        assert list((place.root / f"home-{board}" / "trials").iterdir()) == []
    assert place.processes("worker") == []
    assert place.processes("dial") == []
    agents = place.processes("serve")
    assert [one for daemon in agents for one in daemon.children()] == []
    assert len(agents) <= 2


def require_aftermath(place: Desk) -> None:
    require_complete(place.rows, {HIT: BLOCKS, OTHER: BLOCKS})
    require_clean(place)


def test_agent_is_killed(place: Desk) -> None:
    """The trial that an agent's death cut is repeated; its samples stay, flagged."""
    process = begin(place)
    worker = measuring_worker(place)
    agent(place).kill()
    code, err = end(process)
    assert code == 0, err
    assert sorted(map(len, ends(place.rows, HIT))) == [1, 2]
    assert samples_kept(place.rows, HIT, ["interrupted"]) > 0
    assert not worker.is_running()
    require_untouched(place.rows, OTHER, BLOCKS)
    require_aftermath(place)


def test_worker_is_killed(place: Desk) -> None:
    """A worker killed as by the kernel fails its board's variant alone; a resumption repeats it."""
    process = begin(place)
    measuring_worker(place).kill()
    code, err = end(process)
    assert code == 52, err
    assert samples_kept(place.rows, HIT, ["failed"]) > 0
    require_untouched(place.rows, OTHER, BLOCKS)
    require_clean(place)
    before = finished(place.rows)
    resume(place)
    require_kept(before, finished(place.rows))
    assert sorted(map(len, ends(place.rows, HIT))) == [1, 2]
    require_untouched(place.rows, OTHER, BLOCKS)
    require_aftermath(place)


def test_line_is_cut(place: Desk) -> None:
    """A line that ends in the middle of a trial costs nothing: the same attempt goes on."""
    process = begin(place)
    worker = measuring_worker(place)
    place.await_process("dial", str(place.root / f"home-{HIT}")).kill()
    time.sleep(0.5)
    assert worker.is_running()
    code, err = end(process)
    assert code == 0, err
    require_untouched(place.rows, HIT, BLOCKS)
    require_untouched(place.rows, OTHER, BLOCKS)
    require_aftermath(place)


def test_bit_flips_in_a_stored_artifact(place: Desk) -> None:
    """A model that decayed on the board's disk is never run: it is pushed again first."""
    process = begin(place)
    measuring_worker(place)
    (stored,) = (
        path for path in (place.root / f"home-{HIT}" / "artifacts").rglob("*")
        if path.is_file() and len(path.name) == 64
    )  # fmt: skip
    good = stored.read_bytes()
    stored.chmod(0o600)
    stored.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    code, err = end(process)
    assert code == 0, err
    assert ends(place.rows, HIT) == [[("finished", 1)], [("failed", 1), ("finished", 2)]]
    assert samples_kept(place.rows, HIT, ["failed"]) == 0
    assert stored.read_bytes() == good
    require_untouched(place.rows, OTHER, BLOCKS)
    require_aftermath(place)


def test_host_is_killed(place: Desk) -> None:
    """After SIGKILL of the host, `resume` fetches what the boards hold and measures the rest."""
    process = begin(place)
    place.await_rows("SELECT 1 FROM trials WHERE state = 'finished'")
    measuring_worker(place)
    process.kill()
    process.communicate()
    before = finished(place.rows)
    resume(place)
    require_kept(before, finished(place.rows))
    for board in (HIT, OTHER):
        require_untouched(place.rows, board, BLOCKS)
    require_aftermath(place)


def test_interrupt(place: Desk) -> None:
    """Ctrl-C stores every trial with its reason, frees both boards, and can be resumed."""
    process = begin(place)
    measuring_worker(place, OTHER)
    measuring_worker(place, HIT)
    began_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    code, err = end(process)
    assert code == 130, err
    assert time.monotonic() - began_s < 15
    for board in (HIT, OTHER):
        assert ends(place.rows, board) == [[("cancelled", 1)]]
        assert samples_kept(place.rows, board, ["cancelled"]) > 0
    require_clean(place)
    resume(place)
    for board in (HIT, OTHER):
        assert ends(place.rows, board) == [[("cancelled", 1), ("finished", 2)], [("finished", 1)]]
    require_aftermath(place)
