"""Storing 1,000,000 samples: through Store, against a bare executemany into the same table.

    python benchmarks/store_samples.py [--samples N] [--rounds N] [--dir DIR]

Both sides write a fresh file of the same schema with the same settings (WAL, synchronous
FULL, foreign keys on), in turn, and are timed from the first statement to the end of the last
commit. Store stores whole trials (samples, a reading a second, summary, digests), a
transaction each; the bare side is sqlite3's executemany of the same sample rows, ready in
memory, committed where Store commits. Two shapes of a run are shown: one huge trial, and
trials of 1,024 samples, where much of the time is the commits' fsync; so there a bare single
transaction is shown too, for information.
Exit status 1 when a figure misses its threshold.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from agent.wire import (
    ArtifactRef,
    Fingerprint,
    Inputs,
    Outcome,
    Reading,
    RuntimeOptions,
    Samples,
    Scenario,
    Sources,
    TrialSpec,
)
from results.records import ArtifactRecord, BoardRecord, RunRecord, TrialRecord
from results.sql import read_only_query
from results.store import Store
from results.writing import sample_rows

MIN_SPEED_RATIO = 0.5
MAX_BYTES_PER_SAMPLE = 24
MAX_LEADERBOARD_S = 0.1

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SOURCES = Sources(temp=None, clock=None, throttled=None, power=None)
NO_SAMPLES = Samples((0, 0, 0), array("Q"), array("Q"))
VARIANTS = ("fp32", "ort_format", "int8_ptq", "int8_ptq_all")


def trials(samples: int, per_trial: int) -> list[TrialRecord]:
    """Trials that hold so many samples in all; lognormal latencies about 50 ms."""
    noise = np.random.default_rng(1)
    made = []
    for number, start in enumerate(range(0, samples, per_trial)):
        count = min(per_trial, samples - start)
        latency = (50e6 * noise.lognormal(0, 0.05, count)).astype(np.uint64)
        gap = noise.integers(20_000, 90_000, count, dtype=np.uint64)
        columns = array("Q", latency.tobytes()), array("Q", gap.tobytes())
        warmup = min(10, count - 1)
        made.append(trial(number, Samples((1, warmup, count - 1 - warmup), *columns)))
    return made


def trial(number: int, samples: Samples) -> TrialRecord:
    """A finished trial with one reading a second."""
    variant = VARIANTS[number % len(VARIANTS)]
    readings = [
        Reading(t * 10**9, 50.0 + t % 5, None, 0, 2**31, 2**27, None)
        for t in range(sum(samples.latency_ns) // 10**9)
    ]
    return TrialRecord(
        spec=TrialSpec(
            trial_id=f"trial-{number}",
            run_id="run",
            artifact=ArtifactRef(sha256=digest(variant), size_bytes=1000, format="onnx"),
            options=RuntimeOptions(intra_op_num_threads=4),
            scenario=Scenario(10, 0, 1024, 0, 600 * 10**9),
            inputs=Inputs(),
            deadline_ns=10**12,
        ),
        board="pi5",
        model="model",
        variant=variant,
        recipe=variant,
        isa="aarch64-dotprod",
        block=number // len(VARIANTS),
        plan_order=number,
        scenario="single_stream",
        outcome=Outcome(
            trial_id=f"trial-{number}",
            state="finished",
            failure=None,
            short=False,
            load_ns=10**8,
            peak_rss_bytes=2**27,
            runtime_version="1",
            runtime_settings={},
            inputs_kind="synthetic",
            sources=SOURCES,
            evaluation=None,
            started_monotonic_ns=0,
            first_call_monotonic_ns=1,
            ended_monotonic_ns=10**12,
            parts={},
        ),
        samples=samples,
        readings=readings,
        evaluation=None,
        attempt=1,
        started_utc=NOW,
        ended_utc=NOW,
    )


def digest(variant: str) -> str:
    """Some 64 hex digits, different for each variant."""
    return variant.encode().hex().ljust(64, "0")[:64]


def prepared(path: Path) -> Store:
    """A new database with all that a trial refers to."""
    board = Fingerprint(
        board_model="board", serial=None, hostname="h", machine="aarch64", userland_bits=64,
        isa="aarch64-dotprod", cpu_model=None, cpu_count=4, cpu_features=(), max_clock_hz=None,
        governor=None, memory_bytes=2**33, swap_bytes=0, os_name="os", kernel="k", libc=None,
        python="3.11", packages={}, emulated=False, emulated_by=None, boot_id=None,
    )  # fmt: skip
    store = Store.open(path, create=True)
    store.record_run(RunRecord("run", NOW, "benchmark", "{}", "normal", 1, {}, "1"))
    store.record_board("run", BoardRecord("pi5", board, SOURCES, None, 0, NOW))
    for variant in VARIANTS:
        store.record_artifact(
            ArtifactRecord(digest(variant), 1000, "onnx", "model", variant, variant, "", None, "{}")
        )
    return store


def store_time(path: Path, made: list[TrialRecord]) -> float:
    """Seconds to store the trials through Store."""
    with prepared(path) as store:
        start = time.perf_counter()
        for record in made:
            store.record_trial(record)
        return time.perf_counter() - start


def bare_time(path: Path, trials_n: int, batches: list[list[tuple[int, ...]]]) -> float:
    """Seconds of a bare executemany into the same table, a transaction a batch."""
    with prepared(path) as store:
        for number in range(trials_n):
            store.record_trial(trial(number, NO_SAMPLES))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        start = time.perf_counter()
        for batch in batches:
            with connection:
                connection.executemany("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", batch)
        return time.perf_counter() - start


def all_rows(trial_no: int, record: TrialRecord) -> Iterator[tuple[int, ...]]:
    """The sample rows of a trial."""
    assert record.samples is not None  # noqa: S101 - made above, always with samples
    return sample_rows(trial_no, record.samples)


def bytes_per_sample(path: Path) -> float:
    """What the file shrinks by without the table `samples`, which is then gone."""
    with closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute("SELECT COUNT(*) FROM samples").fetchone()
        connection.execute("VACUUM")
        (page,) = connection.execute("PRAGMA page_size").fetchone()
        (before,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute("DROP VIEW v_leaderboard")
        connection.execute("DROP VIEW v_trials")
        connection.execute("DROP TABLE samples")
        connection.execute("VACUUM")
        (after,) = connection.execute("PRAGMA page_count").fetchone()
    return float((before - after) * page / count)


def leaderboard_time(path: Path) -> float:
    """Best of five, each with a fresh connection, as a person's query is."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        read_only_query(path, "SELECT * FROM v_leaderboard")
        times.append(time.perf_counter() - start)
    return min(times)


