from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from results import example
from results.check import check
from results.records import Recorded
from results.sql import read_only_query
from results.store import Store

ROOT = Path(__file__).parents[2]

HUGE_TRIAL = """
import sys
from pathlib import Path
from results import example
from results.store import Store
store = Store.open(Path(sys.argv[1]), create=False)
samples = example.timed([], [], range(1, 1_000_000))
print("ready", flush=True)
store.record_trial(example.trial("pi5", "int8_ptq", 0, 1, samples=samples))
print("stored", flush=True)
"""

MANY_TRIALS = """
import sys
from pathlib import Path
from results import example
from results.store import Store
store = Store.open(Path(sys.argv[1]), create=False)
for order in range(1, 21):
    samples = example.spread(50_000_000, 1_000 + order)
    store.record_trial(example.trial("pi5", "fp32", order, order, samples=samples))
print("done", flush=True)
"""


def python(code: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_a_writer_killed_midway_leaves_nothing_half_done(store: Store, path: Path) -> None:
    """After SIGKILL in the middle of a transaction, earlier trials are whole and this one gone."""
    store.record_trial(example.trial("pi5", "fp32", 0, 0))
    store.close()
    log = path.with_name(path.name + "-wal")
    with python(HUGE_TRIAL, path) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 60
        while size(log) < 4_000_000:  # some of the rows have reached the disk
            assert time.monotonic() < deadline
            assert writer.poll() is None
            time.sleep(0.005)
        writer.send_signal(signal.SIGKILL)
        assert writer.stdout.read() == ""
    assert size(log) >= 4_000_000
    with Store.open(path, create=False) as again:
        assert again.finished_trials(example.RUN_ID) == {("pi5", "pi5-000")}
        for table, rows in (("trials", 1), ("summaries", 1), ("readings", 3), ("samples", 203)):
            assert again.rows(f"SELECT COUNT(*) AS n FROM {table}") == [{"n": rows}]  # noqa: S608
        assert check(again) == []
        assert again.record_trial(example.trial("pi5", "int8_ptq", 0, 1)) is Recorded.STORED


def test_readers_see_whole_trials_while_another_process_writes(store: Store, path: Path) -> None:
    """A reader beside a busy writer never waits and never sees a part of a trial."""
    store.close()
    seen = set()
    with python(MANY_TRIALS, path) as writer:
        while writer.poll() is None:
            result = read_only_query(
                path,
                """SELECT v.n, (SELECT COUNT(*) FROM samples s
                                WHERE s.trial_no = v.trial_no AND s.phase = 2),
                          (SELECT COUNT(*) FROM readings r WHERE r.trial_no = v.trial_no)
                   FROM v_trials v""",
            )
            seen.add(len(result.rows))
            assert all(n == samples and readings == 3 for n, samples, readings in result.rows)
        assert writer.stdout is not None
        assert writer.stdout.read() == "done\n"
    assert len(read_only_query(path, "SELECT * FROM v_trials").rows) == 20
    assert len(seen) > 1, "the reader never ran beside the writer"


def test_an_open_reader_keeps_its_view(store: Store, path: Path) -> None:
    """A store that is open elsewhere sees a new trial as soon as it is committed."""
    with Store.open(path, create=False, read_only=True) as reader:
        assert reader.finished_trials(example.RUN_ID) == set()
        store.record_trial(example.trial("pi5", "fp32", 0, 0))
        assert reader.finished_trials(example.RUN_ID) == {("pi5", "pi5-000")}


def test_an_error_midway_stores_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception after the first rows, Ctrl-C for one, undoes the whole trial."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("results.writing.sample_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.record_trial(example.trial("pi5", "fp32", 0, 0))
    assert store.rows("SELECT COUNT(*) AS n FROM trials") == [{"n": 0}]
    assert store.record_trial(example.trial("pi5", "fp32", 0, 0)) is Recorded.STORED
