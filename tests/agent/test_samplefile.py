from array import array
from itertools import accumulate, takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.agentkit import short_scenario as scenario

from agent import samplefile
from agent.samplelog import SampleLog
from agent.wire import SAMPLES_HEADER, WireError, decode_samples, samples_header


def write(path, counts, latencies, capacity=50, gaps=None):
    blank = [0] * (capacity - len(latencies))
    latency = array("Q", [*latencies, *blank])
    gap = array("Q", [*(gaps or [7] * len(latencies)), *blank])
    path.write_bytes(samples_header(capacity, counts) + latency.tobytes() + gap.tobytes())


def test_look_while_sampling(tmp_path):
    """Samples beyond the finished phases belong to the phase under way, before the header says."""
    path = tmp_path / "samples.bin"
    write(path, (1, 2, 0), [900, 50, 40, 10, 11, 12])
    seen = samplefile.look(path, scenario())
    assert seen.counts == (1, 2, 3)
    assert seen.recent_ns == (10, 11, 12)


@pytest.mark.parametrize(
    ("header", "done", "warmup_min", "expected"),
    [
        ((0, 0, 0), 0, 2, (0, 0, 0)),
        ((0, 0, 0), 1, 2, (1, 0, 0)),
        ((1, 0, 0), 3, 2, (1, 2, 0)),
        ((1, 0, 0), 4, 0, (1, 0, 3)),
        ((1, 2, 0), 3, 2, (1, 2, 0)),
        ((1, 2, 5), 8, 2, (1, 2, 5)),
        ((1, 2, 5), 6, 2, (1, 2, 3)),
        ((1, 2, 5), 2, 2, (1, 1, 0)),
        ((1, 2, 5), 0, 2, (0, 0, 0)),
    ],
)
def test_attribute(header, done, warmup_min, expected):
    """Every recorded slot is given to one phase, also where an empty warm-up was asked for."""
    assert samplefile.attribute(header, done, scenario(warmup_min)) == expected


def test_recent_is_limited(tmp_path):
    """A poll looks at the last samples only, however many there are."""
    path = tmp_path / "samples.bin"
    write(path, (1, 1, 0), range(1, 901), capacity=1000)
    seen = samplefile.look(path, scenario())
    assert seen.counts == (1, 1, 898)
    assert seen.recent_ns == tuple(range(837, 901))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:20],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"X" + data[1:],
        lambda data: SAMPLES_HEADER.pack(b"OBSAMPL1", 1 << 60, 1, 2, 0) + data[40:],
        lambda data: SAMPLES_HEADER.pack(b"OBSAMPL1", 50, 1 << 62, 1 << 62, 0) + data[40:],
    ],
)
def test_damaged(tmp_path, damage):
    """A file that is no samples file is never half believed: nothing seen, closing refused."""
    path = tmp_path / "samples.bin"
    write(path, (1, 2, 0), [900, 50, 40, 10])
    path.write_bytes(damage(path.read_bytes()))
    assert samplefile.look(path, scenario()) == samplefile.NOTHING
    with pytest.raises(WireError):
        samplefile.close(path, scenario())


def test_absent(tmp_path):
    """Before the worker has made its file there is nothing, not an error."""
    assert samplefile.look(tmp_path / "samples.bin", scenario()) == samplefile.NOTHING


def test_close_after_a_crash(tmp_path):
    """Closing keeps what was recorded, with its gaps, counts it, and drops the empty places."""
    path = tmp_path / "samples.bin"
    write(path, (1, 2, 0), [900, 50, 40, 10, 11], gaps=[0, 1, 2, 3, 4])
    assert samplefile.close(path, scenario()) == (1, 2, 2)
    found = decode_samples(path.read_bytes())
    assert found.counts == (1, 2, 2)
    assert list(found.latency_ns) == [900, 50, 40, 10, 11]
    assert list(found.gap_ns) == [0, 1, 2, 3, 4]
    assert path.stat().st_size == SAMPLES_HEADER.size + 5 * 16


def test_close_twice(tmp_path):
    """Closing a closed file changes nothing, so a power cut in between does no harm."""
    path = tmp_path / "samples.bin"
    write(path, (1, 2, 5), [900, 50, 40, 10, 11, 12, 13, 14])
    samplefile.close(path, scenario())
    once = path.read_bytes()
    samplefile.close(path, scenario())
    assert path.read_bytes() == once


@pytest.mark.parametrize("left", [b"", b"\0" * 40, b"\0" * 4096])
def test_close_of_zeros(tmp_path, left):
    """A file of which only zeros reached the disk holds nothing, and is not called damaged."""
    path = tmp_path / "samples.bin"
    path.write_bytes(left)
    assert samplefile.close(path, scenario()) == (0, 0, 0)
    assert decode_samples(path.read_bytes()).counts == (0, 0, 0)


