import os
import time
from pathlib import Path

import pytest
from support.agentkit import short_scenario, wait_until

from agent import keeper as keeper_module
from agent import samplefile
from agent.keeper import Keeper
from agent.samplelog import read_log
from agent.samplewriter import SampleWriter
from agent.wire import decode_samples

LINES = ("events.jsonl", "readings.jsonl")


class Watched:
    """A trial's directory with its keeper, and the names of the files that were forced out."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.synced = []
        self.broken = False
        real = os.fdatasync

        def fdatasync(fd):
            if self.broken:
                raise OSError(5, "Input/output error")
            self.synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
            real(fd)

        monkeypatch.setattr(os, "fdatasync", fdatasync)
        monkeypatch.setattr(
            keeper_module, "sync_directory", lambda path: self.synced.append(path.name)
        )
        self.keeper = Keeper(folder, LINES, 0.01)
        self.writer = None

    def record(self, *latencies):
        if self.writer is None:
            self.writer = SampleWriter(self.folder / "samples.bin", 100)
            self.at = 0
        for latency in latencies:
            self.writer.gap_ns[self.at] = 3
            self.writer.latency_ns[self.at] = latency
            self.at += 1

    def log(self):
        return read_log(self.folder / samplefile.LOG_NAME)


@pytest.fixture
def watched(tmp_path, monkeypatch):
    made = Watched(tmp_path, monkeypatch)
    yield made
    made.keeper.stop()


def test_only_what_grew_is_forced_out(watched):
    """Each round forces out the files that have grown since, and none that have not."""
    watched.keeper.keep()
    assert watched.synced == [watched.folder.name]
    (watched.folder / "events.jsonl").write_bytes(b"one\n")
    (watched.folder / "readings.jsonl").write_bytes(b"one\n")
    watched.synced.clear()
    watched.keeper.keep()
    assert watched.synced == ["events.jsonl", "readings.jsonl", watched.folder.name]
    watched.synced.clear()
    with (watched.folder / "readings.jsonl").open("ab") as stream:
        stream.write(b"two\n")
    watched.keeper.keep()
    assert watched.synced == ["readings.jsonl", watched.folder.name]


def test_samples_are_copied_as_they_come(watched):
    """Each round adds the samples since the last one; the names are forced out once."""
    watched.record(900, 50)
    watched.keeper.keep()
    assert watched.synced == [samplefile.LOG_NAME, watched.folder.name]
    assert watched.log().latency_ns.tolist() == [900, 50]
    watched.synced.clear()
    watched.writer.set_counts(1, 1, 0)
    watched.record(10)
    watched.keeper.keep()
    assert watched.synced == [samplefile.LOG_NAME]
    assert watched.log().latency_ns.tolist() == [900, 50, 10]
    assert watched.log().counts == (1, 1, 0)
    watched.synced.clear()
    watched.keeper.keep()
    assert watched.synced == []


def test_a_disk_that_fails_for_a_while(watched):
    """What could not be forced out is tried again; the trial does not notice."""
    watched.record(900)
    (watched.folder / "events.jsonl").write_bytes(b"one\n")
    watched.broken = True
    watched.keeper.start()
    time.sleep(0.05)
    assert watched.log().latency_ns.tolist() == []
    watched.record(50)
    watched.broken = False
    wait_until(lambda: watched.log().latency_ns.tolist() == [900, 50])
    assert "events.jsonl" in watched.synced


def test_a_power_cut_at_any_moment(watched):
    """With the samples file emptied after any round, what was kept until then is recovered."""
    kept = []
    for latency in range(100, 140):
        watched.record(latency)
        kept.append(latency)
        watched.keeper.keep()
        after = watched.folder / f"after-{latency}"
        after.mkdir()
        (after / "samples.bin").write_bytes(bytes((watched.folder / "samples.bin").stat().st_size))
        log = (watched.folder / samplefile.LOG_NAME).read_bytes()
        (after / samplefile.LOG_NAME).write_bytes(log + b"torn")
        samplefile.close(after / "samples.bin", short_scenario())
        found = decode_samples((after / "samples.bin").read_bytes())
        assert found.latency_ns.tolist() == kept


def test_stopping_before_anything_happened(watched):
    """A keeper that never had anything to keep ends like any other."""
    watched.keeper.start()
    watched.keeper.stop()
    assert not (watched.folder / samplefile.LOG_NAME).exists()
