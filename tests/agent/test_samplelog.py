import os
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.samplelog import MAX_RECORD_SAMPLES, Logged, SampleLog, read_log

U64 = st.integers(0, 2**64 - 1)


def words(*values):
    return array("Q", values).tobytes()


def filled(path):
    """A log of three records; returns where each ends."""
    log = SampleLog(path)
    ends = []
    for counts, latency, gap in [
        ((0, 0, 0), (900,), (0,)),
        ((1, 0, 0), (50, 40), (1, 2)),
        ((1, 2, 0), (10, 11, 12), (3, 4, 5)),
    ]:
        log.append(counts, words(*latency), words(*gap))
        ends.append(path.stat().st_size)
    log.close()
    return ends


def test_what_was_appended_is_read_back(tmp_path):
    """Samples come back in order with the counts of the last record."""
    filled(tmp_path / "log")
    assert read_log(tmp_path / "log") == Logged(
        (1, 2, 0), array("Q", [900, 50, 40, 10, 11, 12]), array("Q", [0, 1, 2, 3, 4, 5])
    )


def test_no_log(tmp_path):
    """Where there is none, nothing was kept."""
    assert read_log(tmp_path / "log") == Logged()


def test_every_cut_keeps_the_whole_records(tmp_path):
    """Cut at any byte, or filled with zeros from there, a log has exactly its whole records."""
    path = tmp_path / "log"
    ends = filled(path)
    data = path.read_bytes()
    for size in range(len(data)):
        whole = sum(end <= size for end in ends)
        for tail in (b"", b"\0" * (len(data) - size)):
            path.write_bytes(data[:size] + tail)
            assert len(read_log(path).latency_ns) == (0, 1, 3, 6)[whole]


def test_every_changed_byte_is_noticed(tmp_path):
    """A record with any byte changed ends the log before it: nothing wrong is ever read."""
    path = tmp_path / "log"
    ends = filled(path)
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
        whole = sum(end <= at for end in ends)
        assert len(read_log(path).latency_ns) == (0, 1, 3)[whole]


def test_records_out_of_their_order_are_left_out(tmp_path):
    """A record that does not follow what is there ends the log."""
    path = tmp_path / "log"
    first, second, third = filled(path)
    data = path.read_bytes()
    path.write_bytes(data[:first] + data[second:third] + data[first:second])
    assert read_log(path).latency_ns.tolist() == [900]


def test_many_samples_at_once_are_several_records(tmp_path):
    """More samples than one record holds are split, and come back whole."""
    path = tmp_path / "log"
    count = 2 * MAX_RECORD_SAMPLES + 5
    log = SampleLog(path)
    log.append((1, 0, 0), words(*range(count)), words(*range(count)))
    assert log.samples == count
    log.close()
    found = read_log(path)
    assert found.latency_ns == found.gap_ns == array("Q", range(count))


def test_a_full_disk_adds_nothing(tmp_path, monkeypatch):
    """What could not be written whole is taken back, and can be appended again."""
    path = tmp_path / "log"
    log = SampleLog(path)
    log.append((1, 0, 0), words(9), words(0))
    real = os.pwrite

    def full(fd, data, offset):
        real(fd, bytes(data)[:7], offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        log.append((1, 0, 0), words(8), words(1))
    monkeypatch.undo()
    assert read_log(path).latency_ns.tolist() == [9]
    log.append((1, 0, 0), words(8), words(1))
    log.close()
    assert read_log(path).latency_ns.tolist() == [9, 8]


def test_a_new_log_is_empty(tmp_path):
    """A log that an earlier attempt left does not show through."""
    filled(tmp_path / "log")
    SampleLog(tmp_path / "log").close()
    assert read_log(tmp_path / "log") == Logged()


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_log_or_none(tmp_path_factory, data):
    """Random bytes never raise and never give a sample."""
    path = tmp_path_factory.mktemp("any") / "log"
    path.write_bytes(data)
    assert len(read_log(path).latency_ns) == 0


@settings(deadline=None)  # each round waits for the disk
@given(st.lists(st.lists(st.tuples(U64, U64), min_size=1, max_size=9), max_size=5))
def test_whatever_is_appended_comes_back(tmp_path_factory, rounds):
    """Any numbers in any portions come back in order."""
    path = tmp_path_factory.mktemp("any") / "log"
    log = SampleLog(path)
    for portion in rounds:
        log.append((1, 0, 0), words(*(a for a, _ in portion)), words(*(b for _, b in portion)))
    log.close()
    pairs = [pair for portion in rounds for pair in portion]
    found = read_log(path)
    assert list(zip(found.latency_ns, found.gap_ns, strict=True)) == pairs