@pytest.mark.parametrize(
    ("latencies", "gaps", "kept"),
    [
        ([900, 50, 0, 41, 10, 0, 0, 13], [0, 7, 7, 7, 7, 7, 7, 7], 2),
        ([900, 50, 40, 41, 10, 12, 13, 13], [0, 7, 7, 7, 0, 7, 7, 7], 4),
        ([0, 50, 40], [0, 7, 7], 0),
        ([900, 50, 2**63, 40], [0, 7, 7, 7], 2),
        ([900, 50, 40, 40], [0, 7, 7, 2**64 - 1], 3),
    ],
)
def test_close_with_lost_pages(tmp_path, latencies, gaps, kept):
    """Nothing is kept from the first place on that a power cut emptied or filled with rubbish."""
    path = tmp_path / "samples.bin"
    write(path, (1, 3, 4), latencies, gaps=gaps)
    counts = samplefile.close(path, scenario(), limit_ns=10**12)
    assert sum(counts) == kept
    assert counts[0] <= 1
    found = decode_samples(path.read_bytes())
    assert list(found.latency_ns) == latencies[:kept]
    assert list(found.gap_ns) == gaps[:kept]


def logged(path, counts, latencies, gaps):
    log = SampleLog(path.with_name(samplefile.LOG_NAME))
    log.append(counts, array("Q", latencies).tobytes(), array("Q", gaps).tobytes())
    log.close()


def test_the_log_fills_what_the_power_cut_emptied(tmp_path):
    """Samples that were forced to the disk are kept, and those after them that arrived as well."""
    path = tmp_path / "samples.bin"
    write(path, (0, 0, 0), [0, 0, 0, 10, 11, 0, 13], gaps=[0, 0, 0, 4, 5, 0, 7])
    logged(path, (1, 2, 0), [900, 50, 40, 10], [99, 1, 2, 4])
    assert samplefile.close(path, scenario()) == (1, 2, 2)
    found = decode_samples(path.read_bytes())
    assert list(found.latency_ns) == [900, 50, 40, 10, 11]
    assert list(found.gap_ns) == [0, 1, 2, 4, 5]
    assert not path.with_name(samplefile.LOG_NAME).exists()
    assert samplefile.close(path, scenario()) == (1, 2, 2)


@pytest.mark.parametrize("left", [None, b"", b"\0" * 840, b"OBSAMPL1", b"rubbish"])
def test_the_log_alone_is_enough(tmp_path, left):
    """Whatever became of the samples file, what the log has is kept."""
    path = tmp_path / "samples.bin"
    if left is not None:
        path.write_bytes(left)
    logged(path, (1, 1, 0), [900, 50, 10], [0, 1, 2])
    assert samplefile.close(path, scenario()) == (1, 1, 1)
    assert list(decode_samples(path.read_bytes()).latency_ns) == [900, 50, 10]


@pytest.mark.parametrize("size", [0, 39, 40, 41, 2000, 4095, 4096, 4097, 8191, 8192, 12000, 20000])
@pytest.mark.parametrize("zeros", [True, False])
def test_every_torn_end(tmp_path, size, zeros):
    """Cut or emptied from any byte on, the file gives the log's samples at least, all true ones."""
    path = tmp_path / "samples.bin"
    latencies, gaps = list(range(1000, 2100)), [0, *range(5000, 6099)]
    write(path, (1, 2, 0), latencies, capacity=1200, gaps=gaps)
    data = path.read_bytes()
    path.write_bytes(data[:size] + (b"\0" * (len(data) - size) if zeros else b""))
    logged(path, (1, 2, 0), latencies[:600], gaps[:600])
    counts = samplefile.close(path, scenario())
    found = decode_samples(path.read_bytes())
    assert sum(counts) >= 600
    assert list(found.latency_ns) == latencies[: sum(counts)]
    assert list(found.gap_ns) == gaps[: sum(counts)]
    assert counts == (1, 2, sum(counts) - 3)


def test_since(tmp_path):
    """Beside the worker one reads what is new and whole, and nothing where nothing is."""
    path = tmp_path / "samples.bin"
    assert samplefile.since(path, 0) is None
    write(path, (0, 0, 0), [])
    assert samplefile.since(path, 0) is None
    write(path, (1, 2, 0), [900, 50, 40, 10, 11], gaps=[0, 1, 2, 3, 0])
    counts, latency, gap = samplefile.since(path, 0)
    assert counts == (1, 2, 0)
    assert array("Q", latency).tolist() == [900, 50, 40, 10]  # the last one's gap is not seen yet
    assert array("Q", gap).tolist() == [0, 1, 2, 3]
    write(path, (1, 2, 0), [900, 50, 40, 10, 11], gaps=[0, 1, 2, 3, 4])
    assert array("Q", samplefile.since(path, 3)[1]).tolist() == [10, 11]
    assert samplefile.since(path, 5) is None


@settings(deadline=None)  # each example waits for the disk
@given(
    finished=st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(0, 9)),
    latencies=st.lists(st.integers(0, 2**63), max_size=50),
)
def test_close_loses_nothing(tmp_path_factory, finished, latencies):
    """Whatever the slots hold, closing keeps every one up to the first empty place, in order."""
    path = tmp_path_factory.mktemp("any") / "samples.bin"
    write(path, finished, latencies)
    counts = samplefile.close(path, scenario())
    found = decode_samples(path.read_bytes())
    assert list(found.latency_ns) == list(takewhile(bool, latencies))
    assert found.counts == counts
    assert all(count >= 0 for count in accumulate(counts))
