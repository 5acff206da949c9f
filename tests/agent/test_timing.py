import itertools
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.timing import StopRule, clock_ns, run_phase

LONG_NS = 10**12


def columns(capacity):
    return memoryview(array("Q", [0] * capacity)), memoryview(array("Q", [0] * capacity))


class FakeClock:
    """Each read costs one nanosecond; `sleep` is what the timed callable does."""

    def __init__(self):
        self.now = 1000

    def __call__(self):
        self.now += 1
        return self.now

    def sleep(self, ns):
        self.now += ns


def timed(durations_ns, rule, capacity=100, first=0, previous=None):
    """Run a phase of calls of the given lengths; the last length repeats."""
    clock = FakeClock()
    lengths = itertools.chain(durations_ns, itertools.repeat(durations_ns[-1]))
    latency, gap = columns(capacity)
    end = run_phase(lambda: clock.sleep(next(lengths)), latency, gap, first, previous, rule, clock)
    return end, latency.tolist(), gap.tolist(), clock


def test_each_call_is_recorded_in_order():
    """Latencies are the callable's own times, in order, with one read of the clock in each."""
    end, latency, _, _ = timed([10, 20, 30], StopRule(3, 0, LONG_NS))
    assert latency[:4] == [11, 21, 31, 0]
    assert (end.next_index, end.short) == (3, False)


def test_gaps_go_from_the_end_of_a_call_to_the_start_of_the_next():
    """The first gap of all is 0, the later ones are what the loop itself took."""
    _, _, gap, _ = timed([10, 20, 30], StopRule(3, 0, LONG_NS))
    assert gap[:3] == [0, 1, 1]


def test_a_later_phase_goes_on_where_the_previous_one_stopped():
    """Its first gap counts from the end of the previous phase, and its first place is free."""
    end, latency, gap, clock = timed([10], StopRule(2, 0, LONG_NS), first=5, previous=600)
    assert latency[4:8] == [0, 11, 11, 0]
    assert gap[5] == 1002 - 600
    assert (end.next_index, end.last_end_ns) == (7, clock.now)


def test_samples_can_be_placed_in_time():
    """Start of the first call plus latencies and gaps gives the end of the last call."""
    end, latency, gap, _ = timed([10, 50, 20], StopRule(5, 0, LONG_NS))
    first_start = 1002  # one read for the phase, one for the call
    assert first_start + sum(latency) + sum(gap) == end.last_end_ns


def test_both_minimums_must_hold():
    """A phase goes on until there are enough samples and enough time has passed."""
    assert timed([10], StopRule(3, 200, LONG_NS))[0].next_index == 17
    assert timed([100], StopRule(3, 200, LONG_NS))[0].next_index == 3


def test_the_cap_wins_and_marks_the_phase_short():
    """At the maximum duration the phase ends, short, although samples are missing."""
    end, latency, _, _ = timed([100], StopRule(50, 0, 350))
    assert (end.next_index, end.short) == (4, True)
    assert latency[3] == 101


def test_a_cap_below_the_minimum_duration_still_caps():
    """A maximum that contradicts the minimum ends the phase, short."""
    end, *_ = timed([100], StopRule(1, 10_000, 250))
    assert (end.next_index, end.short) == (3, True)


def test_full_columns_end_the_phase_short():
    """No place left before both minimums hold: the phase ends, nothing is overwritten."""
    end, latency, _, _ = timed([10], StopRule(1, 10_000, LONG_NS), capacity=6, first=2, previous=0)
    assert (end.next_index, end.short) == (6, True)
    assert latency == [0, 0, 11, 11, 11, 11]


def test_a_phase_without_minimums_makes_no_call():
    """A scenario without warm-up runs none, and that is not short."""
    end, latency, _, _ = timed([10], StopRule(0, 0, LONG_NS), first=1, previous=700)
    assert (end.next_index, end.last_end_ns, end.short) == (1, 700, False)
    assert sum(latency) == 0


def test_no_place_at_all_makes_no_call():
    """Columns that are already full give an empty, short phase."""
    end, *_ = timed([10], StopRule(1, 0, LONG_NS), capacity=3, first=3, previous=1)
    assert (end.next_index, end.short) == (3, True)


def test_a_clock_that_stands_still_records_one_nanosecond():
    """A latency is never 0, because 0 marks a place as not recorded."""
    latency, gap = columns(2)
    run_phase(lambda: None, latency, gap, 0, None, StopRule(2, 0, LONG_NS), lambda: 5)
    assert latency.tolist() == [1, 1]


def test_an_exception_keeps_what_was_recorded():
    """When a call fails, the samples before it are in their places."""
    calls = iter([None, None])
    latency, gap = columns(5)
    with pytest.raises(StopIteration):
        run_phase(lambda: next(calls), latency, gap, 0, None, StopRule(5, 0, LONG_NS))
    assert [value > 0 for value in latency] == [True, True, False, False, False]


def test_the_real_clock_never_goes_back():
    """The clock of samples and readings is monotonic and counts nanoseconds."""
    times = [clock_ns() for _ in range(1000)]
    assert times == sorted(times)
    assert times[-1] - times[0] < 10**9


@given(
    lengths=st.lists(st.integers(0, 50), min_size=1, max_size=20),
    min_samples=st.integers(0, 30),
    min_duration=st.integers(0, 400),
    max_duration=st.integers(0, 600),
    capacity=st.integers(1, 60),
)
def test_a_phase_stops_at_the_first_call_that_allows_it(
    lengths, min_samples, min_duration, max_duration, capacity
):
    """Whatever the rule, the phase ends exactly where a plain reading of the rule says."""
    rule = StopRule(min_samples, min_duration, max_duration)
    end, latency, gap, _ = timed(lengths, rule, capacity)
    began, now = 1001, 1001
    done = 0
    if min_samples or min_duration:
        while done < capacity:
            now += gap[done] + latency[done] + (1 if done == 0 else 0)
            done += 1
            met = done >= min_samples and now - began >= min_duration
            if met or now - began >= max_duration:
                break
    assert end.next_index == done
    assert end.short == (done < min_samples or now - began < min_duration)
