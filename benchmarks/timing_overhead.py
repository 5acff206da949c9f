"""Cost of the timed loop itself: the loop with an empty callable against a bare loop.

Run it as `python benchmarks/timing_overhead.py [ROUNDS]`. The two alternate; the figure is the
difference of their shortest times a call, because other work on the machine can only add to
them. The goal is 0.5 us (MLPerf LoadGen's Python binding takes 4.7 us a query on the machine
where the goal was set). The medians tell how quiet the machine was.
"""

from __future__ import annotations

import mmap
import statistics
import sys
import time

from agent.timing import StopRule, run_phase

CALLS = 2_000  # about a millisecond, so that some rounds are not interrupted
GOAL_US = 0.5


def nothing() -> None:
    """The empty callable."""


def bare_us() -> float:
    """Microseconds a call of a plain loop around the callable."""
    start = time.perf_counter()
    for _ in range(CALLS):
        nothing()
    return (time.perf_counter() - start) / CALLS * 1e6


def timed_us(latency_ns: memoryview, gap_ns: memoryview) -> float:
    """Microseconds a call of the timed loop, recording included."""
    rule = StopRule(min_samples=CALLS, min_duration_ns=0, max_duration_ns=60_000_000_000)
    start = time.perf_counter()
    run_phase(nothing, latency_ns, gap_ns, 0, None, rule)
    return (time.perf_counter() - start) / CALLS * 1e6


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    columns = memoryview(mmap.mmap(-1, 16 * CALLS)).cast("Q")
    latency_ns, gap_ns = columns[:CALLS], columns[CALLS:]
    timed_us(latency_ns, gap_ns)  # touches every page
    pairs = [(timed_us(latency_ns, gap_ns), bare_us()) for _ in range(rounds)]
    timed, bare = zip(*pairs, strict=True)
    overhead = min(timed) - min(bare)
    busy = statistics.median(timed) - statistics.median(bare)
    print(f"timed loop {min(timed):.3f} us a call, bare loop {min(bare):.3f} us, best of {rounds}")
    print(f"overhead {overhead:.3f} us a sample (goal: at most {GOAL_US}); of medians {busy:.3f}")
    print(f"median latency recorded for the empty callable: {statistics.median(latency_ns):g} ns")
    return 0 if overhead <= GOAL_US else 1


if __name__ == "__main__":
    sys.exit(main())