def measure(folder: Path, samples: int, per_trial: int, rounds: int) -> bool:
    """Print the figures of one shape; whether all are within their thresholds."""
    made = trials(samples, per_trial)
    batches = [list(all_rows(number, record)) for number, record in enumerate(made, 1)]
    path = folder / "kept.sqlite"
    ours, bare, single = [store_time(path, made)], [], []
    for number in range(rounds):
        bare.append(bare_time(folder / f"bare-{number}.sqlite", len(made), batches))
        ours.append(store_time(folder / f"store-{number}.sqlite", made))
        if len(batches) > 1:
            whole = [row for batch in batches for row in batch]
            single.append(bare_time(folder / f"single-{number}.sqlite", len(made), [whole]))
    board_s = leaderboard_time(path)
    file_size = path.stat().st_size / samples
    size = bytes_per_sample(path)
    ratio = statistics.median(b / o for b, o in zip(bare, ours[1:], strict=True))
    print(f"{samples:,} samples in {len(made)} trials; {rounds} rounds, alternating, medians:")
    print(f"  Store             {statistics.median(ours[1:]):7.2f} s")
    print(f"  bare executemany  {statistics.median(bare):7.2f} s")
    print(f"  speed ratio       {ratio:7.2f}    (at least {MIN_SPEED_RATIO})")
    if single:
        print(f"  bare, one commit  {statistics.median(single):7.2f} s")
    print(f"  bytes a sample    {size:7.1f}    (at most {MAX_BYTES_PER_SAMPLE})")
    print(f"  whole file        {file_size:7.1f}    bytes a sample, with telemetry and the rest")
    print(f"  v_leaderboard     {board_s:7.4f} s  (under {MAX_LEADERBOARD_S})")
    good = ratio >= MIN_SPEED_RATIO and size <= MAX_BYTES_PER_SAMPLE
    return good and board_s < MAX_LEADERBOARD_S


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, help="where to write; a temporary directory if absent")
    options = parser.parse_args()
    good = True
    for per_trial in (options.samples, 1_024):
        with tempfile.TemporaryDirectory(dir=options.dir) as folder:
            good &= measure(Path(folder), options.samples, per_trial, options.rounds)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
