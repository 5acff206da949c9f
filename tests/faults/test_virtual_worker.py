"""Worker and disk of one of two virtual boards, in the middle of a run."""

from __future__ import annotations

import pytest
from support.aftermath import ends, finished, require_kept, require_untouched, samples_kept
from support.pair import BOUND_S, HIT, OTHER, Pair
from support.runthread import RunThread

from agent.wire import BenchError
from orchestrator.errors import BoardDiskFull, OutOfMemory

pytestmark = [
    pytest.mark.slow,
    pytest.mark.virtual,
    pytest.mark.timeout(900),  # the first test builds the image and boots both boards
]
OUT_OF_MEMORY = "echo f >/proc/sysrq-trigger"
"""Has the kernel end a process for want of memory: the largest, which a worker is."""
HOME = "/home/pi"
FILL = f"fallocate -l $(( $(df --output=avail -k {HOME} | tail -1) * 1024 )) {HOME}/filler"
"""Takes all the room that an ordinary user has."""
FLIP = (
    "import pathlib; "
    f"files = pathlib.Path('{HOME}/.orchestrator/artifacts').iterdir(); "
    "small = [file for file in files if file.stat().st_size < 65536]; "
    "[file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1])) "
    "for file in small]"
)
"""Flips one bit of every small file in the store: the tiny model is the only one."""


def require_failed(run: RunThread, error: type[BenchError]) -> None:
    """The run ended by itself, with that one error."""
    report = run.end(BOUND_S)
    assert report.state == "partial"
    assert [type(one) for one in report.errors] == [error]


def test_worker_killed_for_want_of_memory_then_a_full_disk(pair: Pair) -> None:
    """Each ends a run with its own error and loses nothing; `resume` goes on both times."""
    pair.when_sampling(OUT_OF_MEMORY)
    run = pair.begin()
    require_failed(run, OutOfMemory)
    assert ends(run.rows, HIT) == [[("failed", 1)]]
    assert samples_kept(run.rows, HIT, ["failed"]) > 0
    require_untouched(run.rows, OTHER, 2)
    pair.require_clean()
    before = finished(run.rows)

    pair.when_sampling(FILL)
    run = pair.resume()
    try:
        require_failed(run, BoardDiskFull)
    finally:
        pair.lab.as_root(HIT, f"rm -f {HOME}/filler")
    assert ends(run.rows, HIT) == [[("failed", 1), ("finished", 2)]]
    require_kept(before, finished(run.rows))
    pair.require_clean()
    before = finished(run.rows)

    run = pair.resume()
    report = run.end(BOUND_S)
    assert (report.state, report.errors) == ("finished", ())
    require_kept(before, finished(run.rows))
    assert ends(run.rows, HIT) == [[("failed", 1), ("finished", 2)], [("finished", 1)]]
    pair.require_aftermath(run)


def test_bit_flips_in_a_stored_artifact(pair: Pair) -> None:
    """A model that decayed on a board is found before it runs, pushed again, and measured."""
    pair.when_sampling(f'python3 -c "{FLIP}"')
    run = pair.begin()
    report = run.end(BOUND_S)
    assert (report.state, report.errors) == ("finished", ())
    assert ends(run.rows, HIT) == [[("finished", 1)], [("failed", 1), ("finished", 2)]]
    failures = run.rows("SELECT failure_kind FROM trials WHERE state = 'failed'")
    assert [row["failure_kind"] for row in failures] == ["digest_mismatch"]
    assert samples_kept(run.rows, HIT, ["failed"]) == 0
    pair.require_aftermath(run)
