import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.samplewriter import MAX_SAMPLES, SampleWriter, capacity_for
from agent.wire import SAMPLES_HEADER, Scenario, WireError, decode_samples, samples_header

U64 = st.integers(0, 2**64 - 1)


def file_of(latency, gap, counts, capacity=None):
    """The bytes of a samples file."""
    places = len(latency) if capacity is None else capacity
    pad = [0] * (places - len(latency))
    words = [*latency, *pad, *gap, *pad]
    return samples_header(places, counts) + struct.pack(f"<{len(words)}Q", *words)


def scenario(**changes):
    fields = {
        "warmup_min_samples": 0,
        "warmup_min_duration_ns": 0,
        "min_samples": 0,
        "min_duration_ns": 0,
        "max_duration_ns": 0,
    }
    return Scenario(**(fields | changes))


def test_the_layout_is_exactly_this():
    """Little-endian: magic, capacity, three counts, then the latencies, then the gaps."""
    data = file_of([7, 8], [0, 3], (1, 0, 1), capacity=3)
    assert data == (
        b"OBSAMPL1"
        + struct.pack("<4Q", 3, 1, 0, 1)
        + struct.pack("<3Q", 7, 8, 0)
        + struct.pack("<3Q", 0, 3, 0)
    )


@given(rows=st.lists(st.tuples(U64, U64)), spare=st.integers(0, 5), data=st.data())
def test_what_was_written_is_read_back(rows, spare, data):
    """Latencies, gaps and phases come back in order, without the unused places."""
    cold = data.draw(st.integers(0, len(rows)))
    warmup = data.draw(st.integers(0, len(rows) - cold))
    counts = (cold, warmup, len(rows) - cold - warmup)
    latency, gap = [row[0] for row in rows], [row[1] for row in rows]
    samples = decode_samples(file_of(latency, gap, counts, len(rows) + spare))
    assert samples.latency_ns.tolist() == latency
    assert samples.gap_ns.tolist() == gap
    assert samples.phases() == ["cold"] * cold + ["warmup"] * warmup + ["sample"] * counts[2]


def test_every_truncation_is_refused():
    """A samples file cut at any byte raises WireError, as does one byte too many."""
    data = file_of([7, 8, 9], [0, 3, 4], (1, 1, 1))
    for size in range(len(data)):
        with pytest.raises(WireError, match="samples"):
            decode_samples(data[:size])
    with pytest.raises(WireError, match="samples"):
        decode_samples(data + b"\0")


@pytest.mark.parametrize(
    "header",
    [
        b"OBSAMPL2" + struct.pack("<4Q", 2, 1, 0, 1),
        b"OBSAMPL1" + struct.pack("<4Q", 3, 1, 0, 1),
        b"OBSAMPL1" + struct.pack("<4Q", 2, 1, 1, 1),
        b"OBSAMPL1" + struct.pack("<4Q", 2, 2**64 - 1, 2**64 - 1, 2**64 - 1),
        b"OBSAMPL1" + struct.pack("<4Q", 2**64 - 1, 0, 0, 0),
        b"OBSAMPL1" + struct.pack("<4Q", 2**60 + 2, 1, 0, 1),
    ],
)
def test_headers_that_contradict_the_file_are_refused(header):
    """Another magic, capacity or count than the file can hold raises WireError."""
    with pytest.raises(WireError, match="samples"):
        decode_samples(header + struct.pack("<4Q", 7, 8, 0, 3))


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_wire_error(data):
    """Random bytes never raise anything but WireError."""
    with pytest.raises(WireError):
        decode_samples(data)


@given(position=st.integers(0, SAMPLES_HEADER.size - 1), value=st.integers(0, 255))
def test_a_changed_header_byte_never_invents_samples(position, value):
    """With any byte of the header changed there are never more samples than were written."""
    data = bytearray(file_of([7, 8, 9], [0, 3, 4], (1, 1, 1)))
    data[position] = value
    try:
        samples = decode_samples(bytes(data))
    except WireError:
        return
    assert len(samples.latency_ns) <= 3
    assert samples.latency_ns.tolist() == [7, 8, 9][: len(samples.latency_ns)]


def test_the_writer_writes_the_layout(tmp_path):
    """A file filled through the writer's memory map reads back, spare places left out."""
    writer = SampleWriter(tmp_path / "samples.bin", 5)
    writer.latency_ns[0], writer.latency_ns[1] = 11, 12
    writer.gap_ns[1] = 2
    writer.set_counts(1, 1, 0)
    data = (tmp_path / "samples.bin").read_bytes()
    assert len(data) == SAMPLES_HEADER.size + 5 * 16
    samples = decode_samples(data)
    assert (samples.counts, samples.latency_ns.tolist()) == ((1, 1, 0), [11, 12])
    assert samples.gap_ns.tolist() == [0, 2]


def test_the_writer_takes_its_room_at_once(tmp_path):
    """The blocks of the file are allocated before the first sample."""
    SampleWriter(tmp_path / "samples.bin", 100_000)
    assert (tmp_path / "samples.bin").stat().st_blocks * 512 >= 1_600_000


def test_a_new_file_replaces_an_old_one(tmp_path):
    """What an earlier attempt left in the file does not show through."""
    (tmp_path / "samples.bin").write_bytes(b"\xff" * 1000)
    SampleWriter(tmp_path / "samples.bin", 2)
    samples = decode_samples((tmp_path / "samples.bin").read_bytes())
    assert samples.counts == (0, 0, 0)


def test_capacity_covers_both_minimums():
    """There is room for the cold call, the warm-up and the samples, by count and by time."""
    by_count = scenario(warmup_min_samples=10, min_samples=100)
    by_time = scenario(warmup_min_duration_ns=10**9, min_duration_ns=5 * 10**9)
    fastest_call_ns = 5_000
    assert capacity_for(by_count) >= 111
    assert 1 + 6 * 10**9 // fastest_call_ns <= capacity_for(by_time) < MAX_SAMPLES


def test_capacity_is_bounded():
    """However long the scenario and however short the call, the file has a largest size."""
    long = scenario(min_samples=5, min_duration_ns=10**15, warmup_min_duration_ns=10**15)
    assert 7 <= capacity_for(long) <= MAX_SAMPLES
