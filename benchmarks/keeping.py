"""What forcing samples to the disk once a second does to the timing: with it against without it.

Run it as `python benchmarks/keeping.py [ROUNDS] [DIRECTORY]`, on a disk that is to be judged (an SD
card, say). Each round times the same work for a few seconds in a process of its own, which writes
samples.bin as a worker does, twice: with agent.keeper's thread in the parent, and without. The
order alternates. Ratios of latencies are what counts; gaps (the time between two calls) show
whether the process waited. The goal: medians within 1 %.
"""

from __future__ import annotations

import hashlib
import statistics
import subprocess
import sys
import tempfile
from array import array
from dataclasses import dataclass
from pathlib import Path

from agent.journal import GROWING_FILES
from agent.keeper import KEEP_PERIOD_S, Keeper
from agent.samplefile import LOG_NAME
from agent.samplelog import read_log
from agent.wire import decode_samples

SECONDS = 4
GOAL = 0.01
WORK_BYTES = 1 << 20  # hashing this takes about a millisecond

CHILD = """
import hashlib, sys
from pathlib import Path
from agent.samplewriter import SampleWriter, capacity_for
from agent.timing import StopRule, run_phase
from agent.wire import Scenario
seconds, size = int(sys.argv[2]), int(sys.argv[3])
scenario = Scenario(0, 0, 1, seconds * 10**9, seconds * 10**9, "sustained")
file = SampleWriter(Path(sys.argv[1]) / "samples.bin", capacity_for(scenario))
data = bytes(size)
rule = StopRule(1, seconds * 10**9, seconds * 10**9)
end = run_phase(lambda: hashlib.sha256(data), file.latency_ns, file.gap_ns, 0, None, rule)
file.set_counts(0, 0, end.next_index)
"""


@dataclass(frozen=True)
class Timed:
    """Figures of one part of a round, in microseconds."""

    p50_us: float
    p99_us: float
    gap_p50_us: float
    gap_max_us: float


def timed(folder: Path, *, kept: bool) -> Timed:
    """Time the work once."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        trial = Path(name)
        keeper = Keeper(trial, GROWING_FILES, KEEP_PERIOD_S)
        if kept:
            keeper.start()
        arguments = (str(trial), str(SECONDS), str(WORK_BYTES))
        subprocess.run([sys.executable, "-c", CHILD, *arguments], check=True)
        keeper.stop()
        samples = decode_samples((trial / "samples.bin").read_bytes())
        copied = len(read_log(trial / LOG_NAME).latency_ns)
        if kept and copied < len(samples.latency_ns) / 4:
            raise RuntimeError(f"only {copied} of {len(samples.latency_ns)} samples were kept")
    return Timed(
        statistics.median(samples.latency_ns) / 1e3,
        percentile(samples.latency_ns, 99) / 1e3,
        statistics.median(samples.gap_ns[1:]) / 1e3,
        max(samples.gap_ns) / 1e3,
    )


def percentile(values: array[int], percent: int) -> int:
    """Nearest-rank."""
    return sorted(values)[-(-len(values) * percent // 100) - 1]


def ratios(pairs: list[tuple[Timed, Timed]], name: str) -> str:
    """Median and quartiles of with / without."""
    found = [getattr(with_, name) / getattr(without, name) for with_, without in pairs]
    low, middle, high = statistics.quantiles(found, n=4)
    return f"{middle:.4f} (quartiles {low:.4f} to {high:.4f})"


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else ".")
    hashlib.sha256(bytes(WORK_BYTES))
    pairs = []
    for number in range(rounds):
        first = number % 2 == 0
        one, other = timed(folder, kept=first), timed(folder, kept=not first)
        pairs.append((one, other) if first else (other, one))
    for name in ("p50_us", "p99_us", "gap_p50_us", "gap_max_us"):
        print(f"{name}: with / without {ratios(pairs, name)}")
    without = [pair[1] for pair in pairs]
    print(
        f"without: p50 {statistics.median(t.p50_us for t in without):.0f} us, longest gap "
        f"{max(t.gap_max_us for t in without):.0f} us; with: longest gap "
        f"{max(pair[0].gap_max_us for pair in pairs):.0f} us"
    )
    middle = statistics.median(with_.p50_us / bare.p50_us for with_, bare in pairs)
    return 0 if abs(middle - 1) <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
