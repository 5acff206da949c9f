from array import array
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.agentkit import short_scenario as scenario

from agent import samplefile
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
        lambda data: b"",
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


def test_close_with_lost_pages(tmp_path):
    """Slots that a power cut emptied are left out of their own phase; the others keep theirs."""
    path = tmp_path / "samples.bin"
    write(path, (1, 3, 4), [900, 50, 0, 41, 10, 0, 0, 13])
    assert samplefile.close(path, scenario()) == (1, 2, 2)
    assert list(decode_samples(path.read_bytes()).latency_ns) == [900, 50, 41, 10, 13]


@given(
    finished=st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(0, 9)),
    latencies=st.lists(st.integers(0, 2**63), max_size=50),
)
def test_close_loses_nothing(tmp_path_factory, finished, latencies):
    """Whatever the slots hold, closing keeps every one that is not zero, in order."""
    path = tmp_path_factory.mktemp("any") / "samples.bin"
    write(path, finished, latencies)
    counts = samplefile.close(path, scenario())
    found = decode_samples(path.read_bytes())
    assert list(found.latency_ns) == [value for value in latencies if value]
    assert found.counts == counts
    assert all(count >= 0 for count in accumulate(counts))
