from __future__ import annotations

import dataclasses
from itertools import accumulate
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.wire import Reading
from results import example
from results.records import TrialRecord
from results.store import Store

MS = 1_000_000
FIRST_NS = 10_000 * MS


def read(t_ns: int, temp_c: float | None = None, clock_hz: int | None = None) -> Reading:
    return Reading(t_ns, temp_c, clock_hz, None, None, None, None)


def trial(
    latencies_ms: list[int],
    readings: list[Reading],
    first_ns: int | None = FIRST_NS,
    order: int = 0,
) -> TrialRecord:
    """A trial whose inferences are 2 us apart."""
    cold, *rest = [latency * MS for latency in latencies_ms]
    samples = example.timed([cold], [], rest)
    record = example.trial("pi5", "fp32", order, order, samples=samples)
    outcome = msgspec.structs.replace(record.outcome, first_call_monotonic_ns=first_ns)
    return dataclasses.replace(record, readings=readings, outcome=outcome)


def rows(store: Store, view: str, trial_no: int = 1) -> list[dict[str, Any]]:
    sql = f"SELECT * FROM {view} WHERE trial_no = :no ORDER BY seq"  # noqa: S608
    return [dict(row) for row in store.rows(sql, no=trial_no)]


def test_each_sample_has_its_place(store: Store) -> None:
    """An inference starts where the first one did, plus all latencies and gaps before it."""
    store.record_trial(trial([30, 10, 20], []))
    found = rows(store, "v_sample_times")
    assert [row["t_ns"] for row in found] == [
        FIRST_NS,
        FIRST_NS + 30 * MS + 2_000,
        FIRST_NS + 40 * MS + 4_000,
    ]
    assert [(row["phase"], row["latency_ns"]) for row in found] == [
        (0, 30 * MS),
        (2, 10 * MS),
        (2, 20 * MS),
    ]


def test_trials_do_not_run_into_each_other(store: Store) -> None:
    """The places of a trial's samples start anew at its own first inference."""
    store.record_trial(trial([30, 10], [read(FIRST_NS, 40.0)]))
    store.record_trial(trial([5, 6], [read(9 * FIRST_NS, 70.0)], first_ns=9 * FIRST_NS, order=1))
    assert [row["t_ns"] for row in rows(store, "v_sample_times", 2)] == [
        9 * FIRST_NS,
        9 * FIRST_NS + 5 * MS + 2_000,
    ]
    assert [row["temp_c"] for row in rows(store, "v_latency_by_temp", 2)] == [70.0, 70.0]
    assert len(store.rows("SELECT * FROM v_latency_by_temp")) == 4


def test_a_sample_without_a_known_start_has_no_time(store: Store) -> None:
    """Where the board lost the time of the first call, times are NULL and no reading is guessed."""
    store.record_trial(trial([30, 10], [read(FIRST_NS, 40.0)], first_ns=None))
    assert [row["t_ns"] for row in rows(store, "v_sample_times")] == [None, None]
    assert rows(store, "v_latency_by_temp") == []


def test_the_nearest_reading_stands_beside_each_sample(store: Store) -> None:
    """Before the first, between two and after the last reading, the nearest in time is taken."""
    readings = [
        read(FIRST_NS + 100 * MS, 40.0, 1_000),
        read(FIRST_NS + 200 * MS, 50.0, 2_000),
        read(FIRST_NS + 300 * MS, None, None),
    ]
    store.record_trial(trial([140, 20, 300, 10], readings))
    found = rows(store, "v_latency_by_temp")
    assert [(row["temp_c"], row["clock_hz"]) for row in found] == [
        (40.0, 1_000),  # at 0 ms
        (40.0, 1_000),  # at 140 ms
        (50.0, 2_000),  # at 160 ms
        (None, None),  # at 460 ms: the last reading had neither
    ]
    assert found[2]["latency_ms"] == 300.0
    assert found[2]["at_s"] == pytest.approx(0.160004)
    assert found[2]["reading_s"] == pytest.approx(0.2)
    assert found[0]["scenario"] == "single_stream"


def test_a_board_without_a_sensor_has_no_temperature(store: Store) -> None:
    """Readings without a temperature give NULL, and so does a trial without a reading."""
    store.record_trial(trial([30, 10], [read(FIRST_NS)]))
    store.record_trial(trial([30, 10], [], order=1))
    assert [row["temp_c"] for row in rows(store, "v_latency_by_temp", 1)] == [None, None]
    found = rows(store, "v_latency_by_temp", 2)
    assert [(row["temp_c"], row["reading_s"]) for row in found] == [(None, None)] * 2


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    latencies=st.lists(st.integers(1, 50), min_size=1, max_size=12),
    steps=st.lists(st.integers(1, 60), max_size=10),
    start=st.integers(-100, 100),
)
def test_the_view_agrees_with_a_plain_search(
    store: Store, latencies: list[int], steps: list[int], start: int
) -> None:
    """Whatever the times, the view names the reading that a search over all readings finds."""
    times = [FIRST_NS + at * MS for at in accumulate(steps, initial=start)][1:]
    readings = [read(t_ns, float(number)) for number, t_ns in enumerate(times)]
    (last,) = store.rows("SELECT COUNT(*) AS n FROM trials")
    store.record_trial(trial(latencies, readings, order=last["n"]))
    starts = rows(store, "v_sample_times", last["n"] + 1)
    found = rows(store, "v_latency_by_temp", last["n"] + 1)
    assert len(found) == len(latencies)
    for row, sample in zip(found, starts, strict=True):
        distance, number = min(
            ((abs(t - sample["t_ns"]), n) for n, t in enumerate(times)), default=(None, None)
        )
        assert row["temp_c"] == (None if distance is None else float(number or 0))
